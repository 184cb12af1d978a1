"""DICOM series, one file or a folder of them: their slices in the order of their positions.

Stored numbers become the modality's by RescaleSlope and RescaleIntercept, and bytes by the window
of the file or the user's; MONOCHROME1 is inverted, so that more is brighter. Images of one patient
are one group. Format: https://www.dicomstandard.org, read with pydicom, and never more than a
file's own bytes announce.
"""

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.number_arrays import Window
from memaudit.data.readers.reader import Files, Reader, files_below, first_bytes, stats
from memaudit.data.readers.shards import are_the_set, beside, errors_of, library
from memaudit.data.readers.slices import MAX_VOLUME, Volume, slice_contents
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import quoted

_MAGIC = b"DICM"
_SUFFIX = re.compile(r"(\.dcm|\.dicom|\.ima|(^|/)[^./]+)$", re.IGNORECASE)
_MAX_FILES = 1_000_000
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes without compression."""
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")


def _is_dicom(path: Path) -> bool:
    return first_bytes(path, 132)[128:] == _MAGIC


def _is_folder(path: Path) -> bool:
    if not path.is_dir():
        return False
    names = [name for name in _names(path) if _SUFFIX.search(name)]
    if not any((path / name).is_file() and _is_dicom(path / name) for name in names):
        return False
    return are_the_set(path, names)


def _names(path: Path) -> Iterator[str]:
    return (name for name in files_below(path) if name.rpartition("/")[2] != "DICOMDIR")


def _folder_files(path: Path) -> Files:
    names = []
    for name in _names(path):
        if (path / name).is_file() and _is_dicom(path / name):
            names.append(name)
            if len(names) > _MAX_FILES:
                raise DataError(f"{path} holds more than {_MAX_FILES:,} files of DICOM.")
    return stats([path / name for name in names], inside=path)


def _read_folder(path: Path, files: Files, preparation: Preparation) -> Contents:
    volumes = _volumes({name: path / name for name in files})
    contents = slice_contents(volumes, str(path), window=preparation.window)
    others = beside(path, [volume.name for volume in volumes])
    return replace(contents, unread=others)


def _read_file(path: Path, _files: Files, preparation: Preparation) -> Contents:
    volumes = _volumes({path.name: path})
    return slice_contents(volumes, str(path), window=preparation.window)


FOLDER = Reader("a folder of DICOM series", _is_folder, _read_folder, _folder_files)
FILE = Reader("a DICOM file", _is_dicom, _read_file)


def _volumes(files: dict[str, Path]) -> list[Volume]:
    """The volumes in files that hold images, in the order of their positions."""
    found = []
    for name, path in files.items():
        header = _header(path, name)
        if header is None:
            continue
        found.append((_order(header, name), _volume(header, path, name)))
    found.sort(key=lambda entry: entry[0])
    return [volume for _, volume in found]


def _loaded(path: Path, name: str, *, pixels: bool) -> Any:
    pydicom = library("pydicom", path, form="a DICOM file", extra="medical")
    with open_regular(path) as file, errors_of(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that are not as the standard has them
        return pydicom.dcmread(file, stop_before_pixels=not pixels)


def _header(path: Path, name: str) -> Any:
    """What a file says of its image; None if it holds none, as a report or a DICOMDIR."""
    header = _loaded(path, name, pixels=False)
    return header if _get(header, "Rows", name) is not None else None


def _get(header: Any, key: str, name: str) -> Any:
    """A value of a header, whose conversion may fail."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return header.get(key)
    except Exception as error:
        raise DataError(f"{name}: its {key} cannot be read: {quoted(str(error))}.") from error


def _number(value: Any, default: float, name: str, what: str) -> float:
    if value is None or value == "":
        return default
    try:
        number = float(
            value[0] if isinstance(value, list | tuple) or hasattr(value, "append") else value
        )
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"{name}: its {what} is not a number.") from error
    if not math.isfinite(number):
        raise DataError(f"{name}: its {what} is not finite.")
    return number


