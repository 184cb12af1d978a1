"""The audit: generate, find each image's nearest training images, count the copies.

A model is also held against the closed-form optimum, which tells how close it is to copying before
a single copy appears.
"""

import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

import memaudit
from memaudit.audit.neighbors import NeighborIndex
from memaudit.audit.optimality import Optimality, OptimalityConfig, compare_with_optimum
from memaudit.audit.ratio import memorized
from memaudit.audit.source import check_comparable
from memaudit.audit.statistics import Proportion, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.generate import SamplerConfig, generate_images
from memaudit.progress import Progress, silent

SEARCH_BATCH = 1024
"""Queries searched at a time: enough for the matrix product, little enough to show progress."""


@dataclass(frozen=True)
class ScanConfig:
    """How images are generated and judged. The defaults are the published ones."""

    seeds: tuple[int, ...] = tuple(range(10_000))
    """One seed a generated image; not used where the images are given."""
    sampler: SamplerConfig = SamplerConfig()
    """EDM's Algorithm 2 with 18 steps."""
    class_index: int | None = None
    """One class for all images, or None: drawn from each image's seed."""
    threshold: Fraction = Fraction(1, 3)
    """Memorized iff the distance to the first neighbour is less than this share of the second's."""
    duplicate_rms: float = 8.0
    """Training images within so many RMS grey levels are duplicates of each other."""
    confidence: float = 0.95
    """Of all intervals."""
    optimum_images: int = 256
    """Training images to compare model and optimum on, at most one a seed; 0 for no comparison."""
    optimum_trajectories: int = 64
    """Images to sample from both, from the same noise; at most one a seed."""
    batch_size: int = 64
    """Images sampled at a time; the result does not depend on it."""
    device: str = "cpu"
    """`cpu` or `cuda`."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ConfigError("0 samples were asked for; at least 1 is needed (--samples 10000).")
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(
                "The seeds repeat themselves, which would count an image twice; give each once."
            )
        if not 0 < self.threshold < 1:
            raise ConfigError(
                f"The threshold is {self.threshold}; a share between 0 and 1 is needed, "
                "such as 1/3."
            )
        if not 0 <= self.duplicate_rms <= 255:
            raise ConfigError(
                f"duplicate_rms is {self.duplicate_rms}; grey levels from 0 to 255 are needed."
            )
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}; between 0 and 1 is needed.")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; at least 1 is needed.")
        if self.optimum_images != 0 and min(self.optimum_images, self.optimum_trajectories) < 2:
            raise ConfigError(
                f"The optimum is to be compared on {self.optimum_images} images and "
                f"{self.optimum_trajectories} trajectories; an interval needs at least 2 of each."
            )


@dataclass(frozen=True)
class Matches:
    """One row a generated image; every array is [M]. Indices count in the training set."""

    nn1: np.ndarray
    """int64: the nearest training image (ties: the lower index)."""
    nn2: np.ndarray
    """int64: the second nearest."""
    nn2_distinct: np.ndarray
    """int64: the nearest that is no duplicate of nn1 within `duplicate_rms`; -1 without one."""
    nn2_distinct_at_0: np.ndarray
    """int64: the nearest that is no exact copy of nn1; -1 if there is none."""
    squared_distance1: np.ndarray
    """int64: sums of squared differences of the 8-bit pixels; -1 beside an index of -1."""
    squared_distance2: np.ndarray
    squared_distance2_distinct: np.ndarray
    squared_distance2_distinct_at_0: np.ndarray
    memorized_paper: np.ndarray
    """bool: by the published rule, which misses copies of duplicated training images."""
    memorized_distinct: np.ndarray
    """bool: with the second neighbour outside the first one's duplicates."""
    memorized_distinct_at_0: np.ndarray

    def __len__(self) -> int:
        return len(self.nn1)

    @cached_property
    def distance_ratio(self) -> np.ndarray:
        """float64 [M]: d1/d2 (ℓ2), d2 as `memorized_distinct` takes it; 1 where both are 0."""
        d1 = self.squared_distance1
        d2 = _second_or_published(self.squared_distance2_distinct, self.squared_distance2)
        return np.sqrt(np.divide(d1, d2, out=np.ones(len(d1)), where=d2 > 0))


