"""The images that an undecided scan has generated, on disk, so that it resumes or continues.

`scan-state/` in the report folder holds `scan.json`, which says what the images depend on, and one
`part-<position>.npz` per batch, each written whole or not at all, in any order: several ranks end
their batches as they can. The rest of a scan is computed again, which takes seconds. A scan that
was killed resumes from there and fills the gaps. One that ended INCONCLUSIVE leaves them beside its
report, with a mark that they belong to it, and the same scan with more seeds continues after them.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memaudit.errors import ConfigError
from memaudit.files import append, atomic_write, exclusive, remove_parts
from memaudit.models.generate import GeneratedBatch

STATE = "scan-state"
REPORTED = "reported"
"""Name of the mark: the images are those of the report in the folder."""
REFUSED = "refused"
"""Name of the mark: a part of the images was generated again and came out otherwise."""
FINISHED = "finished"
"""Name of the mark: the report that was being written needs the images no more."""
_PLACE = re.compile(r"[0-9]{9}")


class Part(NamedTuple):
    """A batch and the place of its first image among those of a scan."""

    position: int
    batch: GeneratedBatch

    @property
    def end(self) -> int:
        """The place behind its last image."""
        return self.position + len(self.batch.seeds)


def was_compiled(folder: Path) -> bool | None:
    """Whether an unfinished scan in the folder compiled its network; None if there is none."""
    saved = _read_json(folder / STATE / "scan.json").get("compiled")
    return saved if isinstance(saved, bool) else None


class ScanState:
    """Batches of one scan, each at its place in the order of seeds."""

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        seeds: Sequence[int],
        *,
        overwrite: bool = False,
        fresh: bool = False,
    ) -> None:
        """Open what an earlier scan left, or start afresh.

        Args:
            folder: the folder of the report.
            identity: what an image depends on besides its seed, as JSON values.
            seeds: the seeds of this scan; the earlier one may have had fewer or more.
            overwrite: discard the images of another scan, or of the report in the folder.
            fresh: discard whatever images are there.

        Raises:
            ConfigError: the folder holds the images of another scan, or a link in their place.
            OSError: it cannot be written.
        """
        self._folder = folder / STATE
        if self._folder.is_symlink():
            raise ConfigError(f"{self._folder} is a link, which is not followed; remove it.")
        self._seeds = np.asarray(seeds, dtype=np.int64)
        about = self._folder / "scan.json"
        saved = _read_json(about)
        changed = [name for name, value in identity.items() if saved.get(name) != value]
        if saved and changed and not overwrite and not fresh:
            raise ConfigError(
                f"{folder} holds an unfinished scan with another {', '.join(changed)}. Resume it "
                "with the options it began with, name another folder, or start again with "
                "{fresh}.",
                field="fresh",
            )
        if (self._folder / REFUSED).exists() and not overwrite and not fresh:
            raise ConfigError(
                f"{folder} holds images of an earlier run that this model did not make. Discard "
                "them with {fresh}.",
                field="fresh",
            )
        if changed or fresh or (overwrite and _is_marked(self._folder)):
            discard_state(folder)
            self._folder.mkdir(parents=True)
            with atomic_write(about) as file:
                file.write(json.dumps(identity).encode())
        (self._folder / FINISHED).unlink(missing_ok=True)  # its report was not written
        remove_parts(self._folder)

    def load(self, image_shape: tuple[int, int, int], label_dim: int) -> list[Part]:
        """The stored batches in the order of seeds, with gaps where one is missing or damaged.

        Whatever else is stored is removed: other images of the same seeds would be in its way.

        Args:
            image_shape: channels, height and width of the model's images.
            label_dim: number of its classes, 0 for none.
        """
        parts: list[Part] = []
        for path in sorted(self._folder.glob("part-*.npz")):
            position = _position(path)
            end = parts[-1].end if parts else 0
            batch = None if position is None or position < end else self._read(position)
            if position is None or batch is None or not _fits(batch, image_shape, label_dim):
                path.unlink()
            else:
                parts.append(Part(position, batch))
        return parts

    def refuse(self) -> None:
        """Mark the images as not the model's, so that no later run takes them.

        Each run tests other images: without the mark, one of them might let forged ones through.
        """
        (self._folder / REFUSED).touch()

    def store(self, position: int, batch: GeneratedBatch) -> None:
        """Store a batch whose first image belongs to the seed at `position`."""
        arrays: dict[str, Any] = {"seeds": batch.seeds, "images": batch.images}
        if batch.class_index is not None:
            arrays["class_index"] = batch.class_index
        if batch.is_fast is not None:
            arrays["is_fast"] = batch.is_fast
        with atomic_write(self._part(position), sweep=False) as file:
            np.savez(file, **arrays)

    def _read(self, position: int) -> GeneratedBatch | None:
        """A stored batch, or None if it is missing, damaged or belongs to other seeds."""
        try:
            with self._part(position).open("rb") as file:
                part = np.load(file, allow_pickle=False)
                arrays = {name: part[name] for name in part.files}
            seeds, images = arrays["seeds"], arrays["images"]
        except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile):
            return None
        if not len(seeds) or not np.array_equal(
            seeds, self._seeds[position : position + len(seeds)]
        ):
            return None
        return GeneratedBatch(seeds, images, arrays.get("class_index"), arrays.get("is_fast"))

    def _part(self, position: int) -> Path:
        return self._folder / f"part-{position:09d}.npz"


def missing_positions(kept: Sequence[Part], total: int) -> list[int]:
    """The places among `total` at which no image is kept, ascending."""
    missing: list[int] = []
    end = 0
    for part in kept:
        missing.extend(range(end, part.position))
        end = part.end
    return [*missing, *range(end, total)]


def _position(part: Path) -> int | None:
    """The place that a part's name says, or None for a name that `ScanState` does not give."""
    digits = part.stem.removeprefix("part-")
    return int(digits) if _PLACE.fullmatch(digits) else None


