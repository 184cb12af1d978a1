"""The audit: generate, find each image's nearest training images, count the copies.

A model is also held against the closed-form optimum, which tells how close it is to copying before
a single copy appears. docs/method.md has the definitions.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.authpct import auth_pct
from memaudit.audit.diagnostics.holdout import HoldoutControl, check_disjoint, judge_holdout
from memaudit.audit.diagnostics.membership_inference import (
    Membership,
    MembershipConfig,
    check_controls,
    membership,
)
from memaudit.audit.diagnostics.noise_and_return import ReturnTest, ReturnTestConfig, return_test
from memaudit.audit.diagnostics.optimality import Optimality, OptimalityConfig, compare_with_optimum
from memaudit.audit.environment import Clock, describe_environment
from memaudit.audit.memorization.findings import Findings, summarize_matches
from memaudit.audit.memorization.matches import Leak, Matches, match_images
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.build import build_index, pixel_index
from memaudit.audit.neighbors.duplicates import duplicates_of
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.results import SearchStatistics
from memaudit.audit.neighbors.units import Space
from memaudit.audit.report.tables import Keys
from memaudit.audit.sampling import gate_of, sample_and_match
from memaudit.audit.scan_state import ScanState
from memaudit.audit.source import check_comparable, check_fits
from memaudit.audit.statistics.gate import Decision
from memaudit.audit.statistics.intervals import Proportion
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.generate import sampling_identity
from memaudit.progress import Progress, silent


@dataclass(frozen=True)
class ScanResult:
    """What a scan found, with all that is needed to redo it."""

    source: dict[str, Any]
    """kind ("checkpoint" or "images"), path, sha256; of a checkpoint also config and provenance."""
    generated: np.ndarray = field(repr=False)
    """uint8 [M, C, H, W]: the images that were judged."""
    keys: Keys = field(repr=False)
    """One a generated image: its seed, or its name where images were given."""
    class_index: np.ndarray | None = field(repr=False)
    """int64 [M]: the class each image was generated for, or None."""
    data: ImageSet = field(repr=False)
    """The training images."""
    config: ScanConfig
    space: Space
    """What the distances are distances of."""
    search: dict[str, Any]
    """How neighbors were searched: backend, memory, and what the proofs took."""
    matches: Matches = field(repr=False)
    findings: Findings
    """Ratios, verdict and leaks: all that follows from the matches."""
    duplicates: dict[int, tuple[int, ...]] = field(repr=False)
    """Of each leaking training image: its duplicates among them, by index; empty where features
    were searched."""
    holdout: HoldoutControl | None
    """The same rule on held-out images; None without any."""
    authentic: Proportion
    """Images farther from their nearest training image than that is from the nearest other: AuthPct
    is its ratio in percent."""
    optimality: Optimality | None = field(repr=False)
    """The model against the optimum of its training images; None where there is no model, or one
    with classes that the training images do not have."""
    return_test: ReturnTest | None = field(repr=False)
    """Which training images sampling returns to; None where it was not asked for."""
    membership: Membership | None
    """How well the loss tells training from held-out images; None where it was not asked for."""
    timings: dict[str, float]
    """Seconds of each step, and in total."""
    environment: dict[str, str]
    """Versions, device and time."""

    @property
    def ratios(self) -> dict[str, Proportion]:
        """ "paper", "distinct" (the headline) and "distinct_at_0"."""
        return self.findings.ratios

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """Training images that leaked, most copied first."""
        return self.findings.leaks

    @property
    def decision(self) -> Decision | None:
        """Of the gate; None without one."""
        return self.findings.decision


def scan(
    source: Checkpoint | ImageSet,
    data: ImageSet,
    *,
    holdout: ImageSet | None = None,
    index: ImageSearch | None = None,
    config: ScanConfig | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ScanResult:
    """Measure how many generated images copy a training image.

    An image is memorized iff ‖x − NN1‖ < t·‖x − NN2‖ (Yoon et al. 2023; t = 1/3 in Gu et al.,
    arXiv:2310.02664), decided in integers on 8-bit pixels. See docs/method.md.

    Args:
        source: a checkpoint to sample from, or images that were already generated.
        data: the training images, at the source's shape; at least 2.
        holdout: images like them that the model was not trained on: a floor for the ratio, and
            images to compare the model's loss on.
        index: of the training images, where it is there already or searches otherwise.
        config: how to generate and judge.
        folder: where generated images are kept until the report is written there, so that a scan
            that is killed goes on where it was. None: they are kept in memory alone.
        overwrite: drop the images that another scan left in the folder.
        progress: told how far each step is.

    Raises:
        DataError: shapes that do not match, fewer than 2 training images, held-out images that
            occur in the training set.
        ConfigError: a class the model does not have; a folder with another scan's images.
        CheckpointError: the network gives numbers that are not finite.
    """
    config = config or ScanConfig()
    name = source.source if isinstance(source, ImageSet) else source.path
    check_comparable(source, name, data)
    if holdout is not None:
        check_comparable(source, name, holdout)
        check_disjoint(data, holdout)
    if config.return_test or config.membership:
        _check_further_tests(source, data, holdout, config)
    clock = Clock()

    if index is None:
        index = build_index(data, device=config.device, progress=progress)
    clock.lap("index")

    if isinstance(source, ImageSet):
        keys: Keys = tuple(source.names)
        generated, class_index = source.images, source.labels
        matches = match_images(index, generated, config.rule, progress=progress)
        clock.lap("search")
    else:
        state = None
        if folder is not None:
            identity = sampling_identity(
                source, config.sampler, class_index=config.class_index, device=config.device
            )
            state = ScanState(Path(folder), identity, config.seeds, overwrite=overwrite)
        sampled = sample_and_match(
            source, config, index=index, state=state, clock=clock, progress=progress
        )
        generated, class_index, matches = sampled.images, sampled.class_index, sampled.matches
        keys = config.seeds[: len(generated)]

    findings = summarize_matches(
        matches,
        data.names,
        num_images=len(data),
        class_index=class_index,
        gate=gate_of(source, config),
    )
    duplicates = {}
    if isinstance(index, NeighborIndex):
        leaking = [leak.index for leak in findings.leaks]
        duplicates = duplicates_of(index, leaking, duplicate_rms=config.duplicate_rms)
    authentic = auth_pct(
        matches.nn1,
        matches.squared_distance1,
        index=index,
        duplicate_rms=config.duplicate_rms,
        confidence=config.confidence,
    )
    control = None
    if holdout is not None:
        control = judge_holdout(
            holdout,
            data=data,
            generated=generated,
            matches=matches,
            ratio=findings.ratios["distinct"],
            index=index,
            progress=progress,
        )
    clock.lap("control")

    optimality = returned = None
    if isinstance(source, Checkpoint) and (config.optimum_images or config.return_test):
        pixels = pixel_index(index, data, progress=progress)
        if config.optimum_images:
            optimality = _compare(source, data, holdout, pixels, config, progress)
        clock.lap("optimum")
        if config.return_test:
            returned = _return_test(source, data, holdout, pixels, config, progress)
        clock.lap("return_test")

    members = None
    if isinstance(source, Checkpoint) and config.membership and holdout is not None:
        members = membership(
            source.network,
            data,
            holdout,
            config=MembershipConfig(
                confidence=config.confidence, batch_size=config.batch_size, device=config.device
            ),
            progress=progress,
        )
    clock.lap("membership")
    return ScanResult(
        source=_described(source, name, data),
        generated=generated,
        keys=keys,
        class_index=class_index,
        data=data,
        config=config,
        space=index.space,
        search=_search_dict(index, matches),
        matches=matches,
        findings=findings,
        duplicates=duplicates,
        holdout=control,
        authentic=authentic,
        optimality=optimality,
        return_test=returned,
        membership=members,
        timings=clock.timings(),
        environment=describe_environment(config.device),
    )


def _check_further_tests(
    source: Checkpoint | ImageSet, data: ImageSet, holdout: ImageSet | None, config: ScanConfig
) -> None:
    """Refuse what the return test and membership could not do, before anything is sampled."""
    if isinstance(source, ImageSet):
        raise ConfigError(
            "return_test and membership ask a model, but the images are given. Leave them out, or "
            "scan the checkpoint."
        )
    for images in (data,) if holdout is None else (data, holdout):
        check_fits(source.network, images)
    if config.membership:
        if holdout is None:
            raise ConfigError(
                "Membership compares training with held-out images, but none are given; pass some "
                "(--holdout PATH)."
            )
        check_controls(holdout, MembershipConfig())


def _return_test(
    checkpoint: Checkpoint,
    data: ImageSet,
    holdout: ImageSet | None,
    index: NeighborIndex,
    config: ScanConfig,
    progress: Progress,
) -> ReturnTest:
    """Noise and return, judged in pixels by the scan's rule."""
    return return_test(
        checkpoint.network,
        data,
        holdout=holdout,
        index=index,
        config=ReturnTestConfig(
            sampler=config.sampler,
            threshold=config.threshold,
            duplicate_rms=config.duplicate_rms,
            confidence=config.confidence,
            batch_size=config.batch_size,
            device=config.device,
        ),
        progress=progress,
    )