@dataclass(frozen=True)
class Leak:
    """A training image that the source copies."""

    index: int
    name: str
    hits: int
    """Number of generated images that are copies of it."""
    best: int
    """Row of its closest copy among the generated images."""
    squared_distance: int
    """Of that copy, in sums of squared grey levels."""
    rows: tuple[int, ...]
    """Rows of all its copies, closest first."""


@dataclass(frozen=True)
class ScanResult:
    """What a scan found, with all that is needed to redo it."""

    source: dict[str, Any]
    """kind ("checkpoint" or "images"), path, sha256; of a checkpoint also config and provenance."""
    generated: np.ndarray = field(repr=False)
    """uint8 [M, C, H, W]: the images that were judged."""
    keys: tuple[int, ...] | tuple[str, ...] = field(repr=False)
    """One a generated image: its seed, or its name where images were given."""
    class_index: np.ndarray | None = field(repr=False)
    """int64 [M]: the class each image was generated for, or None."""
    data: ImageSet = field(repr=False)
    """The training images."""
    config: ScanConfig
    matches: Matches = field(repr=False)
    ratios: dict[str, Proportion]
    """"paper", "distinct" (the headline) and "distinct_at_0", as fractions of all images judged."""
    num_degenerate: int
    """Images at distance 0 from both neighbours, which the published rule cannot call copies."""
    leaks: tuple[Leak, ...] = field(repr=False)
    """Training images that leaked by the `distinct` rule, most copied first."""
    optimality: Optimality | None = field(repr=False)
    """The model against the optimum of its training images; None where there is no model, or one
    with classes that the training images do not have."""
    timings: dict[str, float]
    """Seconds: index, sampling, search, optimum, total."""
    environment: dict[str, str]
    """Versions, device and time."""


def scan(
    source: Checkpoint | ImageSet,
    data: ImageSet,
    *,
    holdout: ImageSet | None = None,
    config: ScanConfig | None = None,
    progress: Progress = silent,
) -> ScanResult:
    """Measure how many generated images copy a training image.

    An image is memorized iff ‖x − NN1‖ < t·‖x − NN2‖ (Yoon et al. 2023; t = 1/3 in Gu et al.,
    arXiv:2310.02664), decided in integers on 8-bit pixels. See docs/method.md.

    Args:
        source: a checkpoint to sample from, or images that were already generated.
        data: the training images, at the source's shape; at least 2.
        holdout: images like them that the model was not trained on, to compare its loss on.
        config: how to generate and judge.
        progress: told how far each step is.

    Raises:
        DataError: shapes that do not match, fewer than 2 training images.
        ConfigError: a class the model does not have.
        CheckpointError: the network gives numbers that are not finite.
    """
    config = config or ScanConfig()
    name = source.source if isinstance(source, ImageSet) else source.path
    check_comparable(source, name, data)
    if holdout is not None:
        check_comparable(source, name, holdout)
    started = time.perf_counter()

    index = NeighborIndex(data.images, device=config.device, progress=progress)
    indexed = time.perf_counter()

    keys: tuple[int, ...] | tuple[str, ...]
    described: dict[str, Any]
    if isinstance(source, ImageSet):
        generated, class_index, keys = source.images, source.labels, tuple(source.names)
        described = {"kind": "images", "path": name, "sha256": source.fingerprint}
    else:
        generated, class_index = _sample(source, config, progress)
        keys = config.seeds
        described = {
            "kind": "checkpoint",
            "path": name,
            "sha256": source.sha256,
            "format": source.format,
            "config": source.config,
            "provenance": source.provenance,
            "warnings": list(source.warnings),
        }
    sampled = time.perf_counter()

    matches = match(index, generated, config=config, progress=progress)
    searched = time.perf_counter()

    optimality = None
    if isinstance(source, Checkpoint) and config.optimum_images:
        optimality = _compare(source, data, holdout, index, config, progress)
    compared = time.perf_counter()
    return ScanResult(
        source=described,
        generated=generated,
        keys=keys,
        class_index=class_index,
        data=data,
        config=config,
        matches=matches,
        ratios={
            rule: clopper_pearson(int(hits.sum()), len(hits), confidence=config.confidence)
            for rule, hits in (
                ("paper", matches.memorized_paper),
                ("distinct", matches.memorized_distinct),
                ("distinct_at_0", matches.memorized_distinct_at_0),
            )
        },
        num_degenerate=int(
            ((matches.squared_distance1 == 0) & (matches.squared_distance2 == 0)).sum()
        ),
        leaks=tuple(find_leaks(matches, data)),
        optimality=optimality,
        timings={
            "index": indexed - started,
            "sampling": sampled - indexed,
            "search": searched - sampled,
            "optimum": compared - searched,
            "total": compared - started,
        },
        environment=describe_environment(config.device),
    )


