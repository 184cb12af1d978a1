"""Stores that are known and not read, each with the line that exports it."""

from pathlib import Path

from memaudit.data.readers.reader import first_bytes
from memaudit.errors import DataError

_IN_FOLDER = {
    ".zarray": ("a Zarr array", "np.save('set.npy', zarr.open('{path}')[:])"),
    ".zgroup": ("a Zarr group", "np.save('set.npy', zarr.open('{path}')['images'][:])"),
    "zarr.json": ("a Zarr store", "np.save('set.npy', zarr.open('{path}')[:])"),
    "_common_metadata": (
        "a set of Petastorm",
        "one PNG for each row of petastorm.make_reader('file://{path}')",
    ),
}
"""File in a folder → what the folder is, and how it is exported."""
_BY_START = {
    b"\x0a\x23\xd7\xce": (
        "a RecordIO of MXNet",
        "mxnet.recordio.unpack_img(record) for each record, saved as PNG",
    ),
}
_BY_SUFFIX = {
    ".beton": ("a file of FFCV", "a PNG of each image that ffcv.Loader gives"),
    ".mds": ("a shard of MosaicML", "a PNG of each sample of streaming.StreamingDataset"),
}


def refuse_foreign(path: Path) -> None:
    """Refuse a store that is known and not read.

    Raises:
        DataError: it is one; says how to export it.
    """
    found = None
    if path.is_dir():
        found = next((_IN_FOLDER[name] for name in _IN_FOLDER if (path / name).is_file()), None)
    elif path.is_file():
        head = first_bytes(path, 4)
        found = _BY_START.get(head) or _BY_SUFFIX.get(path.suffix.lower())
    if found is not None:
        what, export = found
        raise DataError(
            f"{path} is {what}, which is not read. Export it: {export.replace('{path}', str(path))}"
        )
