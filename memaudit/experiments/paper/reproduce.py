"""Do a recipe's trainings and scans, and compare what was measured with what was published."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from scipy.special import logit

from memaudit.audit.environment import describe_environment
from memaudit.audit.report.folder import check_output_folder
from memaudit.audit.statistics.intervals import Estimate, Proportion
from memaudit.data.derived_sets import label_images, mix_images
from memaudit.data.images import ImageSet
from memaudit.data.selection import Selection
from memaudit.data.set_recipe import DrawRule
from memaudit.data.subsets import select_images
from memaudit.errors import ConfigError, DataError
from memaudit.experiments.config import RunConfig
from memaudit.experiments.cost import Cost, count_forward_flops, predict_run_cost
from memaudit.experiments.paper.config import PointSelection
from memaudit.experiments.paper.recipes import FactorLevel, Recipe, TrainingData, find_recipe
from memaudit.experiments.replicates import Replicates, assumed_spread, critical, pool
from memaudit.experiments.train_and_scan import (
    RunPlan,
    RunResult,
    replicate_folder,
    train_and_scan_all,
)
from memaudit.files import atomic_write
from memaudit.progress import Progress, silent
from memaudit.training.config import Precision, TrainingConfig
from memaudit.training.network import configure_network

RESULTS = "results.jsonl"
"""File of the results, one JSON object per line."""
TOLERANCE = 0.01
"""Error of published ratios, which were read off figures."""
PUBLISHED_LABEL_SEED = 1024
"""Seed of the paper's random labels."""
Verdict = Literal["agrees", "differs", "budget too small", "not published"]


@dataclass(frozen=True)
class RecipePoint:
    """One training of a recipe: a level of the factor at a size."""

    recipe: Recipe
    level: FactorLevel
    size: int
    """Number of training images |D|."""
    epochs: float | None = None
    """Budget that replaces the recipe's."""
    replicates: int = 1
    """Number of trainings."""
    precision: Precision = "fp32"
    """Format of the network's products in training."""
    tf32: bool = False
    """Whether the factors of fp32 products are rounded in training."""

    @property
    def config(self) -> TrainingConfig:
        """The complete training configuration of the first replicate."""
        config = self.recipe.configure_training(self.level)
        config = replace(config, precision=self.precision, tf32=self.tf32)
        return config if self.epochs is None else replace(config, epochs=self.epochs)

    @property
    def published(self) -> float | None:
        """Published ratio in [0, 1], or None if there is no such number."""
        percent = self.level.published.get(self.size)
        return None if percent is None else percent / 100

    @property
    def is_short(self) -> bool:
        """Whether the budget is less than the recipe's."""
        return self.config.epochs < self.recipe.configure_training(self.level).epochs

    @property
    def folder(self) -> Path:
        """Folder of its replicates, relative to that of all results."""
        scale = "laptop" if self.recipe.is_laptop else "paper"
        if self.recipe.rule != "published":
            scale += f"-{self.recipe.rule}"
        value = self.level.value.replace(" ", "-")
        return Path(f"{self.recipe.name}-{scale}", value, f"size-{self.size:06d}")


@dataclass(frozen=True)
class RecipeResult:
    """What the trainings and the scans of a point found."""

    recipe: str
    value: str
    """The level of the recipe's factor."""
    size: int
    """Number of training images |D|."""
    is_laptop: bool
    rule: DrawRule
    """Whether it was done as the paper's runs were, or as its text describes."""
    epochs: float
    precision: Precision
    """Format of the network's products in training; the paper's is fp32."""
    tf32: bool
    """Whether the factors of fp32 products were rounded in training."""
    published: float | None
    """Published ratio in [0, 1], or None if there is no such number."""
    highest: tuple[Proportion, ...]
    """Ratio of each training, at the snapshot that copies most; see `highest_ratio`."""
    last: tuple[Proportion, ...]
    """Ratio of each training's last snapshot."""
    spread: float
    """τ, the standard deviation between the logits of trainings: found if there are several, and
    assumed if there is one."""
    another: Estimate
    """The mean of `highest`, and the interval in which another training's ratio is expected."""
    deviation: float | None
    """z, how far the published ratio is from the measured one, in standard deviations."""
    verdict: Verdict
    training_seconds: float
    """Seconds of all trainings together."""
    scan_seconds: float
    images_seen: int
    """Images seen in training until the last snapshot."""
    device: str
    finished: str
    """When the last training ended, in ISO 8601."""

    @property
    def key(self) -> tuple[str, str, int, bool, DrawRule]:
        """What identifies the point; a later result with the same key replaces this one."""
        return self.recipe, self.value, self.size, self.is_laptop, self.rule

    @property
    def products(self) -> str:
        """The formats of the network's products in training: "fp32", or such as "bf16 and tf32"."""
        kinds = [self.precision] * (self.precision != "fp32") + ["tf32"] * self.tf32
        return " and ".join(kinds) or "fp32"

    @property
    def trainings(self) -> Replicates:
        """The ratios `highest`, to compare with those of other points."""
        return Replicates(self.highest, self.spread)


