"""Whatever the bytes of a store, a reader gives images or an error of ours."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import store_files
from helpers.fuzzed_sources import Family, opened
from helpers.fuzzing import fuzz
from helpers.limited import run_python

for module in ("pyarrow", "lmdb", "h5py", "scipy.io", "torch", "nibabel", "pydicom"):
    pytest.importorskip(module)

FEW, MANY = 200, 100_000
"""Inputs for each family, and in the slow tests."""
SLOWER = ("dicom", "dicom compressed", "hdf5", "nifti", "nifti packed", "parquet", "webdataset")
"""Families of which each input takes milliseconds: a third as many are read."""

FAMILIES: dict[str, Callable[[], Family]] = {
    "parquet": lambda: Family(
        {
            "plain": store_files.parquet(use_dictionary=False),
            "dictionary": store_files.parquet(),
            "packed": store_files.parquet("zstd"),
        },
        opened("set.parquet"),
    ),
    "arrow": lambda: Family({"stream": store_files.arrow()}, opened("set.arrow")),
    "webdataset": lambda: Family(
        {
            "gnu": store_files.webdataset(),
            "pax": store_files.webdataset(store_files.tarfile.PAX_FORMAT),
        },
        opened("set.tar"),
    ),
    "lmdb": lambda: Family({"file": store_files.lmdb_file()}, opened("set.mdb")),
    "hdf5": lambda: Family(
        {"plain": store_files.hdf5(), "packed": store_files.hdf5(compression="gzip", chunks=True)},
        opened("set.h5"),
    ),
    "mat": lambda: Family(
        {"plain": store_files.mat(packed=False), "packed": store_files.mat(packed=True)},
        opened("set.mat"),
    ),
    "nifti": lambda: Family({"plain": store_files.nifti(packed=False)}, opened("set.nii")),
    "nifti packed": lambda: Family(
        {"header": store_files.nifti(packed=False)},
        opened("set.nii.gz", lambda data: gzip.compress(data, 1, mtime=0)),
    ),
    "dicom": lambda: Family(
        {
            "explicit": store_files.dicom(implicit=False),
            "implicit": store_files.dicom(implicit=True),
        },
        opened("set.dcm"),
    ),
    "dicom compressed": lambda: Family(
        {form: store_files.compressed_dicom(form) for form in ("RLE", "JPEG", "JPEG2000")},
        opened("set.dcm"),
    ),
    "imagenet64": lambda: Family(
        {"plain": store_files.imagenet64(), "packed": store_files.imagenet64(packed=True)},
        opened("train_data_batch_1.npz", as_folder=True),
    ),
    "torch": lambda: Family({"tensors": store_files.torch_file()}, opened("set.pt")),
    "tfrecord": lambda: Family(
        {"raw": store_files.tfrecord(), "encoded": store_files.tfrecord(encoded=True)},
        opened("set.tfrecords"),
    ),
    "tfrecord of anything": lambda: Family(
        {
            "raw": store_files.tfrecord_examples(encoded=False)[0],
            "encoded": store_files.tfrecord_examples(encoded=True)[0],
        },
        opened("set.tfrecords", store_files.in_records),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_any_bytes_of_a_store_give_images_or_a_message(name: str) -> None:
    samples, read = FAMILIES[name]()
    for data in samples.values():
        read(data)
    fuzz(read, samples, inputs=FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_very_many_bytes_of_a_store_give_images_or_a_message_within_limits(name: str) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]; from test_fuzz_stores import FAMILIES, fuzz; "
        "samples, read = FAMILIES[sys.argv[1]](); fuzz(read, samples, inputs=int(sys.argv[2]))"
    )
    here = Path(__file__).parent
    inputs = MANY // 3 if name in SLOWER else MANY
    done = run_python(code, name, str(inputs), here, here.parents[1], memory=8 << 30, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
