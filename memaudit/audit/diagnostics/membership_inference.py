"""Membership: does the denoising loss tell training images from held-out ones?

This is secondary to the ratio: a model may know that it saw an image without ever reproducing it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor
from torch.nn.functional import one_hot

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext, Setting
from memaudit.audit.diagnostics.section import Block, Paragraph, Row, measures, share_row
from memaudit.audit.source_checks import check_fits
from memaudit.audit.statistics.auc import delong, exceedance_p_value
from memaudit.audit.statistics.intervals import (
    Estimate,
    Proportion,
    clopper_pearson,
    describe,
    level_text,
)
from memaudit.audit.statistics.mann_whitney import mann_whitney_z
from memaudit.data.images import ImageSet, uint8_to_float
from memaudit.errors import ConfigError
from memaudit.models.arithmetic import float32_inference, fp32_products
from memaudit.models.denoiser import Denoiser
from memaudit.models.devices import to_device, with_float64
from memaudit.models.execution import Execution
from memaudit.models.group_size import group_size
from memaudit.models.memory import in_groups
from memaudit.models.seeds import PerImageRandom
from memaudit.progress import Progress, silent
from memaudit.wording import p_text, percent


@dataclass(frozen=True)
class MembershipConfig:
    """How membership is scored."""

    sigmas: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)
    """Noise levels for data in [-1, 1]; losses are weighted by 1/σ², so that every level counts."""
    num_noises: int = 4
    """Noises per image and level."""
    max_fpr: float = 0.01
    """Share of held-out images that may be called training images."""
    num_images: int = 1000
    """Training images to score, and likewise held-out images; all if there are fewer."""
    seed: int = 0
    """Chooses the images and their noise."""
    confidence: float = 0.95
    """Confidence of the intervals."""
    execution: Execution = Execution()
    """Where the model is, and how many images it is given at a time."""

    def __post_init__(self) -> None:
        if not self.sigmas or not all(0 < sigma < math.inf for sigma in self.sigmas):
            raise ConfigError(f"sigmas are {self.sigmas}; noise levels above 0 are needed.")
        for name in ("num_noises", "num_images"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 1 is needed.")
        for name in ("max_fpr", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; between 0 and 1 is needed.")


@dataclass(frozen=True)
class Membership:
    """How well the loss tells training images from held-out ones."""

    num_train: int
    num_holdout: int
    auc: Estimate
    """Chance that a training image scores above a held-out one, ties ½, with DeLong's interval: 0.5
    means no knowledge."""
    auc_p_value: float
    """Chance of an AUC at least this high if the loss reveals nothing (Mann and Whitney)."""
    tpr: Proportion
    """Training images that score above the threshold."""
    p_value: float
    """Chance of at least that many if the loss reveals nothing, with the chance of the threshold
    included."""
    fpr: Proportion
    """Held-out images that score above it: as many as max_fpr allows, or fewer if scores tie."""
    threshold: float
    """Threshold on the score, which is minus the mean loss."""
    max_fpr: float
    """Share of held-out images that may score above the threshold."""


@fp32_products(False)
def infer_membership(
    denoiser: Denoiser,
    data: ImageSet,
    holdout: ImageSet,
    *,
    config: MembershipConfig | None = None,
    progress: Progress = silent,
) -> Membership:
    """Score every image by its loss, and compare the two sets.

    The score is −mean over σ and noises of ‖D(y + σn; σ) − y‖² / (σ²D).

    The threshold is the lowest held-out score with at most max_fpr of the held-out scores above it.
    The intervals of both rates are for this threshold; the p-value also counts that it was set on
    the held-out images: F of n may lie above it, and of m training images K do, so that
    p = P(K ≥ k), K ~ BetaBinomial(m; F + 1, n − F).

    Args:
        denoiser: the model, on `config.execution.device`.
        data: its training images, with labels if it has classes.
        holdout: images like them that it was not trained on; at least 1/max_fpr of them.
        config: how to score.
        progress: told how many images are scored.

    Raises:
        ConfigError: there are fewer held-out images than 1/max_fpr, too few to measure the rate.
        DataError: shapes or labels do not fit the model.
    """
    config = config or MembershipConfig()
    check_controls(holdout, config)
    for images in (data, holdout):
        check_fits(denoiser, images)
    rng = np.random.default_rng(config.seed)
    train = _scores(denoiser, data, config, rng, 0, progress)
    held = _scores(denoiser, holdout, config, rng, len(train), progress)

    allowed = math.floor(config.max_fpr * len(held))
    threshold = np.sort(held)[len(held) - 1 - allowed]
    m, n = len(train), len(held)
    recognized = int((train > threshold).sum())
    return Membership(
        num_train=m,
        num_holdout=n,
        auc=delong(train, held, config.confidence),
        auc_p_value=float(ndtr(-mann_whitney_z(train, held))),
        tpr=clopper_pearson(recognized, m, config.confidence),
        p_value=exceedance_p_value(recognized, m, allowed=allowed, controls=n),
        fpr=clopper_pearson(int((held > threshold).sum()), n, config.confidence),
        threshold=float(threshold),
        max_fpr=config.max_fpr,
    )


def check_controls(holdout: ImageSet, config: MembershipConfig) -> None:
    """Refuse held-out images that are too few to measure a rate of max_fpr.

    Raises:
        ConfigError: they are too few; the message says how many are needed.
    """
    num_controls, needed = min(len(holdout), config.num_images), math.ceil(1 / config.max_fpr)
    if num_controls < needed:
        raise ConfigError(
            f"Membership at a false-positive rate of {config.max_fpr:g} needs at least {needed} "
            f"held-out images, but {{holdout}} {holdout.source} gives {num_controls}. Give more, "
            "or leave membership out.",
            field="holdout",
        )


def _scores(
    denoiser: Denoiser,
    images: ImageSet,
    config: MembershipConfig,
    rng: np.random.Generator,
    first_seed: int,
    progress: Progress,
) -> np.ndarray:
    """Scores of some of the images, float64 [T]."""
    size = min(config.num_images, len(images))
    chosen = images.take(np.sort(rng.choice(len(images), size, replace=False)))
    return loss_scores(denoiser, chosen, config=config, first_seed=first_seed, progress=progress)


def loss_scores(
    denoiser: Denoiser,
    images: ImageSet,
    *,
    config: MembershipConfig,
    first_seed: int = 0,
    progress: Progress = silent,
) -> np.ndarray:
    """Minus the mean loss of a model on each image, as in `infer_membership`: float64 [T].

    Each image has its own noises.

    Args:
        denoiser: the model, on `config.execution.device`.
        images: T images, with labels if the model has classes.
        config: noise levels, number of noises, seed.
        first_seed: added to `config.seed` for the noises of the first image.
        progress: told how many images are scored.
    """
    size, group = len(images), group_size(denoiser, config.execution)
    denoiser, device = with_float64(denoiser, torch.device(config.execution.device))

    def scores_of(rows: slice) -> Tensor:
        pixels = torch.from_numpy(np.array(images.images[rows]))
        y = uint8_to_float(to_device(pixels, device)).to(torch.float64)
        random = PerImageRandom([config.seed + first_seed + i for i in range(size)[rows]])
        class_labels = None
        if denoiser.label_dim and images.labels is not None:
            labels = one_hot(torch.from_numpy(images.labels[rows]), denoiser.label_dim)
            class_labels = to_device(labels.to(torch.float32), device)
        loss = torch.zeros(len(y), dtype=torch.float64, device=device)
        for _ in range(config.num_noises):
            noise = random.randn_like(y)
            for level in config.sigmas:
                sigma = torch.full((), level, dtype=torch.float64, device=device)
                with float32_inference():
                    D = denoiser(y + sigma * noise, sigma, class_labels).double()
                loss += ((D - y) / sigma).square().flatten(1).mean(1)
        return -loss / (config.num_noises * len(config.sigmas))

    scores = []
    for rows, found in in_groups(size, group, device, scores_of):
        scores.append(found)
        progress(f"Scoring {images.source}", rows.stop, size)
    return torch.cat(scores).cpu().numpy()


def forecast_evaluations(data: ImageSet, holdout: ImageSet) -> int:
    """How many evaluations of the model, times images, the test of a scan takes."""
    config = MembershipConfig()
    num_images = sum(min(config.num_images, len(images)) for images in (data, holdout))
    return num_images * config.num_noises * len(config.sigmas)


def _run(context: Context) -> Membership:
    setting = context.setting
    return infer_membership(
        setting.given_model,
        setting.independent_data,
        setting.given_holdout,
        config=MembershipConfig(
            confidence=setting.config.rule.confidence, execution=setting.config.execution
        ),
        progress=setting.progress,
    )


def _check(setting: Setting) -> None:
    if setting.model is None:
        raise ConfigError(
            "Membership needs a model, but images were given. Leave it out of {also}, or scan "
            "the checkpoint.",
            field="also",
        )
    if setting.holdout is None:
        raise ConfigError(
            "Membership compares training images with held-out ones, but none are given; pass some "
            "with {holdout}.",
            field="holdout",
        )
    for images in (setting.data, setting.holdout):
        check_fits(setting.model, images)
    check_controls(setting.holdout, MembershipConfig())


def _section(result: Membership, page: PageContext) -> Iterator[Block]:
    yield Paragraph(
        f"Whether the model’s loss is lower on {result.num_train:,} training images than on "
        f"{result.num_holdout:,} held-out ones. This does not show copies: a model may know that "
        "it saw an image without ever reproducing it. It presupposes that both sets are of one "
        "kind. p is the chance of a result at least as high if the loss reveals nothing."
    )
    allowed = f"at most {percent(result.max_fpr)} % of the held-out images"
    yield measures(
        result.tpr.confidence,
        share_row(
            "Training images above the threshold",
            result.tpr,
            note=f"the threshold is set so that {allowed} are above it; {p_text(result.p_value)}",
        ),
        share_row("Held-out images above the threshold", result.fpr),
        Row(
            "AUC",
            (f"{result.auc.value:.3f}", f"{result.auc.low:.3f} to {result.auc.high:.3f}"),
            note="chance that a training image has the lower loss; 0.5 if the loss reveals "
            f"nothing; {p_text(result.auc_p_value)}",
        ),
    )


def _lines(result: Membership) -> Iterator[str]:
    level = level_text(result.tpr.confidence)
    yield (
        f"Membership: {describe(result.tpr)} of the training images are above a score that at most "
        f"{percent(result.max_fpr)} % of the held-out images exceed; {p_text(result.p_value)} if "
        f"the loss reveals nothing. AUC {result.auc.value:.3f} ({level} interval "
        f"{result.auc.low:.3f} to {result.auc.high:.3f})."
    )


def _evidence(result: Membership, alpha: float) -> Iterator[str]:
    """Two tests, each at α/2."""
    if result.auc_p_value <= alpha / 2:
        auc = result.auc
        yield (
            f"membership AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f}, "
            f"{p_text(result.auc_p_value)})"
        )
    if result.p_value <= alpha / 2:
        yield (
            f"{percent(result.tpr.ratio)} % of training images above the membership threshold of "
            f"{percent(result.max_fpr)} % ({p_text(result.p_value)})"
        )


DIAGNOSTIC = Diagnostic(
    title="Membership",
    requires=frozenset({"images", "model", "holdout"}),
    run=_run,
    section=_section,
    lines=_lines,
    evidence=_evidence,
    assumes_exchangeable=True,
    by_request=True,
    check=_check,
)
