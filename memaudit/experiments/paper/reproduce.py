"""Do a recipe's trainings and scans, and hold what was measured against what was published."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from memaudit.audit.environment import describe_environment
from memaudit.audit.report.folder import check_output_folder
from memaudit.audit.statistics.intervals import Proportion
from memaudit.data.derived_sets import label_images, mix_images
from memaudit.data.images import ImageSet
from memaudit.data.selection import Selection
from memaudit.data.subsets import select_images
from memaudit.errors import ConfigError, DataError
from memaudit.experiments.cost import Cost, forward_flops, run_cost
from memaudit.experiments.paper.recipes import DataRecipe, Recipe, Setting, find_recipe
from memaudit.experiments.train_and_scan import Run, RunPlan, do_runs
from memaudit.progress import Progress, silent
from memaudit.training.config import TrainingConfig
from memaudit.training.network import configure_network

RESULTS = "results.jsonl"
TOLERANCE = 0.01
"""Published ratios were read off figures: they are good to a point."""
Verdict = Literal["agrees", "differs", "budget too small", "not published"]


@dataclass(frozen=True)
class Point:
    """One training of a recipe: a value of the factor at a size."""

    recipe: Recipe
    setting: Setting
    size: int
    """|D|."""
    epochs: float | None = None
    """Budget in place of the recipe's."""

    @property
    def config(self) -> TrainingConfig:
        config = self.recipe.training(self.setting)
        return config if self.epochs is None else replace(config, epochs=self.epochs)

    @property
    def published(self) -> float | None:
        """Published ratio in [0, 1], where there is one."""
        percent = self.setting.published.get(self.size)
        return None if percent is None else percent / 100

    @property
    def is_short(self) -> bool:
        """Whether the budget is less than the recipe's."""
        return self.config.epochs < self.recipe.training(self.setting).epochs

    @property
    def folder(self) -> Path:
        """Of its run, inside that of all results."""
        scale = "laptop" if self.recipe.is_laptop else "paper"
        value = self.setting.value.replace(" ", "-")
        return Path(f"{self.recipe.name}-{scale}", value, f"size-{self.size:06d}")


@dataclass(frozen=True)
class Measured:
    """A point, done."""

    recipe: str
    value: str
    size: int
    is_laptop: bool
    epochs: float
    published: float | None
    """Ratio in [0, 1]."""
    highest: Proportion
    """Highest ratio among the snapshots, as published."""
    last: Proportion
    """Of the last snapshot."""
    verdict: Verdict
    training_seconds: float
    scan_seconds: float
    images_seen: int
    device: str
    finished: str

    @property
    def key(self) -> tuple[str, str, int, bool]:
        """What another measurement replaces it by."""
        return self.recipe, self.value, self.size, self.is_laptop


def choose_points(
    recipe: Recipe,
    *,
    values: Sequence[str] = (),
    sizes: Sequence[int] = (),
    resolution: int | None = None,
    epochs: float | None = None,
) -> list[Point]:
    """The trainings of a recipe, or some of them, size by size.

    Args:
        recipe: at either scale.
        values: only these of the factor.
        sizes: these in place of the recipe's.
        resolution: only what trains on images of this size.
        epochs: budget in place of the recipe's.

    Raises:
        ConfigError: a value or a resolution that the recipe does not have.
    """
    known = [setting.value for setting in recipe.settings]
    for value in values:
        if value not in known:
            raise ConfigError(
                f"{recipe.name} has no value {value!r}; its values are {', '.join(known)}."
            )
    points = [
        Point(recipe, setting, size, epochs)
        for size in sizes or recipe.sizes
        for setting in recipe.settings
        if (not values or setting.value in values)
        and resolution in (None, setting.data.resolution)
        # More random classes than images would be the same labels again.
        and (setting.data.num_random or 1) <= size
    ]
    if not points:
        resolutions = sorted({setting.data.resolution for setting in recipe.settings})
        raise ConfigError(
            f"Nothing of {recipe.name} is left to do: it trains at resolution "
            f"{', '.join(map(str, resolutions))}, with at most one random class an image. Choose "
            "other values, sizes or resolutions."
        )
    return points


