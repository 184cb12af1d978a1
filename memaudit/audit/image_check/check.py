"""Does a model give these images back? The question of an owner, or of a person who is shown.

A scan asks what share of the generated images are copies, of whatever training image. A check asks
about single images, which the training set may hold or not. docs/check.md says what follows from
it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from memaudit.audit.augmentation import augmentation_warnings
from memaudit.audit.denoising.loss_test import check_denoising
from memaudit.audit.diagnostics.blind_baseline import compare_blindly
from memaudit.audit.diagnostics.holdout import check_disjoint, check_groups
from memaudit.audit.diagnostics.membership_inference import MembershipConfig, loss_scores
from memaudit.audit.environment import Clock, describe_environment
from memaudit.audit.image_check.asked import Asked, as_asked
from memaudit.audit.image_check.conclude import Measured, conclude
from memaudit.audit.image_check.config import CheckConfig
from memaudit.audit.image_check.controls import ChosenControls, choose_controls
from memaudit.audit.image_check.earlier_scan import EarlierScan
from memaudit.audit.image_check.generator import (
    describe_generator,
    generated_batches,
    open_generator,
    prepared_for,
)
from memaudit.audit.image_check.pool import make_pool, positions_of
from memaudit.audit.image_check.result import (
    SCHEMA,
    CheckedSet,
    CheckReport,
    CheckResult,
    ControlFacts,
)
from memaudit.audit.image_check.sampled import collect_copies, try_returns
from memaudit.audit.image_check.training_place import (
    find_in_training,
    find_places,
    rank_places,
)
from memaudit.audit.memorization.controls import NAMED
from memaudit.audit.neighbors.build import build_index, pixel_index, similar_index
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.other_forms import find_other_form
from memaudit.audit.source import check_roles, describe_source
from memaudit.audit.source_checks import check_same_shape
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.data.doubts import doubts_about
from memaudit.data.images import ImageSet
from memaudit.data.sources import as_images
from memaudit.errors import ConfigError, DataError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.denoiser import Denoiser
from memaudit.progress import Progress, automatic
from memaudit.wording import short

HELD_OUT_NOT_DENOISED = (
    "The model hardly denoises the held-out images. Either it is run otherwise than it was trained "
    "(size, colors, options of the checkpoint), or it knows little but its own training images, "
    "which are not at hand to tell. Copies that were found count; that others were not found means "
    "nothing."
)


@fp32_products(False)
def check_images(
    source: str | Path | np.ndarray | ImageSet | Checkpoint | Denoiser,
    images: Asked,
    *,
    data: str | Path | np.ndarray | ImageSet | None = None,
    holdout: str | Path | np.ndarray | ImageSet | None = None,
    earlier: EarlierScan | None = None,
    config: CheckConfig | None = None,
    progress: Progress = automatic,
) -> CheckResult:
    """Find out whether a model gives certain images back, and whether it was trained on them.

    Each image is ranked among held-out images by how near generated images come to it, and by how
    surely sampling returns to it from noise. If the model treats it like the held-out ones, p ≤ α
    has at most the chance α, whatever the model (docs/check.md); with more images, Holm's
    correction keeps that chance for all of them together.

    Args:
        source: what is asked: a model, or images that were generated already, as in `scan`.
        images: the images asked about, at most 1,000: paths, uint8 [Q, C, H, W] or an `ImageSet`.
        data: the training images, at least 2, if they are at hand.
        holdout: images of the same kind that the model was not trained on. Without them, copies are
            found, but coincidence is not excluded.
        earlier: a scan of the same source and training images, of `read_earlier_scan`: it names
            seeds that gave a training image back, of more samples than are taken here.
        config: how much is sampled.
        progress: told how far each step is; by default shown in a notebook only.

    Raises:
        DataError: shapes that do not match; no images, or too many; held-out images that occur in
            the training set, or of which none is left as a control.
        ConfigError: neither training nor held-out images; a class that the model does not have, or
            that is needed.
        CheckpointError: a checkpoint that cannot be opened; a network that gives numbers that are
            not finite.
        TypeError: a source or images of another kind.

    Examples:
        >>> import numpy as np
        >>> from memaudit import check_images
        >>> images = np.random.default_rng(0).integers(0, 256, (45, 3, 8, 8), np.uint8)
        >>> found = check_images(images[:5], images[:2], data=images[:20], holdout=images[20:])
        >>> [image.finding for image in found.images]
        ['copied', 'copied']
    """
    config, clock = config or CheckConfig(), Clock()
    if data is None and holdout is None:
        raise ConfigError(
            "Neither training nor held-out images are given, so nothing says how near is near. "
            "Give {data}, {holdout}, or best both.",
            field=("data", "holdout"),
        )
    if isinstance(source, str | Path):
        for given in (data, holdout):
            if isinstance(given, str | Path):
                check_roles(source, given)
    asked = as_asked(images, progress=progress)
    train = None if data is None else as_images(data, progress=progress)
    held = None if holdout is None else as_images(holdout, progress=progress)
    opened = open_generator(source, train, config, progress)
    for each in (asked, train, held):
        if each is not None:
            check_same_shape(opened, each)
    _check_sets(opened, train, held)
    if earlier is not None:
        earlier.check_same(opened, train)
    if held is not None:
        held = held.one_per_group()  # images of a group are not independent of each other
    config = prepared_for(config, opened)
    network = opened.network if isinstance(opened, Checkpoint) else None

    # Where the images stand in the training set, and the controls
    device = config.execution.device
    index = pixels = places = None
    if train is not None:
        index = build_index(train, config.index, device=device, progress=progress)
        pixels = (
            index
            if isinstance(index, NeighborIndex)
            else pixel_index(index, train, progress=progress)
        )
        places = find_places(index, pixels, asked.images, config.rule, progress=progress)
    controls = None
    if held is not None:
        controls = choose_controls(
            held, asked, config, index=index, pixels=pixels, progress=progress
        )
    if (
        places is not None
        and pixels is not None
        and controls is not None
        and controls.ratios is not None
        and len(controls.ratios)
    ):
        places = rank_places(
            places,
            pixels,
            controls.ratios,
            # Where near images are common, only the rule says which are near.
            alpha=0.0 if controls.is_dense else 1 - config.rule.confidence,
            duplicate_rms=config.rule.duplicate_rms,
        )
    nowhere: np.ndarray = np.zeros(0, dtype=np.int64)
    together = np.array(asked.images)
    if (
        train is not None
        and places is not None
        and not (controls is not None and controls.is_dense)
    ):
        for q in places.near_copies:  # the model saw the training image, not this copy of it
            together[q] = train.images[places.nearest(q)]
    own_places = (nowhere,) * len(asked) if places is None else places.in_place
    in_place = own_places
    if train is not None and train.group_numbers is not None:
        in_place = tuple(_whole_groups(positions, train.group_numbers) for positions in in_place)
    if controls is not None:
        together = np.concatenate([together, controls.images.images])
        in_place += controls.in_place
    pooled = (
        build_index(_numbered(together), config.index, device=device)
        if index is None
        else similar_index(index, together)
    )
    everything = pooled if pooled.rules else None
    if config.index.match and train is not None:
        references = np.delete(np.arange(len(train)), positions_of(in_place))
        all_images = np.concatenate([together, train.images[references]])
        everything = build_index(
            _numbered(all_images), config.index, device=device, progress=progress
        )
    pool = make_pool(
        pooled,
        len(asked),
        config.rule,
        training=index,
        in_place=in_place,
        everything=everything,
    )
    labels = None
    if network is not None:
        held_out = None if controls is None else controls.images
        labels = _labels(network, asked, train, own_places, held_out, config.class_index)
    clock.lap("search")

    # What is generated
    denoising = None
    reference = train if train is not None else held
    if isinstance(opened, Checkpoint) and reference is not None:
        denoising = check_denoising(
            opened.network,
            reference,
            sampler=config.sampler.by_edm,
            checkpoint=opened,
            flips=config.index.flips,
            execution=config.execution,
            progress=progress,
        )
        clock.lap("denoising test")
    space = pool.index.space
    collected = collect_copies(pool, generated_batches(opened, config, progress), space.num_values)
    clock.lap("generated images")
    tried = None
    if network is not None:
        tried = try_returns(network, pool, labels, config, progress=progress)
        clock.lap("noise and return")
    losses = None
    if network is not None and pool.num_controls:
        scored = replace(_numbered(pool.images), labels=labels)
        how = MembershipConfig(execution=config.execution)
        losses = -loss_scores(network, scored, config=how, progress=progress)
        clock.lap("membership")

    # What follows
    blind = None
    if train is not None and held is not None:
        blind = compare_blindly(train, held, confidence=max(0.95, config.rule.confidence))
    in_training = None
    if train is not None and index is not None and places is not None:
        in_training = find_in_training(places, index, train)
    known = [None if earlier is None or not len(at) else earlier.copies(at) for at in own_places]
    measured = Measured(
        names=tuple(asked.names),
        pool=pool,
        in_training=in_training,
        copies=collected,
        returns=tried,
        losses=losses,
        earlier=tuple(known),
        blind=blind,
        denoises=denoising is None or denoising.allows_pass,
    )
    said, found = conclude(measured, config.rule.confidence)
    warnings = () if denoising is None else denoising.warnings
    if denoising is not None and not denoising.denoises and train is None:
        warnings = (HELD_OUT_NOT_DENOISED, *warnings[1:])  # the first one names training images
    if isinstance(opened, ImageSet):
        flips = config.index.flips or "flips" in config.index.match
        form = find_other_form(pool.index, opened, config.rule, flips=flips, progress=progress)
        warnings += () if form is None else (form.text_about("one of the images"),)
    clock.lap("statistics")
    report = CheckReport(
        schema=SCHEMA,
        headline=said,
        images=found,
        source=describe_generator(opened, collected.total, config),
        earlier_scan=None if earlier is None else earlier.path,
        data=None if train is None else CheckedSet.of(train),
        holdout=None if held is None else CheckedSet.of(held),
        controls=None if controls is None else _control_facts(controls, measured, config),
        space=space,
        flips=config.index.flips,
        match=config.index.match,
        threshold=float(config.rule.threshold),
        duplicate_rms=config.rule.duplicate_rms,
        confidence=config.rule.confidence,
        preparation=str(asked.preparation),
        warnings=(*warnings, *_warnings(opened, train, (asked, held), controls, config)),
        timings=clock.timings(),
        environment=describe_environment(device),
    )
    nearest = None
    if train is not None and in_training is not None:
        nearest = np.stack([train.images[place.index] for place in in_training])
    return CheckResult(report, np.asarray(asked.images), nearest, collected.pictures)


def _numbered(images: np.ndarray) -> ImageSet:
    """Images uint8 [N, C, H, W] without names of their own."""
    return ImageSet(images, [str(i) for i in range(len(images))], source="the images")


def _whole_groups(positions: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Positions of all training images in the groups of some: no control has its group there."""
    found: np.ndarray = np.flatnonzero(np.isin(numbers, numbers[positions]))
    return found