def _order(header: Any, name: str) -> tuple[Any, ...]:
    """By patient and series, then along the axis that the slices are stacked on."""
    patient, series = (
        str(_get(header, key, name) or "") for key in ("PatientID", "SeriesInstanceUID")
    )
    position = _vector(_get(header, "ImagePositionPatient", name), 3)
    across = _vector(_get(header, "ImageOrientationPatient", name), 6)
    along = 0.0
    if position is not None:
        normal = np.array([0.0, 0, 1]) if across is None else np.cross(across[:3], across[3:])
        along = float(normal @ position)
    number = _number(_get(header, "InstanceNumber", name), 0, name, "InstanceNumber")
    return patient, series, along, number, name


def _vector(value: Any, size: int) -> np.ndarray | None:
    try:
        found = np.array([float(x) for x in value], np.float64)
    except (TypeError, ValueError):
        return None
    return found if found.shape == (size,) and np.all(np.isfinite(found)) else None


def _volume(header: Any, path: Path, name: str) -> Volume:
    height, width, frames, bits, samples = (
        int(_number(_get(header, key, name), default, name, key))
        for key, default in (
            ("Rows", 0),
            ("Columns", 0),
            ("NumberOfFrames", 1),
            ("BitsAllocated", 0),
            ("SamplesPerPixel", 1),
        )
    )
    photometric = str(_get(header, "PhotometricInterpretation", name) or "MONOCHROME2")
    syntax = str(getattr(header.file_meta, "TransferSyntaxUID", _PLAIN[0]))
    if photometric not in _MONOCHROME or samples != 1:
        raise DataError(
            f"{name} is {quoted(photometric)}; gray images are read. Save others as PNG first."
        )
    if syntax not in _PLAIN:
        raise DataError(
            f"{name} is compressed ({quoted(syntax)}), which is not read. Unpack it: dcmconv or "
            "`pydicom`'s decompress()."
        )
    if bits not in (8, 16, 32) or min(height, width, frames) < 1:
        raise DataError(f"{name} announces {frames} images of {height}x{width}, {bits} bits each.")
    num_bytes = height * width * frames * bits // 8
    if num_bytes > min(path.stat().st_size, MAX_VOLUME):
        raise DataError(
            f"{name} announces {frames} images of {height}x{width}, {bits} bits each, and has "
            f"{path.stat().st_size:,} bytes. Fetch it again."
        )
    slope = _number(_get(header, "RescaleSlope", name), 1, name, "RescaleSlope")
    inter = _number(_get(header, "RescaleIntercept", name), 0, name, "RescaleIntercept")
    is_signed = _number(_get(header, "PixelRepresentation", name), 0, name, "PixelRepresentation")
    order = ">" if syntax == _PLAIN[2] else "<"
    dtype = np.dtype(f"{order}{'i' if is_signed else 'u'}{bits // 8}")
    window = _window(header, name)

    def read() -> np.ndarray:
        check_memory(4 * num_bytes, f"Reading {name}")
        data = _get(_loaded(path, name, pixels=True), "PixelData", name)
        if not isinstance(data, bytes) or len(data) < num_bytes:
            raise DataError(f"{name} is cut short: it lacks pixels. Fetch it again.")
        numbers = np.frombuffer(data[:num_bytes], dtype).reshape(frames, height, width)
        return numbers * slope + inter if (slope, inter) != (1, 0) else numbers

    is_bytes = bits == 8 and not is_signed and (slope, inter) == (1, 0) and window is None
    patient = str(_get(header, "PatientID", name) or _get(header, "SeriesInstanceUID", name) or "")
    return Volume(
        name,
        (frames, height, width),
        read,
        group=patient or name,
        window=window,
        is_bytes=is_bytes,
        is_inverted=photometric == "MONOCHROME1",
    )


def _window(header: Any, name: str) -> Window | None:
    """The window in a file: [center - ½ - (width - 1)/2, center - ½ + (width - 1)/2].

    https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.11.2.html
    """
    center, width = (_get(header, key, name) for key in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or center == "" or width == "":
        return None
    center = _number(center, 0, name, "WindowCenter")
    width = _number(width, 0, name, "WindowWidth")
    if width <= 1:
        return None
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
