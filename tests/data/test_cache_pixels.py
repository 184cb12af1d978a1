"""Filling the cache: killed and resumed, by two processes at once, of a part of a set."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.limited import run_python
from PIL import Image

from memaudit.data import cache, cache_folder, cache_pixels, sources
from memaudit.data.cache_folder import list_cache, locked_part
from memaudit.data.images import ImageSet
from memaudit.data.preparation import Preparation
from memaudit.data.readers import lazy_images
from memaudit.data.sources import open_images
from memaudit.errors import CacheWarning

KILLED = """
import os, signal, sys
from memaudit.data import cache_pixels, sources
from memaudit.data.preparation import Preparation
from memaudit.data.readers import lazy_images
sources.MAPPED_FROM, lazy_images.BATCH_BYTES, cache_pixels._EVERY = 500, 1, 0
def progress(task, done, total, note=""):
    if task == "Reading images" and done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
sources.open_images(sys.argv[1], Preparation(mode="rgb"), progress=progress)
"""
RGB = Preparation(mode="rgb")


@pytest.fixture
def mixed(folder: Path) -> Path:
    """The folder with two images of it in palette mode, which are counted."""
    for name in ("class 0/0.png", "class 1/5.png"):
        with Image.open(folder / name) as image:
            image.quantize(16).save(folder / name)
    return folder


@pytest.fixture
def stopped(mixed: Path, cache_dir: Path, one_by_one: None) -> Path:
    """The part that was left when somebody stopped the decoding after four of six images."""

    def progress(task: str, done: int, total: int | None, note: str = "") -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_images(mixed, RGB, progress=progress)
    (part,) = (cache_dir / "images").iterdir()
    assert part.name.startswith("part-")
    return part


def num_read(folder: Path, **options: bool) -> tuple[int, ImageSet]:
    """How many images were decoded into the cache, and the images."""
    counts = []

    def progress(task: str, done: int, total: int | None, note: str = "") -> None:
        if task == "Reading images":
            counts.append(done)

    images = open_images(folder, RGB, progress=progress, **options)
    return len(counts), images


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch holds one image, so that batches count images."""
    monkeypatch.setattr(lazy_images, "BATCH_BYTES", 1)


def check_whole(mixed: Path, images: ImageSet, cache_dir: Path) -> None:
    truth = open_images(mixed, RGB, cache_dir=False)
    (entry,) = (cache_dir / "images").iterdir()
    assert sorted(file.name for file in entry.iterdir()) == ["about.json", "images.npy"]
    for opened in (images, open_images(mixed, RGB)):
        assert isinstance(opened.images, np.memmap)
        np.testing.assert_array_equal(opened.images, truth.images)
        assert opened.fingerprint == truth.fingerprint
        assert opened.kinds == truth.kinds == {"palette": 2}


@pytest.mark.usefixtures("one_by_one")
def test_a_killed_decoding_is_resumed_where_it_stopped(mixed: Path, cache_dir: Path) -> None:
    done = run_python(KILLED, mixed, "5")
    assert done.returncode == -signal.SIGKILL, done.stderr
    (part,) = (cache_dir / "images").iterdir()
    assert part.name.startswith("part-")
    count, images = num_read(mixed)
    assert 1 <= count <= 3  # the last that were decoded may not have been written
    check_whole(mixed, images, cache_dir)


def test_a_decoding_that_was_stopped_keeps_all_that_it_did(
    mixed: Path, stopped: Path, cache_dir: Path
) -> None:
    count, images = num_read(mixed)
    assert count == 2
    check_whole(mixed, images, cache_dir)


@pytest.mark.parametrize("damage", ["pixels", "cut", "torn line", "journal", "huge", "source"])
def test_what_a_killed_process_left_is_used_only_if_it_is_whole(
    mixed: Path, stopped: Path, damage: str
) -> None:
    pixels, journal = stopped / "images.npy", stopped / "journal.jsonl"
    expected = 6
    if damage == "pixels":
        data = bytearray(pixels.read_bytes())
        data[200] ^= 1
        pixels.write_bytes(data)
    elif damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:300])
    elif damage == "torn line":
        with journal.open("ab") as file:
            file.write(journal.read_bytes()[:-20])
        expected = 2
    elif damage == "journal":
        journal.write_bytes(b"\xff[{}\n" * 9)
    elif damage == "huge":
        line = json.loads(journal.read_text().splitlines()[-1]) | {"done": 10**18}
        journal.write_text(json.dumps(line))
    else:
        os.utime(mixed / "class 0" / "0.png", (1, 1))
    count, images = num_read(mixed)
    assert count == expected
    assert images.fingerprint == open_images(mixed, RGB, cache_dir=False).fingerprint


