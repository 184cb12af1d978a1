"""NeighborIndex against all distances in int64: equal, always."""

import io
import math
import re
import threading
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.all_distances import (
    KINDS,
    SHAPES,
    brute_force,
    brute_force_distinct,
    near_duplicates,
    noise,
    smooth,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from memaudit.audit.memorization.rule import memorized
from memaudit.audit.neighbors import base as search
from memaudit.audit.neighbors import integer_distances as exact
from memaudit.audit.neighbors import pixel_index as neighbors
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.errors import ConfigError, DataError

CPU = torch.device("cpu")


def assert_exact(images, queries, k=2):
    return assert_equal(NeighborIndex(images).nearest(queries, k), brute_force(queries, images, k))


def assert_equal(found, expected):
    index, squared_distance = expected
    np.testing.assert_array_equal(found.squared_distance, squared_distance)
    np.testing.assert_array_equal(found.index, index)
    assert found.index.dtype == found.squared_distance.dtype == np.int64
    of = found.statistics
    assert of.num_certified + of.num_widened + of.num_brute_forced == of.num_searches
    return of


@pytest.fixture(scope="module")
def cifar(shared_data):
    """1,500 training images and 100 others, uint8 [N, 3, 32, 32]."""
    with zipfile.ZipFile(shared_data / "cifar10-jpeg-train.zip") as archive:
        files = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".jpeg")))
        images = np.stack(
            [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in files[::31][:1600]]
        )
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:1500]], images[order[1500:]]


@pytest.fixture(scope="module")
def copies(cifar):
    """Copies of CIFAR-10 images, near-copies, blends at the 1/3 edge and off it, and others."""
    images, others = cifar
    rng = np.random.default_rng(1)
    one, two = images[:40], images[40:80]
    noisy = np.clip(one + rng.normal(0, 3, one.shape), 0, 255).astype(np.uint8)
    one_pixel = one.copy()
    one_pixel[:, 0, 3, 5] ^= 1
    blends = [((1 - w) * one + w * two).round().astype(np.uint8) for w in (1 / 4, 0.249, 1 / 2)]
    return np.concatenate([one, noisy, one_pixel, *blends, others[:40]])


@pytest.fixture(scope="module")
def truth(cifar, copies):
    """The two nearest of `copies` among `cifar`."""
    return brute_force(copies, cifar[0], 2)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    shape=st.sampled_from(SHAPES),
    num_images=st.integers(2, 400),
    k=st.integers(1, 5),
    flips=st.booleans(),
    by_products=st.booleans(),
)
def test_nearest_equals_all_distances(seed, kind, shape, num_images, k, flips, by_products):
    rng = np.random.default_rng(seed)
    images = kind(rng, num_images, shape)
    queries = np.concatenate([noise(rng, 5, shape), kind(rng, 5, shape), images[:5]])
    k = min(k, num_images)
    assert_equal(
        NeighborIndex(images, flips=flips, by_products=by_products).nearest(queries, k),
        brute_force(queries, images, k, flips=flips),
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    shape=st.sampled_from(SHAPES),
    num_images=st.integers(2, 150),
    duplicate_rms=st.lists(
        st.sampled_from([0, 1, 8, Fraction(1, 3), 0.1, 60, 100.5, 255, 1e30]),
        min_size=1,
        max_size=3,
    ),
    flips=st.booleans(),
    by_products=st.booleans(),
)
def test_distinct_nearest_equals_all_distances(
    seed, kind, shape, num_images, duplicate_rms, flips, by_products
):
    rng = np.random.default_rng(seed)
    images = kind(rng, num_images, shape)
    images = images[rng.integers(0, num_images, num_images)]  # some of them repeated
    images[::3] = images[::3, ..., ::-1]
    queries = np.concatenate([noise(rng, 4, shape), images[:4]])
    index = NeighborIndex(images, flips=flips, by_products=by_products)
    found = index.distinct_nearest(queries, duplicate_rms=duplicate_rms)
    for row, radius in enumerate(duplicate_rms):
        index, squared_distance = brute_force_distinct(queries, images, radius, flips=flips)
        np.testing.assert_array_equal(found.squared_distance_distinct[row], squared_distance)
        np.testing.assert_array_equal(found.index_distinct[row], index)
    np.testing.assert_array_equal(found.index, brute_force(queries, images, 2, flips=flips)[0])


