"""A kept index is found again, and is right or not used."""

import os

import numpy as np
import pytest
from helpers.all_distances import brute_force, smooth

from memaudit.audit.neighbors import cache as index_cache
from memaudit.audit.neighbors import pixel_index as neighbors
from memaudit.audit.neighbors.cache import open_index
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError

SHAPE = (3, 16, 16)


@pytest.fixture
def built(monkeypatch) -> list[int]:
    """The number of images of every index that is built, all of which are worth keeping."""
    sizes = []
    project_images = neighbors.project_images

    def counted(images, **options):
        sizes.append(len(images))
        return project_images(images, **options)

    monkeypatch.setattr(neighbors, "project_images", counted)
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 0.0)
    return sizes


def image_set(num_images=400, seed=0):
    images = smooth(np.random.default_rng(seed), num_images, SHAPE)
    return ImageSet(images, names=[str(i) for i in range(num_images)])


def assert_right(index, data):
    queries = smooth(np.random.default_rng(9), 20, SHAPE)
    truth = brute_force(queries, data.images, 2, flips=index.flips)
    found = index.nearest(queries, 2)
    np.testing.assert_array_equal(found.index, truth[0])
    np.testing.assert_array_equal(found.squared_distance, truth[1])
    return found.statistics


def test_an_index_is_built_once(built, tmp_path):
    data = image_set()
    first = assert_right(open_index(data, cache_dir=tmp_path), data)
    second = assert_right(open_index(image_set(), cache_dir=tmp_path), data)
    assert built == [400]
    assert first == second
    assert_right(open_index(data, flips=True, cache_dir=tmp_path), data)
    assert built == [400]


def test_images_too_few_to_take_a_second_are_not_kept(tmp_path):
    open_index(image_set(), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_cache_nothing_of_it_is_read_or_written(built, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMAUDIT_CACHE", str(tmp_path))
    for num_built in (1, 2):
        assert_right(open_index(image_set(), cache_dir=False), image_set())
        assert built == [400] * num_built and list(tmp_path.iterdir()) == []


def test_small_images_are_kept_as_they_are(built, tmp_path):
    images = np.ascontiguousarray(image_set().images[..., :4, :4])
    data = ImageSet(images, names=[""] * len(images))
    for _ in range(2):
        index = open_index(data, cache_dir=tmp_path)
        assert (index.nearest(images[:9], 1).squared_distance == 0).all()
    assert built == [400]


def test_other_images_have_an_index_of_their_own(built, tmp_path):
    for seed in (0, 1, 0, 1):
        data = image_set(seed=seed)
        assert_right(open_index(data, cache_dir=tmp_path), data)
    assert built == [400, 400]


def test_a_memory_limit_has_an_index_of_its_own(built, tmp_path):
    data = image_set()
    whole = open_index(data, cache_dir=tmp_path)
    for _ in range(2):
        short = open_index(data, cache_dir=tmp_path, memory_limit=whole.num_bytes // 2)
        assert short.num_bytes <= whole.num_bytes // 2
        assert_right(short, data)
    assert built == [400, 400]
    with pytest.raises(ConfigError, match="more than the memory limit"):
        open_index(data, cache_dir=tmp_path, memory_limit=1000)


def test_a_damaged_index_is_built_again_and_never_used(built, tmp_path):
    """A byte changed anywhere, in twenty places, and the file cut short."""
    data = image_set()
    open_index(data, cache_dir=tmp_path)
    (path,) = (tmp_path / "index").iterdir()
    whole = path.read_bytes()
    for position in np.linspace(0, len(whole) - 1, 20).astype(int):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        assert_right(open_index(data, cache_dir=tmp_path), data)
    for length in (0, 100, len(whole) // 2):
        path.write_bytes(whole[:length])
        num_built = len(built)
        assert_right(open_index(data, cache_dir=tmp_path), data)
        assert len(built) == num_built + 1


def test_wrong_projections_with_right_checksums_of_the_zip_are_not_used(built, tmp_path):
    """The zip's own CRC32 would not tell: the SHA-256 does."""
    data = image_set()
    open_index(data, cache_dir=tmp_path)
    (path,) = (tmp_path / "index").iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    arrays["vectors"][7] += 1
    np.savez(path, **arrays)
    assert_right(open_index(data, cache_dir=tmp_path), data)
    assert built == [400, 400]


@pytest.mark.parametrize("name", ["other images", "another version"])
def test_an_index_of_something_else_is_not_used(built, tmp_path, monkeypatch, name):
    data, other = image_set(), image_set(seed=1)
    open_index(data, cache_dir=tmp_path)
    (path,) = (tmp_path / "index").iterdir()
    if name == "other images":
        path.rename(path.with_name(path.name.replace(data.fingerprint, other.fingerprint)))
        data = other
    else:
        monkeypatch.setattr(index_cache, "_VERSION", 0)
    assert_right(open_index(data, cache_dir=tmp_path), data)
    assert built == [400, 400]


def test_a_cache_that_cannot_be_written_is_no_error(built, tmp_path):
    (tmp_path / "file").write_text("no folder")
    data = image_set()
    assert_right(open_index(data, cache_dir=tmp_path / "file"), data)


def test_only_the_user_can_read_the_index(built, tmp_path):
    open_index(image_set(), cache_dir=tmp_path)
    if os.name == "posix":
        assert (tmp_path / "index").stat().st_mode & 0o077 == 0


@pytest.mark.gpu
def test_an_index_built_on_the_cpu_serves_a_gpu(built, tmp_path):
    data = image_set()
    on_cpu = open_index(data, cache_dir=tmp_path).nearest(data.images[:20], 2)
    on_gpu = open_index(data, device="cuda", cache_dir=tmp_path).nearest(data.images[:20], 2)
    np.testing.assert_array_equal(on_cpu.index, on_gpu.index)
    assert built == [400]


def test_what_cannot_be_searched_is_refused_as_without_a_cache(tmp_path):
    empty = ImageSet(np.empty((0, *SHAPE), dtype=np.uint8), names=[])
    with pytest.raises(DataError, match="no training images"):
        open_index(empty, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="cpu or cuda"):
        open_index(image_set(), device="mps", cache_dir=tmp_path)