@pytest.mark.parametrize("check_all", [False, True])
def test_a_poisoned_part_is_found_by_decoding_again(
    mixed: Path, stopped: Path, check_all: bool
) -> None:
    """The journal is right, as whoever can write would make it."""
    journal = stopped / "journal.jsonl"
    line = json.loads(journal.read_text().splitlines()[-1])
    data = bytearray((stopped / "images.npy").read_bytes())
    end = cache_pixels._end((6, 3, 8, 8), line["done"])
    data[end - 1] ^= 255
    (stopped / "images.npy").write_bytes(data)
    digest = cache_pixels.start_fingerprint((6, 3, 8, 8))
    digest.update(data[cache_pixels._end((6, 3, 8, 8), 0) : end])
    journal.write_text(json.dumps(line | {"fingerprint": digest.hexdigest()}) + "\n")
    with pytest.warns(CacheWarning, match="other pixels than the source: somebody changed it"):
        count, images = num_read(mixed, check_all=check_all)
    assert count == 6
    assert images.fingerprint == open_images(mixed, RGB, cache_dir=False).fingerprint


SHARED = """
import json, sys, time
from pathlib import Path
from memaudit.data import sources
from memaudit.data.readers import lazy_images
sources.MAPPED_FROM, lazy_images.BATCH_BYTES = 500, 1
tasks, somebody_waits = {}, Path(sys.argv[2])
def progress(task, done, total, note=""):
    tasks[task] = tasks.get(task, 0) + 1
    if task.startswith("Waiting"):
        somebody_waits.touch()
    deadline = time.monotonic() + 30
    while task == "Reading images" and done == 3 and not somebody_waits.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
images = sources.open_images(sys.argv[1], progress=progress)
print(json.dumps([images.fingerprint, tasks, type(images.images).__name__]))
"""


def test_of_two_processes_one_decodes_and_the_other_waits_and_says_so(
    folder: Path, cache_dir: Path, tmp_path: Path
) -> None:
    truth = open_images(folder, cache_dir=False).fingerprint
    command = [sys.executable, "-c", SHARED, str(folder), str(tmp_path / "waits")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not list(cache_dir.glob("images/part-*/images.npy")) and first.poll() is None:
        time.sleep(0.01)
    second = run_python(SHARED, folder, tmp_path / "waits")
    said, _ = first.communicate(timeout=60)
    assert json.loads(said) == [truth, {"Reading images": 6}, "memmap"]
    fingerprint, tasks, kind = json.loads(second.stdout)
    assert (fingerprint, kind) == (truth, "memmap")
    assert set(tasks) == {
        "Waiting for another process that reads the images",
        "Comparing images with the cache",
    }
    assert len(list((cache_dir / "images").iterdir())) == 1


def test_a_process_that_hangs_is_not_waited_for(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_images(folder)
    (entry,) = (cache_dir / "images").iterdir()
    (entry / "about.json").write_text("{}")
    monkeypatch.setattr(cache, "STALLED", 0.3)
    with locked_part(cache_dir, entry.name) as part:
        assert part is not None
        with pytest.warns(CacheWarning, match="another process .* has done nothing for 0 seconds"):
            images = open_images(folder)
        assert not isinstance(images.images, np.memmap) and part.path.exists()


def test_on_a_disk_without_locks_nothing_is_shared_or_left(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_folder, "try_lock", lambda descriptor: None)
    assert isinstance(open_images(folder).images, np.memmap)
    assert [len(path.name) for path in (cache_dir / "images").iterdir()] == [32]


def test_abandoned_parts_make_room(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_images(folder)
    abandoned = cache_dir / "images" / ("part-" + "0" * 32)
    abandoned.mkdir()
    open_images(folder, Preparation(resolution=4))
    assert abandoned.exists()
    monkeypatch.setattr(
        cache_pixels, "free_disk", lambda path: 0 if abandoned.exists() else 1 << 40
    )
    assert isinstance(open_images(folder, Preparation(resolution=7)).images, np.memmap)
    assert not abandoned.exists() and len(list_cache()) == 3


@pytest.mark.parametrize(
    ("limits", "is_kept"),
    [((10_000, 10_000), False), ((10_000, 6), True), ((600, 10_000), True)],
)
def test_what_takes_long_is_kept_even_if_its_pixels_are_few(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    is_kept: bool,
) -> None:
    """6 images of 3 x 4 x 4 have 288 bytes, and their files more than 1,000."""
    monkeypatch.setattr(sources, "MAPPED_FROM", limits[0])
    monkeypatch.setattr(sources, "KEPT_FROM", limits[1])
    images = open_images(folder, Preparation(resolution=4))
    assert isinstance(images.images, np.memmap) == is_kept


def test_a_map_is_not_kept_again(
    tmp_path: Path, pixels: np.ndarray, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAPPED_FROM", 100)
    np.save(tmp_path / "set.npy", pixels)

    def choose(contents: lazy_images.Contents) -> np.ndarray:
        return np.arange(4)

    assert len(open_images(tmp_path / "set.npy", choose=choose)) == 4
    assert isinstance(open_images(tmp_path / "set.npy").images, np.memmap)
    assert not cache_dir.exists()
