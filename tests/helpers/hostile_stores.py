"""Stores of images that lie, never end, or would take more than there is."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from helpers import store_files
from helpers.hostile_images import PIXELS, Make, png


def _file(name: str, data: Callable[[], bytes]) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data())
        return folder / name

    return make


def _changed(data: bytes, at: int, form: str, *values: int) -> bytes:
    """Bytes with other numbers in one place."""
    part = struct.pack(form, *values)
    return data[:at] + part + data[at + len(part) :]


def _one_image_many_times() -> bytes:
    """A picture of 8x8 followed by 1 MB of nothing, in each of 2,000 rows of a small file."""
    import pyarrow as pa
    import pyarrow.parquet

    file = io.BytesIO()
    values = pa.array([png() + bytes(1 << 20)], pa.binary())
    column = pa.DictionaryArray.from_arrays(np.zeros(2_000, np.int32), values)
    table = pa.table({"image": column})
    pyarrow.parquet.write_table(table, file, compression="zstd", store_schema=False)
    return file.getvalue()


def _packed_arrow() -> bytes:
    import pyarrow as pa

    file = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(file, store_files.table().schema, options=options) as stream:
        stream.write_table(store_files.table())
    return file.getvalue()


def _long_message() -> bytes:
    data = store_files.arrow()
    second = 8 + struct.unpack_from("<I", data, 4)[0]
    return _changed(data, second + 4, "<I", 1 << 31)


def _arrow_without_schema() -> bytes:
    """A stream whose first message holds rows."""

    schema = store_files.table().schema.serialize()
    return store_files.arrow()[len(schema) :]


def _arrow_of_a_name_in_no_encoding() -> bytes:
    return store_files.arrow().replace(b"image\0", b"im\xffge\0")


def _torch_beyond_its_end() -> bytes:
    """Numbers that begin 60,000 bytes behind the header of their member."""
    data = store_files.torch_file()
    name = data.index(b"/data/0")
    header = data.rindex(b"PK\3\4", 0, name)
    return _changed(data, header + 28, "<H", 60_000)


def _rows_beyond_the_end(folder: Path) -> Path:
    """An array that repeats its header 4 kB later, where its member is said to begin."""
    file = io.BytesIO()
    np.savez(file, data=np.zeros((16, 3072), np.uint8), labels=np.arange(1, 17))
    data = bytearray(file.getvalue())
    at = data.index(b"\x93NUMPY")
    data[at + 4096 : at + 4096 + 128] = data[at : at + 128]
    (extra,) = struct.unpack_from("<H", data, 28)
    (folder / "val_data.npz").write_bytes(_changed(bytes(data), 28, "<H", extra + 4096))
    return folder


def _lmdb_root(number: int) -> bytes:
    data = store_files.lmdb_file()
    for page in (0, 1):
        data = _changed(data, page * 4096 + 16 + 24 + 48 + 40, "<Q", number)
    return data


def _lmdb_loop() -> bytes:
    """A tree whose root leads to itself."""
    data = store_files.lmdb_file()
    root = max(
        struct.unpack_from("<Q", data, page * 4096 + 16 + 24 + 48 + 40)[0]
        for page in (0, 1)
        if struct.unpack_from("<Q", data, page * 4096 + 16 + 24 + 96 + 8)[0]
    )
    (flags,) = struct.unpack_from("<H", data, root * 4096 + 10)
    assert flags & 1, "the root is a branch"
    (place,) = struct.unpack_from("<H", data, root * 4096 + 16)
    return _changed(data, root * 4096 + place, "<HHH", root, 0, 0)


def _hdf5_of_nothing() -> bytes:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        shape, chunks = (10**9, 3, 64, 64), (1, 3, 64, 64)
        opened.create_dataset("images", shape, "u1", chunks=chunks, compression="gzip")
    return file.getvalue()


def _hdf5_of_one_chunk() -> bytes:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        shape = (1 << 18, 3, 64, 64)
        opened.create_dataset("images", shape, "u1", chunks=(1 << 17, 3, 64, 64))
        opened["images"].id.write_direct_chunk((0, 0, 0, 0), bytes(1000))
    return file.getvalue()


def _torch(change: Callable[[bytes], bytes]) -> bytes:
    """What torch.save writes, with another pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(store_files.torch_file())) as archive:
        with zipfile.ZipFile(file, "w") as other:
            for name in archive.namelist():
                data = archive.read(name)
                other.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return file.getvalue()


