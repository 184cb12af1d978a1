"""Test the instrument on this machine and these images: it must measure what is known.

The closed-form optimum can only copy, held-out images are not copies, and the number of planted
copies is known. All of them pass through the search and the rule that judge a model.

With a model, two whole scans of its own images follow. If training and held-out images exchange
their roles, it cannot have copied what it is searched for: that must not FAIL. If training images
are planted among the model's images, that must FAIL.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.holdout import check_groups
from memaudit.audit.diagnostics.registry import DIAGNOSTICS
from memaudit.audit.memorization.matches import match_images
from memaudit.audit.neighbors.build import open_rules
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.source import OPTIMUM, as_source, optimum_of
from memaudit.audit.source_checks import check_comparable
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.compile_choice import settle_compile
from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.precision import resolve_precision, takes_formats
from memaudit.models.spread import MODEL, serve_images, spread_over_ranks
from memaudit.progress import Progress, silent
from memaudit.ranks.worker import Worker

TOLERANCE = 0.01
"""A few in a thousand natural held-out images are near-copies by chance."""
PLANTED = 0.3
"""Share of copies in the third control."""
LIMIT = 0.05
"""Limit of the gate in the controls on a model, far from no copies and from the planted share."""
SMALLEST_P = 0.01
"""A sound instrument gives a p this small in 1 of 100 controls."""
FEWEST_SAMPLES = 20
"""Images of a model without which not even 6 planted copies would exceed the limit for certain."""
NEEDED = ("holdout", "label_test")
"""Diagnostics that run in the scans of a model's controls."""
PARTNERS = 8
"""Random images, of which the farthest becomes the partner in a mixture, to avoid duplicates."""


@dataclass(frozen=True)
class Control:
    """Images whose memorization ratio is known."""

    name: str
    """`optimum`, `held-out images` or `mixtures of training images`, and `planted copies`."""
    expected: float
    """The ratio to be measured, in [0, 1]."""
    tolerance: float
    """How far the truth may be from it."""
    measured: Proportion
    """Images that count as copies, as in a scan."""
    passed: bool
    """Whether the interval and expected ± tolerance overlap."""


@dataclass(frozen=True)
class ModelControl:
    """A scan of a model's images of which it is known what must be found."""

    name: str
    """`roles exchanged`, `exchanged: label test`, `77 planted images` or `planted images found`."""
    required: str
    """What must be found."""
    found: str
    """What was found."""
    verdict: str | None
    """Verdict of the scan, or None if the control is about another number."""
    measured: Proportion | None
    """Images flagged, or planted images found; None if the control is about another number."""
    p: float | None
    """The label test's p-value, or None if the control is about another number."""
    passed: bool


@dataclass(frozen=True)
class SelftestResult:
    """The outcome of the controls."""

    controls: tuple[Control, ...]
    model_controls: tuple[ModelControl, ...]
    """The controls on a model; empty without one."""
    passed: bool
    """Whether all of them passed."""


@fp32_products(False)
def selftest(
    images: ImageSet,
    *,
    model: str | Path | Checkpoint | Denoiser | ImageSet | None = None,
    holdout: ImageSet | None = None,
    config: ScanConfig | None = None,
    progress: Progress = silent,
) -> SelftestResult:
    """Measure images whose memorization ratio is known.

    Args:
        images: training images, at least 2.
        model: a model trained on them, or images that it generated, at least 20. Two scans of its
            images follow: with the roles of training and held-out images exchanged, and with
            planted training images.
        holdout: images like them that are not among them. Without them, mixtures of two training
            images are used instead.
        config: how to sample and judge, as in a scan. Each control has one image per seed, 256 by
            default, or every held-out image if there are fewer.
        progress: told how far each step is.

    Raises:
        DataError: the images cannot be judged or compared; held-out images occur in the training
            set, where a model is given.
        ConfigError: a model without held-out images, or fewer than 20 of its images.
        CheckpointError: the model cannot be opened.
    """
    config = config or ScanConfig(seeds=range(256))
    source = None
    if model is not None:
        source = as_source(model, images, device=config.execution.device, progress=progress)
        check_comparable(source, images)
        _check_model_controls(source, holdout, config)
    check_comparable(images if holdout is None else holdout, images)
    check_groups(images, holdout)
    rng = np.random.default_rng(0)
    index = NeighborIndex(
        images.images, device=config.execution.device, groups=images.group_numbers
    )
    index.rules = open_rules(index, config.index, progress=progress)

    def control(name: str, made: np.ndarray, expected: float, tolerance: float) -> Control:
        copies = match_images(index, made, config.rule, progress=progress).is_copy
        measured = clopper_pearson(int(copies.sum()), len(copies), config.rule.confidence)
        passed = measured.low <= expected + tolerance and expected - tolerance <= measured.high
        return Control(name, expected, tolerance, measured, passed)

    num_images = len(config.seeds)
    optimum = optimum_of(images, device=config.execution.device)
    with spread_over_ranks(OPTIMUM, optimum):
        optimal = _generate(optimum.network, config, progress)
    if holdout is None:
        name, others = "mixtures of training images", _mixtures(images.images, num_images, rng)
    else:
        chosen = rng.choice(len(holdout), min(num_images, len(holdout)), replace=False)
        name, others = "held-out images", holdout.images[np.sort(chosen)]
    num_copies = round(PLANTED * len(others))
    planted = np.concatenate([_copies(images.images, num_copies, rng), others[num_copies:]])

    controls = (
        control("optimum", optimal, 1, TOLERANCE),
        control(name, others, 0, TOLERANCE),
        control("planted copies", planted, num_copies / len(planted), 0),
    )
    model_controls: tuple[ModelControl, ...] = ()
    if source is not None and holdout is not None:
        model = source if isinstance(source, Checkpoint) else None
        with nullcontext() if model is None else spread_over_ranks(MODEL, model):
            controls_on = _model_controls(source, images, holdout, config, rng, progress)
            model_controls = tuple(controls_on)
    passed = all(each.passed for each in controls) and all(each.passed for each in model_controls)
    return SelftestResult(controls, model_controls, passed)


