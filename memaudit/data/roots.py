"""The folders that torchvision downloads sets into: `cifar-10-batches-py`, `MNIST/raw`."""

from pathlib import Path

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


def inner_folder(path: Path) -> Path:
    """The folder with the images that torchvision downloaded to `path`; elsewhere `path` itself.

    Raises:
        DataError: several sets were downloaded to it.
        OSError: it cannot be listed.
    """
    if not path.is_dir():
        return path
    found = [
        name
        for name, pattern in _INNER.items()
        if (path / name).is_dir() and any((path / name).glob(pattern))
    ]
    if len(found) > 1:
        raise DataError(
            f"{path} holds several sets, {joined(found)}; give the folder of one of them."
        )
    return path / found[0] if found else path
