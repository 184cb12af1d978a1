"""Generators of which it is known whether they copy: the verdict of a whole scan must be true.

The controls alone are tested in memorization/test_controls.py, the loss test in denoising/.
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import smooth_images
from scipy.stats import binomtest
from torch import Tensor

import memaudit
from memaudit import ScanConfig, scan
from memaudit.audit.result import ScanResult
from memaudit.data.images import ImageSet, uint8_to_float
from memaudit.errors import ConfigError
from memaudit.models.sampler_config import SamplerConfig
from memaudit.training.config import TrainingConfig

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""(generator, number) → new images of one distribution."""

TEMPLATES = smooth_images(40, 8, seed=99)


def noisy(rng: np.random.Generator, images: np.ndarray, rms: float) -> np.ndarray:
    return rounded(images + rng.normal(0, rms, images.shape))


def rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def draw_templates(rng: np.random.Generator, number: int) -> np.ndarray:
    return noisy(rng, TEMPLATES[rng.integers(40, size=number)], 5)


def draw_lit_templates(rng: np.random.Generator, number: int) -> np.ndarray:
    """Templates under smooth light of RMS 5."""
    corners = rng.normal(size=(number, 3, 2, 2))
    t = np.linspace(0, 1, 8)
    light = np.einsum("ncij,iy,jx->ncyx", corners, [1 - t, t], [1 - t, t])
    light *= 5 / np.sqrt(np.square(light).mean())
    return rounded(TEMPLATES[rng.integers(40, size=number)] + light)


def draw_flat(rng: np.random.Generator, number: int) -> np.ndarray:
    colors = rng.integers(0, 256, (number, 3, 1, 1))
    return noisy(rng, np.broadcast_to(colors, (number, 3, 8, 8)), 2)


def draw_smooth(rng: np.random.Generator, number: int) -> np.ndarray:
    return smooth_images(number, 8, int(rng.integers(2**32)))


def without_replacement(images: np.ndarray, rng: np.random.Generator) -> Draw:
    """Draws that share no image with each other."""
    order = rng.permutation(len(images))
    start = 0

    def draw(rng: np.random.Generator, number: int) -> np.ndarray:
        nonlocal start
        start += number
        assert start <= len(order)
        return images[order[start - number : start]]

    return draw


def digits() -> np.ndarray:
    sklearn = pytest.importorskip("sklearn.datasets")
    return rounded(sklearn.load_digits().images * 255 / 16)[:, None]


def cifar(folder: Path, size: int = 32) -> np.ndarray:
    """CIFAR-10's test images, each pixel the mean of a square."""
    images = memaudit.open_images(folder / "cifar10-jpeg-test.zip").images
    side = 32 // size
    return rounded(images.reshape(len(images), 3, size, side, size, side).mean((3, 5)))


DRAWS = {
    "templates": draw_templates,
    "lit templates": draw_lit_templates,
    "flat": draw_flat,
    "smooth": draw_smooth,
}


def open_draw(kind: str, rng: np.random.Generator, request: pytest.FixtureRequest) -> Draw:
    if kind in DRAWS:
        return DRAWS[kind]
    if kind == "digits":
        return without_replacement(digits(), rng)
    size = int(kind.removeprefix("CIFAR at "))
    return without_replacement(cifar(request.getfixturevalue("shared_data"), size), rng)


def named(images: np.ndarray, name: str) -> ImageSet:
    return ImageSet(images, [f"{name}/{i}.png" for i in range(len(images))], source=name)


def judge(
    source: object,
    train: np.ndarray,
    holdout: np.ndarray | None = None,
    *,
    fail_above: float = 0.01,
    num_seeds: int = 1000,
    sampler: SamplerConfig | None = None,
    without: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
) -> ScanResult:
    if isinstance(source, np.ndarray):
        source = named(source, "made")
    config = ScanConfig(
        seeds=range(num_seeds),
        fail_above=fail_above,
        sampler=sampler or SamplerConfig(),
        without=without,
        also=also,
    )
    others = None if holdout is None else named(holdout, "holdout")
    return scan(source, named(train, "train"), holdout=others, config=config)  # type: ignore[arg-type]


class Generator:
    """A model that turns each noise into an image that a function draws, in one step."""

    label_dim = 0
    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self, draw: Draw, shape: tuple[int, ...]) -> None:
        self.draw = draw
        self.img_channels, self.img_resolution = shape[0], shape[1]

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return torch.as_tensor(sigma)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        images = []
        for row in x:
            seed = np.frombuffer(row.to(torch.float32).numpy().tobytes(), dtype=np.uint32)
            images.append(self.draw(np.random.default_rng(seed), 1)[0])
        return uint8_to_float(torch.from_numpy(np.stack(images)))


ONE_STEP = SamplerConfig(num_steps=1)