@pytest.mark.parametrize("shape", [(3, 10, 10), (1, 40, 40), (3, 32, 32)])
@pytest.mark.parametrize("with_negatives", [False, True])
def test_distances_that_differ_by_one_are_told_apart(shape, with_negatives):
    """Images one gray level off a query at n or n + 1 pixels: S is n or n + 1, ties by the hundred.

    Negatives put the mean far from all images, so that no float32 distance can tell n from n + 1:
    the proof must fail, and the integers decide.
    """
    rng = np.random.default_rng(0)
    D = math.prod(shape)
    query = noise(rng, 1, (D,), 0, 30)
    images = np.repeat(query, 1200, 0)
    for image in images:
        image[rng.choice(D, 200 + rng.integers(2), replace=False)] += 1
    if with_negatives:
        images = np.concatenate([images, 255 - images])
    statistics = assert_exact(images.reshape(-1, *shape), query.reshape(1, *shape), 3)
    assert statistics.num_brute_forced == with_negatives


@pytest.mark.parametrize("kind", [noise, near_duplicates, smooth])
def test_nearest_is_exact_at_64_by_64(kind):
    rng = np.random.default_rng(0)
    images = kind(rng, 300, (3, 64, 64))
    assert_exact(images, np.concatenate([images[:3], noise(rng, 3, (3, 64, 64))]))


def test_noise_whose_principal_components_say_nothing_is_brute_forced():
    rng = np.random.default_rng(0)
    statistics = assert_exact(noise(rng, 1200, (3, 16, 16)), noise(rng, 10, (3, 16, 16)))
    assert statistics.num_brute_forced == 10


def test_copies_and_blends_are_exact_and_nearly_all_certified(cifar, copies, truth):
    statistics = assert_equal(NeighborIndex(cifar[0]).nearest(copies, 2), truth)
    assert statistics.backend == "faiss-cpu"
    assert statistics.num_certified > 0.9 * len(copies)
    assert statistics.num_candidates < 30 * len(copies)


def test_a_copy_is_at_distance_0_from_its_original(cifar):
    found = NeighborIndex(cifar[0]).nearest(cifar[0][40:50], 1)
    assert found.index[:, 0].tolist() == list(range(40, 50))
    assert (found.squared_distance == 0).all()


def test_the_result_does_not_depend_on_the_batch_size(cifar, copies, truth, monkeypatch):
    index = NeighborIndex(cifar[0])
    assert_equal(index.nearest(copies[7:8], 2), (truth[0][7:8], truth[1][7:8]))
    monkeypatch.setattr(neighbors, "QUERY_PART", 37)
    assert_equal(index.nearest(copies, 2), truth)
    monkeypatch.setattr(search, "QUERY_BYTES", 3 * 32 * 32)  # one image at a time
    assert_equal(index.nearest(copies[:50], 2), (truth[0][:50], truth[1][:50]))


@pytest.mark.parametrize("threads", [2, 1])  # 1 comes last, as conftest.py has it
def test_the_result_does_not_depend_on_the_number_of_threads(cifar, copies, truth, threads):
    torch.set_num_threads(threads)
    assert_equal(NeighborIndex(cifar[0]).nearest(copies, 2), truth)


def test_the_result_does_not_depend_on_how_precisely_torch_multiplies(cifar, copies, truth):
    torch.set_float32_matmul_precision("medium")
    try:
        assert_equal(NeighborIndex(cifar[0]).nearest(copies, 2), truth)
        images, queries = cifar[0][:300, :, ::2, ::2], copies[:9, :, ::2, ::2]
        found = exact.nearest_by_brute_force(
            queries.reshape(9, -1), exact.TrainingRows(images.reshape(300, -1), CPU), 4
        )
        np.testing.assert_array_equal(found[0], brute_force(queries, images, 4)[0])
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_order_of_the_training_set_decides_nothing_but_ties(cifar, copies):
    images = np.concatenate([cifar[0], cifar[0][:100]])
    order = np.random.default_rng(0).permutation(len(images))
    straight = NeighborIndex(images).distinct_nearest(copies, duplicate_rms=[8, 0])
    shuffled = NeighborIndex(images[order]).distinct_nearest(copies, duplicate_rms=[8, 0])
    np.testing.assert_array_equal(straight.squared_distance, shuffled.squared_distance)
    np.testing.assert_array_equal(
        straight.squared_distance_distinct, shuffled.squared_distance_distinct
    )
    np.testing.assert_array_equal(
        images[straight.index_distinct], images[order][shuffled.index_distinct]
    )


