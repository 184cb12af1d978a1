"""Stores that are known and not read are named, with what to do."""

from pathlib import Path

import pytest

from memaudit.data.sources import open_images
from memaudit.errors import DataError


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("set.zarr/.zarray", b"{}", "is a Zarr array, which is not read. Export it: np.save"),
        ("set/zarr.json", b"{}", "is a Zarr store"),
        ("set/_common_metadata", b"PAR1", "is a set of Petastorm"),
        ("train.rec", b"\x0a\x23\xd7\xce" + bytes(20), "is a RecordIO of MXNet"),
        ("train.beton", bytes(20), "is a file of FFCV"),
        ("shard.00000.mds", bytes(20), "is a shard of MosaicML"),
    ],
)
def test_a_store_that_is_not_read_is_named(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        open_images(path if path.parent == tmp_path else path.parent)
