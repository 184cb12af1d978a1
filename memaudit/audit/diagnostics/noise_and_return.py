"""Noise and return: which training images does sampling return to after noise was added?

Sampling from pure noise may never come near an image that the model nevertheless knows by heart.
Here it starts at y + σ₀n for a training image y. A model that has learned the distribution returns
to y only if little noise was added, and returns to held-out images as often. docs/statistics.md
says what follows from it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext, Setting
from memaudit.audit.diagnostics.section import (
    Block,
    Gallery,
    Heading,
    Paragraph,
    Row,
    Table,
    Thumbnail,
)
from memaudit.audit.memorization.matches import match_images
from memaudit.audit.memorization.rule import Rule, memorized
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.audit.source_checks import check_fits
from memaudit.audit.statistics.counts import all_on_one_side_p_value, more_often_p_value
from memaudit.audit.statistics.intervals import (
    Proportion,
    clopper_pearson,
    interval_text,
    level_text,
)
from memaudit.audit.statistics.per_class import holm
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.sampling_time import num_evaluations
from memaudit.progress import Progress, silent
from memaudit.wording import p_text, short

NEIGHBORS = 16
"""Nearest training images that are searched first for one that is not a duplicate."""


@dataclass(frozen=True)
class ReturnTestConfig:
    """How many images to try. The defaults cost as much as generating about 1,500 images."""

    sigmas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    """Noise levels σ₀ to start from, for data in [-1, 1]; levels above the model's are skipped."""
    num_images: int = 128
    """Training images to try, and likewise held-out images; all if there are fewer."""
    num_noises: int = 1
    """Noises per image. An image is returned to if at least half of them lead back to it."""
    seed: int = 0
    """Chooses the images and their noise."""
    sampler: SamplerConfig = SamplerConfig()
    """How to sample; σ₀ replaces its sigma_max."""
    rule: Rule = Rule()
    """How images are judged, as in a scan."""
    execution: Execution = Execution()
    """Where the model is, and how many images it is given at a time."""

    def __post_init__(self) -> None:
        if not self.sigmas or not all(0 < sigma < math.inf for sigma in self.sigmas):
            raise ConfigError(f"sigmas are {self.sigmas}; noise levels above 0 are needed.")
        for name in ("num_images", "num_noises"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 1 is needed.")


@dataclass(frozen=True)
class ReturnsAtSigma:
    """Images that sampling returned to from one noise level."""

    sigma: float
    """σ₀."""
    train: Proportion
    """Training images returned to."""
    holdout: Proportion | None
    """Held-out images returned to, or None if none were given."""
    p_adjusted: float | None
    """Chance of at least that many more training images if both kinds return alike, by Fisher's
    exact test with Holm's correction for the number of levels; None without held-out images."""


@dataclass(frozen=True)
class Attractor:
    """A training image that sampling returned to."""

    index: int
    name: str
    sigma: float
    """The largest σ₀ from which it was returned to."""


@dataclass(frozen=True)
class ReturnTest:
    """The images that sampling returns to."""

    at_sigma: tuple[ReturnsAtSigma, ...]
    """In ascending order of sigma."""
    attractors: tuple[Attractor, ...]
    """Training images that were returned to from any σ₀, largest σ₀ first."""
    holdout_sigma: float | None
    """The largest σ₀ from which a held-out image was returned to, 0 if none was, or None if no
    held-out images were given."""
    p_beyond: float | None
    """Chance of at least as many training images beyond every held-out one if both kinds return
    alike; None without held-out images."""
    num_noises: int
    confidence: float

    @property
    def beyond_holdout(self) -> tuple[Attractor, ...]:
        """Attractors that were returned to from more noise than any held-out image; all of them if
        there are no held-out images."""
        if self.holdout_sigma is None:
            return self.attractors
        return tuple(found for found in self.attractors if found.sigma > self.holdout_sigma)


class _Judge(Protocol):
    """Whether each generated image, uint8 [B, C, H, W], returned to the corresponding start."""

    def __call__(self, generated: np.ndarray, start: np.ndarray) -> np.ndarray: ...


@fp32_products(False)
def return_test(
    denoiser: Denoiser,
    data: ImageSet,
    *,
    holdout: ImageSet | None = None,
    index: NeighborIndex | None = None,
    config: ReturnTestConfig | None = None,
    progress: Progress = silent,
) -> ReturnTest:
    """Add noise to training images and test whether sampling returns to them.

    If n training and m held-out images return alike, the chance that K training images return from
    more noise than any held-out one is at most p = C(n, K) / C(n + m, K). At each level, Fisher's
    exact test compares the two kinds, with Holm's correction for the number of levels.

    Started at y + σ₀n, sampling returns iff its result is memorized by the distinct rule and the
    nearest training image is y or a duplicate of y. A held-out image z is judged as if it were one
    of the training images.

    Args:
        denoiser: the model, on `config.execution.device`.
        data: its training images, with labels if it has classes.
        holdout: images like them that it was not trained on.
        index: an index of the training images' pixels, without mirror images; built if None.
        config: how many images to try.
        progress: told how many images are sampled.

    Raises:
        DataError: shapes or labels do not fit the model.
        ConfigError: no noise level is within the model's range.
        CheckpointError: the model generates numbers that are not finite.
    """
    config = config or ReturnTestConfig()
    for images in (data,) if holdout is None else (data, holdout):
        check_fits(denoiser, images)
    sigmas = sorted(sigma for sigma in set(config.sigmas) if sigma <= denoiser.sigma_max)
    if not sigmas:
        raise ConfigError(
            f"The smallest noise level to return from is {min(config.sigmas):g}, but the model "
            f"handles at most {denoiser.sigma_max:g}; choose smaller sigmas."
        )
    index = index or NeighborIndex(data.images, device=config.execution.device)
    rng = np.random.default_rng(config.seed)

    def back_to_train(generated: np.ndarray, start: np.ndarray) -> np.ndarray:
        return _returned_to_train(generated, start, index, config)

    def back_to_holdout(generated: np.ndarray, start: np.ndarray) -> np.ndarray:
        return _returned_to_holdout(generated, start, index, config)

    chosen = _choose(data, config, rng)
    train = _try(denoiser, data.take(chosen), sigmas, 0, back_to_train, config, progress)
    held = None
    if holdout is not None:
        controls = holdout.take(_choose(holdout, config, rng))
        held = _try(denoiser, controls, sigmas, len(chosen), back_to_holdout, config, progress)

    largest = np.where(train, np.array(sigmas)[:, None], 0.0).max(0)
    attractors = [
        Attractor(index=int(i), name=data.names[i], sigma=float(sigma))
        for i, sigma in zip(chosen, largest, strict=True)
        if sigma
    ]
    holdout_sigma = p_beyond = None
    p_adjusted: Sequence[float | None] = [None] * len(sigmas)
    if held is not None:
        holdout_sigma = max(
            (sigma for row, sigma in enumerate(sigmas) if held[row].any()), default=0.0
        )
        num_beyond = int((largest > holdout_sigma).sum())
        p_beyond = all_on_one_side_p_value(num_beyond, train.shape[1], held.shape[1])
        p_adjusted = holm(
            [
                more_often_p_value((int(a.sum()), len(a)), (int(b.sum()), len(b)))
                for a, b in zip(train, held, strict=True)
            ]
        )
    return ReturnTest(
        at_sigma=tuple(
            ReturnsAtSigma(
                sigma=sigma,
                train=_share(train[row], config),
                holdout=None if held is None else _share(held[row], config),
                p_adjusted=p_adjusted[row],
            )
            for row, sigma in enumerate(sigmas)
        ),
        attractors=tuple(sorted(attractors, key=lambda found: (-found.sigma, found.index))),
        holdout_sigma=holdout_sigma,
        p_beyond=p_beyond,
        num_noises=config.num_noises,
        confidence=config.rule.confidence,
    )


def _choose(images: ImageSet, config: ReturnTestConfig, rng: np.random.Generator) -> np.ndarray:
    rows = images.independent_rows
    return np.sort(rng.choice(rows, min(config.num_images, len(rows)), replace=False))


def _share(returned: np.ndarray, config: ReturnTestConfig) -> Proportion:
    return clopper_pearson(int(returned.sum()), len(returned), config.rule.confidence)


def _try(
    denoiser: Denoiser,
    images: ImageSet,
    sigmas: list[float],
    first_seed: int,
    judge: _Judge,
    config: ReturnTestConfig,
    progress: Progress,
) -> np.ndarray:
    """Whether each image was returned to from each noise level: bool [len(sigmas), N].

    Each image has its own noises, which are the same at every level.
    """
    rows = np.repeat(np.arange(len(images)), config.num_noises)
    start = images.images[rows]
    seeds = [config.seed + first_seed * config.num_noises + i for i in range(len(rows))]
    class_index = None
    if denoiser.label_dim and images.labels is not None:
        class_index = images.labels[rows].tolist()
    returned = []
    for level, sigma in enumerate(sigmas):

        def told(
            task: str, done: int, total: int | None, note: str = "", before: int = level * len(rows)
        ) -> None:
            progress(f"Returning to {images.source}", before + done, len(sigmas) * len(rows), note)

        batches = generate_images(
            denoiser,
            seeds,
            config=replace(config.sampler, sigma_max=sigma),
            class_index=class_index,
            start=start,
            # There are too few images per noise level for a faster format to pay.
            execution=replace(config.execution, precision="fp32"),
            progress=told,
        )
        generated = np.concatenate([batch.images for batch in batches])
        by_image = judge(generated, start).reshape(len(images), config.num_noises)
        returned.append(2 * by_image.sum(1) >= config.num_noises)
    return np.stack(returned)


def _returned_to_train(
    generated: np.ndarray, start: np.ndarray, index: NeighborIndex, config: ReturnTestConfig
) -> np.ndarray:
    """Whether each is memorized and nearest to its start or a duplicate of it: bool [B]."""
    found = match_images(index, generated, config.rule)
    returned: np.ndarray = found.memorized_distinct & _duplicates(
        index.images[found.nn1], start, config
    )
    return returned


def _returned_to_holdout(
    generated: np.ndarray, start: np.ndarray, index: NeighborIndex, config: ReturnTestConfig
) -> np.ndarray:
    """The same for a start z that is not in the training set, as if it were its last image."""
    found = match_images(index, generated, config.rule)
    near_duplicate = _duplicates(index.images[found.nn1], start, config)
    distance = _squared_distances(generated, start)
    nearest = distance < found.squared_distance1

    # If z is the nearest, the second is the nearest training image that is not a duplicate of z.
    second = found.squared_distance1.copy()
    for row in np.flatnonzero(nearest & near_duplicate):
        second[row] = _distance_beyond(generated[row], start[row], index, config)
    return np.where(
        nearest,
        memorized(distance, second, config.rule.threshold),
        found.memorized_distinct & near_duplicate,
    )


def _distance_beyond(
    x: np.ndarray, z: np.ndarray, index: NeighborIndex, config: ReturnTestConfig
) -> int:
    """Squared distance of x to the nearest training image that is not a duplicate of z.

    If all are duplicates, the distance to the nearest of all, as in the published rule.
    """
    k = NEIGHBORS
    while True:
        k = min(k, len(index.images))
        near = index.nearest(x[None], k)
        images = index.images[near.index[0]]
        beyond = ~_duplicates(images, np.broadcast_to(z, images.shape), config)
        if beyond.any() or k == len(index.images):
            return int(near.squared_distance[0, beyond.argmax()])
        k *= 8


def _duplicates(a: np.ndarray, b: np.ndarray, config: ReturnTestConfig) -> np.ndarray:
    """Whether images uint8 [B, C, H, W] lie within duplicate_rms of each other: bool [B]."""
    _, C, H, W = a.shape
    return _squared_distances(a, b) <= largest_squared_distance(
        config.rule.duplicate_rms, (C, H, W)
    )


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances S of pairs of images, uint8 [B, C, H, W] each: int64 [B]."""
    difference = a.astype(np.int32) - b
    squared: np.ndarray = (difference**2).reshape(len(a), -1).sum(1, dtype=np.int64)
    return squared


SHOWN_ATTRACTORS = 24
"""Number of attractors that the page shows."""


def forecast_evaluations(
    denoiser: Denoiser, data: ImageSet, holdout: ImageSet | None, sampler: SamplerConfig
) -> int:
    """How many evaluations of the model, times images, the test of a scan takes.

    Args:
        denoiser: the model.
        data: its training images.
        holdout: images that it was not trained on, if there are any.
        sampler: of the scan.
    """
    config = ReturnTestConfig(sampler=sampler.by_edm)
    sets = [images for images in (data, holdout) if images is not None]
    num_images = sum(min(config.num_images, len(images)) for images in sets) * config.num_noises
    num_levels = sum(sigma <= denoiser.sigma_max for sigma in config.sigmas)
    return num_images * num_levels * num_evaluations(config.sampler)


def _run(context: Context) -> ReturnTest:
    setting = context.setting
    config = setting.config
    return return_test(
        setting.given_model,
        setting.data,
        holdout=setting.holdout,
        index=setting.open_index(),
        config=ReturnTestConfig(
            sampler=config.sampler.by_edm, rule=config.rule, execution=config.execution
        ),
        progress=setting.progress,
    )


def _check(setting: Setting) -> None:
    if setting.model is None:
        raise ConfigError(
            "Noise and return needs a model, but images were given. Leave it out of {also}, or "
            "scan the checkpoint.",
            field="also",
        )
    for images in filter(None, (setting.data, setting.holdout)):
        check_fits(setting.model, images)


def _section(result: ReturnTest, page: PageContext) -> Iterator[Block]:
    leaking = {leak.index for leak in page.findings.leaks}
    yield Paragraph(
        "Noise was added to training images and sampling started from there: a model that knows "
        "an image by heart returns to it from more noise than a model that only knows similar "
        f"images. This finds leaks that sampling from pure noise misses. {_compared(result)}"
    )
    yield _table(result)
    shown = result.attractors[:SHOWN_ATTRACTORS]
    if not shown:
        return
    yield Heading("Training images returned to, from the most noise first")
    yield Gallery(tuple(_thumbnail(found, found.index in leaking, page) for found in shown))
    if len(result.attractors) > len(shown):
        yield Paragraph(
            f"{len(shown)} of {len(result.attractors):,} are shown; report.json lists all.",
            is_small=True,
        )


def _compared(result: ReturnTest) -> str:
    """How the training images compare with the held-out ones."""
    if result.holdout_sigma is None or result.p_beyond is None:
        return "Without held-out images, nothing shows how much noise such images normally survive."
    beyond = len(result.beyond_holdout)
    if not beyond:
        return "No training image was returned to from more noise than the held-out images were."
    were = "training image was" if beyond == 1 else "training images were"
    where = (
        f"from sigma above {result.holdout_sigma:g}"
        if result.holdout_sigma
        else "no held-out image was returned to at all"
    )
    chance = (
        "which chance alone would hardly do"
        if result.p_beyond <= 1 - result.confidence
        else "which may be chance"
    )
    return (
        f"{beyond:,} {were} returned to from more noise than any held-out image, {chance} "
        f"({p_text(result.p_beyond)}): {where}."
    )


def _thumbnail(attractor: Attractor, leaks: bool, page: PageContext) -> Thumbnail:
    caption: tuple[str, ...] = (short(attractor.name, 40), f"from sigma {attractor.sigma:g}")
    return Thumbnail(
        image=page.data.images[attractor.index],
        alt=f"Training image {short(attractor.name)}",
        caption=caption if leaks else (*caption, "not among the leaks above"),
    )


def _table(result: ReturnTest) -> Table:
    """Images that sampling returned to, by the noise it started from."""
    level = f"{level_text(result.confidence)} interval"
    columns: tuple[str, ...] = ("sigma", "Training images", level)
    if result.holdout_sigma is not None:
        columns += ("Held-out images", level, "p, corrected")

    def cells(at: ReturnsAtSigma) -> Iterator[str]:
        for share in (at.train, at.holdout):
            if share is not None:
                yield f"{share.count:,} of {share.total:,}"
                yield interval_text(share)
        if at.p_adjusted is not None:
            yield f"{at.p_adjusted:.2g}"

    rows = tuple(Row(f"{at.sigma:g}", tuple(cells(at))) for at in result.at_sigma)
    return Table(columns, rows, title="Noise and return")


def _lines(result: ReturnTest) -> Iterator[str | Table]:
    yield _table(result)
    beyond = f"Sampling returns to {len(result.beyond_holdout):,} of the training images tried"
    if result.p_beyond is not None:
        beyond += (
            ", from more noise than to any held-out image "
            f"({p_text(result.p_beyond)} if both kinds return alike)"
        )
    yield f"{beyond}."


def _evidence(result: ReturnTest, alpha: float) -> Iterator[str]:
    """Two tests, each at α/2: the images beyond every held-out one, and the levels."""
    if result.p_beyond is not None and result.p_beyond <= alpha / 2:
        yield (
            f"sampling returns to {len(result.beyond_holdout):,} training images from more noise "
            f"than to any held-out one ({p_text(result.p_beyond)})"
        )
    levels = [at for at in result.at_sigma if at.p_adjusted is not None]
    clearest = min(levels, key=lambda at: at.p_adjusted or 0.0, default=None)
    if clearest is None or clearest.holdout is None or clearest.p_adjusted is None:
        return
    if clearest.p_adjusted <= alpha / 2:
        yield (
            f"from sigma {clearest.sigma:g}, sampling returns to {clearest.train.count:,} of "
            f"{clearest.train.total:,} training and {clearest.holdout.count:,} of "
            f"{clearest.holdout.total:,} held-out images ({p_text(clearest.p_adjusted)})"
        )


DIAGNOSTIC = Diagnostic(
    title="Noise and return",
    requires=frozenset({"images", "model"}),
    run=_run,
    section=_section,
    lines=_lines,
    evidence=_evidence,
    assumes_exchangeable=True,
    by_request=True,
    check=_check,
)
