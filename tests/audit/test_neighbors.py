"""NeighborIndex against all distances in int64: equal, always."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from memaudit.audit.neighbors import NeighborIndex
from memaudit.errors import DataError


def brute_force(queries, images, k):
    """index and squared distance [B, k] from every difference, in int64; a stable sort for ties."""
    x = queries.reshape(len(queries), -1).astype(np.int64)
    y = images.reshape(len(images), -1).astype(np.int64)
    S = np.stack([((row - y) ** 2).sum(1) for row in x])
    index = np.argsort(S, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(S, index, 1)


def random_images(seed, *shape, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (3, 8, 8), (3, 32, 32)])
@pytest.mark.parametrize("num_images", [2, 65, 1_000])
def test_nearest_equals_brute_force_on_noise(shape, num_images):
    images, queries = random_images(0, num_images, *shape), random_images(1, 20, *shape)
    found = NeighborIndex(images).nearest(queries, 2)
    index, squared_distance = brute_force(queries, images, 2)
    assert (found.index == index).all()
    assert (found.squared_distance == squared_distance).all()


def test_nearest_agrees_with_the_field_s_reference(golden):
    knn = load_file(golden / "mem_knn.safetensors")
    found = NeighborIndex(knn["train_uint8"]).nearest(knn["generated_uint8"], 2)
    assert (found.index == knn["index"]).all()
    assert (found.squared_distance == knn["squared_distance_int"]).all()


def test_k_beyond_the_training_set_is_refused():
    images = random_images(0, 5, 1, 4, 4)
    with pytest.raises(ValueError, match="k must be 1 … 5"):
        NeighborIndex(images).nearest(images, 6)


def test_queries_of_another_shape_are_refused():
    index = NeighborIndex(random_images(0, 5, 3, 8, 8))
    with pytest.raises(DataError, match=r"\[2, 1, 8, 8\].*\[5, 3, 8, 8\]"):
        index.nearest(random_images(0, 2, 1, 8, 8), 1)
