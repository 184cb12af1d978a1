"""Large sources are decoded once, kept and mapped."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.images import Encode, labels_of

from memaudit.data import sources
from memaudit.data.cache_folder import default_cache_dir
from memaudit.data.preparation import Preparation
from memaudit.data.sources import open_images
from memaudit.errors import CacheWarning, DataError


@pytest.fixture
def num_read(folder: Path) -> Callable[..., int]:
    """Opens the folder and says how many images were decoded for it."""

    def num_read(**options: int) -> int:
        counts = []

        def progress(task: str, done: int, total: int | None, note: str = "") -> None:
            if task == "Reading images":
                counts.append(done)

        open_images(folder, Preparation(**options), progress=progress)
        return max(counts, default=0)

    return num_read


def test_the_second_opening_gives_the_same_from_the_cache(
    folder: Path, num_read: Callable[..., int]
) -> None:
    first, second = open_images(folder), open_images(folder)
    assert num_read() == 0
    for images in (first, second):
        assert isinstance(images.images, np.memmap)
    np.testing.assert_array_equal(second.images, first.images)
    assert second.fingerprint == first.fingerprint
    assert list(second.names) == list(first.names)
    assert labels_of(second) == labels_of(first)
    assert second.class_names == first.class_names == ("class 0", "class 1")
    assert second.source == first.source


def test_a_set_without_labels_keeps_having_none(
    folder: Path, tmp_path: Path, pixels: np.ndarray
) -> None:
    np.savez(tmp_path / "set.npz", images=pixels)
    assert all(open_images(tmp_path / "set.npz").labels is None for _ in range(2))


def test_small_sources_are_not_kept(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAPPED_FROM", 10_000)
    assert not isinstance(open_images(folder).images, np.memmap)
    assert not cache_dir.exists()


def test_every_resolution_is_kept_by_itself(folder: Path, num_read: Callable[..., int]) -> None:
    assert open_images(folder, Preparation(resolution=7)).images.shape == (6, 3, 7, 7)
    assert open_images(folder).images.shape == (6, 3, 8, 8)
    assert num_read() == 0 and num_read(resolution=7) == 0


@pytest.mark.parametrize("change", ["content", "time", "more", "fewer", "renamed"])
def test_a_changed_source_is_read_again(
    change: str, folder: Path, num_read: Callable[..., int], pixels: np.ndarray, encode: Encode
) -> None:
    before = open_images(folder)
    file = folder / "class 0" / "0.png"
    if change == "content":
        file.write_bytes(encode(pixels[1], compress_level=0))
    elif change == "time":
        os.utime(file, (1, 1))
    elif change == "more":
        (folder / "class 0" / "6.png").write_bytes(encode(pixels[1]))
    elif change == "fewer":
        file.unlink()
    else:
        file.rename(file.with_name("00.png"))
    expected = {"more": 7, "fewer": 5}.get(change, 6)
    assert num_read() == expected
    assert num_read() == 0
    assert (open_images(folder).fingerprint == before.fingerprint) == (
        change in ("time", "renamed")
    )


def test_an_outdated_entry_is_replaced_and_not_added_to(folder: Path, cache_dir: Path) -> None:
    for time in (1, 2, 3):
        os.utime(folder / "class 0" / "0.png", (time, time))
        open_images(folder)
        assert len(list((cache_dir / "images").iterdir())) == 1


@pytest.mark.parametrize("name", ["images.npy", "about.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "flipped", "junk"])
def test_a_damaged_entry_is_made_again(
    damage: str, name: str, folder: Path, num_read: Callable[..., int], cache_dir: Path
) -> None:
    before = open_images(folder).fingerprint
    (file,) = (cache_dir / "images").glob(f"*/{name}")
    data = bytearray(file.read_bytes())
    file.unlink()  # a map of the old file stays what it was
    data[-10] ^= 1  # of the last image, or of the fingerprint
    damaged: dict[str, bytes | bytearray] = {
        "cut": data[:-20],
        "empty": b"",
        "flipped": data,
        "junk": b"\xff" * 500,
    }
    if damage != "gone":
        file.write_bytes(damaged[damage])
    assert num_read() == 6
    assert num_read() == 0
    assert open_images(folder).fingerprint == before


def test_an_entry_is_for_the_user_alone(folder: Path, cache_dir: Path) -> None:
    open_images(folder)
    (entry,) = (cache_dir / "images").iterdir()
    assert entry.stat().st_mode & 0o077 == 0
    assert sorted(file.name for file in entry.iterdir()) == ["about.json", "images.npy"]
    assert len(json.loads((entry / "about.json").read_text())["fingerprint"]) == 64


def test_a_cache_that_cannot_be_written_leaves_the_images_in_memory(
    folder: Path, tmp_path: Path, pixels: np.ndarray
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(CacheWarning, match="file: Not a directory"):
        images = open_images(folder, cache_dir=tmp_path / "file")
    assert not isinstance(images.images, np.memmap)
    np.testing.assert_array_equal(images.images, pixels[[0, 2, 4, 1, 3, 5]])


def test_an_error_while_decoding_leaves_nothing_in_the_cache(folder: Path, cache_dir: Path) -> None:
    (folder / "class 1" / "5.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="5.png cannot be decoded"):
        open_images(folder)
    assert list((cache_dir / "images").iterdir()) == []


def test_a_large_array_is_kept_where_it_was_packed(
    folder: Path, tmp_path: Path, pixels: np.ndarray, num_read: Callable[..., int]
) -> None:
    np.savez_compressed(tmp_path / "set.npz", images=pixels.transpose(0, 2, 3, 1))
    images = open_images(tmp_path / "set.npz")
    assert isinstance(images.images, np.memmap)
    np.testing.assert_array_equal(images.images, pixels)


def test_without_a_cache_nothing_of_it_is_read_or_written(
    folder: Path, cache_dir: Path, num_read: Callable[..., int]
) -> None:
    open_images(folder)
    (file,) = (cache_dir / "images").glob("*/images.npy")
    before = file.stat()
    images = open_images(folder, cache_dir=False)
    assert not isinstance(images.images, np.memmap)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    file.unlink()
    open_images(folder, cache_dir=False)
    assert not file.exists()


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MEMAUDIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_cache_dir() == tmp_path / ".cache" / "memaudit"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_cache_dir() == tmp_path / "Library" / "Caches" / "memaudit"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert str(default_cache_dir()) == "/elsewhere/memaudit"
    monkeypatch.setenv("MEMAUDIT_CACHE", "/here")
    assert str(default_cache_dir()) == "/here"
