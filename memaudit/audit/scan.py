"""The audit: generate, find each image's nearest training images, count the copies.

A scan is a pipeline: what is audited and the training images are opened (source.py), a model is
tested on them (denoising/), images are generated and judged (sampling.py), conclusions are drawn
from the matches (memorization/), and the diagnostics stand beside them (diagnostics/).
docs/method.md has the definitions.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.audit.augmentation import augmentation_warnings, search_what_was_trained_on
from memaudit.audit.choices import choices_of
from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmation import PROBE_SIZE
from memaudit.audit.confirmed_images import choose_precision, precision_that_pays
from memaudit.audit.denoising.loss_test import check_denoising
from memaudit.audit.denoising.noise_range import check_noise_range
from memaudit.audit.diagnostics.diagnostic import Context, Images, Setting
from memaudit.audit.diagnostics.holdout import check_disjoint, check_groups
from memaudit.audit.diagnostics.registry import check_diagnostics, run_diagnostics
from memaudit.audit.environment import Clock, describe_environment
from memaudit.audit.memorization.controls import measure_controls
from memaudit.audit.memorization.findings import Gate, summarize_matches
from memaudit.audit.memorization.matches import match_images
from memaudit.audit.memorization.screened import screening_key
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.build import build_index, describe_search, open_rules, pixel_index
from memaudit.audit.neighbors.duplicates import duplicates_of
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.other_forms import check_form, find_other_form
from memaudit.audit.regeneration import Recipe
from memaudit.audit.result import ScanResult
from memaudit.audit.sampler_control import compare_samplers, is_changed
from memaudit.audit.sampling import JudgedSamples, sample_and_match
from memaudit.audit.scan_state import ScanState, was_compiled
from memaudit.audit.scanned import Keys
from memaudit.audit.screening import (
    refuse_screening_of_images,
    screen_and_match,
    screening_identity,
)
from memaudit.audit.source import as_source, check_roles, describe_source
from memaudit.audit.source_checks import (
    check_comparable,
    check_may_pass,
    class_warnings,
    weigh_classes,
)
from memaudit.audit.statistics.conformal import conformal_p
from memaudit.audit.statistics.floor_power import gate_power_text
from memaudit.audit.unchosen_seeds import are_consecutive, seeds_from_nonce
from memaudit.audit.verdict import conclude
from memaudit.data.doubts import doubts_about
from memaudit.data.images import ImageSet
from memaudit.data.sources import as_images
from memaudit.errors import ConfigError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.compile_choice import settle_compile
from memaudit.models.denoiser import Denoiser
from memaudit.models.generate import check_classes, sampling_identity
from memaudit.models.group_size import settled
from memaudit.models.guidance import check_guidance
from memaudit.models.own_sampler import resolve_sampler
from memaudit.progress import Progress, automatic


def say_nothing(text: str) -> None:
    """Leave unsaid what `scan` could tell before it samples."""


@fp32_products(False)
def scan(
    source: str | Path | np.ndarray | ImageSet | Checkpoint | Denoiser,
    data: str | Path | np.ndarray | ImageSet,
    *,
    holdout: str | Path | np.ndarray | ImageSet | None = None,
    config: ScanConfig | None = None,
    index: ImageSearch | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    fresh: bool = False,
    progress: Progress = automatic,
    tell: Callable[[str], None] = say_nothing,
) -> ScanResult:
    """Measure how many generated images copy a training image.

    An image is memorized iff ‖x − NN1‖ < t·‖x − NN2‖ (Yoon et al. 2023; t = 1/3 in Gu et al.,
    arXiv:2310.02664), decided in integers on 8-bit pixels. See docs/method.md.

    Args:
        source: what is audited. A model to sample from: the path of a checkpoint, a `Checkpoint`,
            a denoiser, or the word "optimum". Or images that were generated already: the path of a
            folder, zip or array, an `ImageSet`, or uint8 [M, C, H, W].
        data: the training images, at least 2, of the source's shape: a path, an `ImageSet` or uint8
            [N, C, H, W].
        holdout: images like them that the model was not trained on; they give the ratio a floor.
        config: how to generate and judge.
        index: an index of the training images, if one exists already. None: built or taken
            from the cache, as `config.index` says.
        folder: where generated images are kept until the report is written there, so that a scan
            that is killed resumes where it was, and one that ended INCONCLUSIVE continues with more
            seeds. None: they are kept in memory only.
        overwrite: discard the images that another scan or an INCONCLUSIVE one left in the folder.
        fresh: discard whatever images an earlier run left in the folder, and generate all anew.
        progress: told how far each step is; by default shown in a notebook only.
        tell: told, before anything is sampled, what a gate can show with these controls.

    Raises:
        DataError: shapes that do not match, fewer than 2 training images, held-out images that
            occur in the training set.
        ConfigError: a class that the model does not have; a folder with another scan's images, or
            under a gate with images that this model does not make; a
            diagnostic that does not exist, or that cannot run on what is given; a gate on a model
            whose own noise range cuts what is needed to sample it.
        CheckpointError: a checkpoint that cannot be opened; a network that gives numbers that are
            not finite.
        TypeError: a source or images of another kind.

    Examples:
        >>> import numpy as np
        >>> import memaudit
        >>> train = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), np.uint8)
        >>> fresh = np.random.default_rng(1).integers(0, 256, (30, 3, 8, 8), np.uint8)
        >>> memaudit.scan(np.concatenate([train[:10], fresh]), train)
        ScanResult(10 of 40 generated images copy a training image, 10 of 50 training images leak)
    """
    config = config or ScanConfig()
    device = config.execution.device
    if isinstance(source, str | Path) and isinstance(data, str | Path):
        check_roles(source, data)
    is_gated = config.fail_above is not None  # a verdict is worth decoding what is in the cache
    data = as_images(data, check_all=is_gated, progress=progress)
    source = as_source(
        source,
        data,
        conditional=config.is_by_class,
        device=device,
        check_all=is_gated,
        progress=progress,
    )
    if holdout is not None:
        holdout = as_images(holdout, check_all=is_gated, progress=progress)
    for given in (data, holdout):
        if given is not None:
            check_comparable(source, given)
    if holdout is not None:
        check_disjoint(data, holdout)  # whatever diagnostics are left out
    check_groups(data, holdout)
    if config.fail_above_groups is not None and data.num_groups is None:
        raise ConfigError(
            "{fail_above_groups} is a limit on the share of groups that are copied, but the "
            "training images have none. Say which belong together with {groups_from}.",
            field=("fail_above_groups", "groups_from"),
        )
    if holdout is not None:
        holdout = holdout.one_per_group()
    if config.fail_above is not None:
        check_may_pass(source, data)
    if isinstance(source, Checkpoint) and index is None:
        config = search_what_was_trained_on(config, source)
    if index is not None and config.index.match and not index.rules:
        index = copy(index)
        index.rules = open_rules(index, config.index, progress=progress)
    if config.screening is not None and isinstance(source, ImageSet):
        refuse_screening_of_images()
    if config.nonce is not None:
        config = _with_seeds_of_nonce(config, source, data)
    if isinstance(source, Checkpoint):
        if config.class_index is not None:
            check_classes(source.network, [config.class_index])
        check_guidance(source.network, config.sampler.guidance)
        config = replace(config, sampler=resolve_sampler(config.sampler, source.network))
        compares_features = config.index.compares_features or isinstance(index, FeatureIndex)
        asked = config.execution.precision
        config = choose_precision(
            config,
            source,
            compares_features=compares_features,
            has_groups=data.group_numbers is not None,
        )
        with_more_seeds = config.execution.precision
        config = precision_that_pays(config)
        if asked == with_more_seeds != config.execution.precision:
            tell(
                f"All images are sampled in fp32: {asked} begins after {2 * PROBE_SIZE:,} images, "
                f"since {PROBE_SIZE:,} of them are sampled in both."
            )
    network = source.network if isinstance(source, Checkpoint) else None
    execution = settled(config.execution, network)
    before = None if folder is None else was_compiled(Path(folder))
    if execution.compile == "auto" and before is not None:  # more seeds would be more work
        execution = replace(execution, compile="on" if before else "off")
    execution = settle_compile(
        execution,
        network,
        num_images=len(config.seeds),
        sampler=config.sampler,
    )
    config = replace(config, execution=execution)
    clock = Clock()

    def open_pixel_index() -> NeighborIndex:
        assert index is not None
        return pixel_index(index, data, progress=progress)

    setting = Setting(
        config=replace(config, execution=replace(config.execution, precision="fp32")),
        data=data,
        holdout=holdout,
        model=network,
        open_index=cache(open_pixel_index),
        progress=progress,
    )
    check_diagnostics(setting)
    class_weights = denoising = None
    if isinstance(source, Checkpoint):
        class_weights = weigh_classes(source.network, data, config.class_frequencies)
        denoising = check_denoising(
            source.network,
            data,
            sampler=config.sampler.by_edm,
            checkpoint=source,
            flips=config.index.flips,
            execution=config.execution,
            progress=progress,
        )
        if config.fail_above is not None:
            check_noise_range(denoising.noise_range)
        clock.lap("denoising test")
    if index is not None and not _has_groups_of(index, data):
        raise ConfigError(
            "The index was built without the groups of the training images, or with others. Build "
            "it with them, or leave it out."
        )
    if index is None:
        index = build_index(
            data, config.index, device=device, keep_features=not is_gated, progress=progress
        )
    clock.lap("index")
    controls, holdout_matches = measure_controls(
        index,
        data,
        holdout,
        config.rule,
        open_pixel_index=setting.open_index,
        progress=progress,
    )
    gate = None
    if config.fail_above is not None:
        floor = controls.in_gate
        sequential = config.is_sequential and isinstance(source, Checkpoint)
        whole_images = controls.whole_images_in_gate
        gate = Gate(config.fail_above, sequential, floor, whole_images)
        if floor.total:
            tell(
                gate_power_text(
                    config.fail_above,
                    config.rule.confidence,
                    floor.count,
                    floor.total,
                    floor.control,
                    whole_images=whole_images,
                )
            )
        elif not controls.is_dense:
            tell(f"Nothing can FAIL by the count: {controls.missing}.")
    clock.lap("controls")

    screened = form = None
    if isinstance(source, ImageSet):
        matches = match_images(index, source.images, config.rule, progress=progress)
        samples = JudgedSamples(source.images, source.labels, matches)
        keys: Keys = tuple(source.names)
        form = find_other_form(
            index,
            source,
            config.rule,
            flips=index.flips or "flips" in config.index.match,
            progress=progress,
        )
        clock.lap("search")
    else:
        state, identity = None, {}
        if folder is not None:
            identity = sampling_identity(
                source,
                config.sampler,
                class_index=config.class_index,
                class_weights=class_weights,
                execution=replace(config.execution, precision=with_more_seeds),
            )
            identity |= _gate_identity(config, data, holdout)
            identity |= screening_identity(config, data)
            state = ScanState(
                Path(folder), identity, config.seeds, overwrite=overwrite, fresh=fresh
            )
        if config.screening is None:
            samples = sample_and_match(
                source,
                config,
                index=index,
                gate=gate,
                class_weights=class_weights,
                state=state,
                clock=clock,
                progress=progress,
            )
            keys = tuple(config.seeds[: len(samples.images)])
        else:
            screened = screen_and_match(
                source,
                config,
                index=index,
                class_weights=class_weights,
                key=screening_key(config.nonce, source.sha256, data.fingerprint),
                folder=None if folder is None else Path(folder),
                identity=identity,
                clock=clock,
                progress=progress,
            )
            samples, keys = screened.samples, screened.seeds
        config = _as_evaluated(config, samples)
    is_drawn = slice(None) if screened is None else np.flatnonzero(screened.rows.is_drawn)
    """Rows that are a random sample of what the source makes."""

    sampler_control = None
    is_whole = isinstance(source, Checkpoint) and screened is None
    if gate is not None and is_whole and is_changed(config.sampler):
        assert isinstance(source, Checkpoint)
        sampler_control = compare_samplers(
            source,
            list(config.seeds[: len(samples.images)]),
            Recipe(config.sampler, config.class_index, class_weights, config.execution),
            samples.matches,
            index=index,
            progress=progress,
        )
        clock.lap("sampler control")

    findings = summarize_matches(
        samples.matches,
        data.names,
        gate=gate,
        floors=controls.floor,
        alone=controls.leave_one_out,
        screened=None if screened is None else screened.rows,
        num_screened=len(config.seeds),
        groups=None if data.group_numbers is None else data.groups,
    )
    duplicates = {}
    if isinstance(index, NeighborIndex):
        leaking = [leak.index for leak in findings.leaks]
        duplicates = duplicates_of(index, leaking, duplicate_rms=config.rule.duplicate_rms)
    clock.lap("duplicates")

    images = Images(setting, samples.images[is_drawn], index, controls, holdout_matches)
    conformal = None
    if holdout is not None and screened is None:  # a false-discovery rate is one of all images
        conformal = conformal_p(
            samples.matches.distance_ratio, images.holdout_matches.distance_ratio
        )
    context = Context(
        matches=samples.matches[is_drawn],
        findings=findings,
        class_index=None if samples.class_index is None else samples.class_index[is_drawn],
        num_train=len(data),
        fail_above=config.fail_above,
        images=images,
        conformal=conformal,
        num_groups=data.num_groups,
        group_kind=data.group_kind,
        fail_above_groups=config.fail_above_groups,
    )
    diagnostics = run_diagnostics(context, on_done=clock.lap)
    warnings = denoising.warnings if denoising else ()
    if isinstance(source, Checkpoint):
        warnings += augmentation_warnings(source, flips=index.flips)
        warnings += class_warnings(source.network, data)
    if form is not None:
        warnings += (form.text,)
    warnings += _encoder_warnings(index, gated=config.fail_above is not None)
    if holdout is not None:
        warnings += doubts_about(holdout)
    described = describe_source(source, data, warnings=warnings)
    search = describe_search(index, samples.matches.neighbors)
    conclusion = conclude(
        findings,
        controls=controls,
        diagnostics=diagnostics,
        denoising=denoising,
        source=described,
        num_train=len(data),
        rule=config.rule,
        flips=index.flips,
        exact=index.exact,
        match=search.match,
        fail_on=config.fail_on,
        sampler_control=sampler_control,
        seeds_chosen=isinstance(source, Checkpoint)
        and not are_consecutive(config.seeds if screened else config.seeds[: len(keys)]),
        screening=None if screened is None else screened.screening,
        confirmation=samples.confirmation,
        class_index=config.class_index if isinstance(source, Checkpoint) else None,
        choices=choices_of(
            config,
            described,
            data,
            given=source if isinstance(source, ImageSet) else None,
            confirmation=samples.confirmation,
        ),
    )
    if conclusion.verdict == "PASS" and config.fail_above is not None:
        check_form(form, config.fail_above)
    return ScanResult(
        source=described,
        denoising=denoising,
        generated=samples.images,
        keys=keys,
        class_index=samples.class_index,
        data=data,
        config=config,
        space=index.space,
        search=search,
        matches=samples.matches,
        conformal=conformal,
        controls=controls,
        findings=findings,
        duplicates=duplicates,
        diagnostics=diagnostics,
        conclusion=conclusion,
        timings=clock.timings(),
        environment=describe_environment(device),
        sampler_control=sampler_control,
        screening=None if screened is None else screened.screening,
        screened=None if screened is None else screened.rows,
        num_kept=samples.num_kept,
        num_regenerated=samples.num_regenerated,
        confirmation=samples.confirmation,
    )


def _as_evaluated(config: ScanConfig, samples: JudgedSamples) -> ScanConfig:
    """With the batch size that was left after memory ran out on a GPU."""
    if samples.group_size is None or config.execution.device == "cpu":
        return config
    return replace(config, execution=replace(config.execution, batch_size=samples.group_size))


def _with_seeds_of_nonce(
    config: ScanConfig, source: Checkpoint | ImageSet, data: ImageSet
) -> ScanConfig:
    """The configuration with the seeds that its nonce draws.

    Raises:
        ConfigError: images were given, which have no seeds.
    """
    if not isinstance(source, Checkpoint):
        raise ConfigError(
            "{nonce} draws seeds for a model, but images were given. Leave it out.", field="nonce"
        )
    assert config.nonce is not None
    seeds = seeds_from_nonce(config.nonce, source.sha256, data.fingerprint, len(config.seeds))
    return replace(config, seeds=seeds)


def _has_groups_of(index: ImageSearch, data: ImageSet) -> bool:
    """Whether an index that was given tells the groups of the training images apart, or neither."""
    numbers = data.group_numbers
    if index.groups is None or numbers is None:
        return index.groups is numbers
    return np.array_equal(index.groups, numbers)


def _encoder_warnings(index: ImageSearch, *, gated: bool) -> tuple[str, ...]:
    """What a gate that compares features cannot know."""
    if not gated or not isinstance(index, FeatureIndex):
        return ()
    encoder = index.encoder
    hashed = "" if encoder.sha256 is None else f" (SHA-256 {encoder.sha256[:16]}…)"
    what = "which is a program: one" if encoder.is_program else "whose weights a file gave: some"
    return (
        f"The verdict is as good as the encoder {encoder.name}{hashed}, {what} made to hide copies "
        f"{'does' if encoder.is_program else 'do'}. Agree on the encoder, and audit the pixels as "
        "well.",
    )


def _gate_identity(config: ScanConfig, data: ImageSet, holdout: ImageSet | None) -> dict[str, Any]:
    """What a gate's verdict depends on besides the images generated, as JSON values.

    Whoever continues a scan that did not decide has seen its ratio, and must not choose these anew.
    """
    if config.fail_above is None:
        return {"limit": None}
    return {
        "limit": config.fail_above,
        "fail_on": list(config.fail_on),
        "limit of groups": config.fail_above_groups,
        "confidence": config.rule.confidence,
        "rule": [str(config.rule.threshold), config.rule.duplicate_rms],
        "search": config.index.identity,
        "training set": data.fingerprint,
        "groups": data.groups_fingerprint,
        "held-out set": None if holdout is None else holdout.fingerprint,
    }