def _search_dict(index: ImageSearch, matches: Matches) -> dict[str, Any]:
    encoder = None
    if isinstance(index, FeatureIndex):
        encoder = {
            "path": index.encoder.path,
            "sha256": index.encoder.sha256,
            "preprocessing": asdict(index.encoder.preprocessing),
            "metric": index.metric,
        }
    return {
        "encoder": encoder,
        "flips": index.flips,
        "num_bytes": index.num_bytes,
        **asdict(matches.neighbors.statistics or SearchStatistics(index.backend)),
    }


def _described(source: Checkpoint | ImageSet, name: str, data: ImageSet) -> dict[str, Any]:
    if isinstance(source, ImageSet):
        return {"kind": "images", "path": name, "sha256": source.fingerprint}
    return {
        "kind": "checkpoint",
        "path": name,
        "sha256": source.sha256,
        "format": source.format,
        "arch": source.arch,
        "config": source.config,
        "provenance": source.provenance,
        "trained_on_data": _trained_on(source, data),
        "warnings": [*source.warnings, *_data_warnings(source, data)],
    }


def _trained_on(checkpoint: Checkpoint, data: ImageSet) -> bool | None:
    """Whether the checkpoint says that `data` is what trained it; None where it does not say."""
    stated = checkpoint.provenance.get("data_fingerprint")
    return None if stated is None else stated == data.fingerprint


