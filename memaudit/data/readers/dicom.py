"""DICOM series, one file or a folder of them: their slices in the order of their positions.

Stored numbers become the modality's by RescaleSlope and RescaleIntercept, and bytes by the window
of the file or the user's; MONOCHROME1 is inverted, so that more is brighter. Color becomes RGB, and
what is compressed is unpacked where pydicom can. Images of one patient
are one group. Format: https://www.dicomstandard.org, read with pydicom, and never more than a
file's own bytes announce.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
_META_BYTES = 64 << 10
"""Bytes within which a file names its transfer syntax."""
_RATIO = 1000
"""Most bytes of pixels for each byte of a compressed file."""
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes without compression."""
_JPEG2000 = ("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20")
"""What the transfer syntaxes of JPEG 2000 begin with: .90 to .93, and .201 to .203."""
_JP2 = b"\x00\x00\x00\x0cjP  "
"""Begin of the first box of a JP2 file, of 12 bytes."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
"""The whole file is packed; it would be unpacked before anything of it is known."""
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_UNPACK = "Unpack it: gdcmconv --raw {name} unpacked.dcm"


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
    contents = slice_contents(volumes, str(path), window=preparation.window, group_kind="patient")
    others = beside(path, [volume.name for volume in volumes])
    return replace(contents, unread=others)


def _read_file(path: Path, _files: Files, preparation: Preparation) -> Contents:
    volumes = _volumes({path.name: path})
    return slice_contents(volumes, str(path), window=preparation.window, group_kind="patient")


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
    with open_regular(path) as file, errors_of(name), _in_silence():
        if _syntax(file.read(_META_BYTES)) == _DEFLATED:
            raise DataError(f"{name} is packed as a whole. {_UNPACK.format(name=name)}")
        file.seek(0)
        return pydicom.dcmread(file, stop_before_pixels=not pixels)


@contextmanager
def _in_silence() -> Iterator[None]:
    """Keep what pydicom warns and logs of values that are not as the standard has them."""
    log = logging.getLogger("pydicom")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            log.setLevel(level)


def _syntax(head: bytes) -> str:
    """The transfer syntax that the beginning of a file names; empty if it names none."""
    at = 132
    while at + 12 <= len(head) and head[at : at + 2] == b"\x02\0":
        is_long = head[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        start = at + 12 if is_long else at + 8
        size = int.from_bytes(head[at + 8 : at + 12] if is_long else head[at + 6 : start], "little")
        if head[at + 2 : at + 4] == b"\x10\0":
            return head[start : start + size].rstrip(b"\0 ").decode("latin1")
        at = start + size
    return ""


def _header(path: Path, name: str) -> Any:
    """What a file says of its image; None if it holds none, as a report or a DICOMDIR."""
    header = _loaded(path, name, pixels=False)
    return header if _get(header, "Rows", name) is not None else None


def _get(header: Any, key: str, name: str) -> Any:
    """A value of a header, whose conversion may fail."""
    try:
        with _in_silence():
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
    with _in_silence():
        syntax = str(getattr(header.file_meta, "TransferSyntaxUID", _PLAIN[0]))
    in_color = photometric in _COLOR and samples == 3 and bits == 8
    if not in_color and (photometric not in _MONOCHROME or samples != 1):
        raise DataError(
            f"{name} is {quoted(photometric)} of {samples} samples with {bits} bits; gray images "
            "are read, and RGB and YBR of 8 bits. Save others as PNG first."
        )
    is_packed = syntax not in _PLAIN
    if is_packed:
        _check_decoder(path, name, syntax)
    if bits not in (8, 16, 32) or min(height, width, frames) < 1:
        raise DataError(f"{name} announces {frames} images of {height}x{width}, {bits} bits each.")
    num_bytes = height * width * frames * bits // 8 * samples
    present = path.stat().st_size * (_RATIO if is_packed else 2 if "422" in photometric else 1)
    if num_bytes > min(present, MAX_VOLUME):
        raise DataError(
            f"{name} announces {frames} images of {height}x{width}, {bits} bits each, and has "
            f"{path.stat().st_size:,} bytes. Fetch it again."
        )
    slope = _number(_get(header, "RescaleSlope", name), 1, name, "RescaleSlope")
    inter = _number(_get(header, "RescaleIntercept", name), 0, name, "RescaleIntercept")
    is_signed = _number(_get(header, "PixelRepresentation", name), 0, name, "PixelRepresentation")
    order = ">" if syntax == _PLAIN[2] else "<"
    dtype = np.dtype(f"{order}{'i' if is_signed else 'u'}{bits // 8}")
    window = None if in_color else _window(header, name)
    shape = (frames, height, width, 3) if in_color else (frames, height, width)

    def read() -> np.ndarray:
        check_memory(4 * num_bytes, f"Reading {name}")
        if is_packed or in_color:
            numbers = _decoded(path, name, shape)
            return numbers * slope + inter if (slope, inter) != (1, 0) else numbers
        data = _get(_loaded(path, name, pixels=True), "PixelData", name)
        if not isinstance(data, bytes) or len(data) < num_bytes:
            raise DataError(f"{name} is cut short: it lacks pixels. Fetch it again.")
        numbers = np.frombuffer(data[:num_bytes], dtype).reshape(frames, height, width)
        return numbers * slope + inter if (slope, inter) != (1, 0) else numbers

    is_bytes = (
        in_color or bits == 8 and not is_signed and (slope, inter) == (1, 0) and window is None
    )
    patient = str(_get(header, "PatientID", name) or _get(header, "SeriesInstanceUID", name) or "")
    return Volume(
        name,
        shape,
        read,
        group=patient or name,
        window=window,
        is_bytes=is_bytes,
        is_inverted=photometric == "MONOCHROME1",
    )


def _check_decoder(path: Path, name: str, syntax: str) -> None:
    """Refuse a compressed file that nothing here can unpack."""
    pixels = library("pydicom.pixels", path, form="a DICOM file", extra="medical")
    try:
        with _in_silence():
            decoder = pixels.get_decoder(syntax)
    except (NotImplementedError, ValueError, TypeError) as error:
        raise DataError(
            f"{name} is compressed ({quoted(syntax)}), which is not read. "
            f"{_UNPACK.format(name=name)}"
        ) from error
    if not decoder.is_available:
        raise DataError(
            f"{name} is compressed as {quoted(decoder.UID.name)}, for which a library is missing: "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        )


def _decoded(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a file in color or a compressed one; color as RGB."""
    dataset = _loaded(path, name, pixels=True)
    pixels = library("pydicom.pixels", path, form="a DICOM file", extra="medical")
    with errors_of(name), _in_silence():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if str(dataset.file_meta.TransferSyntaxUID).startswith(_JPEG2000):
            _check_boxes(dataset, shape[0])
        numbers: np.ndarray = pixels.pixel_array(dataset)
        return numbers.reshape(shape)


def _check_boxes(dataset: Any, num_frames: int) -> None:
    """Refuse a frame whose JP2 boxes do not lead on: pydicom would follow them forever.

    Afterwards the dataset holds only the frames that were checked. Boxes: ISO/IEC 15444-1, annex I.

    Raises:
        ValueError: a box before the codestream has a length of 0 bytes.
    """
    from pydicom.encaps import encapsulate, generate_frames

    tables = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    offsets = None
    if all(table in dataset for table in tables):
        offsets = tuple(dataset[table].value for table in tables)
    found = generate_frames(
        dataset.PixelData, number_of_frames=num_frames, extended_offsets=offsets
    )
    frames = [frame + bytes(len(frame) % 2) for frame in found]  # as they are put back
    for frame in frames:
        at = len(_JP2) + 4 if frame.startswith(_JP2) else len(frame)
        while at < len(frame) and frame[at + 4 : at + 8] != b"jp2c":
            length = int.from_bytes(frame[at : at + 4], "big")
            if not length:
                raise ValueError("a box of JPEG 2000 has no length")
            at += length
    dataset.PixelData = encapsulate(frames)
    for table in tables:
        if table in dataset:
            del dataset[table]


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