class LinearGaussian:
    """The best linear denoiser of some images: it knows their mean and covariance only."""

    label_dim = 0
    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self, images: np.ndarray) -> None:
        self.img_channels, self.img_resolution = images.shape[1:3]
        y = uint8_to_float(torch.from_numpy(np.array(images))).double().flatten(1)
        self.mean = y.mean(0)
        variance, self.basis = torch.linalg.eigh(torch.cov(y.T, correction=0))
        self.variance = variance.clamp(min=0)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return torch.as_tensor(sigma)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        noise = torch.as_tensor(sigma).double().reshape(-1, 1).square()
        along = (x.double().flatten(1) - self.mean) @ self.basis
        kept = along * (self.variance / (self.variance + noise))
        return (self.mean + kept @ self.basis.T).reshape(x.shape)


# ------------------------------------------------------------------------------------------------
# Nothing is copied


@pytest.mark.parametrize("with_holdout", [False, True], ids=["alone", "holdout"])
@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("templates", "INCONCLUSIVE"),
        ("lit templates", "INCONCLUSIVE"),
        ("flat", "INCONCLUSIVE"),
        ("smooth", "PASS"),
        ("digits", "PASS"),
        ("CIFAR at 8", "PASS"),
        pytest.param("CIFAR at 32", "PASS", marks=pytest.mark.slow),
    ],
)
def test_new_images_never_fail(
    kind: str, verdict: str, with_holdout: bool, request: pytest.FixtureRequest
):
    rng = np.random.default_rng(1)
    draw = open_draw(kind, rng, request)
    train, holdout, made = (draw(rng, 400) for _ in range(3))
    result = judge(
        made, train, holdout if with_holdout else None, without=("recall", "blind_baseline")
    )
    assert result.verdict == verdict, result.summary()
    assert not result.conclusion.evidence


@pytest.mark.parametrize("with_holdout", [False, True], ids=["alone", "holdout"])
@pytest.mark.parametrize("kind", ["templates", "lit templates", "flat", "smooth"])
def test_a_model_that_draws_new_images_never_fails(kind: str, with_holdout: bool):
    rng = np.random.default_rng(2)
    draw = DRAWS[kind]
    train, holdout = draw(rng, 400), draw(rng, 400) if with_holdout else None
    result = judge(
        Generator(draw, train.shape[1:]),
        train,
        holdout,
        num_seeds=400,
        sampler=ONE_STEP,
        without=("recall", "blind_baseline", "optimality"),
    )
    assert result.verdict in ("PASS", "INCONCLUSIVE"), result.summary()
    assert not result.conclusion.evidence


@pytest.mark.parametrize("with_holdout", [False, True], ids=["alone", "holdout"])
def test_a_model_that_knows_mean_and_covariance_of_other_images_passes(with_holdout: bool):
    rng = np.random.default_rng(3)
    other, train, holdout = (draw_smooth(rng, 300) for _ in range(3))
    result = judge(
        LinearGaussian(other),
        train,
        holdout if with_holdout else None,
        num_seeds=500,
        also=("membership",) if with_holdout else (),
    )
    assert result.verdict == "PASS", result.summary()
    assert not result.conclusion.evidence
    assert result.conclusion.headline == "PASS: at most 1.0 % of what the model makes are copies"


# ------------------------------------------------------------------------------------------------
# Something is copied


def images_with_a_floor(rng: np.random.Generator, number: int) -> list[np.ndarray]:
    """Training and held-out images: 0.125 % lie 10 levels from a training image by themselves."""
    train, holdout = (rng.integers(0, 256, (number, 3, 4, 4), dtype=np.uint8) for _ in range(2))
    num_near = number // 800
    holdout[:num_near] = noisy(rng, train[:num_near], 10)
    train[-num_near:] = noisy(rng, train[num_near : 2 * num_near], 10)
    return [train, holdout]


@pytest.mark.parametrize("is_sampled", [False, True], ids=["given", "sampled"])
@pytest.mark.parametrize("with_holdout", [False, True], ids=["alone", "holdout"])
def test_one_percent_of_copies_over_a_floor_of_an_eighth_fails(
    with_holdout: bool, is_sampled: bool
):
    rng = np.random.default_rng(4)
    train, holdout = images_with_a_floor(rng, 4000)

    def draw(rng: np.random.Generator, number: int) -> np.ndarray:
        made = rng.integers(0, 256, (number, 3, 4, 4), dtype=np.uint8)
        source = train[rng.integers(len(train), size=number)]
        kind = rng.random((number, 1, 1, 1))
        made = np.where(kind < 0.01, noisy(rng, source, 2), made)
        return np.where(kind > 1 - 0.00125, noisy(rng, source, 10), made)

    result = judge(
        Generator(draw, train.shape[1:]) if is_sampled else draw(rng, 4000),
        train,
        holdout if with_holdout else None,
        fail_above=0.001,
        num_seeds=4000,
        sampler=ONE_STEP,
        without=("recall", "blind_baseline", "optimality", "label_test"),
    )
    floor = result.controls.in_gate
    assert 0.0005 < floor.count / floor.total < 0.004
    assert result.verdict == "FAIL", result.summary()


