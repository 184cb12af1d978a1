"""The folders that torchvision downloads sets into: CIFAR's, `MNIST/raw`, SVHN's files.

A folder is exchanged for what in it holds the images.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from memaudit.data.layout import ALL_SPLITS, Layout, choose_split
from memaudit.data.readers.lazy_images import Contents
from memaudit.errors import DataError
from memaudit.wording import joined

_IDX = "*-images[-.]idx3-ubyte*"
_INNER = {
    "cifar-10-batches-py": "data_batch_1",
    "cifar-100-python": "train",
    "stl10_binary": "*_X.bin",
    "raw": _IDX,
    **{f"{name}MNIST/raw": _IDX for name in ("", "E", "Fashion", "K", "Q")},
}
"""Inner folder → what lies in it."""
_SVHN = {split: f"{split}_32x32.mat" for split in ("train", "test", "extra")}
"""Split → its file."""


@dataclass(frozen=True)
class Place:
    """Where the images of a source are, and what its folder says of them."""

    path: Path
    layout: Layout
    """What is left for the reader to choose."""
    split: str | None = None
    other_splits: tuple[str, ...] = ()

    def marked(self, contents: Contents) -> Contents:
        """The contents with the split that the folder says they are."""
        if self.split is None:
            return contents
        return replace(contents, split=self.split, other_splits=self.other_splits)


def find_place(path: Path, layout: Layout) -> Place:
    """What holds the images that torchvision downloaded to `path`; elsewhere `path` itself.

    Raises:
        DataError: several sets were downloaded to it, or it has no such split.
        OSError: it cannot be listed.
    """
    if not path.is_dir():
        return Place(path, layout)
    files = {split: path / file for split, file in _SVHN.items() if (path / file).is_file()}
    if files:
        if layout.split == ALL_SPLITS:
            raise DataError(
                f"{path} has its splits in files of their own; choose one {{split}}.",
                field="split",
            )
        split = choose_split(str(path), list(files), layout.split)
        others = tuple(other for other in files if other != split)
        return Place(files[split], replace(layout, split=None), split, others)
    found = [
        name
        for name, pattern in _INNER.items()
        if (path / name).is_dir() and any((path / name).glob(pattern))
    ]
    if len(found) > 1:
        raise DataError(
            f"{path} holds several sets, {joined(found)}; give the folder of one of them."
        )
    return Place(path / found[0] if found else path, layout)
