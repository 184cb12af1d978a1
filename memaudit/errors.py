"""What memaudit raises when the user, a file or a machine is at fault.

MemauditError
├── CheckpointError            a checkpoint is missing, broken or of an unknown form
│   └── UnsafeCheckpointError  a checkpoint asks for something that only running code could give
├── DataError                  training or generated images are missing, broken or do not match
└── ConfigError                options that contradict each other, the data or the machine

A message says what was found, what was needed, where, and what to do next. A wrong argument in a
library call is a plain `ValueError`.
"""


class MemauditError(Exception):
    """Base of everything memaudit raises on purpose; the CLI prints it and exits with status 2."""


class CheckpointError(MemauditError):
    """A checkpoint is missing, broken, or of a form that memaudit does not know."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint names something that only running its code could give. Nothing of it ran."""


class DataError(MemauditError):
    """Images are missing, broken, or do not fit each other or the model."""


class ConfigError(MemauditError):
    """Options contradict each other, the data, or the machine."""