def training_set(
    data: DataRecipe, images: ImageSet, size: int, *, second: ImageSet | None = None
) -> ImageSet:
    """The images that a recipe trains on.

    Args:
        data: which ones.
        images: the source, at the recipe's resolution; class-balanced subsets where it has labels.
        size: |D|.
        second: the source that a mixture takes its share from.

    Raises:
        DataError: too few images, no labels or too few classes where they are needed; no second
            source for a mixture.
    """
    if images.image_shape[1:] != (data.resolution, data.resolution):
        raise ValueError(f"images must be at resolution {data.resolution}")
    label = () if data.label is None else (data.label,)
    if data.second_share:
        if second is None:
            raise DataError(
                f"A share of {data.second_share:g} comes from a second source, and none is given: "
                "the paper takes ImageNet's dogs. Give images with --second-data, or choose "
                "--value 0."
            )
        first = select_images(images, Selection(label=label))
        return mix_images(first, second, share=data.second_share, size=size)
    if label:
        selection = Selection(size=size, label=label)
    elif data.num_classes is not None:
        selection = Selection(size=size, label=tuple(range(data.num_classes)), balanced=True)
    elif images.labels is not None:
        selection = Selection(size=size, balanced=True)
    else:
        selection = Selection(size=size, subset="random")
    chosen = select_images(images, selection)
    return label_images(chosen, data.labels, num_classes=data.num_random)


def point_cost(point: Point, *, num_samples: int = 10_000, img_channels: int = 3) -> Cost:
    """Operations of a point's training and scans."""
    data = point.setting.data
    num_classes = {"none": 1, "true": 10, "unique": point.size}.get(data.labels, data.num_random)
    shape = (1, img_channels, data.resolution, data.resolution)
    image = ImageSet(np.zeros(shape, np.uint8), ["blank"], labels=np.array([num_classes]) - 1)
    return run_cost(
        point.config,
        point.size,
        num_samples=num_samples,
        flops_per_image=forward_flops(point.config, image),
    )


def judge(ratio: Proportion, published: float | None, *, is_short: bool) -> Verdict:
    """Whether a measured ratio is the published one, within its interval and a point."""
    if published is None:
        return "not published"
    if ratio.low - TOLERANCE <= published <= ratio.high + TOLERANCE:
        return "agrees"
    # Memorization grows with the epochs: what is still below may come to agree.
    return "budget too small" if is_short and ratio.ratio < published else "differs"


def reproduce(
    points: Sequence[Point],
    images: Callable[[int], ImageSet],
    *,
    out: Path,
    second: Callable[[int], ImageSet] | None = None,
    num_samples: int = 10_000,
    device: str = "cpu",
    parallel: int = 1,
    progress: Progress = silent,
    on_point: Callable[[Measured], None] = lambda measured: None,
) -> list[Measured]:
    """Train and scan each point, or read back what is done.

    Every result is appended to `results.jsonl` in `out`; runs are in folders of their own beside
    it, so that what was stopped goes on.

    Args:
        points: of one recipe or several.
        images: resolution → the source at it.
        out: folder of the results.
        second: resolution → the second source of mixtures.
        num_samples: images generated from each snapshot.
        device: `cpu` or `cuda`.
        parallel: runs side by side, see `do_runs`.
        progress: told how far each step is.
        on_point: called with each point as it ends.

    Raises:
        ConfigError, DataError: before the first training, what any of them would fail at.
    """
    check_output_folder(out, overwrite=True)
    plans: dict[Path, Point] = {}
    todo = []
    for point in points:
        resolution = point.setting.data.resolution
        data = training_set(
            point.setting.data,
            images(resolution),
            point.size,
            second=None if second is None else second(resolution),
        )
        configure_network(point.config, data)
        plans[out / point.folder] = point
        todo.append(RunPlan(data, point.config, out / point.folder, num_samples))

    known = {measured.key: measured for measured in read_results(out)}
    measured: list[Measured] = []

    def note(plan: RunPlan, run: Run) -> None:
        found = _measured(plans[plan.out], run, device)
        before = known.get(found.key)
        if before is None or replace(before, device=found.device, finished=found.finished) != found:
            with (out / RESULTS).open("ab") as file:
                file.write(json.dumps(asdict(found)).encode() + b"\n")
        measured.append(found)
        on_point(found)

    do_runs(todo, device=device, parallel=parallel, progress=progress, on_run=note)
    return measured


