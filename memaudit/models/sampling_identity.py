"""What generated images depend on besides their seeds."""

from typing import Any

import memaudit
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.generate import SamplerConfig


def sampling_identity(
    checkpoint: Checkpoint, config: SamplerConfig, *, class_index: int | None, device: str
) -> dict[str, Any]:
    """What must be the same for sampling to go on; JSON values, by names that fit in a message."""
    return {
        "version of memaudit": memaudit.__version__,
        "checkpoint": [checkpoint.sha256, checkpoint.format],
        "sampler": {name: str(value) for name, value in config.as_dict().items()},
        "class": class_index,
        "device": device,
    }