def test_memory_mapped_images_are_searched(cifar, copies, truth, tmp_path):
    np.save(tmp_path / "images.npy", cifar[0])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert_equal(NeighborIndex(mapped).nearest(copies, 2), truth)


def anonymous_memory():
    """Bytes of this process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no RssAnon")
def test_memory_grows_with_the_projections_and_not_with_the_images(tmp_path):
    """100 MB of images more on disk, 8 MB of projections more in memory."""
    shape, peaks = (3, 64, 64), []
    rng = np.random.default_rng(0)
    for num_images in (2048, 2048, 10_240):  # the first one warms up
        path = tmp_path / f"{len(peaks)}.npy"
        np.save(path, noise(rng, num_images, shape))
        mapped = np.load(path, mmap_mode="r")
        peak, done = [anonymous_memory()], threading.Event()

        def watch(peak=peak, done=done):
            while not done.wait(0.005):
                peak.append(anonymous_memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        index = NeighborIndex(mapped)
        found = index.distinct_nearest(noise(rng, 9, shape), duplicate_rms=[255])
        done.set()
        watcher.join()
        assert found.statistics.num_brute_forced > 9
        peaks.append(max(peak) - peak[0])
        del index  # before the next one's memory is measured
    assert peaks[2] - peaks[1] < 80e6


def test_ties_go_to_the_lower_index():
    images = np.full((200, 3, 16, 16), 7, dtype=np.uint8)
    images[[30, 60]] = 9
    query = np.full((1, 3, 16, 16), 9, dtype=np.uint8)
    assert NeighborIndex(images).nearest(query, 5).index.tolist() == [[30, 60, 0, 1, 2]]


def test_copies_of_duplicated_images_are_seen_by_the_distinct_rule_alone(cifar):
    """The published rule compares the copy with the original's twin: 0 %; outside twins: 100 %."""
    images = np.concatenate([cifar[0], cifar[0]])
    found = NeighborIndex(images).distinct_nearest(cifar[0][:50], duplicate_rms=[0])
    S, S_distinct = found.squared_distance, found.squared_distance_distinct[0]
    assert not memorized(S[:, 0], S[:, 1], Fraction(1, 3)).any()
    assert memorized(S[:, 0], S_distinct, Fraction(1, 3)).all()


def test_near_duplicates_within_the_radius_are_passed_over(cifar):
    """A twin 8 gray levels off everywhere is a duplicate at 8, and none just below."""
    twin = np.where(cifar[0] < 128, cifar[0] + 8, cifar[0] - 8)
    index = NeighborIndex(np.concatenate([cifar[0], twin]))
    queries = cifar[0][:20]
    just_below = Fraction(8) - Fraction(1, 10**9)
    found = index.distinct_nearest(queries, duplicate_rms=[8, just_below])
    at_8, below = found.squared_distance_distinct
    assert (found.index_distinct[1] == np.arange(20) + len(cifar[0])).all()
    assert (at_8 > below).all()


def test_a_second_image_is_found_outside_hundreds_of_duplicates(cifar):
    images = np.concatenate([np.repeat(cifar[0][:1], 700, 0), cifar[0][1:40]])
    found = NeighborIndex(images).distinct_nearest(cifar[0][:1], duplicate_rms=[8])
    index, squared_distance = brute_force_distinct(cifar[0][:1], images, 8)
    assert found.index_distinct[0] == index >= 700
    assert found.squared_distance_distinct[0] == squared_distance