def serve_selftest(
    worker: Worker, images: ImageSet, source: Checkpoint | ImageSet | None, execution: Execution
) -> int:
    """Make images for the selftest of rank 0 until it ends, and return its exit status.

    Args:
        worker: this rank.
        images: the training images.
        source: the model, or images that it generated, if there is any.
        execution: where to compute.
    """
    models = {OPTIMUM: optimum_of(images, device=execution.device)}
    if isinstance(source, Checkpoint):
        models[MODEL] = source
    return serve_images(worker, models)


def _mixtures(images: np.ndarray, num_mixtures: int, rng: np.random.Generator) -> np.ndarray:
    """Means of two training images far from each other: uint8 [M, C, H, W]."""
    mixtures = []
    for first in rng.integers(len(images), size=num_mixtures):
        a = images[first].astype(np.int64)
        others = images[rng.integers(len(images), size=PARTNERS)]
        b = others[((others - a) ** 2).sum((1, 2, 3)).argmax()]
        mixtures.append((a + b) // 2)
    return np.stack(mixtures).astype(np.uint8)


def _copies(images: np.ndarray, num_copies: int, rng: np.random.Generator) -> np.ndarray:
    """Training images with each value off by at most one gray level: uint8 [M, C, H, W]."""
    chosen = images[rng.integers(len(images), size=num_copies)].astype(np.int64)
    return (chosen + rng.integers(-1, 2, size=chosen.shape)).clip(0, 255).astype(np.uint8)


def _generate(denoiser: Denoiser, config: ScanConfig, progress: Progress) -> np.ndarray:
    """One image per seed: uint8 [M, C, H, W]."""
    # Whether an image is a copy in fp32 as well does not matter here: it is one of the model's, and
    # what the audit says of it is tested.
    execution = config.execution
    if takes_formats(denoiser):
        execution = replace(execution, precision=resolve_precision(denoiser, execution))
        execution = settle_compile(
            execution, denoiser, num_images=len(config.seeds), sampler=config.sampler
        )
    else:
        execution = replace(execution, precision="fp32")
    batches = generate_images(
        denoiser,
        config.seeds,
        config=config.sampler,
        execution=execution,
        progress=progress,
    )
    return np.concatenate([batch.images for batch in batches])


# ------------------------------------------------------------------------------------------------
# On a model


def _check_model_controls(
    source: Checkpoint | ImageSet, holdout: ImageSet | None, config: ScanConfig
) -> None:
    """Refuse what the controls on a model cannot work with, before anything is sampled."""
    if holdout is None:
        raise ConfigError(
            "The controls on a {model} exchange training and held-out images, but no held-out "
            "images are given. Give images like the training images that it never saw as "
            "{holdout}.",
            field=("model", "holdout"),
        )
    num_samples = len(config.seeds)
    if isinstance(source, ImageSet):
        num_samples = min(num_samples, len(source))
    if num_samples < FEWEST_SAMPLES:
        raise ConfigError(
            f"The controls on a model need at least {FEWEST_SAMPLES} of its images; there are "
            f"{num_samples}. Give more {{samples}}.",
            field="samples",
        )


def _model_controls(
    source: Checkpoint | ImageSet,
    images: ImageSet,
    holdout: ImageSet,
    config: ScanConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> Iterator[ModelControl]:
    """Scan the model's images, first with the roles exchanged, then with planted copies."""
    if isinstance(source, ImageSet):
        generated = source.images[: len(config.seeds)]
    else:
        generated = _generate(source.network, config, progress)
    left_out = tuple(name for name in DIAGNOSTICS if name not in NEEDED)
    judging = replace(config, fail_above=LIMIT, also=(), without=left_out)

    exchanged = scan(generated, holdout, holdout=images, config=judging, progress=progress)
    yield _verdict_control("roles exchanged", exchanged, "no FAIL", exchanged.verdict != "FAIL")
    label_test = exchanged.diagnostics.label_test
    if label_test is not None:
        p = label_test.p_any
        yield ModelControl(
            name="exchanged: label test",
            required=f"p > {SMALLEST_P:g}",
            found=f"p = {p:.3g}",
            verdict=None,
            measured=None,
            p=p,
            passed=p > SMALLEST_P,
        )

    num_planted = round(PLANTED * len(generated))
    chosen = rng.integers(len(images), size=num_planted)
    mixed = np.concatenate([images.images[chosen], generated[num_planted:]])
    planted = scan(mixed, images, holdout=holdout, config=judging, progress=progress)
    name = f"{num_planted:,} planted images"
    yield _verdict_control(name, planted, "FAIL", planted.verdict == "FAIL")
    is_found = planted.matches.is_copy & (planted.matches.squared_distance1 == 0)
    found = clopper_pearson(int(is_found[:num_planted].sum()), num_planted, config.rule.confidence)
    yield ModelControl(
        name="planted images found",
        required="all",
        found=f"{found.count:,} of {found.total:,}",
        verdict=None,
        measured=found,
        p=None,
        passed=found.count == found.total,
    )


def _verdict_control(name: str, result: ScanResult, required: str, passed: bool) -> ModelControl:
    flagged = result.ratios.distinct
    return ModelControl(
        name=name,
        required=f"{required} at {100 * LIMIT:g} %",
        found=f"{result.verdict}, {flagged.count:,} of {flagged.total:,} flagged",
        verdict=result.verdict,
        measured=flagged,
        p=None,
        passed=passed,
    )