def _measured(point: Point, run: Run, device: str) -> Measured:
    environment = describe_environment(device)
    return Measured(
        recipe=point.recipe.name,
        value=point.setting.value,
        size=point.size,
        is_laptop=point.recipe.is_laptop,
        epochs=point.config.epochs,
        published=point.published,
        highest=run.highest,
        last=run.last,
        verdict=judge(run.highest, point.published, is_short=point.is_short),
        training_seconds=run.training_seconds,
        scan_seconds=run.scan_seconds,
        images_seen=run.images_seen,
        device=environment["device"],
        finished=environment["finished"],
    )


def read_results(folder: Path) -> list[Measured]:
    """The results in a folder, the latest of each point, in the order they were first made.

    Raises:
        DataError: a line that is no result.
    """
    path = folder / RESULTS
    latest: dict[Any, Measured] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            for name in ("highest", "last"):
                fields[name] = Proportion(**fields[name])
            measured = Measured(**fields)
        except (TypeError, ValueError, KeyError) as error:
            raise DataError(f"Line {number} of {path} is no result ({error}).") from error
        latest[measured.key] = measured
    return list(latest.values())


# ------------------------------------------------------------------------------------------------
# Directions


@dataclass(frozen=True)
class Direction:
    """Two values of a factor at one size: which of them memorizes more."""

    first: Measured
    second: Measured
    published: int
    """1 where the second has the higher published ratio, -1 where the first has."""

    @property
    def measured(self) -> int:
        """The same as measured; 0 where the intervals overlap."""
        first, second = self.first.highest, self.second.highest
        return int(second.low > first.high) - int(first.low > second.high)

    @property
    def outcome(self) -> str:
        """How the two compare."""
        return {self.published: "as published", 0: "not told apart"}.get(self.measured, "opposite")


def directions(results: Sequence[Measured]) -> list[Direction]:
    """Each value against the row's first that was measured at its size, and against the one before
    it, where the paper tells them apart by more than reading off can err.

    Args:
        results: of one recipe at one scale.
    """
    found = []
    for size in sorted({result.size for result in results}):
        order = [setting.value for setting in find_recipe(results[0].recipe).settings]
        row = sorted(
            (result for result in results if result.size == size),
            key=lambda result: order.index(result.value),
        )
        for place, other in enumerate(row[1:]):
            for earlier in {0: row[0], place: row[place]}.values():
                sign = _published_sign(other.recipe, earlier.value, other.value)
                if sign:
                    found.append(Direction(earlier, other, sign))
    return found


def _published_sign(name: str, first: str, second: str) -> int:
    """1 where `second` has the higher published ratio at the size where they differ most, -1 where
    it has the lower, 0 where they are alike or not published."""
    published = {setting.value: setting.published for setting in find_recipe(name).settings}
    sizes = published[first].keys() & published[second].keys()
    gaps = [published[second][size] - published[first][size] for size in sizes]
    gap = max(gaps, key=abs, default=0.0)
    return int(np.sign(gap)) if abs(gap) > 200 * TOLERANCE else 0
