"""What follows about each image from what was measured."""

import math
from dataclasses import dataclass

import numpy as np

from memaudit.audit.diagnostics.blind_baseline import BlindBaseline
from memaudit.audit.image_check.answer import Ranking, answer, find, headline
from memaudit.audit.image_check.config import least_controls
from memaudit.audit.image_check.likeness import LEAST_CONTROLS, Likeness, compare_with_controls
from memaudit.audit.image_check.pool import Pool
from memaudit.audit.image_check.ranks import combined_p_values, rank_p_values
from memaudit.audit.image_check.result import (
    CheckedImage,
    EarlierCopies,
    InTraining,
    MembershipRank,
)
from memaudit.audit.image_check.sampled import Collected, Tried
from memaudit.audit.statistics.per_class import holm
from memaudit.wording import p_text


@dataclass(frozen=True)
class Measured:
    """What was measured of the images asked about and of the controls."""

    names: tuple[str, ...]
    """Names of the Q images asked about."""
    pool: Pool
    in_training: tuple[InTraining, ...] | None
    """None without training images."""
    copies: Collected
    returns: Tried | None
    """None where the generated images were given."""
    losses: np.ndarray | None
    """float64 [P]: the model's loss on each image of the pool; None without a model or controls."""
    earlier: tuple[EarlierCopies | None, ...]
    """What the report of a scan says of each image asked about; None for those it cannot know."""
    blind: BlindBaseline | None
    """None without training or held-out images."""
    denoises: bool
    """Whether the model denoises as it is configured, so that finding nothing means something."""


def conclude(measured: Measured, confidence: float) -> tuple[str, tuple[CheckedImage, ...]]:
    """The answer about all images, and what was found about each.

    Args:
        measured: numbers of the images and the controls.
        confidence: 1 − α; whatever is found of an image that the model treats like the controls is
            found with a chance of at most α, over all images.
    """
    pool = measured.pool
    num_asked, num_controls = pool.num_asked, pool.num_controls
    scores = [measured.copies.score]
    if measured.returns is not None:
        scores.append(measured.returns.score)
    each = np.stack(scores)
    together = each
    if measured.copies.num_by_rules is not None:  # the more copies, the more extreme
        together = np.concatenate([each, -measured.copies.num_by_rules[None].astype(float)])
    p_each = np.full((2, num_asked), np.nan)
    p_value: list[float | None] = [None] * num_asked
    p_adjusted = p_value
    likeness: tuple[Likeness | None, ...] = (None,) * num_asked
    membership: tuple[MembershipRank | None, ...] = (None,) * num_asked
    if num_controls:
        p_each[: len(each)] = rank_p_values(each, num_asked)
        combined = combined_p_values(together, num_asked).tolist()
        p_value, p_adjusted = list(combined), list(holm(combined))
        if measured.losses is not None:
            membership = _membership(measured.losses, num_asked)
    if num_controls >= LEAST_CONTROLS:
        likeness = compare_with_controls(pool.images, pool.distance_to_other, num_asked)

    objection = too_few_controls(num_controls, num_asked, confidence)
    by_seed = measured.returns is not None
    images, rankings = [], []
    for q, name in enumerate(measured.names):
        ranking = Ranking(
            p_value=p_value[q],
            p_adjusted=p_adjusted[q],
            num_controls=num_controls,
            num_images=num_asked,
            alpha=1 - confidence,
            objection=objection or _unlike(likeness[q]) or _differing(measured, q),
        )
        p_copies, p_returns = (None if math.isnan(p) else float(p) for p in p_each[:, q])
        copies = measured.copies.copies(q, p_copies, confidence)
        returns = None
        if measured.returns is not None:
            returns = measured.returns.returns(q, num_asked, p_returns, confidence)
        in_training = None if measured.in_training is None else measured.in_training[q]
        earlier = measured.earlier[q]
        finding = find(copies, earlier, ranking)
        said = answer(
            finding,
            ranking,
            in_training=in_training,
            copies=copies,
            earlier=earlier,
            returns=returns,
            by_seed=by_seed,
            denoises=measured.denoises,
        )
        images.append(
            CheckedImage(
                name=name,
                finding=finding,
                answer=said,
                in_training=in_training,
                copies=copies,
                earlier=earlier,
                returns=returns,
                p_value=p_value[q],
                p_adjusted=p_adjusted[q],
                membership=membership[q],
                likeness=likeness[q],
            )
        )
        rankings.append(ranking)
    of_all = rankings[0]
    if len({ranking.objection for ranking in rankings}) > 1:
        of_all = Ranking(None, None, num_controls, num_asked, 1 - confidence, objection)
    return headline(images, of_all, by_seed=by_seed), tuple(images)


def _membership(losses: np.ndarray, num_asked: int) -> tuple[MembershipRank, ...]:
    p_value = rank_p_values(losses[None], num_asked)[0].tolist()
    controls = losses[num_asked:]
    return tuple(
        MembershipRank(
            loss=float(loss),
            percentile=float(100 * (controls > loss).mean()),
            p_value=p,
            p_adjusted=adjusted,
        )
        for loss, p, adjusted in zip(losses[:num_asked], p_value, holm(p_value), strict=True)
    )


def too_few_controls(num_controls: int, num_asked: int, confidence: float) -> str:
    """Why no rank among so many controls says anything, a clause; empty if they may."""
    if not num_controls:
        return "there are no held-out images to rank it among"
    needed = least_controls(num_asked, confidence)
    if num_controls < needed:
        of = "" if num_asked == 1 else f" of {num_asked:,} images"
        return (
            f"{num_controls:,} held-out images are too few: at least {needed:,} are needed for a "
            f"rank{of} to be certain at {100 * confidence:.3g} %"
        )
    return ""


def _unlike(likeness: Likeness | None) -> str:
    if likeness is None or likeness.is_alike:
        return ""
    return (
        f"it is not of the kind of the held-out images, by its {likeness.feature} "
        f"({p_text(likeness.p_value)})"
    )


def _differing(measured: Measured, q: int) -> str:
    """Why a training image cannot be ranked among held-out ones: the sets differ."""
    blind, places = measured.blind, measured.in_training
    if blind is None or not blind.differs or places is None or places[q].kind == "no":
        return ""
    return (
        "training and held-out images differ by themselves (a classifier that never sees the model "
        f"tells them apart, AUC {blind.auc.value:.2f})"
    )
