"""Images stored as one array: .npy and .npz.

Format of an array: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Its
header is compared with the bytes that follow before anything is allocated.
"""

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from memaudit.data.images import channels_first
from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents, array_contents, numbered_names
from memaudit.data.readers.reader import Files, Reader, first_bytes, first_member
from memaudit.data.readers.zip_members import Members, opened_zip, zip_members
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import listed, quoted

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""What reads the header of each version; later ones serve only arrays of records."""


class _Header(NamedTuple):
    """What precedes an array's values."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[Any]
    start: int
    """Position of the first value."""


def _read_header(file: BinaryIO, size: int, what: str) -> _Header:
    """The header of an array in a file of `size` bytes, all of which its values take.

    Raises:
        DataError: it is damaged, announces another size, or would need a pickle.
    """
    try:
        version = np.lib.format.read_magic(file)
        shape, is_fortran, dtype = _HEADERS[version](file)
    except KeyError as error:
        raise DataError(f"{what} is an array of an unknown version.") from error
    except Exception as error:  # whatever numpy and its parser raise for a broken header
        reason = quoted(str(error) or type(error).__name__)
        raise DataError(f"{what} is not a readable array: {reason}.") from error
    if dtype.hasobject:
        raise DataError(f"{what} holds Python objects, which are not read.")
    if dtype.fields is not None or dtype.subdtype is not None or not dtype.itemsize:
        raise DataError(f"{what} holds {quoted(str(dtype))}; plain numbers or texts are needed.")
    start = file.tell()
    # Even of an array without values the dimensions must have a product.
    sizes = [max(n, 1) for n in shape]
    if min(shape, default=0) < 0 or len(shape) > 8 or math.prod(sizes) >= 1 << 62:
        raise DataError(f"{what} is not a readable array: it announces {_announced(dtype, shape)}.")
    if math.prod(shape) * dtype.itemsize != size - start:
        raise DataError(
            f"{what} is not a readable array: it announces {_announced(dtype, shape)}, and "
            f"{size - start:,} bytes are there. Fetch or make it again."
        )
    return _Header(shape, "F" if is_fortran else "C", dtype, start)


def _announced(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    return quoted(f"{dtype} {list(shape)}")


def _is_npy(path: Path) -> bool:
    return first_bytes(path).startswith(b"\x93NUMPY")


def _read_npy(path: Path, files: Files, _preparation: Preparation) -> Contents:
    """The images of a .npy file, mapped and not read."""
    with open_regular(path) as file:
        header = _read_header(file, files[path.name].st_size, str(path))
        if not math.prod(header.shape):  # nothing can be mapped
            raise DataError(f"{path} holds {_announced(header.dtype, header.shape)}, no images.")
        array = np.memmap(file, header.dtype, "r", header.start, header.shape, header.order)
    images = channels_first(array, str(path))
    return array_contents(images, str(path), numbered_names(path.name, len(images)))


NPY = Reader(".npy", _is_npy, _read_npy)


def _is_npz(path: Path) -> bool:
    return (first_member(path) or "").endswith(".npy")


def _read_npz(path: Path, _files: Files, _preparation: Preparation) -> Contents:
    """The images of an .npz file: `images`, and if present `labels` and `names` [N].

    np.savez calls arrays without a name arr_0, arr_1, …; the first is then taken for the images
    and the second, if there is one, for the labels.
    """
    members = zip_members(path, lambda name: name.endswith(".npy"))
    key, label_key = ("images", "labels") if "images.npy" in members else ("arr_0", "arr_1")
    if f"{key}.npy" not in members:
        held = listed(name.removesuffix(".npy") for name in members)
        raise DataError(f"{path} holds {held}; an array called `images` is needed.")
    images = channels_first(_read_array(path, members, key), f"{key} in {path}")
    labels = _read_array(path, members, label_key) if f"{label_key}.npy" in members else None
    if "names.npy" in members:
        names = texts(_read_array(path, members, "names"), f"names in {path}")
    else:
        names = numbered_names(path.name, len(images))
    return array_contents(images, str(path), names, labels)


NPZ = Reader(".npz", _is_npz, _read_npz)


def _read_array(path: Path, members: Members, key: str) -> np.ndarray:
    """One array of an .npz file."""
    what = f"{key} in {path}"
    member = members[f"{key}.npy"]
    check_memory(member.compress_size + member.file_size, f"Reading {what}")
    try:
        with opened_zip(path, members) as read:
            data = read(member.filename)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{what} cannot be read: {error}. Fetch or make it again.") from error
    return npy_array(data, what)


def npy_array(data: bytes, what: str) -> np.ndarray:
    """The array in the bytes of a .npy file, which it shares.

    Args:
        data: the file.
        what: the array's name in an error.

    Raises:
        DataError: it is damaged, announces another size, or would need a pickle.
    """
    header = _read_header(io.BytesIO(data), len(data), what)
    values = np.frombuffer(data, np.uint8, offset=header.start)
    return values.view(header.dtype).reshape(header.shape, order=header.order)


def texts(array: np.ndarray, what: str) -> list[str]:
    """The texts in an array [N].

    Raises:
        DataError: it is another one, or holds numbers that stand for no characters.
    """
    if array.dtype.kind != "U" or array.ndim != 1:
        raise DataError(
            f"{what} is {array.dtype} {list(array.shape)}; one text per image is needed, [N]."
        )
    try:
        return [str(text) for text in array]
    except (ValueError, SystemError) as error:
        raise DataError(f"{what} cannot be read: {error}.") from error
