"""The format of .npy: a header, which is compared with the bytes that follow, and values.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import io
import math
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from memaudit.errors import DataError
from memaudit.wording import quoted

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""What reads the header of each version; later ones serve only arrays of records."""


class Header(NamedTuple):
    """What precedes an array's values."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[Any]
    start: int
    """Position of the first value."""


def read_header(file: BinaryIO, size: int, what: str) -> Header:
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
        raise DataError(f"{what} is not a readable array: it announces {announced(dtype, shape)}.")
    if math.prod(shape) * dtype.itemsize != size - start:
        raise DataError(
            f"{what} is not a readable array: it announces {announced(dtype, shape)}, and "
            f"{size - start:,} bytes are there. Fetch or make it again."
        )
    return Header(shape, "F" if is_fortran else "C", dtype, start)


def announced(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    return quoted(f"{dtype} {list(shape)}")


def npy_array(data: bytes, what: str) -> np.ndarray:
    """The array in the bytes of a .npy file, which it shares.

    Args:
        data: the file.
        what: the array's name in an error.

    Raises:
        DataError: it is damaged, announces another size, or would need a pickle.
    """
    header = read_header(io.BytesIO(data), len(data), what)
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
