"""Stores of images as their libraries write them, as bytes: small ones, to be changed."""

import io
import json
import struct
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from helpers.hostile_images import PIXELS, png
from helpers.tfrecords import record, tensorflow_example


def table(number: int = 4) -> Any:
    """A table of images and classes as `datasets` makes it."""
    import pyarrow as pa

    rows = [{"bytes": png(8), "path": f"{i}.png"} for i in range(number)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    whole = pa.table({"image": pa.array(rows, kind), "label": [i % 2 for i in range(number)]})
    return whole.replace_schema_metadata(metadata)


def parquet(compression: str = "none", **options: Any) -> bytes:
    """A parquet file of four images."""
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(table(), file, compression=compression, **options)
    return file.getvalue()


def arrow() -> bytes:
    """A stream of Arrow of four images."""
    import pyarrow as pa

    file = io.BytesIO()
    with pa.ipc.new_stream(file, table().schema) as stream:
        stream.write_table(table(), max_chunksize=2)
    return file.getvalue()


def webdataset(form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of two images with their classes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for i in range(2):
            for name, data in (
                (f"{'k' * 120}{i}.png", png()),
                (f"{'k' * 120}{i}.cls", b"1"),
                (f"{'k' * 120}{i}.json", b'{"caption": "a"}'),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def lmdb_file() -> bytes:
    """A database of 60 small images, on several pages."""
    import lmdb

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        with lmdb.open(str(path), subdir=False, map_size=1 << 20) as opened:
            with opened.begin(write=True) as transaction:
                for i in range(60):
                    transaction.put(f"{i:08d}".encode(), png(8 if i else 40))
        return path.read_bytes()


def hdf5(**options: Any) -> bytes:
    """An HDF5 file of four images."""
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened.create_dataset("images", data=PIXELS, **options)
        opened["labels"] = np.arange(4)
    return file.getvalue()


def mat(*, packed: bool) -> bytes:
    """A .mat file of four images."""
    import scipy.io

    file = io.BytesIO()
    labels = np.arange(4)[:, None]
    whole = {"X": PIXELS.transpose(2, 3, 1, 0), "y": labels}
    scipy.io.savemat(file, whole, do_compression=packed)
    return file.getvalue()


def torch_file() -> bytes:
    """What torch.save writes of four images and their classes."""
    import torch

    file = io.BytesIO()
    torch.save({"images": torch.from_numpy(PIXELS.copy()), "labels": torch.arange(4)}, file)
    return file.getvalue()


def tfrecord(*, encoded: bool = False) -> bytes:
    """A TFRecord of four images."""
    return b"".join(map(record, tfrecord_examples(encoded=encoded)))


def tfrecord_examples(*, encoded: bool) -> list[bytes]:
    """What the records hold."""
    if encoded:
        features: dict[str, Any] = {"image/encoded": png(), "image/class/label": [1]}
        return [tensorflow_example(**features)] * 4
    return [tensorflow_example(shape=list(image.shape), data=image.tobytes()) for image in PIXELS]


def in_records(data: bytes) -> bytes:
    """A TFRecord of this content, whose checksums are right."""
    return record(data)


def zlib_bomb_mat() -> bytes:
    """A .mat whose packed array is said to be larger than deflate can make it."""
    import zlib

    name = b"images\0\0"
    inner = struct.pack("<IIII", 6, 8, 9, 0) + struct.pack("<II", 5, 16)
    inner += struct.pack("<4i", 1 << 10, 1 << 10, 3, 1 << 10)
    inner += struct.pack("<II", 1, 6) + name + struct.pack("<II", 2, 0xFFFFFFF0)
    matrix = struct.pack("<II", 14, 0xFFFFFFF0) + inner
    packed = zlib.compress(matrix + bytes(1 << 20), 9)
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    return head + struct.pack("<II", 15, len(packed)) + packed


def nifti(*, packed: bool) -> bytes:
    """A NIfTI volume."""
    import gzip

    import nibabel

    image = nibabel.Nifti1Image(PIXELS[0], np.diag([-2.0, -3, 4, 1]))
    data: bytes = image.to_bytes()
    return gzip.compress(data, 1, mtime=0) if packed else data


def dicom(*, implicit: bool) -> bytes:
    """A slice of DICOM."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.3.4"
    data = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    data.PatientID, data.SeriesInstanceUID = "p1", "1.2.3"
    data.ImagePositionPatient = [0, 0, 1]
    data.WindowCenter, data.WindowWidth = [128, 40], [256, 80]
    data.Rows = data.Columns = 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = PIXELS[0, 0].tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def compressed_dicom(form: str) -> bytes:
    """A slice of DICOM that is compressed: in gray by RLE, in color by JPEG or JPEG2000."""
    import pydicom
    from PIL import Image
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, RLELossless

    data = pydicom.dcmread(io.BytesIO(dicom(implicit=False)))
    if form == "RLE":
        data.compress(RLELossless)
    else:
        picture = io.BytesIO()
        Image.fromarray(PIXELS[0].transpose(1, 2, 0)).save(picture, form)
        data.SamplesPerPixel, data.PlanarConfiguration = 3, 0
        data.PhotometricInterpretation = "YBR_FULL_422" if form == "JPEG" else "YBR_RCT"
        syntax = "1.2.840.10008.1.2.4." + ("50" if form == "JPEG" else "90")
        data.file_meta.TransferSyntaxUID = UID(syntax)
        data.PixelData, data["PixelData"].VR = encapsulate([picture.getvalue()]), "OB"
        data["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def deflated_dicom() -> bytes:
    """A DICOM file that is packed as a whole, and unpacks to 64 MB of nothing."""
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    data = pydicom.dcmread(io.BytesIO(dicom(implicit=False)))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.PixelData = bytes(64 << 20)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def imagenet64(*, packed: bool = False) -> bytes:
    """A batch of four images and labels from 1."""
    file = io.BytesIO()
    save = np.savez_compressed if packed else np.savez
    save(file, data=PIXELS.reshape(4, -1), labels=[1, 2, 1000, 4], mean=np.zeros(192))
    return file.getvalue()