@pytest.mark.parametrize("is_sampled", [False, True], ids=["given", "sampled"])
@pytest.mark.parametrize("with_holdout", [False, True], ids=["alone", "holdout"])
def test_copies_of_images_with_a_duplicate_9_levels_away_do_not_pass(
    with_holdout: bool, is_sampled: bool
):
    rng = np.random.default_rng(5)
    motifs, holdout = smooth_images(500, 16, seed=1), smooth_images(500, 16, seed=2)
    train = np.concatenate([motifs, noisy(rng, motifs, 9)])

    def draw(rng: np.random.Generator, number: int) -> np.ndarray:
        new = smooth_images(number, 16, int(rng.integers(2**32)))
        copies = noisy(rng, train[rng.integers(1000, size=number)], 4)
        return np.where(rng.random((number, 1, 1, 1)) < 0.05, copies, new)

    result = judge(
        Generator(draw, train.shape[1:]) if is_sampled else draw(rng, 2000),
        train,
        holdout if with_holdout else None,
        num_seeds=1000,
        sampler=ONE_STEP,
        without=("recall", "blind_baseline", "optimality", "label_test"),
    )
    assert result.verdict != "PASS", result.summary()


@pytest.mark.parametrize("name", ["class_VPPrecond", "sigma_max_0.1"])
def test_checkpoints_changed_to_hide_copies_do_not_pass(name: str, golden: Path):
    folder = golden.parent / "cases/security"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    config = ScanConfig(seeds=range(400), fail_above=0.05, without=("optimality",))
    train = memaudit.open_images(folder / "train6.npz")
    honest = scan(folder / "copying_model.safetensors", train, config=config)
    assert honest.verdict == "FAIL"
    try:
        result = scan(folder / f"evade_{name}.safetensors", train, config=config)
    except ConfigError as error:
        assert "noise" in str(error)
    else:
        assert result.verdict != "PASS", result.summary()


# ------------------------------------------------------------------------------------------------
# Trained, and simulated often


@pytest.mark.slow
def test_there_is_evidence_against_a_model_that_memorized_without_copying(
    shared_data: Path, tmp_path: Path
):
    """400 images for 320 epochs: no copy is counted, yet everything else tells them apart."""
    draw = without_replacement(cifar(shared_data, 8), np.random.default_rng(0))
    rng = np.random.default_rng(0)
    train, holdout = named(draw(rng, 400), "train"), named(draw(rng, 500), "holdout")
    recipe = TrainingConfig(
        precond="edm",
        model_channels=32,
        channel_mult=(1, 1),
        num_blocks=1,
        attn_resolutions=(4,),
        dropout=0,
        lr=2e-3,
        lr_rampup_epochs=5,
        batch_size=128,
        epochs=320,
        ema_mode="plain",
        ema_decay=0.999,
        num_snapshots=1,
    )
    memaudit.train(train, recipe, out=tmp_path)
    config = ScanConfig(seeds=range(1000), fail_above=0.01, also=("membership",))
    result = scan(tmp_path / "model.safetensors", train, holdout=holdout, config=config)
    print(result.summary())
    assert result.ratios.copies.ratio < 0.01
    assert result.verdict == "PASS" and result.conclusion.is_contradicted
    assert "PASS, with evidence of memorization" in result.summary()
    evidence = "; ".join(result.conclusion.evidence)
    for kind in ("label test", "C_T z = -", "membership AUC", "MemGap"):
        assert kind in evidence


def at_most(count: int, total: int, share: float) -> bool:
    """Whether `count` of `total` is no more than chance makes of a true share."""
    return bool(binomtest(count, total, share, "greater").pvalue > 0.001)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["smooth", "digits", "CIFAR at 8"])
def test_new_images_rarely_lose_their_pass_and_are_rarely_said_to_be_memorized(
    kind: str, request: pytest.FixtureRequest
):
    """100 scans of new images, half of them with held-out images."""
    outcomes = Counter[str]()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        draw = open_draw(kind, rng, request)
        train, holdout, made = (draw(rng, number) for number in (400, 400, 600))
        result = judge(made, train, holdout if seed % 2 else None, without=("recall",))
        assert result.decision is not None
        outcomes[str(result.verdict)] += 1
        outcomes["lost"] += result.decision.verdict == "PASS" != result.verdict
        outcomes["evidence"] += bool(result.conclusion.evidence)
    print(kind, dict(outcomes))
    assert not outcomes["FAIL"]
    assert at_most(outcomes["lost"], 100, 0.05)
    assert at_most(outcomes["evidence"], 50, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["templates", "lit templates", "flat"])
def test_dense_data_never_fails_nor_passes(kind: str):
    rng = np.random.default_rng(6)
    verdicts = Counter[str]()
    for _ in range(60):
        train, holdout, made = (DRAWS[kind](rng, 300) for _ in range(3))
        result = judge(made, train, holdout, without=("recall", "blind_baseline"))
        verdicts[str(result.verdict)] += 1
    print(kind, dict(verdicts))
    assert verdicts == {"INCONCLUSIVE": 60}
