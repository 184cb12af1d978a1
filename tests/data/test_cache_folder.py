"""A cache that somebody else could write is not used, and one that somebody changed is found."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.limited import run_python

from memaudit.data import cache_folder, cache_pixels, sources
from memaudit.data.cache_folder import clear_cache, list_cache
from memaudit.data.images import ImageSet
from memaudit.data.preparation import Preparation
from memaudit.data.sources import open_images
from memaudit.errors import CacheWarning, ConfigError


@pytest.fixture(autouse=True)
def nothing_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_folder, "_told", set())


def entry_of(cache_dir: Path) -> Path:
    (entry,) = (cache_dir / "images").iterdir()
    return entry


def poison(cache_dir: Path, rows: list[int]) -> None:
    """Invert cached images and make the checksum right again, as whoever can write would."""
    entry = entry_of(cache_dir)
    pixels = np.load(entry / "images.npy")
    pixels[rows] ^= 255
    np.save(entry / "images.npy", pixels)
    about = json.loads((entry / "about.json").read_text())
    about["fingerprint"] = ImageSet(pixels, [""] * len(pixels)).fingerprint
    (entry / "about.json").write_text(json.dumps(about))


def place_of(which: str, cache_dir: Path) -> Path:
    places = {"root": cache_dir, "images": cache_dir / "images", "entry": entry_of(cache_dir)}
    return places.get(which, entry_of(cache_dir) / which)


PLACES = ("root", "images", "entry", "images.npy", "about.json")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
@pytest.mark.parametrize("which", PLACES)
def test_a_cache_that_others_may_write_is_not_used(
    folder: Path, cache_dir: Path, which: str, mode: int
) -> None:
    truth = open_images(folder).fingerprint
    poison(cache_dir, list(range(6)))
    place_of(which, cache_dir).chmod(mode)
    told = rf"others may write to .* \(mode {mode:o}\); `memaudit cache clear` empties the cache"
    with pytest.warns(CacheWarning, match=told):
        assert open_images(folder).fingerprint == truth

    clear_cache()
    assert all(path.stat().st_mode & 0o022 == 0 for path in (cache_dir, cache_dir / "images"))
    for _ in range(2):
        images = open_images(folder)
        assert isinstance(images.images, np.memmap) and images.fingerprint == truth


@pytest.mark.parametrize("which", PLACES)
def test_what_belongs_to_another_user_is_not_used(
    folder: Path, cache_dir: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = open_images(folder).fingerprint
    poison(cache_dir, list(range(6)))
    theirs = place_of(which, cache_dir).stat().st_ino
    fstat = os.fstat

    def of_another(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        fields = list(found)
        fields[4] = 12345 if found.st_ino == theirs else found.st_uid
        return os.stat_result(fields)

    monkeypatch.setattr("memaudit.data.cache_folder.os.fstat", of_another)
    with pytest.warns(CacheWarning, match=r"belongs to another user \(number 12345\)"):
        assert open_images(folder).fingerprint == truth


@pytest.mark.parametrize("which", PLACES)
def test_a_link_in_the_cache_is_not_followed(
    folder: Path, cache_dir: Path, tmp_path: Path, which: str
) -> None:
    """A link may lead to what the user never meant as a cache, such as a checkout of theirs."""
    truth = open_images(folder).fingerprint
    poison(cache_dir, list(range(6)))
    place = place_of(which, cache_dir)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(CacheWarning, match="is a link, which is not followed there"):
        assert open_images(folder).fingerprint == truth


def test_a_reason_is_told_once(folder: Path, cache_dir: Path) -> None:
    open_images(folder)
    cache_dir.chmod(0o777)
    code = """
import sys
from memaudit.data import sources
sources.MAPPED_FROM = 500
for _ in range(3):
    sources.open_images(sys.argv[1])
