"""What an unfinished screened scan has found, beside the images that it keeps (scan_state.py).

Screened images are not kept: of each seed, its nearest training image and two distances are.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memaudit.audit.memorization.screened import ScreenedRows
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.scan_state import STATE
from memaudit.files import atomic_write

KEY = "screening-key"


class ScreeningState:
    """Parts of one screening, in the order of its seeds."""

    def __init__(self, folder: Path, seeds: Sequence[int]) -> None:
        """Open what an earlier run left in the folder of a report, whose scan state is open."""
        self._folder = folder / STATE
        self._seeds = np.asarray(seeds, dtype=np.int64)

    def key(self, otherwise: str) -> str:
        """What the run that began drew seeds with; `otherwise` if this one begins."""
        path = self._folder / KEY
        try:
            found = path.read_text(encoding="ascii")
        except (OSError, ValueError):
            found = ""
        if len(found) == len(otherwise) and set(found) <= set("0123456789abcdef"):
            return found
        with atomic_write(path) as file:
            file.write(otherwise.encode())
        return otherwise

    def load(self, is_drawn: np.ndarray, index: ImageSearch) -> list[ScreenedRows]:
        """The stored parts up to the first that is missing, damaged or of other seeds.

        Args:
            is_drawn: bool [M], for all seeds.
            index: searches the training images.
        """
        parts: list[ScreenedRows] = []
        position = 0
        while (part := self._read(position, is_drawn, index)) is not None:
            parts.append(part)
            position += len(part)
        return parts

    def store(self, position: int, part: ScreenedRows) -> None:
        """Store what was found of the seeds from `position` on."""
        with atomic_write(self._part(position), sweep=False) as file:
            np.savez(
                file,
                seeds=self._seeds[position : position + len(part)],
                nn1=part.nn1,
                squared_distance1=part.squared_distance1,
                squared_distance2=part.squared_distance2,
            )

    def _read(self, position: int, is_drawn: np.ndarray, index: ImageSearch) -> ScreenedRows | None:
        """A stored part, or None if it cannot be one of this screening: files may be anybody's."""
        try:
            with self._part(position).open("rb") as file:
                part = np.load(file, allow_pickle=False)
                arrays = {name: part[name] for name in part.files}
            seeds, nn1 = arrays["seeds"], arrays["nn1"]
            S1, S2 = arrays["squared_distance1"], arrays["squared_distance2"]
        except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile):
            return None
        kind = np.int64 if index.space.exact else np.float64
        fits = (
            seeds.ndim == 1
            and len(seeds) > 0
            and np.array_equal(seeds, self._seeds[position : position + len(seeds)])
            and nn1.shape == S1.shape == S2.shape == seeds.shape
            and nn1.dtype == np.int64
            and S1.dtype == S2.dtype == kind
            and bool(((nn1 >= 0) & (nn1 < len(index.images)) & (S1 >= 0) & (S2 >= S1)).all())
        )
        if not fits:
            return None
        part_drawn = is_drawn[position : position + len(seeds)]
        num_values = index.space.num_values if index.space.exact else None
        return ScreenedRows(part_drawn, nn1, S1, S2, num_values)

    def _part(self, position: int) -> Path:
        return self._folder / f"screened-{position:09d}.npz"
