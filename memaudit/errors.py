"""What memaudit raises when the user, a file or a machine is at fault.

MemauditError
├── CheckpointError            a checkpoint is missing, broken or of an unknown form
│   └── UnsafeCheckpointError  a checkpoint asks for something that only running code could give
├── DataError                  training or generated images are missing, broken or do not match
└── ConfigError                options that contradict each other, the data or the machine

A message says what was found, what was needed, where, and what to do next. A wrong argument in a
library call is a plain `ValueError`.
"""

from collections.abc import Mapping
from typing import Any


class MemauditError(Exception):
    """Base of everything memaudit raises on purpose; the CLI prints it and exits with status 2.

    Args:
        message: what was found, what was needed and what to do. It writes a field of a
            configuration as `{batch_size}`, so that a command can call it `--batch-size`.
        field: the field that is at fault, or all that the message writes so.
    """

    def __init__(self, message: str, *, field: str | tuple[str, ...] = ()) -> None:
        self.fields = (field,) if isinstance(field, str) else field
        self._message = message
        super().__init__(self.worded({}))

    def worded(self, names: Mapping[str, str]) -> str:
        """The message with other names for fields, such as a command's options."""
        text = self._message
        for field in self.fields:
            text = text.replace(f"{{{field}}}", names.get(field, field))
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors come back from other processes; an argument by keyword would be lost on the way.
        return _rebuilt, (type(self), self._message, self.fields)


class CheckpointError(MemauditError):
    """A checkpoint is missing, broken, or of a form that memaudit does not know."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint names something that only running its code could give. Nothing of it ran."""


class DataError(MemauditError):
    """Images are missing, broken, or do not fit each other or the model."""


class CacheWarning(UserWarning):
    """The cache is not used, and why. Results are the same without it; only time is lost."""


class ConfigError(MemauditError):
    """Options contradict each other, the data, or the machine."""


def _rebuilt(kind: type[MemauditError], message: str, fields: tuple[str, ...]) -> MemauditError:
    return kind(message, field=fields)
