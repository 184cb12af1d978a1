"""Scans to report on."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.images import smooth_images

from memaudit.audit.choices import choices_of
from memaudit.audit.config import ScanConfig
from memaudit.audit.denoising.loss_test import check_denoising
from memaudit.audit.denoising.other_options import OtherOption
from memaudit.audit.memorization.findings import Gate, summarize_matches
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.published_encoders import open_encoder
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.source import ModelFacts, Source, optimum_of
from memaudit.audit.verdict import conclude
from memaudit.data.images import ImageSet
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig


@pytest.fixture(scope="session")
def make_result() -> Callable[..., ScanResult]:
    """A scan of `copies` exact copies and `others` new images against 60 training images.

    `sampled` gives them seeds from 100 on and a checkpoint that they are said to come from.
    """

    def make(
        copies: int = 20,
        others: int = 40,
        *,
        size: int = 16,
        name: str = "train/{:03d}.png",
        sampled: bool = False,
        fail_above: float | None = None,
    ) -> ScanResult:
        images = smooth_images(60, size, seed=0)
        names = [name.format(i) for i in range(60)]
        train = ImageSet(images, names, source="train")
        generated = np.concatenate([images[:copies], smooth_images(others, size, seed=1)])
        keys = [f"generated/{i:03d}.png" for i in range(len(generated))]
        config = ScanConfig(fail_above=fail_above)
        result = scan(ImageSet(generated, keys, source="generated"), train, config=config)
        if not sampled:
            return result
        seeds = tuple(range(100, 100 + len(generated)))
        checkpoint = Source(
            kind="checkpoint",
            path="model.safetensors",
            sha256="0" * 64,
            warnings=(),
            model=ModelFacts(
                format="native",
                arch=None,
                config={"class_name": "EDMPrecond", "sigma_max": float("inf")},
                provenance={},
                trained_on_data=None,
            ),
        )
        denoising = check_denoising(ClosedFormOptimum(images), train)
        controls = result.controls
        gate = None if fail_above is None else Gate(fail_above, True, controls.in_gate)
        config = replace(config, seeds=seeds)
        findings = summarize_matches(
            result.matches, names, gate=gate, floors=controls.floor, alone=controls.leave_one_out
        )
        conclusion = conclude(
            findings,
            controls=controls,
            diagnostics=result.diagnostics,
            denoising=denoising,
            source=checkpoint,
            num_train=len(train),
            rule=config.rule,
            flips=False,
            exact=True,
            fail_on=config.fail_on,
            sampler_control=None,
            class_index=config.class_index,
            seeds_chosen=False,
            choices=choices_of(config, checkpoint, train),
        )
        return replace(
            result,
            source=checkpoint,
            denoising=denoising,
            keys=seeds,
            config=config,
            findings=findings,
            conclusion=conclusion,
        )

    return make


@pytest.fixture(scope="session")
def whole_result() -> ScanResult:
    """A scan of the optimum that has every part: gate, classes, held-out images, diagnostics."""

    def images(num_images: int, seed: int) -> ImageSet:
        names = [f"{seed}/{i:05d}.png" for i in range(num_images)]
        labels = np.arange(num_images) % 3
        pixels = smooth_images(num_images, 8, seed)
        whole = ImageSet(pixels, names, source=f"set {seed}", labels=labels)
        return whole.grouped([f"{seed}/{max(1 - seed, i)}" for i in range(num_images)])

    train = images(40, seed=0)
    result = scan(
        optimum_of(train, conditional=True),
        train,
        holdout=images(100, seed=1),
        config=ScanConfig(
            seeds=tuple(range(12)),
            sampler=SamplerConfig(num_steps=17),
            fail_above=0.001,
            fail_above_groups=0.1,
            also=("noise-and-return", "membership", "exposure"),
        ),
    )
    assert result.denoising is not None
    # As of a checkpoint whose file does not show everything.
    tried = (OtherOption("num_heads=8", 1.6),)
    return replace(result, denoising=replace(result.denoising, other_options=tried))


@pytest.fixture(scope="session")
def screened_result() -> ScanResult:
    """A screened scan of 20 seeds of the optimum of 20 images."""
    config = ScanConfig(
        seeds=range(20), screening=ScreeningConfig(screen_share=0.2), without=("optimality",)
    )
    images = smooth_images(20, 8, seed=0)
    return scan("optimum", images, config=config)


@pytest.fixture(scope="session")
def explained_result() -> ScanResult:
    """A scan whose floor explains the count: training images so dense that each looks copied."""
    images = np.repeat(smooth_images(20, 8, seed=1), 10, axis=0).astype(int)
    noise = np.random.default_rng(0).integers(-6, 7, (400, 3, 8, 8))
    drawn = (np.concatenate([images, images]) + noise).clip(0, 255).astype(np.uint8)
    data = ImageSet.from_array(drawn[200:], source="dense").grouped([f"p{i}" for i in range(200)])
    result = scan(drawn[:200:4], data)
    assert result.is_explained_by_floor
    return result


@pytest.fixture(scope="session")
def feature_result(
    make_result: Callable[..., ScanResult], tmp_path_factory: pytest.TempPathFactory
) -> ScanResult:
    """A scan between features of an encoder: the pixels as they are."""
    path = tmp_path_factory.mktemp("encoder") / "encoder.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is said to be on its way out
        torch.jit.script(torch.nn.Flatten()).save(str(path))
    result = make_result()
    generated = ImageSet(result.generated, list(map(str, result.keys)), source="generated")
    index = FeatureIndex(result.data.images, open_encoder(path))
    return scan(generated, result.data, index=index)
