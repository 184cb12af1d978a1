"""Generate some rows of a report on a model again, and search them.

On the same kind of machine everything is the same, bit for bit. Another processor or GPU sums
float32 products in another order; a pixel then may differ by a level. An 8-bit image of which each
pixel differs by at most a level is at most 1 RMS gray level away, and by the triangle inequality no
distance changes by more. Measured on a model that copies, at 18 steps and at 64 with noise, with
other convolution kernels: 1 % of the images differ, in single pixels, and their distances by 0.015
gray levels at most. `ROUNDING` leaves room for networks that amplify more.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from memaudit.audit.augmentation import augmentation_warnings
from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmed_images import Confirmation
from memaudit.audit.denoising.loss_test import DenoisingTest, check_denoising
from memaudit.audit.memorization.matches import Matches, match_images
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.regeneration import Recipe, draw_rows, regenerate
from memaudit.audit.report.schema import Report, plain
from memaudit.audit.report.tables import MatchTable
from memaudit.audit.sampler_control import SamplerControl, compare_samplers
from memaudit.audit.source import OPTIMUM, OTHER_IMAGES, describe_source, optimum_of
from memaudit.audit.source_checks import check_comparable, class_warnings, weigh_classes
from memaudit.audit.verification.check import Check, check
from memaudit.audit.verification.given import same_classes
from memaudit.audit.verification.search import differing_rows, distances_apart
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import Checkpoint, open_checkpoint
from memaudit.models.execution import Execution
from memaudit.models.precision import resolve_precision
from memaudit.progress import Progress

ROUNDING = 0.25
"""RMS gray levels by which a distance may differ on another kind of machine."""
MOST_ROUNDING = 8.0
"""The same for images of a faster number format, at most, whatever margin a report states."""
LOSS_ROUNDING = 0.01
"""Share by which a loss may differ on another kind of machine."""
MOST_STEPS = 10_000
"""Sampling steps that are repeated at most, whatever a report states."""
MOST_AT_A_TIME = 4096
"""Images that are sampled at a time at most."""


def open_model(path: Path, report: Report, data: ImageSet, device: str) -> Checkpoint:
    """Open the checkpoint as the scan did.

    Raises:
        CheckpointError: it is broken, or has another hash than the report states.
        DataError: it makes images of another shape than the training images.
    """
    model = report.source.model
    if str(path) == OPTIMUM:
        conditional = model is not None and bool(model.provenance.get("conditional"))
        found = optimum_of(data, conditional=conditional, device=device)
    else:
        found = open_checkpoint(path, device=device, arch=None if model is None else model.arch)
    check_comparable(found, data)
    return found


def check_drawn_rows(
    checkpoint: Checkpoint,
    index: NeighborIndex,
    data: ImageSet,
    table: MatchTable,
    config: ScanConfig,
    *,
    confirmation: Confirmation | None = None,
    number: int,
    device: str,
    progress: Progress,
) -> Iterator[Check]:
    """Generate rows that chance draws, with the report's settings, and search them.

    Args:
        checkpoint: the model, on `device`.
        index: of the training images, mirrored or not as in the report.
        data: the training images.
        table: matches.csv.
        config: the report's settings.
        confirmation: which images the report says were judged in a faster number format.
        number: rows to draw.
        device: where to sample.
        progress: told how many images are done.
    """
    name = "spot check"
    if (config.sampler.num_steps or 0) > MOST_STEPS:
        detail = f"{config.sampler.num_steps:,} sampling steps are not repeated"
        yield Check(name, False, detail)
        return
    rows = draw_rows(len(table.keys), number)
    recipe = recipe_of(checkpoint, data, config, device)
    seeds = [int(table.keys[row]) for row in rows]
    is_fast = np.array([confirmation is not None and confirmation.is_fast(s) for s in seeds])
    tolerance = np.full(len(rows), ROUNDING)
    if confirmation is not None and confirmation.probe is not None:
        # In another format, or on a machine that rounds otherwise, such an image lies as far away
        # as its margin allows; its verdict stays.
        tolerance[is_fast] = max(ROUNDING, min(confirmation.probe.rms_margin, MOST_ROUNDING))
    recipe, is_fast = _in_its_format(recipe, checkpoint, confirmation, is_fast)
    made = regenerate(checkpoint, seeds, recipe, is_fast=is_fast, progress=progress)
    stated = None if table.class_index is None else table.class_index[rows]
    yield check(
        "classes of the spot check",
        same_classes(made.class_index, stated),
        "are not those drawn from the seeds",
    )
    found = match_images(index, made.images, table.matches.rule)
    before = table.matches[rows]
    differs = differing_rows(found.neighbors, before.neighbors)
    worst = _disagreement(made.images, data, found, before, flips=config.index.flips)
    wrong = differs & ~(worst <= tolerance)
    wrong |= differs & (found.is_copy != before.is_copy)
    detail = ""
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        detail = (
            f"{int(wrong.sum())} of {len(rows)} images drawn at random are not those of their "
            f"rows, first that of seed {seeds[first]}: distances differ by {worst[first]:.2g} gray "
            f"levels, where rounding explains {tolerance[first]:.2g}"
        )
        if found.is_copy[first] != before.is_copy[first]:
            states = "a copy" if before.is_copy[first] else "no copy"
            detail += f", and matches.csv states that it is {states}"
    yield check(name, not wrong.any(), detail)


def _in_its_format(
    recipe: Recipe,
    checkpoint: Checkpoint,
    confirmation: Confirmation | None,
    is_fast: np.ndarray,
) -> tuple[Recipe, np.ndarray]:
    """The recipe in the format of the report, or without it where this machine lacks that."""
    if confirmation is None or not is_fast.any():
        return recipe, np.zeros_like(is_fast)
    execution = replace(recipe.execution, precision=confirmation.precision)
    try:
        resolve_precision(checkpoint.network, execution)
    except ConfigError:
        return recipe, np.zeros_like(is_fast)
    return replace(recipe, execution=execution), is_fast


def recipe_of(checkpoint: Checkpoint, data: ImageSet, config: ScanConfig, device: str) -> Recipe:
    """What the images of a report were made with, on this machine's device."""
    return Recipe(
        config.sampler,
        config.class_index,
        weigh_classes(checkpoint.network, data, config.class_frequencies),
        _here(config, device),
    )


