"""What does not fit is refused before it is allocated."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.images import Encode
from helpers.limited import run_python

from memaudit.data import room
from memaudit.data.room import check_memory, free_disk, free_memory, in_words
from memaudit.data.sources import open_images
from memaudit.errors import DataError


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory is free")
def test_the_free_memory_is_known_and_respects_a_limit() -> None:
    free = free_memory()
    assert free is not None and 1 << 24 < free < 1 << 50
    code = "from memaudit.data.room import free_memory; print(free_memory())"
    assert 0 < int(run_python(code, memory=2 << 30).stdout) < 2 << 30


def test_more_than_is_free_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_memory", lambda: 1000)
    check_memory(1000, "It")
    with pytest.raises(DataError, match=r"It needs 3\.0 GB of memory and 0 MB are free"):
        check_memory(3 * 10**9, "It")
    monkeypatch.setattr(room, "free_memory", lambda: None)
    check_memory(10**30, "It")


def test_the_disk_of_a_folder_yet_to_be_made_is_that_of_its_parent(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, 0.1)
    assert in_words(34 * 10**8) == "3.4 GB" and in_words(12_300_000) == "12 MB"


def write_folder(folder: Path, encode: Encode) -> Path:
    """Eight pictures."""
    folder.mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), np.uint8)):
        (folder / f"{i}.png").write_bytes(encode(image))
    return folder


def test_a_set_that_fits_nowhere_is_refused_undecoded(
    tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_folder(tmp_path / "set", encode)
    monkeypatch.setattr(room, "free_memory", lambda: 1000)
    with pytest.raises(DataError, match="Reading the images of .*set needs 0 MB of memory"):
        open_images(path, cache_dir=False)
