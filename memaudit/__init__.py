"""memaudit: does a trained diffusion model copy its training images?

The names below are the library. Each is imported when it is first used, so that `import memaudit`
and `memaudit --help` stay light.
"""

import importlib
from typing import Any

__version__ = "0.1.0.dev0"

_HOME = {
    "Checkpoint": "memaudit.models.checkpoints",
    "Denoiser": "memaudit.models.denoiser",
    "ImageSet": "memaudit.data.images",
    "MemauditError": "memaudit.errors",
    "SamplerConfig": "memaudit.models.sampler_config",
    "ScanConfig": "memaudit.audit.config",
    "ScanResult": "memaudit.audit.scan",
    "Selection": "memaudit.data.selection",
    "TrainingConfig": "memaudit.training.config",
    "generate_images": "memaudit.models.generate",
    "heun_sampler": "memaudit.models.sampler",
    "open_checkpoint": "memaudit.models.checkpoints",
    "open_images": "memaudit.data.sources",
    "save_checkpoint": "memaudit.models.checkpoints",
    "scan": "memaudit.audit.scan",
    "select_images": "memaudit.data.subsets",
    "train": "memaudit.training.loop",
    "write_report": "memaudit.audit.report.folder",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'memaudit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
