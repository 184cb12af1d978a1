"""The public names of memaudit, and the file that each comes from."""

from .audit.config import ScanConfig as ScanConfig
from .audit.denoising.loss_test import DenoisingTest as DenoisingTest
from .audit.denoising.loss_test import check_denoising as check_denoising
from .audit.diagnostics.optimality import compare_with_optimum as compare_with_optimum
from .audit.memorization.ratio import memorization_ratio as memorization_ratio
from .audit.memorization.rule import Rule as Rule
from .audit.memorization.rule import memorized as memorized
from .audit.neighbors.config import IndexConfig as IndexConfig
from .audit.neighbors.duplicates import find_duplicates as find_duplicates
from .audit.neighbors.encoder import Encoder as Encoder
from .audit.neighbors.feature_index import FeatureIndex as FeatureIndex
from .audit.neighbors.pixel_index import NeighborIndex as NeighborIndex
from .audit.neighbors.published_encoders import open_encoder as open_encoder
from .audit.report.figures import plot_snapshots as plot_snapshots
from .audit.report.folder import write_report as write_report
from .audit.report.schema import Report as Report
from .audit.report.schema import read_report as read_report
from .audit.result import ScanResult as ScanResult
from .audit.scan import scan as scan
from .audit.selftest import selftest as selftest
from .audit.statistics.gate import exact_decision as exact_decision
from .audit.statistics.gate import sequential_decision as sequential_decision
from .audit.statistics.intervals import Proportion as Proportion
from .audit.statistics.intervals import clopper_pearson as clopper_pearson
from .audit.verification.verify import verify_report as verify_report
from .data.images import ImageSet as ImageSet
from .data.selection import Selection as Selection
from .data.sources import open_images as open_images
from .data.subsets import select_images as select_images
from .errors import MemauditError as MemauditError
from .models.checkpoints import Checkpoint as Checkpoint
from .models.checkpoints import inspect_checkpoint as inspect_checkpoint
from .models.checkpoints import open_checkpoint as open_checkpoint
from .models.checkpoints import save_checkpoint as save_checkpoint
from .models.denoiser import Denoiser as Denoiser
from .models.execution import Execution as Execution
from .models.generate import generate_images as generate_images
from .models.optimum.closed_form import ClosedFormOptimum as ClosedFormOptimum
from .models.sampler import heun_sampler as heun_sampler
from .models.sampler_config import SamplerConfig as SamplerConfig
from .progress import show_progress as show_progress
from .training.config import TrainingConfig as TrainingConfig
from .training.loop import train as train

__version__: str