def check_samplers_again(
    checkpoint: Checkpoint,
    index: NeighborIndex,
    table: MatchTable,
    stated: SamplerControl,
    recipe: Recipe,
    progress: Progress,
) -> Check:
    """Sample the first seeds by the published sampler again: a PASS by another one needs it."""
    seeds = [int(key) for key in table.keys]
    found = compare_samplers(
        checkpoint, seeds, recipe, table.matches, index=index, progress=progress
    )
    confidence = table.matches.rule.confidence
    # On another kind of machine, an image at the threshold may fall on its other side.
    near = max(abs(found.published - stated.published), abs(found.as_set - stated.as_set)) <= 1
    forbid = [each.forbids_pass(confidence) for each in (found, stated)]
    is_same = found == stated or (near and forbid[0] == forbid[1])
    detail = f"gives {found.published:,} copies, not {stated.published:,}"
    return check("published sampler", is_same, detail)


def check_facts(checkpoint: Checkpoint, data: ImageSet, report: Report) -> Check:
    """Compare what a report says of a checkpoint, and its warnings, with the checkpoint."""
    found, stated = describe_source(checkpoint, data), report.source
    expected = augmentation_warnings(checkpoint, flips=report.search.flips)
    expected += report.denoising.warnings if report.denoising is not None else ()
    expected += class_warnings(checkpoint.network, data)
    expected += checkpoint.warnings
    wrong = [] if plain(found.model) == plain(stated.model) else ["what it says of itself"]
    if any(warning not in stated.warnings for warning in expected):
        wrong.append("a warning is missing")
    elif found.model is not None and found.model.trained_on_data is False:
        if not any(warning.startswith(OTHER_IMAGES) for warning in stated.warnings):
            wrong.append("the warning of other training images is missing")
    # A model with classes may lack the labels that the comparison needs; one without never does.
    is_compared = not checkpoint.network.label_dim and "optimality" not in report.without
    if is_compared and report.diagnostics.optimality is None:
        wrong.append("the comparison with the optimum is missing")
    return check("facts of the checkpoint", not wrong, f"differ: {', '.join(wrong)}")


def check_denoising_again(
    checkpoint: Checkpoint,
    data: ImageSet,
    stated: DenoisingTest | None,
    config: ScanConfig,
    *,
    device: str,
    progress: Progress,
) -> Check:
    """Test again whether the model denoises the training images: a PASS needs it."""
    name = "denoising test"
    if stated is None:
        return Check(name, False, "is missing")
    found = check_denoising(
        checkpoint.network,
        data,
        sampler=config.sampler.by_edm,
        checkpoint=checkpoint,
        flips=config.index.flips,
        execution=_here(config, device),
        progress=progress,
    )
    is_same = (
        found.allows_pass == stated.allows_pass
        and found.denoises == stated.denoises
        and found.noise_range == stated.noise_range
        and len(found.levels) == len(stated.levels)
        and all(
            np.isclose(one.sigma, other.sigma, rtol=1e-6)
            and np.isclose(one.loss, other.loss, rtol=LOSS_ROUNDING)
            for one, other in zip(found.levels, stated.levels, strict=True)
        )
    )
    return check(name, is_same, "gives other losses than reported")


def _here(config: ScanConfig, device: str) -> Execution:
    batch_size = min(config.execution.batch_size or MOST_AT_A_TIME, MOST_AT_A_TIME)
    return Execution(batch_size, device, "fp32")


def _disagreement(
    images: np.ndarray, data: ImageSet, found: Matches, stated: Matches, *, flips: bool
) -> np.ndarray:
    """By how many RMS gray levels the stated distances are wrong, at most: float [K].

    The distances to the training images that a row names are measured, and none may be nearer than
    the row's nearest.
    """
    num_values = int(np.prod(data.image_shape))
    near = stated.neighbors
    apart = np.abs(np.sqrt(found.neighbors.squared_distance) - np.sqrt(near.squared_distance)).max(
        1
    )
    named = [(near.index[:, 0], near.squared_distance[:, 0])]
    named.append((near.index[:, 1], near.squared_distance[:, 1]))
    named += list(zip(near.index_distinct, near.squared_distance_distinct, strict=True))
    for index, squared_distance in named:
        there = index >= 0
        S = distances_apart(images, data.images[np.where(there, index, 0)], flips=flips)
        wrong = np.abs(np.sqrt(S) - np.sqrt(np.maximum(squared_distance, 0)))
        apart = np.maximum(apart, np.where(there, wrong, 0))
    worst: np.ndarray = apart / np.sqrt(num_values)
    return worst