def _is_marked(state: Path) -> bool:
    return any((state / mark).exists() for mark in (REPORTED, REFUSED))


def _fits(batch: GeneratedBatch, image_shape: tuple[int, int, int], label_dim: int) -> bool:
    """Whether a batch can be one of the model's: the files may be anybody's."""
    images, classes = batch.images, batch.class_index
    if images.dtype != np.uint8 or images.shape != (len(batch.seeds), *image_shape):
        return False
    is_fast = batch.is_fast
    if is_fast is not None and (is_fast.dtype != bool or is_fast.shape != batch.seeds.shape):
        return False
    if classes is None or not label_dim:
        return classes is None and not label_dim
    return (
        classes.dtype == np.int64
        and classes.shape == batch.seeds.shape
        and bool(((classes >= 0) & (classes < label_dim)).all())
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or an empty one if it is missing or cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def keep_state(folder: Path) -> None:
    """Mark the stored images as those of the report that is written into the folder."""
    _mark(folder / STATE, REPORTED)


def check_no_state(folder: Path) -> None:
    """Refuse a folder in which an unfinished scan of a model left images.

    A scan of given images cannot resume from them, and would remove them when it ends.

    Raises:
        ConfigError: there are some.
    """
    if state_size(folder):
        raise ConfigError(
            f"{folder} holds the images of an unfinished scan of a model, which would be lost. "
            "Name another folder, or start again with {overwrite}.",
            field="overwrite",
        )


def finish_state(folder: Path) -> None:
    """Mark the stored images as not needed once the report is written, which begins now.

    So a process that is killed between writing the report and removing them leaves none for good.
    """
    _mark(folder / STATE, FINISHED)


def _mark(state: Path, mark: str) -> None:
    """Put a mark beside stored images, if there are any; a link in their place is not followed."""
    if state.is_dir() and not state.is_symlink():
        append(state / mark, b"")


def discard_finished_state(folder: Path) -> None:
    """Remove the stored images of a report that was written by a process killed right after."""
    if (folder / STATE / FINISHED).is_file():
        discard_state(folder)


def keeps_reported_images(folder: Path) -> bool:
    """Whether the images of the report in the folder are there, so that its scan can continue."""
    return (folder / STATE / REPORTED).is_file()


def state_size(folder: Path) -> int:
    """Bytes that the stored images of a scan take; 0 if there are none."""
    return sum(path.stat().st_size for path in (folder / STATE).glob("part-*.npz"))


def discard_state(folder: Path) -> None:
    """Remove the stored images of a scan that is finished or no longer wanted."""
    shutil.rmtree(folder / STATE, ignore_errors=True)


@contextmanager
def only_scan_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a report folder, so that only one scan writes into it.

    Raises:
        ConfigError: another process is scanning into it.
    """
    try:
        with exclusive(folder / ".scan.lock"):
            yield
    except BlockingIOError as error:
        raise ConfigError(
            f"Another scan is writing into {folder}. Wait for it, or name another folder."
        ) from error
