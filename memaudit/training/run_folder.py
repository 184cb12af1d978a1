"""The files that a training run writes."""

from pathlib import Path
from typing import NamedTuple

from memaudit.errors import ConfigError
from memaudit.files import append


class Snapshot(NamedTuple):
    """A native checkpoint of the averaged weights."""

    images_seen: int
    path: Path


class RunFolder:
    """The folder of a run and its file names. Other files in it are left alone.

    Args:
        path: the folder; need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model.safetensors"
        self.state = path / "training-state.safetensors"
        self.log = path / "log.jsonl"
        self.tensorboard = path / "tensorboard"

    @property
    def holds_run(self) -> bool:
        """Whether a run got as far as its first snapshot in this folder."""
        return self.state.exists() or bool(self.snapshots())

    def check(self, *, resume: bool) -> None:
        """Refuse a folder that a run must not write to.

        Args:
            resume: whether the folder may hold a run already.

        Raises:
            ConfigError: it holds a run that is not to be resumed, or a model of another origin.
        """
        if not resume and self.holds_run:
            raise ConfigError(
                f"{self.path} already holds a training run. Continue it with {{resume}}, or choose "
                "another folder.",
                field="resume",
            )
        if self.model.exists() and not self.holds_run:
            raise ConfigError(
                f"{self.model} already exists and is not from a training run; it would be "
                "overwritten. Choose another folder for the run."
            )

    def prepare(self, *, resume: bool) -> None:
        """Make sure that a run can write here; create the folder if it is missing.

        Args:
            resume: whether the folder may hold a run already.

        Raises:
            ConfigError: it is refused by `check`, or cannot be written.
        """
        self.check(resume=resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            append(self.log, b"")
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written ({error.strerror}). Choose another folder for the "
                "run."
            ) from error

    def snapshot(self, images_seen: int) -> Path:
        """Return the path of a snapshot; names sort by images seen up to ten billion."""
        return self.path / f"snapshot-{images_seen:010d}.safetensors"

    def snapshots(self) -> tuple[Snapshot, ...]:
        """List the snapshots in the folder, oldest first."""

        paths = self.path.glob("snapshot-*.safetensors")
        return tuple(sorted(Snapshot(int(path.stem.partition("-")[2]), path) for path in paths))
