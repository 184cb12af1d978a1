"""Encoders by name, by file, and as functions of the user's own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.all_distances import noise
from torch import Tensor, nn
from torchvision.models import resnet50

import memaudit
from memaudit.audit.config import ScanConfig
from memaudit.audit.dry_run import forecast_scan
from memaudit.audit.neighbors import published_encoders
from memaudit.audit.neighbors.build import build_index
from memaudit.audit.neighbors.config import WEIGHTS, IndexConfig
from memaudit.audit.neighbors.encoder import as_encoder
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.published_encoders import PUBLISHED, open_encoder, published_cuts
from memaudit.audit.scan import scan
from memaudit.data.images import ImageSet
from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.encoders.published_weights import OpenedNetwork

SHAPE = (3, 8, 8)


class Pooled(nn.Module):
    """Means over patches of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of weights that every published name opens as a tiny network."""
    for name, published in PUBLISHED.items():
        opened = OpenedNetwork(Pooled(), "ab" * 32, side=16 if "clip" in name else None)
        toy = type(published)(lambda path, o=opened: o, published.preprocessing, published.cuts)
        monkeypatch.setitem(published_encoders.PUBLISHED, name, toy)
    return tmp_path / "weights.pt"


def image_set(number: int, seed: int = 0) -> ImageSet:
    images = noise(np.random.default_rng(seed), number, SHAPE)
    return ImageSet(images, [str(i) for i in range(number)], source="some")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if "clip" in n else pytest.mark.slow) for n in WEIGHTS]
)
def test_a_name_is_an_encoder_with_its_preprocessing(tiny: Path, name: str):
    index = build_index(image_set(20), IndexConfig(features=name, encoder_weights=tiny))
    assert isinstance(index, FeatureIndex)
    encoder = index.encoder
    assert (encoder.name, encoder.path, encoder.is_program) == (name, str(tiny), False)
    prepared = encoder.preprocessing
    sizes = {"sscd": (288, None), "sscd-224": (256, 224), "dinov2": (256, 224)}
    assert prepared is not None
    assert (prepared.resize, prepared.crop) == sizes.get(name, (16, 16))
    cuts = {"sscd": [0.75], "sscd-224": [0.5, 0.6, 0.7]}
    assert [cut.similarity for cut in published_cuts(encoder)] == cuts.get(name, [])


def test_every_name_has_its_file_and_its_network():
    assert set(PUBLISHED) == set(WEIGHTS)


def test_a_scan_by_a_published_encoder_says_so(tiny: Path):
    data = image_set(20)
    given = ImageSet(data.images[:5].copy(), [str(i) for i in range(5)], source="given")
    config = ScanConfig(index=IndexConfig(features="clip", encoder_weights=tiny))
    result = scan(given, data, config=config)
    assert result.findings.ratios.copies.count == 5
    facts = result.search.encoder
    assert facts is not None and facts.preprocessing is not None
    assert (facts.name, facts.path, facts.is_program) == ("clip", str(tiny), False)
    assert (facts.preprocessing.resize, facts.preprocessing.interpolation) == (16, "bicubic")
    assert any("features of clip compared" in choice for choice in result.conclusion.choices)
    gated = ScanConfig(index=config.index, fail_above=0.5, min_samples=1)
    (warning,) = scan(given, data, config=gated).source.warnings
    assert "encoder clip (SHA-256 abababababababab…), whose weights a file gave" in warning


def test_features_beside_pixels_have_their_cut_as_well(tiny: Path):
    data, holdout = image_set(20), image_set(30, seed=1)
    given = ImageSet(data.images[:5].copy(), [str(i) for i in range(5)], source="given")
    found = {}
    for match in ((), ("features",)):
        index = IndexConfig(features="clip", encoder_weights=tiny, match=match)
        result = scan(given, data, holdout=holdout, config=ScanConfig(index=index))
        found[match] = result.diagnostics.feature_similarity
        assert result.findings.ratios.copies.count == 5
    assert found[()] == found["features",]
    assert found[()] is not None and found[()].above.count == 5


def test_a_dry_run_opens_and_tries_the_encoder(tiny: Path):
    data = image_set(20)
    config = ScanConfig(index=IndexConfig(features="clip", encoder_weights=tiny))
    assert forecast_scan(data, data, config=config).index_bytes is None
    missing = IndexConfig(features="none.pt")
    with pytest.raises(CheckpointError, match=r"none.pt cannot be read: No such file"):
        forecast_scan(data, data, config=replace(config, index=missing))


@pytest.mark.slow
def test_sscd_finds_what_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Even random convolutions know an image that moved by two pixels."""
    monkeypatch.setattr("memaudit.audit.neighbors.encoder.ENCODING_BATCH", 16)
    torch.manual_seed(0)
    torch.save(resnet50(num_classes=512).state_dict(), tmp_path / "sscd.torchvision.pt")
    encoder = open_encoder("sscd-224", tmp_path / "sscd.torchvision.pt")
    rng = np.random.default_rng(0)
    images = noise(rng, 16, (3, 8, 8)).repeat(4, 2).repeat(4, 3)
    index = FeatureIndex(images, encoder)
    moved = np.roll(images[:10], 2, axis=3)
    assert index.nearest(moved, 1).index[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "sscd"}, "sscd, whose weights .* with encoder_weights: sscd_disc_mixup"),
        ({"features": "clip"}, "with encoder_weights: OpenAI's weights, model.safetensors"),
        ({"encoder_weights": Path("w")}, "are for an encoder; name one with features"),
        ({"features": "a.pt", "encoder_weights": Path("w")}, "a.pt has its own weights"),
        (
            {"features": "sscd", "encoder_weights": Path("w"), "encoder_size": 32},
            "sscd, which has its own preprocessing; leave out preprocessing and encoder_size",
        ),
        (
            {"features": "dinov2", "encoder_weights": Path("w"), "preprocessing": "unit"},
            "dinov2, which has its own preprocessing",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        IndexConfig(**options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("sscd",), {}, "weights must be given for sscd: sscd_disc_mixup.torchvision.pt"),
        (("sscd", "w"), {"resize": 8}, "sscd has its own preprocessing"),
        (("a.pt", "w"), {}, "weights are for sscd, .*; a.pt has its own"),
        (("a.pt",), {"preprocessing": "sscd-224", "resize": 100}, "at least 224 with sscd-224"),
    ],
)
def test_a_door_refuses_the_same(arguments: tuple, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        open_encoder(*arguments, **options)


def test_a_file_may_have_the_name_of_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for file in ("./sscd", Path("sscd")):
        with pytest.raises(CheckpointError, match=r"sscd cannot be read: No such file"):
            open_encoder(file)


def means(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1, 8).mean(2, dtype=np.float32)


class Named:
    """A callable without a name of its own."""

    def __call__(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(means(images)).requires_grad_()


@pytest.mark.parametrize(("function", "name"), [(means, ".means"), (Named(), ".Named")])
def test_any_callable_is_an_encoder(function: Callable, name: str):
    data = image_set(150)
    index = FeatureIndex(data.images, function)
    assert index.encoder.name.endswith(name) and index.device.type == "cpu"
    found = index.nearest(data.images[:5], 1)
    assert found.index[:, 0].tolist() == list(range(5))
    given = ImageSet(data.images[:5].copy(), [str(i) for i in range(5)], source="given")
    result = scan(given, data, index=index)
    assert result.findings.ratios.copies.count == 5
    facts = result.search.encoder
    assert facts is not None
    assert (facts.path, facts.sha256, facts.preprocessing) == (None, None, None)
    assert isinstance(index.encoder, memaudit.Encoder)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: images, r"returns uint8 \[2, 3, 8, 8\] for 2 images"),
        (lambda images: means(images)[:1], r"returns float32 \[1, 24\] for 2 images"),
        (lambda images: means(images) * np.nan, "numbers that are not finite"),
        (lambda images: 1 / 0, r"cannot encode images uint8 \[2, 3, 8, 8\]: division by zero"),
    ],
)
def test_what_a_callable_returns_is_checked(function: Callable, message: str):
    encoder = as_encoder(function)
    with pytest.raises(CheckpointError, match=message):
        encoder(image_set(2).images)
