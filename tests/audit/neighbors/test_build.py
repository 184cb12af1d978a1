"""A configuration gives the index that it describes, and no index is built twice."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.all_distances import brute_force, smooth

from memaudit.audit.neighbors import pixel_index
from memaudit.audit.neighbors.build import build_index
from memaudit.audit.neighbors.build import pixel_index as open_pixels
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError

SHAPE = (3, 8, 8)


@pytest.fixture
def data() -> ImageSet:
    images = smooth(np.random.default_rng(0), 200, SHAPE)
    return ImageSet(images, names=[str(i) for i in range(200)])


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(torch.nn.Flatten()).save(str(path))
    return path


@pytest.fixture
def num_built(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many pixel indices were built."""
    calls = []
    project_images = pixel_index.project_images

    def counted(images: np.ndarray, **options: Any) -> Any:
        calls.append(images)
        return project_images(images, **options)

    monkeypatch.setattr(pixel_index, "project_images", counted)
    return lambda: len(calls)


def assert_searches_pixels_as_they_are(index: NeighborIndex, data: ImageSet) -> None:
    queries = smooth(np.random.default_rng(1), 20, SHAPE)
    expected, _ = brute_force(queries, data.images, 2, flips=False)
    np.testing.assert_array_equal(index.nearest(queries, 2).index, expected)


def test_pixels_are_searched_where_nothing_else_is_said(data: ImageSet, tmp_path: Path):
    index = build_index(data)
    assert isinstance(index, NeighborIndex) and not index.flips
    assert index.space.name == "pixels" and index.space.num_values == 192
    assert open_pixels(index, data).projected is index.projected


def test_an_index_of_mirror_images_shares_its_projections(
    data: ImageSet, tmp_path: Path, num_built: Callable[[], int]
):
    index = build_index(data, IndexConfig(flips=True))
    plain = open_pixels(index, data)
    assert num_built() == 1
    assert index.flips and not plain.flips
    assert_searches_pixels_as_they_are(plain, data)


def test_pixels_beside_features_are_indexed_apart(
    data: ImageSet, tmp_path: Path, encoder: Path, num_built: Callable[[], int]
):
    config = IndexConfig(features=encoder, feature_metric="l2", preprocessing="unit")
    index = build_index(data, config)
    assert isinstance(index, FeatureIndex) and index.space.unit == "l2 distance of features"
    assert num_built() == 0
    assert_searches_pixels_as_they_are(open_pixels(index, data), data)
    assert num_built() == 1


def test_an_encoder_has_the_cosine_and_imagenets_mean_by_default(data: ImageSet, encoder: Path):
    index = build_index(data, IndexConfig(features=encoder, encoder_size=16))
    assert isinstance(index, FeatureIndex) and index.metric == "cosine"
    assert index.encoder.preprocessing.mean == (0.485, 0.456, 0.406)
    assert index.encoder.preprocessing.resize == 16


def test_the_memory_of_the_index_is_in_gigabytes(data: ImageSet, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"more than the memory limit of 0\.0 MB"):
        build_index(data, IndexConfig(index_memory=1e-6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_metric": "l2"}, "are for an encoder; name one with features"),
        ({"encoder_size": 16}, "are for an encoder"),
        ({"features": Path("a.pt"), "index_memory": 1.0}, "leave it out with features"),
        ({"features": Path("a.pt"), "encoder_size": 0}, "encoder_size is 0; at least 1"),
        ({"features": Path("a.pt"), "preprocessing": "none"}, "one of unit, signed, imagenet"),
        ({"index_memory": 0.0}, "index_memory is 0.0; more than 0"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        IndexConfig(**options)


def test_configurations_import_without_torch():
    code = (
        "import sys; import memaudit.audit.neighbors.config, memaudit.audit.memorization.rule; "
        "print(sorted({'torch', 'faiss', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_index_is_read_from_or_left_on_the_disk(
    data: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A kept index with 60 vectors moved once turned a FAIL into a PASS: there is none to move."""
    monkeypatch.setenv("MEMAUDIT_CACHE", str(tmp_path))
    for _ in range(2):
        assert_searches_pixels_as_they_are(open_pixels(build_index(data), data), data)
    assert not list(tmp_path.iterdir())