def _code(_: bytes) -> bytes:
    return b"\x80\x02}X\x06\x00\x00\x00imagescposix\nsystem\nX\x04\x00\x00\x00true\x85Rs."


def _repeated(data: bytes) -> bytes:
    """2^31 - 1 images, each of which is the first."""
    shape, strides = b"K\x04K\x03K\x08K\x08t", b"(K\xc0K@K\x08K\x01t"
    assert shape in data and strides in data
    data = data.replace(shape, b"J\xff\xff\xff\x7f" + shape[2:])
    return data.replace(strides, b"(K\x00" + strides[3:])


def _nested_dicom() -> bytes:
    item = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    data = store_files.dicom(implicit=False)
    at = data.index(b"\x08\x00\x16\x00UI")
    return data[:at] + item * 10_000


def _saved(state: object) -> Make:
    def make(folder: Path) -> Path:
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "dataset_info.json").write_text("{}")
        os.mkfifo(folder / "data.arrow")
        return folder

    return make


HOSTILE_STORES: dict[str, tuple[Make, str]] = {
    "parquet: 2,000 times 1 MB in one value": (
        _file("set.parquet", _one_image_many_times),
        "all of which share their bytes",
    ),
    "parquet: cut short": (
        _file("set.parquet", lambda: store_files.parquet()[:-9]),
        "set.parquet cannot be read",
    ),
    "arrow: message of 2 GB": (
        _file("set.arrow", _long_message),
        "announces a message of 2,147,483,648 bytes",
    ),
    "arrow: packed": (_file("set.arrow", _packed_arrow), "holds values that are packed"),
    "arrow: cut short": (
        _file("set.arrow", lambda: store_files.arrow()[:-200]),
        "set.arrow is cut short",
    ),
    "arrow: rows without a schema": (
        _file("set.arrow", _arrow_without_schema),
        "does not begin with its schema",
    ),
    "arrow: name that is not UTF-8": (
        _file("set.arrow", _arrow_of_a_name_in_no_encoding),
        "set.arrow cannot be read: 'utf-8' codec",
    ),
    "save_to_disk: pipe": (
        _saved({"_data_files": [{"filename": "data.arrow"}]}),
        "data.arrow cannot be read: it is a named pipe",
    ),
    "save_to_disk: file of the system": (
        _saved({"_data_files": [{"filename": "/etc/passwd"}]}),
        "a file beside it is needed",
    ),
    "lmdb: root outside": (
        _file("set.mdb", lambda: _lmdb_root(10**12)),
        "its tree leads to page 1,000,000,000,000",
    ),
    "lmdb: root that leads to itself": (_file("set.mdb", _lmdb_loop), "its tree leads to page"),
    "lmdb: pages of no bytes": (
        _file("set.mdb", lambda: _changed(store_files.lmdb_file(), 40, "<I", 0)),
        "announces pages of 0 bytes",
    ),
    "hdf5: 10^9 images of nothing": (
        _file("set.h5", _hdf5_of_nothing),
        "announces uint8 [1000000000, 3, 64, 64] and holds 0 bytes",
    ),
    "hdf5: chunk of 1.5 GB": (_file("set.h5", _hdf5_of_one_chunk), "and holds 1,000 bytes"),
    "mat: 3 TB": (_file("set.mat", store_files.zlib_bomb_mat), "set.mat announces [1024, 1024, 3"),
    "torch: code": (
        _file("set.pt", lambda: _torch(_code)),
        "names the global",
    ),
    "torch: numbers beyond the end": (
        _file("set.pt", _torch_beyond_its_end),
        "the numbers of a tensor go beyond its end",
    ),
    "torch: numbers repeated": (
        _file("set.pt", lambda: _torch(_repeated)),
        "a tensor repeats its numbers",
    ),
    "dicom: packed as a whole": (
        _file("set.dcm", store_files.deflated_dicom),
        "set.dcm is packed as a whole. Unpack it",
    ),
    "imagenet64: cut short": (
        _file("train_data_batch_1.npz", lambda: store_files.imagenet64()[:-9]),
        "train_data_batch_1.npz",
    ),
    "imagenet64: rows beyond the end": (_rows_beyond_the_end, "it goes beyond the end of the file"),
    "dicom: 10,000 sequences in one another": (
        _file("set.dcm", _nested_dicom),
        "set.dcm cannot be read",
    ),
    "tfrecord: no example": (
        _file("set.tfrecords", lambda: store_files.in_records(PIXELS.tobytes())),
        "is not an Example of TensorFlow",
    ),
}
"""Name → what makes the source, and a part of the message that refuses it."""
