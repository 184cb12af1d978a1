"""The log of a run, for TensorBoard: an optional extra."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memaudit.errors import ConfigError
from memaudit.training.training_log import AuditEntry, Entry

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def summary_writer() -> "type[SummaryWriter]":
    """What writes TensorBoard's files.

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
def event_file(folder: Path, *, images_seen: int) -> Iterator[Callable[[Entry], None]]:
    """What shows the entries of a log in TensorBoard, against the images seen.

    Args:
        folder: where TensorBoard's files are written.
        images_seen: where the run goes on. What an earlier part wrote beyond it is hidden.
    """
    with summary_writer()(str(folder), purge_step=images_seen + 1) as writer:

        def show(entry: Entry) -> None:
            for name, number in _scalars(entry).items():
                writer.add_scalar(name, number, entry.images_seen)
            writer.flush()

        yield show


def _scalars(entry: Entry) -> dict[str, float]:
    if isinstance(entry, AuditEntry):
        return {f"audit/{name}": getattr(entry, name) for name in ("ratio", "low", "high")}
    scalars = {"lr": entry.lr, "images_per_second": entry.images_per_second}
    return scalars if entry.loss is None else {"loss": entry.loss, **scalars}