def choose_points(recipe: Recipe, selection: PointSelection | None = None) -> list[RecipePoint]:
    """List the trainings of a recipe, or some of them, size by size.

    Args:
        recipe: at the paper's or at laptop scale.
        selection: which trainings, how long, how many of each and by which rule; None for the whole
            recipe as published.

    Raises:
        ConfigError: the recipe has no such value or resolution.
    """
    selection = selection or PointSelection()
    recipe = replace(recipe, rule=selection.rule)
    known = [level.value for level in recipe.levels]
    for value in selection.values:
        if value not in known:
            raise ConfigError(
                f"{recipe.name} has no value {value!r}; its values are {', '.join(known)}."
            )
    points = [
        RecipePoint(
            recipe,
            level,
            size,
            selection.epochs,
            selection.replicates,
            selection.precision,
            selection.tf32,
        )
        for size in selection.sizes or recipe.sizes
        for level in recipe.levels
        if (not selection.values or level.value in selection.values)
        and selection.resolution in (None, level.data.resolution)
        # With more random classes than images, the labels would hardly differ.
        and (level.data.num_random or 1) <= size
    ]
    if not points:
        resolutions = sorted({level.data.resolution for level in recipe.levels})
        raise ConfigError(
            f"Nothing of {recipe.name} is left to do: it trains at resolution "
            f"{', '.join(map(str, resolutions))}, with at most one random class per image. Choose "
            "another {values}, {sizes} or {resolution}.",
            field=("values", "sizes", "resolution"),
        )
    return points


def draw_training_set(
    data: TrainingData,
    images: ImageSet,
    size: int,
    *,
    second: ImageSet | None = None,
    rule: DrawRule = "published",
    replicate: int = 1,
) -> ImageSet:
    """Draw the images that a recipe trains on.

    The first replicate has the first images (of each class, if classes have equal shares), and
    further ones a random choice with their own seed.

    Args:
        data: which images, and with which labels.
        images: the source, at the recipe's resolution. If it has labels, classes have equal shares,
            unless the published runs took the first images whatever their class.
        size: number of training images |D|.
        second: the source of a mixture's other share.
        rule: as the paper's runs drew them, or as its text describes.
        replicate: which of several trainings they are for, from 1.

    Raises:
        DataError: there are too few images; labels, classes or a second source are needed and
            missing.
        ValueError: the images are at another resolution.
    """
    if images.image_shape[1:] != (data.resolution, data.resolution):
        raise ValueError(f"images must be at resolution {data.resolution}")
    label: tuple[int, ...] = () if data.label is None else (data.label,)
    seed = replicate - 1
    if data.second_share:
        if second is None:
            raise DataError(
                f"A share of {data.second_share:g} comes from a second source, which is missing; "
                "the paper takes ImageNet's dogs. Give images with {second_data}, or choose "
                "{values} 0.",
                field=("second_data", "values"),
            )
        return mix_images(
            select_images(images, Selection(label=label)),
            second,
            share=data.second_share,
            size=size,
            rule=rule if replicate == 1 else "described",
            seed=seed,
        )
    takes_first = rule == "published" and data.published_first
    if data.num_classes is not None:
        label = tuple(range(data.num_classes))
    is_balanced = data.num_classes is not None or not (
        label or takes_first or images.labels is None
    )
    # Images without labels may be in any order, so their first ones need not be typical.
    is_random = replicate > 1 or not (label or is_balanced or takes_first)
    selection = Selection(
        size=size,
        label=label,
        balanced=is_balanced,
        subset="random" if is_random else "first",
        subset_seed=seed,
    )
    return label_images(
        select_images(images, selection),
        data.labels,
        num_classes=data.num_random,
        rule=rule,
        seed=(PUBLISHED_LABEL_SEED if rule == "published" else 0) + seed,
    )