def match(
    index: NeighborIndex,
    generated: np.ndarray,
    *,
    config: ScanConfig,
    progress: Progress = silent,
) -> Matches:
    """Search the neighbours of `generated` (uint8 [M, C, H, W]) and judge every image."""
    task, total = "Finding nearest training images", len(generated)
    found = []
    for batch in _batches(generated, SEARCH_BATCH):
        near = index.distinct_nearest(batch, duplicate_rms=(config.duplicate_rms, 0))
        found.append(
            (
                near.index,
                near.squared_distance,
                *near.index_distinct,
                *near.squared_distance_distinct,
            )
        )
        progress(task, min(total, len(found) * SEARCH_BATCH), total)
    nn, distance, nn_distinct, nn_at_0, distance_distinct, distance_at_0 = (
        np.concatenate(column) for column in zip(*found, strict=True)
    )

    def judged(second: np.ndarray) -> np.ndarray:
        second = _second_or_published(second, distance[:, 1])
        return memorized(distance[:, 0], second, config.threshold)

    return Matches(
        nn1=nn[:, 0],
        nn2=nn[:, 1],
        nn2_distinct=nn_distinct,
        nn2_distinct_at_0=nn_at_0,
        squared_distance1=distance[:, 0],
        squared_distance2=distance[:, 1],
        squared_distance2_distinct=distance_distinct,
        squared_distance2_distinct_at_0=distance_at_0,
        memorized_paper=judged(distance[:, 1]),
        memorized_distinct=judged(distance_distinct),
        memorized_distinct_at_0=judged(distance_at_0),
    )


def _second_or_published(distinct: np.ndarray, published: np.ndarray) -> np.ndarray:
    """The distinct second distance, or where there is none (-1) the published rule's."""
    return np.where(distinct < 0, published, distinct)


def find_leaks(matches: Matches, data: ImageSet) -> list[Leak]:
    """Training images that are the first neighbour of a copy, most copied first."""
    copies = np.flatnonzero(matches.memorized_distinct)
    closest_first = copies[np.argsort(matches.squared_distance1[copies], kind="stable")]
    rows_of: dict[int, list[int]] = {}
    for row in closest_first:
        rows_of.setdefault(int(matches.nn1[row]), []).append(int(row))
    leaks = [
        Leak(
            index=index,
            name=data.names[index],
            hits=len(rows),
            best=rows[0],
            squared_distance=int(matches.squared_distance1[rows[0]]),
            rows=tuple(rows),
        )
        for index, rows in rows_of.items()
    ]
    return sorted(leaks, key=lambda leak: (-leak.hits, leak.squared_distance, leak.index))


def describe_environment(device: str) -> dict[str, str]:
    """Versions, device and time, as a report names them."""
    packages = {}
    for package in ("torch", "torchvision", "numpy", "scipy", "faiss-gpu", "faiss-cpu"):
        with suppress(PackageNotFoundError):
            packages[package] = version(package)
    return {
        "memaudit": memaudit.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU ({platform.machine()})",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **packages,
    }


def _sample(
    checkpoint: Checkpoint, config: ScanConfig, progress: Progress
) -> tuple[np.ndarray, np.ndarray | None]:
    """All images of the configured seeds: uint8 [M, C, H, W], and their classes, int64 [M]."""
    batches = list(
        generate_images(
            checkpoint.network,
            config.seeds,
            config=config.sampler,
            class_index=config.class_index,
            batch_size=config.batch_size,
            device=config.device,
            progress=progress,
        )
    )
    images = np.concatenate([batch.images.numpy() for batch in batches])
    if batches[0].class_index is None:
        return images, None
    return images, np.concatenate([np.asarray(batch.class_index) for batch in batches])


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


def _batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