"""
    assert run_python(code, folder).stderr.count("CacheWarning: ") == 1


@pytest.mark.parametrize("check_all", [False, True])
def test_a_poisoned_entry_of_the_users_own_is_found_by_decoding_again(
    folder: Path, cache_dir: Path, check_all: bool
) -> None:
    truth = open_images(folder).fingerprint
    poison(cache_dir, [3])
    with pytest.warns(CacheWarning, match="holds other pixels than the source, .* somebody chang"):
        assert open_images(folder, check_all=check_all).fingerprint == truth
    assert open_images(folder).fingerprint == truth


def test_a_random_part_is_compared_or_all(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images at random miss both of 2 changed ones among 6 in 6 of 15 cases."""
    monkeypatch.setattr(cache_pixels, "FEWEST_CHECKED", 2)
    truth = open_images(folder).fingerprint
    poison(cache_dir, [0, 4])
    kept = {file.name: file.read_bytes() for file in entry_of(cache_dir).iterdir()}
    found = 0
    for _ in range(80):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            found += open_images(folder).fingerprint == truth
        for name, data in kept.items():
            (entry_of(cache_dir) / name).write_bytes(data)
    assert 30 <= found <= 65  # 48 expected; outside with a probability below 1e-4
    with pytest.warns(CacheWarning, match="somebody changed it"):
        assert open_images(folder, check_all=True).fingerprint == truth