def test_a_set_of_one_image_and_its_duplicates_has_no_distinct_second():
    images = np.full((300, 1, 20, 20), 100, dtype=np.uint8)
    images[::2] += 3
    found = NeighborIndex(images).distinct_nearest(images[:4], duplicate_rms=[3])
    assert (found.index_distinct == -1).all() and (found.squared_distance_distinct == -1).all()


def test_a_mirrored_copy_is_found_with_flips_alone(cifar):
    mirrored = cifar[0][:50, ..., ::-1]
    assert (NeighborIndex(cifar[0]).nearest(mirrored, 1).squared_distance > 0).all()
    found = NeighborIndex(cifar[0], flips=True).nearest(mirrored, 1)
    assert found.index[:, 0].tolist() == list(range(50))
    assert (found.squared_distance == 0).all()


def test_with_flips_the_neighbors_are_different_images_and_mirrored_twins_are_duplicates(cifar):
    """A symmetric image is equally near in both orientations, and still one image."""
    symmetric = np.concatenate([cifar[0][:20], cifar[0][:20, ..., ::-1]], axis=3)
    images = np.concatenate([symmetric, np.roll(symmetric, 9, axis=3)])
    images = np.concatenate([images, images[..., ::-1]])
    found = NeighborIndex(images, flips=True).distinct_nearest(images[:20], duplicate_rms=[0])
    assert found.index.tolist() == [[i, i + 40] for i in range(20)]
    assert (found.squared_distance == 0).all()
    assert (found.squared_distance_distinct > 0).all()


@pytest.mark.parametrize("flips", [False, True])
def test_a_memory_limit_shortens_the_index_and_changes_nothing(cifar, copies, flips):
    for images, queries in (
        (cifar[0], copies[::4]),
        (cifar[0][:, :1, ::2, ::2], copies[::4, :1, ::2, ::2]),
    ):
        truth = brute_force(queries, images, 2, flips=flips)
        unlimited = NeighborIndex(images, flips=flips).num_bytes
        for memory_limit in (unlimited - 1, unlimited // 3):
            index = NeighborIndex(images, flips=flips, memory_limit=memory_limit)
            assert index.num_bytes <= memory_limit
            assert_equal(index.nearest(queries, 2), truth)


def test_a_memory_limit_that_no_index_keeps_is_refused(cifar):
    with pytest.raises(ConfigError, match=r"at least 0.3 MB, more than .* 0.1 MB"):
        NeighborIndex(cifar[0], memory_limit=100_000)


def test_images_kept_on_the_device_give_the_same_distances(cifar, copies, truth):
    """As a GPU keeps them, here on the CPU."""
    rows, x = cifar[0].reshape(1500, -1), copies.reshape(len(copies), -1)
    kept = exact.TrainingRows(rows, CPU)
    kept.rows = exact.DeviceRows(rows, CPU, resident_bytes=rows.nbytes)
    index, squared_distance = exact.nearest_by_brute_force(x, kept, 2)
    np.testing.assert_array_equal(index, truth[0])
    S = exact.pair_distances(x, kept, np.arange(len(x)), index[:, 1], device=CPU)
    np.testing.assert_array_equal(S, squared_distance[:, 1])


def test_nearest_agrees_with_the_reference_of_the_field(golden):
    knn = load_file(golden / "mem_knn.safetensors")
    found = NeighborIndex(knn["train_uint8"]).nearest(knn["generated_uint8"], 2)
    np.testing.assert_array_equal(found.index, knn["index"])
    np.testing.assert_array_equal(found.squared_distance, knn["squared_distance_int"])


@pytest.mark.parametrize("are_fast", [True, False])
def test_products_give_the_same_neighbors(cifar, copies, truth, are_fast, monkeypatch):
    """What runs without FAISS, on a machine that is fast at int8 products or not."""
    monkeypatch.setattr(exact, "has_fast_int8", lambda device: are_fast)
    index = NeighborIndex(cifar[0], by_products=True)
    assert index.backend == "products-cpu" and index.projected is None
    statistics = assert_equal(index.nearest(copies, 2), truth)
    assert statistics.num_brute_forced == statistics.num_searches == len(copies)


@pytest.mark.parametrize("are_fast", [True, False])
def test_products_are_exact_where_int32_would_not_hold_the_distances(are_fast, monkeypatch):
    monkeypatch.setattr(exact, "has_fast_int8", lambda device: are_fast)
    images = noise(np.random.default_rng(0), 6, (3, 110, 111))  # 36,630 values
    images[0], images[1], images[4:] = 0, 255, 0
    images[5, 0, 0, 0] = 1
    index = NeighborIndex(images, by_products=True)
    assert_equal(index.nearest(images, 6), brute_force(images, images, 6))
    assert index.nearest(images[1:2], 6).squared_distance.max() == 255**2 * 36_630 > 2**31


@pytest.mark.gpu
def test_a_gpu_gives_the_same_neighbors(cifar, copies):
    found = NeighborIndex(cifar[0], device="cuda").distinct_nearest(copies, duplicate_rms=[8])
    expected = NeighborIndex(cifar[0]).distinct_nearest(copies, duplicate_rms=[8])
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.index_distinct, expected.index_distinct)
    np.testing.assert_array_equal(found.squared_distance, expected.squared_distance)