def predict_point_cost(
    point: RecipePoint, *, num_samples: int = RunConfig.num_samples, img_channels: int = 3
) -> Cost:
    """Predict the operations of all of a point's trainings and scans.

    Args:
        point: the training.
        num_samples: images generated from each snapshot.
        img_channels: channels of the images.
    """
    data = point.level.data
    num_classes = {"none": 1, "true": 10, "unique": point.size}.get(data.labels, data.num_random)
    shape = (1, img_channels, data.resolution, data.resolution)
    image = ImageSet(np.zeros(shape, np.uint8), ["blank"], labels=np.array([num_classes]) - 1)
    one = predict_run_cost(
        point.config,
        point.size,
        num_samples=num_samples,
        flops_per_image=count_forward_flops(point.config, image),
    )
    return sum([one] * point.replicates, Cost(0, 0))


def find_deviation(found: Replicates, published: float) -> float:
    """Measure how far a ratio is from the published one, given how much trainings differ.

    z = (logit p − logit p_pub) / √(2τ² + 1/(npq) + reading²): the published ratio is that of a
    single training, and was read off a figure, with an error of TOLERANCE. With R ≥ 2 trainings,
    s²(1 + 1/R) takes the place of 2τ² + 1/(npq). Ratios within TOLERANCE of each other do not
    deviate.

    Args:
        found: the measured ratios.
        published: the published one, in [0, 1].
    """
    measured = pool(found.ratios).ratio
    if abs(measured - published) <= TOLERANCE:
        return 0.0
    edge = TOLERANCE / 2
    towards = published + np.copysign(TOLERANCE, measured - published)
    target, shifted = logit(np.clip([published, towards], edge, 1 - edge))
    error = math.hypot(found.error_of_another, shifted - target)
    return float((found.center - target) / error)


def judge_ratio(found: Replicates, published: float | None, *, is_short: bool) -> Verdict:
    """Judge whether a measured ratio is the published one, at 95 %; see `find_deviation`.

    Args:
        found: the measured ratios.
        published: the published one in [0, 1], or None if there is no such number.
        is_short: whether the training was shorter than the paper's.
    """
    if published is None:
        return "not published"
    deviation = find_deviation(found, published)
    if abs(deviation) <= critical(found.degrees):
        return "agrees"
    # Memorization grows with training: a ratio that is still too low may yet come to agree.
    return "budget too small" if is_short and deviation < 0 else "differs"


def plan_runs(
    points: Sequence[RecipePoint],
    images: Callable[[int], ImageSet],
    *,
    out: Path,
    second: Callable[[int], ImageSet] | None = None,
) -> list[tuple[RunPlan, RecipePoint]]:
    """The runs of all points, each with its point.

    Args:
        points: as the rest, see `reproduce`.
        images: returns the source at a resolution.
        out: folder of the results.
        second: returns the second source of mixtures at a resolution.

    Raises:
        ConfigError, DataError: any point would fail.
    """
    planned = []
    for point in points:
        resolution = point.level.data.resolution
        for replicate in range(1, point.replicates + 1):
            data = draw_training_set(
                point.level.data,
                images(resolution),
                point.size,
                second=None if second is None else second(resolution),
                rule=point.recipe.rule,
                replicate=replicate,
            )
            training = replace(point.config, seed=point.config.seed + replicate - 1)
            configure_network(training, data)
            folder = replicate_folder(out / point.folder, replicate)
            planned.append((RunPlan(data, training, folder, replicate), point))
    return planned


def reproduce(
    points: Sequence[RecipePoint],
    images: Callable[[int], ImageSet],
    *,
    out: Path,
    second: Callable[[int], ImageSet] | None = None,
    config: RunConfig | None = None,
    progress: Progress = silent,
    on_planned: Callable[[], None] = lambda: None,
    on_result: Callable[[RecipeResult], None] = lambda result: None,
) -> list[RecipeResult]:
    """Train and scan each point as often as it has replicates, or read what is already done.

    Every result is appended to `results.jsonl` in `out`. Runs are in folders of their own beside
    it; those that were stopped are resumed.

    Args:
        points: trainings of one recipe or several.
        images: returns the source at a resolution.
        out: folder of the results.
        second: returns the second source of mixtures at a resolution.
        config: how points are scanned; by default as published, on the CPU.
        progress: called with the progress of each step.
        on_planned: called before the first training, once all points are known to be possible.
        on_result: called with each result as its run ends.

    Raises:
        ConfigError, DataError: any point would fail; raised before the first training.
    """
    config = config or RunConfig()
    check_output_folder(out, overwrite=True)
    planned = plan_runs(points, images, out=out, second=second)
    todo = [plan for plan, _ in planned]
    point_of = {plan.out: point for plan, point in planned}
    on_planned()

    known = {result.key: result for result in read_results(out)}
    done: dict[Path, list[RunResult]] = {}
    results: list[RecipeResult] = []

    def add(plan: RunPlan, run: RunResult) -> None:
        point = point_of[plan.out]
        runs = done.setdefault(point.folder, [])
        runs.append(run)
        if len(runs) < point.replicates:
            return
        result = _make_result(point, runs, config.device)
        before = known.get(result.key)
        if before is None or result != replace(
            before, device=result.device, finished=result.finished
        ):
            path = out / RESULTS
            before_it = path.read_bytes() if path.is_file() else b""
            with atomic_write(path) as file:  # to append could leave half a line on a full disk
                file.write(before_it + json.dumps(asdict(result)).encode() + b"\n")
        results.append(result)
        on_result(result)

    train_and_scan_all(todo, config, progress=progress, on_run=add)
    return results


