"""What a search by products asks of a GPU."""

import numpy as np
import pytest
import torch
from helpers.pretended_cuda import counted

from memaudit.audit.neighbors.pixel_index import NeighborIndex

pytestmark = pytest.mark.emulated


@pytest.fixture
def images():
    images = np.random.default_rng(0).integers(0, 256, (150, 3, 5, 6), dtype=np.uint8)
    images[100], images[120] = images[3], images[3] ^ 1
    return images


@pytest.mark.parametrize("are_resident", [True, False])
@pytest.mark.parametrize("flips", [True, False])
def test_a_gpu_is_waited_for_once_for_all_queries(images, are_resident, flips, monkeypatch):
    if not are_resident:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1000, 80 << 30))
        monkeypatch.setattr("memaudit.models.device_rows.COPY_BYTES", 64 * 90)
    queries = np.concatenate([images[:9], 255 - images[:9]])
    index = NeighborIndex(images, device="cuda", flips=flips)
    assert index.backend == "products-cuda"
    expected = NeighborIndex(images, flips=flips)
    index.nearest(queries[:1], 1)  # norms are kept
    with counted() as counts:
        found = index.nearest(queries, 3)
    orientations = 1 + flips
    # A streamed set also waits until a buffer has left, before it is filled again.
    streamed = 0 if are_resident else 3
    assert counts.synchronizations.total() == orientations * (1 + streamed)
    nearest = expected.nearest(queries, 3)
    np.testing.assert_array_equal(found.index, nearest.index)
    np.testing.assert_array_equal(found.squared_distance, nearest.squared_distance)

    radii = [0, 8, 100.5, 255]
    found = index.distinct_nearest(queries, duplicate_rms=radii)
    distinct = expected.distinct_nearest(queries, duplicate_rms=radii)
    np.testing.assert_array_equal(found.index_distinct, distinct.index_distinct)
    np.testing.assert_array_equal(
        found.squared_distance_distinct, distinct.squared_distance_distinct
    )


def test_training_rows_are_sent_once_as_bytes(images):
    index = NeighborIndex(images, device="cuda")
    index.nearest(images[:1], 1)
    with counted() as counts:
        index.distinct_nearest(images[:20], duplicate_rms=[8])
    # The queries, their nearest images, and pairs of positions; never the training images. All of
    # the nearest two were duplicates, so that more were searched for.
    assert counts.to_device.total() < images.nbytes
    assert counts.synchronizations.total() == 4