def _check_sets(
    source: Checkpoint | ImageSet, data: ImageSet | None, holdout: ImageSet | None
) -> None:
    """Refuse sets that are too small, or that share images."""
    if isinstance(source, ImageSet) and not len(source):
        raise DataError(f"{source.source} holds no images. At least 1 generated image is needed.")
    if data is not None and len(data) < 2:
        raise DataError(
            f"{data.source} holds {len(data)} image. The distance ratio needs a second neighbor, "
            "so at least 2 training images are required.",
            field="data",
        )
    if holdout is not None and not len(holdout):
        raise DataError(
            f"{holdout.source} holds no images; leave {{holdout}} out.", field="holdout"
        )
    if data is not None and holdout is not None:
        check_disjoint(data, holdout)
        check_groups(data, holdout)


def _labels(
    network: Denoiser,
    asked: ImageSet,
    data: ImageSet | None,
    in_place: Sequence[np.ndarray],
    controls: ImageSet | None,
    class_index: int | None,
) -> np.ndarray | None:
    """The class of every image of the pool, int64 [P], for a model that has classes.

    Raises:
        ConfigError: the class of an image is not known.
        DataError: held-out images without labels.
    """
    if not network.label_dim:
        return None
    num_images = len(asked) + (0 if controls is None else len(controls))
    if class_index is not None:
        return np.full(num_images, class_index, dtype=np.int64)
    labels = np.full(len(asked), -1, dtype=np.int64)
    if asked.labels is not None:
        labels[:] = asked.labels
    elif data is not None and data.labels is not None:
        for q, positions in enumerate(in_place):
            if len(positions):
                labels[q] = data.labels[positions[0]]
    unknown = np.flatnonzero((labels < 0) | (labels >= network.label_dim))
    if len(unknown):
        raise ConfigError(
            f"The model generates by class, and the class of {short(asked.names[unknown[0]])} is "
            "not known. Say with {class_index} which class the images are of.",
            field="class_index",
        )
    if controls is None:
        return labels
    if controls.labels is None or controls.num_classes > network.label_dim:
        raise DataError(
            f"{controls.source} has {controls.num_classes or 'no'} classes but the model has "
            f"{network.label_dim}; give held-out images with the labels that the model was trained "
            "with.",
            field="holdout",
        )
    return np.concatenate([labels, controls.labels])


