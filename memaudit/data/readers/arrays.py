"""Images stored as one array: .npy and .npz."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from memaudit.data.images import channels_first
from memaudit.data.readers.lazy_images import Contents, array_contents
from memaudit.data.readers.reader import Files, Reader, first_bytes, first_member
from memaudit.errors import DataError


def _is_npy(path: Path) -> bool:
    return first_bytes(path).startswith(b"\x93NUMPY")


def _read_npy(path: Path, _files: Files, _resolution: int | None) -> Contents:
    """The images of a .npy file, mapped and not read."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable .npy file: {error}.") from error
    images = channels_first(array, str(path))
    return array_contents(images, str(path), [f"{path.name}[{i}]" for i in range(len(images))])


NPY = Reader(".npy", _is_npy, _read_npy)


def _is_npz(path: Path) -> bool:
    return (first_member(path) or "").endswith(".npy")


def _read_npz(path: Path, _files: Files, _resolution: int | None) -> Contents:
    """The images of an .npz file: `images`, and if present `labels` and `names` [N].

    np.savez calls arrays without a name arr_0, arr_1, …; the first is then taken for the images
    and the second, if there is one, for the labels.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            key, label_key = ("images", "labels") if "images" in arrays else ("arr_0", "arr_1")
            if key not in arrays:
                raise DataError(
                    f"{path} holds {', '.join(arrays.files)}; an array called `images` is needed."
                )
            images = channels_first(arrays[key], f"{key} in {path}")
            labels = arrays[label_key] if label_key in arrays else None
            names = arrays["names"].tolist() if "names" in arrays else None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}.") from error
    if names is None:
        names = [f"{path.name}[{i}]" for i in range(len(images))]
    return array_contents(images, str(path), names, labels)


NPZ = Reader(".npz", _is_npz, _read_npz)
