"""NIfTI volumes, .nii or .nii.gz, one or a folder of them: their axial slices.

Format: https://nifti.nimh.nih.gov/nifti-1. A slice shows the patient as DICOM's do: rows run from
front to back, columns from the right to the left side, slices from the feet to the head; the
orientation is the nearest one that the file's matrix gives. Of a volume over time, all slices of
one time come before those of the next. nibabel reads the header, nothing else.
"""

import gzip
import io
import math
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import (
    DEFLATE_RATIO,
    GZIP_MAGIC,
    Files,
    Reader,
    first_bytes,
    stats,
)
from memaudit.data.readers.shards import beside, errors_of, library, shard_files
from memaudit.data.readers.slices import MAX_VOLUME, Volume, slice_contents
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import counted, listed

_SUFFIXES = (".nii", ".nii.gz")
_HEADER = 540
"""Bytes that hold the header of either version."""
_MASK = re.compile(r"(?:^|[^a-z])(?:seg|segmentation|masks?|labels?|labelstr)(?:[^a-z]|$)")
"""Names that are given to the classes of pixels rather than to images."""
_AXES = ("L", "P", "S")
"""Where columns, rows and slices run to."""


def _is_nifti(path: Path) -> bool:
    head = first_bytes(path, 4)
    if head[:2] == GZIP_MAGIC:
        try:
            with _opened(path) as file:
                head = file.read(_HEADER)
        except (EOFError, OSError, zlib.error):
            return False
    else:
        head = first_bytes(path, _HEADER)
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def _names(path: Path) -> list[str]:
    return shard_files(path, _SUFFIXES) if path.is_dir() else []


def _is_folder(path: Path) -> bool:
    return bool(_names(path))


def _folder_files(path: Path) -> Files:
    return stats([path / name for name in _names(path)], inside=path)


def _read_folder(path: Path, files: Files, preparation: Preparation) -> Contents:
    volumes = [_volume(path / name, name) for name in files]
    contents = slice_contents(volumes, str(path), window=preparation.window, group_kind="volume")
    masks = [name for name in files if _MASK.search(name.lower())]
    notes = contents.notes
    if 0 < len(masks) < len(volumes):
        notes += (
            f"{path}: {counted(len(masks), 'volume is', 'volumes are')} named like masks "
            f"({listed(masks)}) and taken as images. Move them elsewhere if the model "
            "was not trained on them.",
        )
    return replace(contents, unread=beside(path, files), notes=notes)


def _read_file(path: Path, _files: Files, preparation: Preparation) -> Contents:
    return slice_contents(
        [_volume(path, path.name)], str(path), window=preparation.window, group_kind="volume"
    )


FOLDER = Reader("a folder of NIfTI volumes", _is_folder, _read_folder, _folder_files)
FILE = Reader("a NIfTI volume", _is_nifti, _read_file)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with open_regular(path) as stored:
        is_packed = stored.read(2) == GZIP_MAGIC
        stored.seek(0)
        if not is_packed:
            yield stored
            return
        with gzip.open(stored) as file:
            yield file  # type: ignore[misc]


def _volume(path: Path, name: str) -> Volume:
    nibabel = library("nibabel", path, form="a NIfTI volume", extra="medical")
    with errors_of(name):
        with _opened(path) as file:
            head = file.read(_HEADER)
        kind = nibabel.Nifti2Header if head[4:8] == b"n+2\0" else nibabel.Nifti1Header
        header = kind.from_fileobj(io.BytesIO(head), check=False)
        dims = [int(n) for n in header.get_data_shape()]
        dtype = np.dtype(header.get_data_dtype())
        offset = int(header.get_data_offset())
        slope, inter = header.get_slope_inter()
        affine = np.asarray(header.get_best_affine(), np.float64)
        while len(dims) > 3 and dims[-1] == 1:
            dims.pop()
        if (
            len(dims) not in (3, 4)
            or min(dims) < 1
            or dtype.kind not in "iuf"
            or not 0 <= offset < 1 << 30
        ):
            raise DataError(
                f"{name} holds {dtype} {dims}; a volume of three axes, or of four with time, is "
                "needed."
            )
        if not np.all(np.isfinite(affine)):
            raise DataError(f"{name} has a matrix that is not finite.")
        target = nibabel.orientations.axcodes2ornt(_AXES)
        turned = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), target)
        if np.isnan(turned).any():
            raise DataError(f"{name} has a matrix that gives no orientation.")
    count = math.prod(dims)
    num_bytes = count * dtype.itemsize
    present = os.stat(path).st_size * (DEFLATE_RATIO if path.suffix.lower() == ".gz" else 1)
    if num_bytes > min(present, MAX_VOLUME):
        raise DataError(
            f"{name} announces {dtype} {dims}, and its file cannot hold that. Fetch it again."
        )
    slope, inter = (
        (1.0 if slope is None else float(slope)),
        (0.0 if inter is None else float(inter)),
    )
    times = math.prod(dims[3:])
    width, height, depth = (dims[int(np.flatnonzero(turned[:, 0] == axis)[0])] for axis in range(3))

    def read() -> np.ndarray:
        check_memory(3 * num_bytes, f"Reading {name}")
        with errors_of(name), _opened(path) as file:
            file.seek(offset)
            data = file.read(num_bytes)
        if len(data) != num_bytes:
            raise DataError(f"{name} is cut short. Fetch it again.")
        stored = np.frombuffer(data, dtype).reshape(dims, order="F")
        volume: np.ndarray = nibabel.apply_orientation(stored, turned)  # columns, rows, slices
        volume = volume.transpose().reshape(times * depth, height, width)  # time first
        return volume if (slope, inter) == (1, 0) else volume * slope + inter

    is_bytes = dtype == np.uint8 and (slope, inter) == (1, 0)
    return Volume(name, (times * depth, height, width), read, group=name, is_bytes=is_bytes)