def _control_facts(
    controls: ChosenControls, measured: Measured, config: CheckConfig
) -> ControlFacts:
    of_controls = measured.copies.num_copies[measured.pool.num_asked :]
    return ControlFacts(
        num_controls=len(controls.images),
        num_examined=controls.num_examined,
        near_training=controls.near_training,
        num_set_apart=len(controls.set_apart),
        set_apart=controls.set_apart[:NAMED],
        copied=clopper_pearson(
            int((of_controls > 0).sum()), len(of_controls), config.rule.confidence
        ),
        blind=measured.blind,
    )


def _warnings(
    source: Checkpoint | ImageSet,
    data: ImageSet | None,
    others: Sequence[ImageSet | None],
    controls: ChosenControls | None,
    config: CheckConfig,
) -> tuple[str, ...]:
    """What a reader must know before trusting the answers."""
    found: list[str] = []
    if isinstance(source, Checkpoint):
        found += augmentation_warnings(source, flips=config.index.flips)
    if data is not None:
        found += describe_source(source, data).warnings
    elif isinstance(source, Checkpoint):
        found += source.warnings
    else:
        found += doubts_about(source)
    for images in others:
        if images is not None:
            found += doubts_about(images)
    if controls is not None and controls.num_repeated > controls.num_examined // 2:
        found.append(
            f"Of {controls.num_examined:,} held-out images, {controls.num_repeated:,} are "
            "duplicates of others and do not count as controls: a rank counts different images."
        )
    if controls is not None and controls.is_dense:
        assert controls.near_training is not None
        found.append(
            "Near copies of training images are common among the held-out images: "
            f"{controls.near_training}. Being near to a training image does not show that an image "
            "was in the training set, and being copied by the rule may be coincidence."
        )
    return tuple(found)
