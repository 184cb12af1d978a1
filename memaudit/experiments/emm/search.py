"""The search for EMM: trainings and scans at sizes chosen by bisection, and what they found.

Writes into one folder: `size-<|D|>/`, a run each, then `emm.json` and `emm.html`. Sizes follow from
what was measured before, and runs that are done are read back: a search that was stopped is
repeated up to where it was, and goes on.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memaudit.audit.report.folder import check_output_folder, reports_in
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.data.selection import Selection
from memaudit.data.subsets import select_images
from memaudit.errors import ConfigError, DataError
from memaudit.experiments.cost import Cost, Speed, forward_flops, measure_speed, run_cost
from memaudit.experiments.emm.estimate import (
    EMMEstimate,
    SizePoint,
    SizeRange,
    estimate_emm,
    search_sizes,
)
from memaudit.experiments.train_and_scan import Run, RunPlan, do_runs, read_ratio
from memaudit.progress import Progress, silent
from memaudit.training.config import TrainingConfig

SCHEMA = "memaudit.emm/1"
RESULT = "emm.json"


@dataclass(frozen=True)
class EMMSetup:
    """A data distribution, a model with its training procedure, and how finely to measure."""

    images: ImageSet
    """What training sets are drawn from."""
    config: TrainingConfig
    """The same at every size; with its budget in `epochs`, the images seen grow with the size."""
    sizes: SizeRange
    balanced: bool = False
    """Draw equally many images of each class."""
    subset_seed: int = 0
    """Which images are drawn; a smaller set is part of every larger one."""
    num_samples: int = 10_000
    """Images generated from each snapshot."""
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise ConfigError(f"epsilon is {self.epsilon}; between 0 and 1 is needed.")
        if self.num_samples < 1:
            raise ConfigError(f"{self.num_samples} samples were asked for; at least 1 is needed.")
        if self.sizes.max_size > len(self.images):
            raise DataError(
                f"Sizes up to {self.sizes.max_size:,} are asked for, but {self.images.source} "
                f"holds {len(self.images):,} images. Ask for less with --max-size."
            )

    def training_set(self, size: int) -> ImageSet:
        """`size` of the images."""
        selection = Selection(
            size=size, subset="random", subset_seed=self.subset_seed, balanced=self.balanced
        )
        return select_images(self.images, selection)


@dataclass(frozen=True)
class Forecast:
    """What a search will cost: the least and the most that bisection can choose."""

    speed: Speed
    """Of the network on the device at hand."""
    cheapest: tuple[int, ...]
    """Sizes it measures where EMM is at the smallest one."""
    dearest: tuple[int, ...]
    """Sizes it measures where EMM is at the largest one."""
    cheapest_cost: Cost
    dearest_cost: Cost


def forecast(setup: EMMSetup, *, device: str = "cpu", parallel: int = 1) -> Forecast:
    """Count the operations of a search, and time the network for some seconds."""
    flops = forward_flops(setup.config, setup.images)

    def path(emm: int) -> tuple[int, ...]:
        """Sizes that are measured where every model up to `emm` copies and none beyond does."""

        def measure(sizes: list[int]) -> list[SizePoint]:
            ratios = [clopper_pearson(1000 * (size <= emm), 1000) for size in sizes]
            return [
                SizePoint(size, ratio, ratio) for size, ratio in zip(sizes, ratios, strict=True)
            ]

        points = search_sizes(measure, setup.sizes, epsilon=setup.epsilon, count=parallel)
        return tuple(point.num_images for point in points)

    def cost(sizes: Iterable[int]) -> Cost:
        costs = [
            run_cost(setup.config, size, num_samples=setup.num_samples, flops_per_image=flops)
            for size in sizes
        ]
        return sum(costs, Cost(0, 0))

    cheapest, dearest = path(setup.sizes.min_size), path(setup.sizes.max_size)
    return Forecast(
        speed=measure_speed(setup.config, setup.training_set(setup.sizes.min_size), device=device),
        cheapest=cheapest,
        dearest=dearest,
        cheapest_cost=cost(cheapest),
        dearest_cost=cost(dearest),
    )


@dataclass(frozen=True)
class EMMResult:
    """A curve and its EMM."""

    points: tuple[SizePoint, ...]
    """By size."""
    estimate: EMMEstimate
    runs: tuple[Run, ...]
    """One a point; empty where the points come from scans made elsewhere."""


def find_emm(
    setup: EMMSetup,
    *,
    out: Path,
    device: str = "cpu",
    parallel: int = 1,
    progress: Progress = silent,
    on_run: Callable[[Run], None] = lambda run: None,
) -> EMMResult:
    """Train and scan at sizes chosen by bisection, until EMM is between two that are near.

    Args:
        setup: what is measured.
        out: folder of the runs.
        device: `cpu` or `cuda`.
        parallel: runs side by side, each choice of sizes being so many: see `do_runs`.
        progress: told how far each step is.
        on_run: called with each run as it is known.

    Raises:
        ConfigError, DataError: a folder that cannot be written or holds other runs; images that
            cannot be drawn or trained on.
    """
    check_output_folder(out, overwrite=True)
    runs: list[Run] = []

    def measure(sizes: list[int]) -> list[SizePoint]:
        plans = [
            RunPlan(
                setup.training_set(size),
                setup.config,
                out=out / f"size-{size:06d}",
                num_samples=setup.num_samples,
            )
            for size in sizes
        ]
        done = do_runs(
            plans,
            device=device,
            parallel=parallel,
            progress=progress,
            on_run=lambda plan, run: on_run(run),
        )
        runs.extend(done)
        return [SizePoint(run.num_images, run.highest, run.last) for run in done]

    points = search_sizes(measure, setup.sizes, epsilon=setup.epsilon, count=parallel)
    return EMMResult(
        points=tuple(points),
        estimate=estimate_emm(points, epsilon=setup.epsilon),
        runs=tuple(sorted(runs, key=lambda run: run.num_images)),
    )


def emm_from_reports(paths: Sequence[Path], *, epsilon: float = 0.1) -> EMMResult:
    """EMM of scans that were made already.

    Args:
        paths: reports (report.json), or folders that hold some at any depth. Those of models
            trained on equally many images are taken for snapshots of one run.
        epsilon: EMM's ε.

    Raises:
        DataError: no report, one that cannot be read, or reports that are not of one set-up:
            different thresholds or shapes, two training sets of one size.
    """
    files = sorted({file for path in paths for file in reports_in(path)})
    by_size: dict[int, list[tuple[int, Proportion]]] = {}
    # What all scans must share, and at each size the training set; with a file that has it.
    shared: dict[str, dict[Any, Path]] = {}
    for file in files:
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            ratio = read_ratio(report)
            size = int(report["data"]["num_images"])
            seen = int((report["source"].get("provenance") or {}).get("images_seen", 0))
            shape = tuple(report["data"]["image_shape"])
            shared.setdefault("judge by different thresholds", {})[report["threshold"]] = file
            shared.setdefault("are of images of different shapes", {})[shape] = file
            shared.setdefault(f"are of different training sets of {size:,} images", {})[
                report["data"]["fingerprint"]
            ] = file
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{file} is no report of memaudit that can be read ({error})."
            ) from error
        by_size.setdefault(size, []).append((seen, ratio))
    for difference, found in shared.items():
        if len(found) > 1:
            listed = ", ".join(f"{value} in {file}" for value, file in found.items())
            raise DataError(
                f"The scans {difference}: {listed}. EMM is of one set-up; give the scans of one."
            )
    points = [
        SizePoint(
            size,
            highest=max((ratio for _, ratio in snapshots), key=lambda ratio: ratio.ratio),
            last=max(snapshots, key=lambda snapshot: snapshot[0])[1],
        )
        for size, snapshots in sorted(by_size.items())
    ]
    return EMMResult(tuple(points), estimate_emm(points, epsilon=epsilon), runs=())


def result_dict(result: EMMResult, setup: EMMSetup | None = None) -> dict[str, Any]:
    """The content of emm.json."""
    described = None
    if setup is not None:
        described = {
            "data": {"path": setup.images.source, "fingerprint": setup.images.fingerprint},
            "image_shape": list(setup.images.image_shape),
            "balanced": setup.balanced,
            "subset_seed": setup.subset_seed,
            "num_samples": setup.num_samples,
            "sizes": asdict(setup.sizes),
            "training": setup.config.as_dict(),
        }
    return {
        "schema": SCHEMA,
        **asdict(result.estimate),
        "points": [asdict(point) for point in result.points],
        "runs": [asdict(run) for run in result.runs],
        "setup": described,
    }