def test_an_array_is_compared_whole(
    tmp_path: Path, cache_dir: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAPPED_FROM", 500)
    monkeypatch.setattr(cache_pixels, "FEWEST_CHECKED", 1)
    np.savez(tmp_path / "set.npz", images=pixels)
    truth = open_images(tmp_path / "set.npz").fingerprint
    for row in range(6):
        poison(cache_dir, [row])
        with pytest.warns(CacheWarning, match="somebody changed it"):
            assert open_images(tmp_path / "set.npz").fingerprint == truth


def test_a_file_replaced_with_its_time_put_back_is_read_again(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cp -p` and rsync do it by accident: same size, same time, other pixels."""
    monkeypatch.setattr(sources, "MAPPED_FROM", 500)
    path = tmp_path / "set.npz"
    np.savez(path, images=pixels)
    before, first = path.stat(), open_images(path).fingerprint
    np.savez(path, images=255 - pixels)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert open_images(path).fingerprint != first  # without a warning: nobody changed the cache


def test_small_sources_do_not_read_the_cache(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = open_images(folder).fingerprint
    poison(cache_dir, [0])
    monkeypatch.setattr(sources, "MAPPED_FROM", 10_000)
    assert open_images(folder).fingerprint == truth


def test_names_and_labels_come_from_the_source(folder: Path, cache_dir: Path) -> None:
    open_images(folder)
    about = json.loads((entry_of(cache_dir) / "about.json").read_text())
    assert sorted(about) == ["fingerprint", "kinds", "shape", "signature", "source"]


def test_a_disk_without_room_is_told_and_the_images_stay_in_memory(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.warns(CacheWarning, match="has 0 MB free, and the images take 0 MB"):
        images = open_images(folder)
    assert not isinstance(images.images, np.memmap) and len(images) == 6
    assert list((cache_dir / "images").iterdir()) == []


def test_a_disk_that_fills_up_is_told_and_the_images_stay_in_memory(
    folder: Path, cache_dir: Path
) -> None:
    """No file may grow beyond 300 bytes in the child: as on a full disk."""
    code = """
import resource, sys
from memaudit.data import sources
sources.MAPPED_FROM = 500
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
print(type(sources.open_images(sys.argv[1]).images).__name__)
"""
    done = run_python(code, folder)
    assert done.stdout.strip() == "ndarray", done.stderr
    assert "CacheWarning: The cache is not used" in done.stderr and "File too large" in done.stderr
    assert list((cache_dir / "images").iterdir()) == []


def test_parts_of_killed_processes_are_removed_and_those_in_use_stay(
    folder: Path, cache_dir: Path
) -> None:
    open_images(folder)
    killed, young = cache_dir / "images" / "part-killed", cache_dir / "images" / "part-young"
    for part in (killed, young):
        part.mkdir()
    (killed / "images.npy").write_bytes(b"half")
    with cache_folder.locked_part(cache_dir, "0" * 32) as in_use:
        assert in_use is not None
        for path in (killed, in_use.path):
            os.utime(path, (1, 1))
        open_images(folder, Preparation(resolution=4))
        assert not killed.exists() and young.exists() and in_use.path.exists()


def test_the_cache_is_listed_and_cleared(
    folder: Path, cache_dir: Path, tmp_path: Path, pixels: np.ndarray
) -> None:
    assert list_cache() == [] and clear_cache() == []
    np.savez(tmp_path / "set.npz", images=pixels)
    open_images(folder)
    open_images(tmp_path / "set.npz")
    foreign = cache_dir / "images" / ("f" * 32)
    for path in (cache_dir / "images" / "notes", foreign, cache_dir / "images" / "part-killed"):
        path.mkdir()
    (foreign / "mine.txt").touch()
    listed = {entry.source: entry for entry in list_cache()}
    assert set(listed) == {str(folder), str(tmp_path / "set.npz"), None}
    entry = listed[str(folder)]
    assert entry.shape == (6, 3, 8, 8) and entry.num_bytes > 6 * 192

    for name in ("images/", "nothing", "../x"):
        with pytest.raises(ConfigError, match="in the cache has the name"):
            clear_cache([name])
    assert clear_cache([entry.name], older_than=1) == []
    assert clear_cache([entry.name[:20]]) == [entry]
    old = cache_dir / listed[str(tmp_path / "set.npz")].name
    for file in old.iterdir():
        os.utime(file, (1, 1))
    assert [one.source for one in clear_cache(older_than=1)] == [str(tmp_path / "set.npz")]
    clear_cache()
    assert sorted(path.name for path in (cache_dir / "images").iterdir()) == ["f" * 32, "notes"]


def test_clearing_follows_no_link(folder: Path, cache_dir: Path, tmp_path: Path) -> None:
    open_images(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "images.npy").write_bytes(b"mine")
    (cache_dir / "images" / ("e" * 32)).symlink_to(elsewhere)
    assert len(clear_cache()) == 2
    assert (elsewhere / "images.npy").exists() and not list((cache_dir / "images").iterdir())
    cache_dir.rename(tmp_path / "moved")
    cache_dir.symlink_to(tmp_path / "moved")
    with pytest.raises(ConfigError, match="is a link; nothing was removed"):
        clear_cache()


FILL = """
import sys, time
from memaudit.data import sources
sources.MAPPED_FROM = 500
while time.time() < float(sys.argv[2]):
    time.sleep(0.001)
print(sources.open_images(sys.argv[1]).fingerprint)
"""


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_processes_that_fill_one_cache_all_end_right(
    folder: Path, cache_dir: Path, times: int
) -> None:
    truth = open_images(folder, cache_dir=False).fingerprint
    for _ in range(times):
        command = [sys.executable, "-c", FILL, str(folder), str(time.time() + 1)]
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        for process in processes:
            said, errors = process.communicate(timeout=60)
            assert said.strip() == truth and not errors, errors
        assert open_images(folder).fingerprint == truth
        assert len(list((cache_dir / "images").iterdir())) == 1
        clear_cache()


@pytest.mark.slow  # 20 processes
def test_a_process_killed_while_it_fills_the_cache_harms_nobody(
    folder: Path, cache_dir: Path
) -> None:
    truth = open_images(folder, cache_dir=False).fingerprint
    moments = random.Random(0)
    for _ in range(20):
        command = [sys.executable, "-c", FILL, str(folder), "0"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not (cache_dir / "images").exists() and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(moments.random() * 0.01)
        process.kill()
        process.wait()
        for part in (cache_dir / "images").glob("part-*"):
            os.utime(part, (1, 1))
        for _ in range(2):
            assert open_images(folder).fingerprint == truth
        open_images(folder, Preparation(resolution=4))  # the next one that is stored
        assert not list((cache_dir / "images").glob("part-*"))
        shutil.rmtree(cache_dir)
