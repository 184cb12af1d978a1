"""The search for EMM: trainings and scans at sizes chosen by bisection, and what they found.

Each run is in a folder `size-<|D|>/replicate-<r>/` of its own. Sizes follow from what was measured
before, and finished runs are read: a search that was stopped repeats itself up to where it was, and
continues. More replicates than before add theirs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memaudit.audit.report.folder import check_output_folder, reports_in
from memaudit.audit.report.schema import read_report
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.data.selection import Selection
from memaudit.data.subsets import select_images
from memaudit.errors import DataError
from memaudit.experiments.config import RunConfig
from memaudit.experiments.cost import (
    Cost,
    Throughput,
    count_forward_flops,
    predict_run_cost,
)
from memaudit.experiments.emm.config import EMMConfig, SizeRange
from memaudit.experiments.emm.estimate import (
    EMMEstimate,
    MeasuredSize,
    estimate_emm,
    search_sizes,
)
from memaudit.experiments.snapshots import SnapshotRatio, highest_ratio, read_snapshot
from memaudit.experiments.timing import measure_throughput
from memaudit.experiments.train_and_scan import (
    RunPlan,
    RunResult,
    replicate_folder,
    serve_runs,
    train_and_scan_all,
)
from memaudit.progress import Progress, silent
from memaudit.ranks.worker import Worker
from memaudit.training.config import TrainingConfig
from memaudit.wording import ranges


@dataclass(frozen=True)
class EMMSetup:
    """A data distribution, a model with its training procedure, and how they are measured.

    Raises:
        DataError: the largest size exceeds the number of images.
    """

    images: ImageSet
    """What training sets are drawn from."""
    training: TrainingConfig
    """The same at every size; if its budget is in `epochs`, the images seen grow with the size. Its
    seed is the first replicate's; each further one has the next."""
    sizes: SizeRange
    config: EMMConfig = EMMConfig()
    runs: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        if self.sizes.max_size > len(self.images):
            raise DataError(
                f"{{max_size}} is {self.sizes.max_size:,}, but {self.images.source} holds only "
                f"{len(self.images):,} images; choose a smaller {{max_size}}.",
                field="max_size",
            )

    def plan(self, size: int, out: Path) -> list[RunPlan]:
        """Plan the replicates at a size, in their order; `out` is the folder of all runs."""
        return [
            RunPlan(
                images=self.draw_training_set(size, replicate=replicate),
                training=replace(self.training, seed=self.training.seed + replicate - 1),
                out=replicate_folder(out / f"size-{size:06d}", replicate),
                replicate=replicate,
            )
            for replicate in range(1, self.config.replicates + 1)
        ]

    def serve(self, worker: Worker, out: Path) -> int:
        """Do runs of this setup for rank 0 until it ends, and return its exit status."""

        def find(folder: str, size: int) -> RunPlan:
            return {str(plan.out): plan for plan in self.plan(size, out)}[folder]

        return serve_runs(worker, find, self.runs)

    def draw_training_set(self, size: int, *, replicate: int = 1) -> ImageSet:
        """Draw `size` of the images; a smaller set is part of every larger one of a replicate."""
        selection = Selection(
            size=size,
            subset="random",
            subset_seed=self.config.subset_seed + replicate - 1,
            balanced=self.config.balanced,
        )
        return select_images(self.images, selection)


@dataclass(frozen=True)
class SearchForecast:
    """What a search will cost: the least and the most that bisection can choose. If replicates
    differ much, a few more sizes are needed."""

    throughput: Throughput
    """Speed of the network on the device at hand."""
    cheapest: tuple[int, ...]
    """Sizes that are measured if EMM is at the smallest one."""
    dearest: tuple[int, ...]
    """Sizes that are measured if EMM is at the largest one."""
    cheapest_cost: Cost
    dearest_cost: Cost


def forecast_search(setup: EMMSetup) -> SearchForecast:
    """Count the operations of a search, and time the network for a few seconds."""
    flops = count_forward_flops(setup.training, setup.images)

    def simulate(emm: int) -> tuple[int, ...]:
        """List the sizes that are measured if models copy up to `emm` images and none beyond."""

        def measure(sizes: list[int]) -> list[MeasuredSize]:
            same = [(clopper_pearson(1000 * (size <= emm), 1000),) for size in sizes]
            return [MeasuredSize(size, one, one) for size, one in zip(sizes, same, strict=True)]

        return tuple(point.num_images for point in _search(measure, setup))

    def predict_cost(sizes: Iterable[int]) -> Cost:
        costs = [
            predict_run_cost(
                setup.training, size, num_samples=setup.runs.num_samples, flops_per_image=flops
            )
            for size in sizes
            for _ in range(setup.config.replicates)
        ]
        return sum(costs, Cost(0, 0))

    cheapest, dearest = simulate(setup.sizes.min_size), simulate(setup.sizes.max_size)
    smallest = setup.draw_training_set(setup.sizes.min_size)
    return SearchForecast(
        throughput=measure_throughput(
            setup.training, smallest, device=setup.runs.device, parallel=setup.runs.parallel
        ),
        cheapest=cheapest,
        dearest=dearest,
        cheapest_cost=predict_cost(cheapest),
        dearest_cost=predict_cost(dearest),
    )


