"""Features that are kept: used where they are right, and found where somebody changed them."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.all_distances import noise
from torch import Tensor

from memaudit.audit.config import ScanConfig
from memaudit.audit.neighbors import build, feature_cache
from memaudit.audit.neighbors.build import build_index
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.neighbors.encoder import NetworkEncoder
from memaudit.audit.neighbors.feature_cache import kept_features
from memaudit.audit.neighbors.preprocessing import PREPROCESSING
from memaudit.audit.scan import scan
from memaudit.data.cache_folder import clear_cache, list_cache
from memaudit.data.images import ImageSet
from memaudit.errors import CacheWarning

NUM_IMAGES = 600


class Counting:
    """Flattens images, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.count += len(x)
        return x.flatten(1)[:, :20]


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def encoder(counting: Counting) -> NetworkEncoder:
    return NetworkEncoder(
        name="sscd",
        path="weights.pt",
        sha256="ab" * 32,
        preprocessing=PREPROCESSING["unit"],
        device=torch.device("cpu"),
        module=counting,
        is_program=False,
    )


@pytest.fixture
def data() -> ImageSet:
    images = noise(np.random.default_rng(0), NUM_IMAGES, (3, 8, 8))
    return ImageSet(images, [str(i) for i in range(NUM_IMAGES)], source="train")


@pytest.fixture
def kept(
    encoder: NetworkEncoder, data: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of features that were kept."""
    monkeypatch.setattr(feature_cache, "WORTH_KEEPING", 0)
    kept_features(data, encoder, cache_dir=tmp_path / "cache")
    (folder,) = (tmp_path / "cache/features").iterdir()
    return folder


def test_features_are_taken_from_the_cache(kept, counting, encoder, data, tmp_path):
    counting.count = 0
    found = kept_features(data, encoder, cache_dir=tmp_path / "cache")
    assert counting.count == 256 < NUM_IMAGES
    np.testing.assert_array_equal(found, encoder(data.images))
    (entry,) = list_cache(tmp_path / "cache")
    assert entry.name == f"features/{kept.name}" and entry.shape == (NUM_IMAGES, 3, 8, 8)
    assert entry.source == str(Path("train").absolute())
    assert clear_cache(["features/"], cache_dir=tmp_path / "cache") == [entry]
    assert not kept.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "cd" * 32},
        {"name": "sscd-224"},
        {"preprocessing": PREPROCESSING["signed"]},
    ],
)
def test_another_encoder_or_preprocessing_has_an_entry_of_its_own(
    kept, counting, encoder, data, tmp_path, change
):
    counting.count = 0
    kept_features(data, replace(encoder, **change), cache_dir=tmp_path / "cache")
    assert counting.count >= NUM_IMAGES
    assert len(list(kept.parent.iterdir())) == 2


def test_other_pixels_have_an_entry_of_their_own(kept, counting, encoder, data, tmp_path):
    counting.count = 0
    other = ImageSet(data.images[::-1].copy(), data.names, source="train")
    found = kept_features(other, encoder, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(found, encoder(other.images))


def spoil(kept: Path) -> None:
    """Change all features and make the checksum anew."""
    features = np.fromfile(kept / "features.bin", dtype="<f4") * 1.01
    (kept / "features.bin").write_bytes(features.astype("<f4").tobytes())
    about = json.loads((kept / "about.json").read_text())
    about["sha256"] = hashlib.sha256((kept / "features.bin").read_bytes()).hexdigest()
    (kept / "about.json").write_text(json.dumps(about))


def test_features_that_somebody_changed_are_found(kept, encoder, data, tmp_path):
    spoil(kept)
    with pytest.warns(CacheWarning, match=r"holds other features than the encoder gives"):
        found = kept_features(data, encoder, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(found, encoder(data.images))


@pytest.mark.parametrize(
    "harm",
    [
        lambda kept: (kept / "features.bin").write_bytes(b"short"),
        lambda kept: (kept / "features.bin").unlink(),
        lambda kept: (kept / "about.json").write_text("[" * 100_000),
        lambda kept: (kept / "about.json").write_text("[]"),
        lambda kept: np.zeros(NUM_IMAGES * 20, "<f4").tofile(kept / "features.bin"),
    ],
    ids=["cut", "missing", "deep", "a list", "other bytes"],
)
def test_a_damaged_entry_is_made_anew(kept, encoder, data, tmp_path, harm):
    harm(kept)
    found = kept_features(data, encoder, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(found, encoder(data.images))
    assert (kept / "features.bin").stat().st_size == found.nbytes


def test_features_that_others_may_write_are_not_used(kept, counting, encoder, data, tmp_path):
    os.chmod(kept, 0o777)
    counting.count = 0
    with pytest.warns(CacheWarning, match="others may write to"):
        kept_features(data, encoder, cache_dir=tmp_path / "cache")
    assert counting.count >= NUM_IMAGES


def test_a_full_disk_is_told(encoder, data, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feature_cache, "WORTH_KEEPING", 0)
    monkeypatch.setattr(feature_cache, "free_disk", lambda folder: 1000)
    with pytest.warns(CacheWarning, match="no room for 48,000 bytes of features"):
        found = kept_features(data, encoder, cache_dir=tmp_path / "cache")
    assert found.shape == (NUM_IMAGES, 20)
    assert not list((tmp_path / "cache/features").iterdir())


def test_what_takes_seconds_is_not_kept(encoder, data, tmp_path):
    kept_features(data, encoder, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_gate_takes_no_features_from_the_cache(
    encoder, data, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def told(data: ImageSet, encoder: NetworkEncoder, **options: Callable) -> np.ndarray:
        asked.append(encoder.name)
        return encoder(data.images)

    monkeypatch.setattr(build, "kept_features", told)
    monkeypatch.setattr(build, "open_encoder", lambda *given, **options: encoder)
    index = IndexConfig(features="sscd", encoder_weights=tmp_path / "weights.pt")
    given = ImageSet(data.images[:5].copy(), [str(i) for i in range(5)], source="given")
    scan(given, data, config=ScanConfig(index=index, fail_above=0.5, min_samples=1))
    build_index(data, index)
    assert asked == []
    scan(given, data, config=ScanConfig(index=index))
    assert asked == ["sscd"]
