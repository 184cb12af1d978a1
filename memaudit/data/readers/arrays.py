"""Images that are stored as one array: .npy and .npz."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from memaudit.data.readers.lazy_images import Contents, array_contents
from memaudit.errors import DataError


def read_npy(path: Path) -> Contents:
    """The images of a .npy file, mapped and not read."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is no readable .npy file: {error}.") from error
    images = as_images(array, str(path))
    return array_contents(images, str(path), [f"{path.name}[{i}]" for i in range(len(images))])


def read_npz(path: Path) -> Contents:
    """The images of an .npz file: `images`, and where present `labels` and `names` [N].

    np.savez calls arrays without a name arr_0, arr_1, ...; the first are then the images and the
    second, where there is one, the labels.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            key, label_key = ("images", "labels") if "images" in arrays else ("arr_0", "arr_1")
            if key not in arrays:
                raise DataError(
                    f"{path} holds {', '.join(arrays.files)}; an array called `images` is needed."
                )
            images = as_images(arrays[key], f"{key} in {path}")
            labels = arrays[label_key] if label_key in arrays else None
            names = arrays["names"].tolist() if "names" in arrays else None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no readable .npz file: {error}.") from error
    if names is None:
        names = [f"{path.name}[{i}]" for i in range(len(images))]
    return array_contents(images, str(path), names, labels)


def as_images(array: np.ndarray, what: str) -> np.ndarray:
    """An array as uint8 [N, C, H, W].

    Args:
        array: uint8 [N, H, W], [N, C, H, W] or [N, H, W, C] with C = 1 or 3.
        what: how to call it in an error.

    Raises:
        DataError: another type or shape, or one that both of the last two would fit.
    """
    found = f"{what} is {array.dtype} {list(array.shape)}"
    if array.dtype != np.uint8:
        raise DataError(
            f"{found}; images must be uint8 0…255. x in [-1, 1] becomes that by "
            "memaudit.data.images.float_to_uint8."
        )
    if array.ndim == 3 and array.shape[2] > 4:
        return array[:, None]
    channels_first = array.ndim == 4 and array.shape[1] in (1, 3)
    channels_last = array.ndim == 4 and array.shape[3] in (1, 3)
    if channels_first == channels_last:
        problem = "could be either of the last two" if channels_first else "is neither"
        raise DataError(
            f"{found}. It must be [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 channel (gray) or "
            f"3 (RGB), and {problem}. Transpose or reshape it and save it again."
        )
    return array if channels_first else array.transpose(0, 3, 1, 2)