@dataclass(frozen=True)
class EMMResult:
    """A measured curve and its EMM."""

    points: tuple[MeasuredSize, ...]
    """What was measured, by size."""
    estimate: EMMEstimate
    runs: tuple[RunResult, ...]
    """One per point and replicate; empty if the points come from existing scans."""


def find_emm(
    setup: EMMSetup,
    *,
    out: Path,
    progress: Progress = silent,
    on_run: Callable[[RunResult], None] = lambda run: None,
) -> EMMResult:
    """Train and scan at sizes chosen by bisection, until EMM is between two sizes close together.

    With `setup.runs.parallel` runs side by side, each choice is of as many sizes as have all their
    replicates trained at once.

    Args:
        setup: what is measured.
        out: folder of the runs.
        progress: called with the progress of each step.
        on_run: called with each run as it ends.

    Raises:
        ConfigError, DataError: the folder cannot be written or holds other runs; the images cannot
            be drawn or trained on.
    """
    check_output_folder(out, overwrite=True)
    runs: list[RunResult] = []

    def measure(sizes: list[int]) -> list[MeasuredSize]:
        plans = [plan for size in sizes for plan in setup.plan(size, out)]
        done = train_and_scan_all(
            plans, setup.runs, progress=progress, on_run=lambda plan, run: on_run(run)
        )
        runs.extend(done)
        return [
            MeasuredSize(
                size,
                highest=tuple(run.highest for run in done if run.num_images == size),
                last=tuple(run.last for run in done if run.num_images == size),
            )
            for size in sizes
        ]

    points = _search(measure, setup)
    return EMMResult(
        points=tuple(points),
        estimate=estimate_emm(points, epsilon=setup.config.epsilon),
        runs=tuple(sorted(runs, key=lambda run: (run.num_images, run.replicate))),
    )


def _search(
    measure: Callable[[list[int]], list[MeasuredSize]], setup: EMMSetup
) -> list[MeasuredSize]:
    count = max(1, setup.runs.parallel // setup.config.replicates)
    return search_sizes(measure, setup.sizes, epsilon=setup.config.epsilon, count=count)


def estimate_emm_from_reports(
    paths: Sequence[Path], *, epsilon: float = EMMConfig.epsilon
) -> EMMResult:
    """Estimate EMM from existing scans.

    Args:
        paths: reports (report.json), or folders that contain some at any depth. Scans of models
            trained on the same images from the same seed are taken for snapshots of one run, and
            runs with different seeds for replicates.
        epsilon: EMM's ε, in (0, 1).

    Raises:
        DataError: there is no readable report, or one is of a screened scan; or the reports do not
            belong to one setup: they have different thresholds or shapes, two training sets with
            one seed at one size, or sizes have different seeds.
    """
    files = sorted({file for path in paths for file in reports_in(path)})
    runs: dict[int, dict[int, list[SnapshotRatio]]] = {}  # by size and by seed
    # What all scans must share, and the training set of each run; with a file that has it.
    shared: dict[str, dict[Any, Path]] = {}
    for file in files:
        report = read_report(file)
        if report.screening is not None:
            raise DataError(
                f"{file} is the report of a screened scan, whose images sampled in full are mostly "
                "those likely to be copies. Scan the model without screening."
            )
        size, model = report.data.num_images, report.source.model
        provenance = {} if model is None else model.provenance
        seen = (None if model is None else model.images_seen) or 0
        stated = provenance.get("seed")
        seed = stated if isinstance(stated, int) else 0
        for difference, value in (
            ("judge by different thresholds", report.threshold),
            ("are of images of different shapes", report.data.image_shape),
            (
                f"are of different training sets of {size:,} images, but of one seed ({seed})",
                report.data.fingerprint,
            ),
        ):
            shared.setdefault(difference, {})[value] = file
        snapshot = read_snapshot(file.parent, seen)
        runs.setdefault(size, {}).setdefault(seed, []).append(snapshot)
    for difference, found in shared.items():
        if len(found) > 1:
            listed = ", ".join(f"{value} in {file}" for value, file in found.items())
            raise DataError(
                f"The scans {difference}: {listed}. EMM belongs to one setup; give the scans of "
                "only one."
            )
    seeds = {frozenset(by_seed) for by_seed in runs.values()}
    if len(seeds) > 1 and {len(by_seed) for by_seed in runs.values()} != {1}:
        listed = "; ".join(
            f"{size:,} images: {ranges(sorted(by_seed))}" for size, by_seed in sorted(runs.items())
        )
        raise DataError(
            f"The sizes were trained from different seeds ({listed}). Replicates need a training "
            "from each seed at every size; give the scans of those seeds only."
        )
    points = []
    for size, by_seed in sorted(runs.items()):
        trainings = [
            sorted(snapshots, key=lambda snapshot: snapshot.images_seen)
            for _, snapshots in sorted(by_seed.items())
        ]
        points.append(
            MeasuredSize(
                size,
                highest=tuple(map(highest_ratio, trainings)),
                last=tuple(snapshots[-1].ratio for snapshots in trainings),
            )
        )
    return EMMResult(tuple(points), estimate_emm(points, epsilon=epsilon), runs=())
