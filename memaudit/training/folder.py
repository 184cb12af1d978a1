"""The files of a training run."""

from pathlib import Path
from typing import NamedTuple

from memaudit.errors import ConfigError

LOG = "log.jsonl"


class Snapshot(NamedTuple):
    """A native checkpoint of the averaged weights."""

    images_seen: int
    path: Path


class RunFolder:
    """Where a run writes, and under which names.

    Args:
        path: made where it is missing.
        resume: whether the folder may hold a run already.

    Raises:
        ConfigError: it holds a run that is not to be resumed, or cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.model = path / "model.safetensors"
        self.state = path / "training-state.safetensors"
        self.log = path / LOG
        self.tensorboard = path / "tensorboard"
        if not resume and (self.state.exists() or self.snapshots()):
            raise ConfigError(
                f"{path} holds a training run already. Resume it, or choose another folder."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.log.open("a").close()
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written ({error.strerror}). Choose another folder for the run."
            ) from error

    def snapshot(self, images_seen: int) -> Path:
        """Name of a snapshot; names sort by images seen up to ten billion."""
        return self.path / f"snapshot-{images_seen:010d}.safetensors"

    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots in the folder, oldest first."""
        paths = self.path.glob("snapshot-*.safetensors")
        return tuple(sorted(Snapshot(int(path.stem.partition("-")[2]), path) for path in paths))
