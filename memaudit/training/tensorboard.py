"""The log of a run for TensorBoard, which is an optional extra."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memaudit.errors import ConfigError
from memaudit.training.training_log import AuditEntry, DeviceEntry, Entry

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def import_summary_writer() -> "type[SummaryWriter]":
    """Import the class that writes TensorBoard's files.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "TensorBoard was asked for, but the package tensorboard is not installed. Install it "
            '(pip install tensorboard, or this package with the extra "tensorboard"), or train '
            "without it: log.jsonl holds the same numbers."
        ) from error
    return SummaryWriter


@contextmanager
def open_event_file(folder: Path, *, images_seen: int) -> Iterator[Callable[[Entry], None]]:
    """Open TensorBoard's file; yield a function that adds a log entry to it.

    Args:
        folder: where TensorBoard's files are written.
        images_seen: where the run continues; entries of an earlier part beyond it are hidden.
    """
    with import_summary_writer()(str(folder), purge_step=images_seen + 1) as writer:

        def show(entry: Entry) -> None:
            for name, number in _scalars(entry).items():
                writer.add_scalar(name, number, entry.images_seen)
            writer.flush()

        yield show


def _scalars(entry: Entry) -> dict[str, float]:
    if isinstance(entry, DeviceEntry):
        return {}
    if isinstance(entry, AuditEntry):
        return {f"audit/{name}": getattr(entry, name) for name in ("ratio", "low", "high")}
    scalars = {"lr": entry.lr, "images_per_second": entry.images_per_second}
    return scalars if entry.loss is None else {"loss": entry.loss, **scalars}