def test_torch_tensors_are_taken_as_queries(cifar):
    found = NeighborIndex(cifar[0]).nearest(torch.from_numpy(cifar[0][:3]), 1)
    assert found.index[:, 0].tolist() == [0, 1, 2]


def test_no_queries_have_no_neighbors(cifar):
    index = NeighborIndex(cifar[0])
    assert index.nearest(cifar[0][:0], 2).index.shape == (0, 2)
    found = index.distinct_nearest(cifar[0][:0], duplicate_rms=[8, 0])
    assert found.index_distinct.shape == (2, 0)


def test_indexing_tells_how_far_it_is(cifar):
    told = []
    NeighborIndex(cifar[0], progress=lambda task, done, total, note="": told.append((done, total)))
    assert told[-1] == (1500, 1500)


@pytest.mark.parametrize("k", [0, 6])
def test_k_outside_1_to_n_is_refused(k):
    images = noise(np.random.default_rng(0), 5, (1, 4, 4))
    with pytest.raises(ValueError, match=f"k must be 1 … 5, the training images; got {k}"):
        NeighborIndex(images).nearest(images, k)


def test_queries_of_another_shape_are_refused():
    rng = np.random.default_rng(0)
    index = NeighborIndex(noise(rng, 5, (3, 8, 8)))
    with pytest.raises(DataError, match=r"\[2, 1, 8, 8\].*\[5, 3, 8, 8\]"):
        index.nearest(noise(rng, 2, (1, 8, 8)), 1)
    with pytest.raises(DataError, match="float64"):
        index.nearest(rng.random((2, 3, 8, 8)), 1)


def test_training_images_that_cannot_be_searched_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="no training images"):
        NeighborIndex(noise(rng, 0, (3, 8, 8)))
    with pytest.raises(DataError, match="at least 2"):
        NeighborIndex(noise(rng, 1, (3, 8, 8))).distinct_nearest(
            noise(rng, 1, (3, 8, 8)), duplicate_rms=[8]
        )
    with pytest.raises(DataError, match="lower resolution"):
        NeighborIndex(np.zeros((1, 1, 2**11, 2**11 + 1), dtype=np.uint8))


@pytest.mark.parametrize("duplicate_rms", [[-1], [8, math.inf], [math.nan], []])
def test_a_duplicate_radius_that_is_no_radius_is_refused(duplicate_rms):
    images = noise(np.random.default_rng(0), 5, (1, 4, 4))
    with pytest.raises(ValueError, match="duplicate_rms (must be ≥ 0|holds no radius)"):
        NeighborIndex(images).distinct_nearest(images, duplicate_rms=duplicate_rms)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="no CUDA GPU"):
        NeighborIndex(noise(np.random.default_rng(0), 5, (1, 4, 4)), device="cuda")


def test_beside_other_devices_the_cpu_searches():
    index = NeighborIndex(noise(np.random.default_rng(0), 5, (1, 4, 4)), device="mps")
    assert index.device.type == "cpu"
