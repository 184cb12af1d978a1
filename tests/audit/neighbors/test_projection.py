"""Projections give lower bounds whatever the images; sharp ones on photographs."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from memaudit.audit.neighbors import projection
from memaudit.audit.neighbors.projection import (
    Projection,
    fit_projection,
    projected_width,
)

CPU = torch.device("cpu")


def fitted(images, memory_limit=None) -> Projection:
    width = projected_width(*images.shape, memory_limit)
    return fit_projection(images, width, device=CPU)


def all_squared_distances(x, y):
    """‖x − y‖² of every pair in float64; exact for the integers of images."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T


def images_of(kind, num_images, D):
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 256, (num_images, D), dtype=np.uint8)
    if kind == "flat":
        return np.repeat(rng.integers(0, 256, (num_images, 1), dtype=np.uint8), D, 1)
    if kind == "extremes":
        return 255 * rng.integers(0, 2, (num_images, D), dtype=np.uint8)
    if kind == "one pixel":
        images = np.full((num_images, D), 200, dtype=np.uint8)
        images[np.arange(num_images), rng.integers(0, D, num_images)] = 0
        return images
    smooth = rng.normal(size=(num_images, 8)) @ rng.normal(size=(8, D)) * 20 + 128
    return np.clip(smooth, 0, 255).astype(np.uint8)


KINDS = ["noise", "flat", "extremes", "one pixel", "low rank"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("D", [192, 323, 3072, 5000])
def test_distances_of_projections_are_lower_bounds(kind, D):
    """In float64 from the float32 projections, with nothing allowed for but their own error."""
    images = images_of(kind, 300, D)
    queries = np.concatenate([images_of(other, 20, D) for other in KINDS] + [images[:20]])
    project = fitted(images)
    t_x, norm_x = project(queries)
    t_y, norm_y = project(images)
    tau = project.basis.relative_error if project.basis else 0
    excess = np.sqrt(all_squared_distances(t_x, t_y).clip(0)) - np.sqrt(
        all_squared_distances(queries, images)
    )
    # Float64 resolves a root near 0 to 1e-8 of the norms, so that much is this test's own error.
    assert (excess <= (tau + 1e-7) * (norm_x[:, None] + norm_y)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_float32_bound_less_its_error_never_exceeds_the_distance(kind):
    images = images_of(kind, 300, 3072)
    project = fitted(images)
    t, norm = project(images)
    computed = (t**2).sum(1)[:, None] + (t**2).sum(1) - 2 * t @ t.T  # float32 throughout
    assert computed.dtype == np.float32
    bound = computed - project.bound_error(norm, norm.max())[:, None]
    assert (bound <= all_squared_distances(images, images)).all()


def test_products_with_the_rows_are_exact_integers():
    images = images_of("extremes", 300, 5000)
    project = fitted(images)
    rows = project.basis.rows.numpy()
    assert (rows == rows.round()).all() and np.abs(rows).max() <= 255
    v = images.astype(np.float32) - project.center.numpy()
    z = sum(v[:, part] @ rows[:, part].T for part in (slice(0, 4096), slice(4096, None)))
    exact = v.astype(np.int64) @ rows.astype(np.int64).T
    assert (z == exact).all()


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_kept(kind):
    """The last number is what the rows leave out, so ‖t(x)‖ = ‖v‖."""
    project = fitted(images_of(kind, 300, 3072))
    t, norm = project(images_of("noise", 50, 3072))
    np.testing.assert_allclose(np.linalg.norm(t.astype(np.float64), axis=1), norm, rtol=1e-6)


def test_images_of_low_rank_are_projected_without_loss():
    images = images_of("low rank", 300, 3072)
    t, _ = fitted(images)(images)
    kept = all_squared_distances(t, t)
    truth = all_squared_distances(images, images)
    assert np.median(kept[truth > 0] / truth[truth > 0]) > 0.99


def test_small_images_are_not_projected():
    images = images_of("noise", 10, 300)
    t, _ = fitted(images)(images)
    assert t.shape == (10, 300)


def test_rows_that_are_no_basis_are_left_alone(monkeypatch):
    """Whatever the linear algebra gave, it is measured before it is used."""
    monkeypatch.setattr(
        projection, "_principal_rows", lambda v, n: torch.ones(n, v.shape[1]) / v.shape[1] ** 0.5
    )
    images = images_of("noise", 10, 600)
    t, _ = fitted(images)(images)
    assert t.shape == (10, 600)


MEASURE = """
import resource
from pathlib import Path
import numpy as np
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.projection import num_making_bytes, projected_width
images = np.random.default_rng(0).integers(0, 256, (300, 3, 192, 192), np.uint8)
before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
NeighborIndex(images)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
N, D = 300, images[0].size
print((peak - before) / num_making_bytes(N, D, projected_width(N, D, None)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_making_an_index_takes_the_memory_that_is_forecast():
    pytest.importorskip("faiss")
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    assert 0.7 < float(ran.stdout) < 1.2