def _data_warnings(checkpoint: Checkpoint, data: ImageSet) -> list[str]:
    if _trained_on(checkpoint, data) is not False:
        return []
    trained = checkpoint.provenance
    number = trained.get("num_images")
    counted = f"{number:,} images" if isinstance(number, int) else "images"
    return [
        f"The training images given ({len(data):,} of {data.source}) are not those that the "
        f"checkpoint says it was trained on ({counted} of {trained.get('data_source')}, "
        f"fingerprint {trained['data_fingerprint']}). Copies of images that are missing here are "
        "not found, and the ratio is not that of the training set."
    ]


def _compare(
    checkpoint: Checkpoint,
    data: ImageSet,
    holdout: ImageSet | None,
    index: NeighborIndex,
    config: ScanConfig,
    progress: Progress,
) -> Optimality | None:
    """The model against the optimum, on no more images than were generated."""
    label_dim = checkpoint.network.label_dim
    sets = [data] if holdout is None else [data, holdout]
    if label_dim and any(not 0 < images.num_classes <= label_dim for images in sets):
        return None
    at_most = max(2, len(config.seeds))
    return compare_with_optimum(
        checkpoint.network,
        data,
        holdout=holdout,
        index=index,
        config=OptimalityConfig(
            num_images=min(config.optimum_images, at_most),
            num_trajectories=min(config.optimum_trajectories, at_most),
            sampler=config.sampler,
            class_index=config.class_index,
            confidence=config.confidence,
            batch_size=config.batch_size,
            device=config.device,
        ),
        progress=progress,
    )
