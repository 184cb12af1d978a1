"""Checkpoints of every format: opened, inspected and converted without running what they hold."""

from memaudit.models.checkpoints.checkpoint import Checkpoint as Checkpoint
from memaudit.models.checkpoints.checkpoint import CheckpointInfo as CheckpointInfo
from memaudit.models.checkpoints.checkpoint import denoiser_of as denoiser_of
from memaudit.models.checkpoints.conversion import convert_checkpoint as convert_checkpoint
from memaudit.models.checkpoints.formats.native import save_checkpoint as save_checkpoint
from memaudit.models.checkpoints.inspection import inspect_checkpoint as inspect_checkpoint
from memaudit.models.checkpoints.opening import open_checkpoint as open_checkpoint