def _make_result(point: RecipePoint, runs: Sequence[RunResult], device: str) -> RecipeResult:
    environment = describe_environment(device)
    runs = sorted(runs, key=lambda run: run.replicate)
    highest = tuple(run.highest for run in runs)
    found = Replicates(highest, assumed_spread(point.level.data.resolution))
    return RecipeResult(
        recipe=point.recipe.name,
        value=point.level.value,
        size=point.size,
        is_laptop=point.recipe.is_laptop,
        rule=point.recipe.rule,
        epochs=point.config.epochs,
        precision=point.precision,
        tf32=point.tf32,
        published=point.published,
        highest=highest,
        last=tuple(run.last for run in runs),
        spread=found.spread,
        another=found.another(),
        deviation=None if point.published is None else find_deviation(found, point.published),
        verdict=judge_ratio(found, point.published, is_short=point.is_short),
        training_seconds=sum(run.training_seconds for run in runs),
        scan_seconds=sum(run.scan_seconds for run in runs),
        images_seen=runs[0].images_seen,
        device=environment.device,
        finished=environment.finished,
    )


def read_results(folder: Path) -> list[RecipeResult]:
    """Read the results in a folder: the latest of each point, in the order they were first made.

    Raises:
        DataError: a line is not a result.
    """
    path = folder / RESULTS
    latest: dict[Any, RecipeResult] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            result = msgspec.json.decode(line, type=RecipeResult)
        except ValueError as error:
            raise DataError(f"Line {number} of {path} is not a result ({error}).") from error
        latest[result.key] = result
    return list(latest.values())


# ------------------------------------------------------------------------------------------------
# Trends


@dataclass(frozen=True)
class Trend:
    """Which of two levels of a factor memorizes more at the same size."""

    first: RecipeResult
    second: RecipeResult
    published: int
    """1 if the second has the higher published ratio, -1 if the first has."""

    @property
    def measured(self) -> int:
        """1 if the second has the higher measured ratio, -1 if the first has, 0 if they differ by
        no more than two trainings of one setup may."""
        return self.first.trainings.differs_from(self.second.trainings)

    @property
    def outcome(self) -> str:
        """Whether the measured trend is the published one, in words."""
        return {self.published: "as published", 0: "not told apart"}.get(self.measured, "opposite")

    def __str__(self) -> str:
        """The trend as a sentence."""
        return (
            f"|D| = {self.first.size:,}: {self.second.value} compared with {self.first.value}: "
            f"{self.outcome}."
        )


def find_trends(results: Sequence[RecipeResult]) -> list[Trend]:
    """Compare each level with the first that was measured at its size, and with the one before it.

    Only levels that the paper tells apart by more than figures can be misread are compared.

    Args:
        results: results of one recipe at one scale and by one rule.
    """
    found = []
    for size in sorted({result.size for result in results}):
        order = [level.value for level in find_recipe(results[0].recipe).levels]
        row = sorted(
            (result for result in results if result.size == size),
            key=lambda result: order.index(result.value),
        )
        for place, other in enumerate(row[1:]):
            for earlier in {0: row[0], place: row[place]}.values():
                sign = _published_sign(other.recipe, earlier.value, other.value)
                if sign:
                    found.append(Trend(earlier, other, sign))
    return found


def _published_sign(name: str, first: str, second: str) -> int:
    """Return 1 if `second` has the higher published ratio at the size where they differ most.

    -1 if it has the lower one, 0 if they are alike or not published.
    """
    published = {level.value: level.published for level in find_recipe(name).levels}
    sizes = published[first].keys() & published[second].keys()
    gaps = [published[second][size] - published[first][size] for size in sizes]
    gap = max(gaps, key=abs, default=0.0)
    return int(np.sign(gap)) if abs(gap) > 200 * TOLERANCE else 0
