"""Every recipe of the paper: as data, trained for a moment at laptop scale, judged, on a page."""

import html
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import binom

from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.data.set_recipe import DrawRule
from memaudit.errors import ConfigError, DataError
from memaudit.experiments.config import RunConfig
from memaudit.experiments.paper.config import PointSelection
from memaudit.experiments.paper.page import (
    NOT_COMPARABLE,
    explain_verdict,
    write_results_page,
)
from memaudit.experiments.paper.recipes import (
    BASE_PUBLISHED,
    DEVIATIONS,
    RECIPES,
    Recipe,
    TrainingData,
    find_recipe,
)
from memaudit.experiments.paper.reproduce import (
    RecipePoint,
    RecipeResult,
    choose_points,
    draw_training_set,
    find_deviation,
    find_trends,
    judge_ratio,
    predict_point_cost,
    read_results,
    reproduce,
)
from memaudit.experiments.replicates import Replicates
from memaudit.training.config import TrainingConfig
from memaudit.training.network import configure_network
from memaudit.training.schedule import Schedule
from memaudit.training.trainer import Trainer

NAMES = [recipe.name for recipe in RECIPES]


def source(resolution: int, *, num_images: int = 400, seed: int = 0) -> ImageSet:
    """Noise in ten classes, in place of CIFAR-10."""
    rng = np.random.default_rng(seed)
    return ImageSet(
        rng.integers(0, 256, (num_images, 3, resolution, resolution), dtype=np.uint8),
        names=[f"{i}" for i in range(num_images)],
        labels=np.arange(num_images) % 10,
        source=f"noise {seed}",
    )


def other_source(resolution: int) -> ImageSet:
    return source(resolution, num_images=40, seed=1)


def laptop_points(recipe: Recipe) -> list[RecipePoint]:
    """All levels of a recipe at 40 images, for two epochs."""
    recipe = recipe.for_laptop()
    return choose_points(recipe, PointSelection(sizes=(40,), epochs=2))


def test_levels_with_the_ratios_of_the_base_setup_are_the_base_setup():
    base, image = TrainingConfig(), source(32, num_images=1)
    named = [(r, s) for r in RECIPES for s in r.levels if s.published == BASE_PUBLISHED]
    assert len(named) == 10
    published = replace(base, ema_mode="mode2", snapshot_images=2_509_000)
    for recipe, level in named:
        config = recipe.configure_training(level)
        assert configure_network(config, image) == configure_network(base, image)
        mode = "mode4" if recipe.name == "ema" else "mode2"
        same = {"model_channels": None, "embedding": None}
        assert replace(config, **same) == replace(published, ema_mode=mode)
        described = replace(recipe, rule="described").configure_training(level)
        assert replace(described, **same) == base
        assert level.data in (TrainingData(), TrainingData(num_classes=10))


@pytest.mark.parametrize(
    ("name", "value", "size", "percent"),
    [
        ("data-dimension", "32x32", 1000, 92),
        ("data-dimension", "16x16", 8000, 60),
        ("data-dimension", "8x8", 16_000, 64),
        ("conditioning", "true", 4000, 37.5),
        ("conditioning", "random", 5000, 23.5),
        ("random-labels", "C=100", 5000, 62.5),
        ("unique-labels", "unique", 50_000, 65),
        ("skip-connections", "ddpmpp 3", 1000, 91.5),
        ("skip-connections", "ddpmpp 6", 1000, 61),
        ("skip-connections", "ddpmpp 9", 1000, 0),
        ("skip-connections", "ddpmpp 4+5+6", 1000, 53),
    ],
)
def test_published_ratios_are_the_ones_read_off(name: str, value: str, size: int, percent: float):
    (point,) = choose_points(find_recipe(name), PointSelection(values=(value,), sizes=(size,)))
    assert point.published == percent / 100


@pytest.mark.parametrize(
    ("name", "num_levels"),
    [("width", 4), ("depth", 6), ("batch-size", 7), ("weight-decay", 9), ("ema", 9)]
    + [("random-labels", 9), ("skip-connections", 2 * 22), ("within-class-diversity", 5)],
)
def test_every_level_of_a_factor_occurs_once(name: str, num_levels: int):
    recipe = find_recipe(name)
    made = [(recipe.configure_training(s), s.data) for s in recipe.levels]
    assert len(made) == num_levels
    assert all(one not in made[:i] for i, one in enumerate(made))
    assert len({level.value for level in recipe.levels}) == num_levels


@pytest.mark.parametrize(
    ("size", "number"), [(500, 8), (1000, 16), (2000, 32), (5000, 80), (50_000, 240)]
)
def test_published_snapshots_are_as_many_as_in_the_runs(size: int, number: int):
    name = "unique-labels" if size == 50_000 else "epochs"
    *_, point = choose_points(find_recipe(name), PointSelection(sizes=(size,)))
    schedule = Schedule(point.config, size)
    assert math.ceil(schedule.duration_images / schedule.snapshot_images) == number
    (described,) = choose_points(
        find_recipe("width"), PointSelection(values=("128",), sizes=(500,), rule="described")
    )
    assert (described.config.num_snapshots, described.config.snapshot_images) == (10, None)


def test_at_a_batch_of_512_both_averages_are_the_same_but_for_5e_7():
    decays = []
    for mode in ("mode2", "mode4"):
        config = TrainingConfig(ema_mode=mode)
        decays.append(Schedule(config, 1000).ema_beta(10_000_000))
    assert 1e-7 < abs(decays[0] - decays[1]) < 6e-7


def test_a_larger_batch_has_a_larger_learning_rate():
    recipe = find_recipe("batch-size")
    rates = {
        recipe.configure_training(s).lr / recipe.configure_training(s).batch_size
        for s in recipe.levels
    }
    assert max(rates) == pytest.approx(min(rates)) == pytest.approx(2e-4 / 512)


def test_one_skip_is_kept_at_the_index_that_names_it():
    recipe, chosen = find_recipe("skip-connections"), PointSelection(values=("ddpmpp 4",))
    (point,) = choose_points(recipe, chosen)
    assert point.config.skip_connections == (0, 0, 0, 1, 0, 0, 0, 0, 0)
    (laptop,) = choose_points(recipe.for_laptop(), chosen)
    assert laptop.config.skip_connections == point.config.skip_connections


def test_operations_are_those_counted_by_hand():
    """25.4 GFLOP per evaluation at 32x32, 1.58 at 8x8; 3.05 EFLOP for 40 M images trained on."""
    points = choose_points(find_recipe("data-dimension"), PointSelection(sizes=(1000,)))
    large, _, small = (predict_point_cost(point) for point in points)
    assert large.training == pytest.approx(3.05e18, rel=0.01)
    assert small.training == pytest.approx(0.19e18, rel=0.01)
    assert large.sampling == pytest.approx(16 * 10_000 * 890e9, rel=0.01)
    chosen = PointSelection(sizes=(1000,), replicates=3, rule="described")
    described, *_ = map(predict_point_cost, choose_points(find_recipe("data-dimension"), chosen))
    assert described.training == pytest.approx(3 * large.training)
    assert described.sampling == pytest.approx(3 * 10 * 10_000 * 890e9, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_trains_at_laptop_scale(name: str):
    points = laptop_points(find_recipe(name))
    for point in (points[0], points[-1]):
        resolution = point.level.data.resolution
        data = draw_training_set(
            point.level.data, source(resolution), point.size, second=other_source(resolution)
        )
        assert len(data) == 40
        loss = Trainer(data, point.config, device=torch.device("cpu")).step()
        assert loss.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_every_recipe_is_trained_and_scanned(name: str, tmp_path: Path):
    points = laptop_points(find_recipe(name))
    config = RunConfig(num_samples=2)
    results = reproduce(points, source, out=tmp_path, second=other_source, config=config)
    assert [result.value for result in results] == [point.level.value for point in points]
    assert write_results_page(tmp_path).is_file()


def test_results_are_written_once_and_read(tmp_path: Path):
    recipe = find_recipe("conditioning").for_laptop()
    points = choose_points(recipe, PointSelection(values=("none", "unique"), sizes=(10,), epochs=1))
    begun: list[bool] = []
    first = reproduce(
        points,
        source,
        out=tmp_path,
        config=RunConfig(num_samples=3),
        on_planned=lambda: begun.append(any(tmp_path.iterdir())),
    )
    assert begun == [False]
    tasks: list[str] = []
    again = reproduce(
        points,
        source,
        out=tmp_path,
        config=RunConfig(num_samples=3),
        progress=lambda task, *_, **__: tasks.append(task),
    )
    assert not [task for task in tasks if task.startswith("Sampling")]
    assert [r.highest for r in again] == [r.highest for r in first]
    assert {path.name for path in tmp_path.glob("*/*/size-000010/*")} == {"replicate-1"}
    assert [r.value for r in read_results(tmp_path)] == ["none", "unique"]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2

    tasks.clear()
    more = reproduce(
        [replace(points[0], replicates=2)],
        source,
        out=tmp_path,
        config=RunConfig(num_samples=3),
        progress=lambda task, *_, **__: tasks.append(task),
    )
    sampled = {task for task in tasks if task.startswith("Sampling")}
    assert sampled == {"Sampling (10 images, training 2)"}
    assert more[0].highest[0] == first[0].highest[0]
    assert [len(r.highest) for r in read_results(tmp_path)] == [2, 1]
    assert more[0].training_seconds > first[0].training_seconds

    longer = replace(points[0], epochs=7)
    reproduce([longer], source, out=tmp_path, config=RunConfig(num_samples=3))
    assert [r.epochs for r in read_results(tmp_path)] == [7, 1]

    (tmp_path / "results.jsonl").write_text('{"recipe": "conditioning"}\n')
    with pytest.raises(DataError, match="Line 1 of .* is not a result"):
        read_results(tmp_path)


def trainings(*counts: int, tau: float = 0.23) -> Replicates:
    return Replicates(tuple(clopper_pearson(count, 1000) for count in counts), tau)


@pytest.mark.parametrize(
    ("count", "published", "is_short", "verdict"),
    [
        (915, 0.92, False, "agrees"),
        (950, 0.92, False, "agrees"),
        (980, 0.92, False, "differs"),
        (500, 0.92, False, "differs"),
        (500, 0.92, True, "budget too small"),
        (1000, 0.92, True, "differs"),
        (1000, 1.0, True, "agrees"),
        (980, 1.0, False, "agrees"),
        (900, 1.0, False, "differs"),
        (0, 0.0, False, "agrees"),
        (100, 0.0, False, "differs"),
        (500, None, False, "not published"),
    ],
)
def test_a_ratio_is_judged_by_how_much_trainings_differ(
    count: int, published: float | None, is_short: bool, verdict: str
):
    assert judge_ratio(trainings(count), published, is_short=is_short) == verdict


def test_the_deviation_is_the_difference_of_logits_over_its_standard_deviation():
    """z = (logit p − logit p_pub) / √(2τ² + 1/(npq) + reading²)"""
    measured, published, towards = logit([600.5 / 1001, 0.8, 0.79])
    p = 600.5 / 1001
    error = math.sqrt(2 * 0.5**2 + 1 / (1000 * p * (1 - p)) + (towards - published) ** 2)
    found = find_deviation(trainings(600, tau=0.5), 0.8)
    assert found == pytest.approx((measured - published) / error)


def test_several_trainings_show_how_much_they_differ():
    assert judge_ratio(trainings(600, 600, 610, tau=9.9), 0.8, is_short=False) == "differs"
    assert judge_ratio(trainings(400, 600, 750, tau=0.0), 0.8, is_short=False) == "agrees"


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("number", [1, 3])
def test_a_faithful_reproduction_agrees(tau: float, number: int):
    """Both are trainings of one setup, whose τ is known if there is only one; simulated: 95 % or
    more."""
    rng, trials, agrees = np.random.default_rng(0), 400, 0
    for _ in range(trials):
        published, *ratios = expit(logit(0.6) + rng.normal(0, tau, number + 1))
        found = trainings(*rng.binomial(1000, ratios).tolist(), tau=tau)
        read = round(rng.binomial(10_000, published) / 10_000 + rng.uniform(-0.01, 0.01), 2)
        agrees += judge_ratio(found, read, is_short=False) == "agrees"
    assert agrees >= binom.ppf(0.001, trials, 0.95)


def test_fewer_epochs_are_a_budget_too_small():
    chosen = PointSelection(values=("adam",), sizes=(1000,), epochs=4000)
    (point,) = choose_points(find_recipe("optimizer"), chosen)
    assert point.is_short
    assert not replace(point, epochs=None).is_short


def test_training_sets_follow_the_recipe():
    images = source(8)
    balanced = draw_training_set(TrainingData(8), images, 40)
    assert np.bincount(images.labels[balanced.indices]).tolist() == [4] * 10
    assert balanced.labels is None
    two = draw_training_set(TrainingData(8, num_classes=2), images, 40)
    assert set(images.labels[two.indices]) == {0, 1}
    dogs = draw_training_set(TrainingData(8, label=5), images, 20)
    assert set(images.labels[dogs.indices]) == {5}
    mixed = draw_training_set(TrainingData(8, label=5, second_share=0.5), images, 20, second=images)
    assert len(mixed) == 20
    assert draw_training_set(TrainingData(8, labels="unique"), images, 20).num_classes == 20


def test_training_sets_are_as_in_the_runs_or_as_described():
    images = replace(source(8), labels=np.arange(400) % 7 % 5)
    dimension = TrainingData(8, published_first=True)
    first = draw_training_set(dimension, images, 40)
    assert first.indices.tolist() == list(range(40))
    described = draw_training_set(dimension, images, 40, rule="described")
    assert np.bincount(images.labels[described.indices]).tolist() == [8] * 5

    labels = TrainingData(8, labels="random", num_random=10)
    published = draw_training_set(labels, images, 20)
    assert published.labels[:6].tolist() == [0, 7, 6, 5, 8, 1]
    described = draw_training_set(labels, images, 20, rule="described")
    assert described.labels[:6].tolist() == [5, 0, 3, 3, 7, 9]

    mixture = TrainingData(8, label=0, second_share=0.5)
    other = source(8, seed=1)
    mixed = draw_training_set(mixture, images, 20, second=other)
    assert mixed.names[10:] == [f"noise 1/{i}" for i in range(10)]
    described = draw_training_set(mixture, images, 20, second=other, rule="described")
    assert described.names != mixed.names


@pytest.mark.parametrize(
    "data",
    [
        TrainingData(8),
        TrainingData(8, published_first=True),
        TrainingData(8, num_classes=2),
        TrainingData(8, label=5),
        TrainingData(8, label=5, second_share=0.5),
        TrainingData(8, labels="random", num_random=3),
    ],
)
@pytest.mark.parametrize("rule", get_args(DrawRule))
def test_replicates_have_other_images_and_labels(data: TrainingData, rule: DrawRule):
    sets = [
        draw_training_set(
            data, source(8), 20, second=source(8, seed=1), rule=rule, replicate=replicate
        )
        for replicate in (1, 2, 3)
    ]
    assert len({images.fingerprint for images in sets}) == 3
    assert {len(images) for images in sets} == {20}
    if data.labels == "random":
        assert len({tuple(images.labels.tolist()) for images in sets}) == 3


def test_data_that_a_recipe_cannot_use_is_refused():
    unlabeled = replace(source(8), labels=None)
    assert len(draw_training_set(TrainingData(8), unlabeled, 7)) == 7
    with pytest.raises(DataError, match="no labels"):
        draw_training_set(TrainingData(8, num_classes=2), unlabeled, 4)
    with pytest.raises(DataError, match="no labels"):
        draw_training_set(TrainingData(8, labels="true"), unlabeled, 4)
    with pytest.raises(DataError, match="choose values 0"):
        draw_training_set(TrainingData(8, label=5, second_share=0.2), source(8), 10)
    with pytest.raises(DataError, match="multiple of 10"):
        draw_training_set(TrainingData(8), source(8), 41)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="The recipes are epochs, data-dimension"):
        find_recipe("resolution")
    with pytest.raises(ConfigError, match="its values are none, true, random, unique"):
        choose_points(find_recipe("conditioning"), PointSelection(values=("labels",)))
    with pytest.raises(ConfigError, match="it trains at resolution 8, 16, 32"):
        choose_points(find_recipe("data-dimension"), PointSelection(resolution=64))


def test_one_resolution_is_one_level_of_the_data_dimension():
    chosen = PointSelection(resolution=8, sizes=(1000,))
    points = choose_points(find_recipe("data-dimension"), chosen)
    assert [point.level.value for point in points] == ["8x8"]


def test_a_faster_format_is_trained_in_and_told():
    selection = PointSelection(values=("8x8",), sizes=(1000,), precision="bf16", tf32=True)
    (point,) = choose_points(find_recipe("data-dimension"), selection)
    assert (point.config.precision, point.config.tf32) == ("bf16", True)
    told = explain_verdict([make_result("8x8", 50, precision="bf16", tf32=True)])
    assert "Trained in bf16 and tf32" in told
    assert "Trained in" not in explain_verdict([make_result("8x8", 50)])


def make_result(value: str, *counts: int, **changes: object) -> RecipeResult:
    found = trainings(*counts)
    given = RecipeResult(
        recipe="conditioning",
        value=value,
        size=80,
        is_laptop=True,
        rule="published",
        epochs=2000,
        precision="fp32",
        tf32=False,
        published=None,
        highest=found.ratios,
        last=found.ratios,
        spread=found.spread,
        another=found.another(),
        deviation=None,
        verdict="not published",
        training_seconds=1.0,
        scan_seconds=1.0,
        images_seen=160_000,
        device="CPU",
        finished="2026-01-01T00:00:00+00:00",
    )
    return replace(given, **changes)


def test_a_trend_is_published_and_measured():
    """Random labels raise the ratio; unique ones are not published for this row."""
    results = [make_result("random", 500), make_result("none", 200), make_result("unique", 900)]
    (found,) = find_trends(results)
    assert (found.first.value, found.second.value) == ("none", "random")
    assert (found.published, found.measured, found.outcome) == (1, 1, "as published")
    (same,) = find_trends([make_result("none", 500), make_result("random", 510)])
    assert same.outcome == "not told apart"
    (other,) = find_trends([make_result("none", 500), make_result("random", 100)])
    assert other.outcome == "opposite"
    (noisy,) = find_trends([make_result("none", 200, spread=0.9), make_result("random", 500)])
    assert noisy.outcome == "not told apart"
    (both,) = find_trends(
        [make_result("none", 200, 210, 190), make_result("random", 500, 520, 480)]
    )
    assert both.outcome == "as published"


def test_levels_are_compared_with_the_first_and_the_one_before():
    rows = [("ddpmpp all", 800), ("ddpmpp 1", 400), ("ddpmpp 9", 0)]
    results = [make_result(value, count, recipe="skip-connections") for value, count in rows]
    found = find_trends(results)
    # One fine skip keeps as much as all of them; one coarse skip keeps nothing.
    assert [(d.first.value, d.second.value) for d in found] == [
        ("ddpmpp all", "ddpmpp 9"),
        ("ddpmpp 1", "ddpmpp 9"),
    ]
    assert {d.outcome for d in found} == {"as published"}


def test_the_page_shows_published_beside_measured(tmp_path: Path):
    paper = {"is_laptop": False, "size": 1000, "verdict": "agrees"}
    results = [
        make_result("none", 900, 910, 890, published=0.92, deviation=-0.8, **paper),
        make_result("random", 960, published=0.96, **paper),
        make_result("none", 200),
        make_result("random", 500),
    ]
    lines = [json.dumps(asdict(result)) for result in results]
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    text = html.unescape(write_results_page(tmp_path).read_text())
    assert "|D| = 1,000, published" in text
    assert "90.0 % (87.2 to 92.2)" in text and "agrees" in text and ">-0.8</td>" in text
    assert "96.0 % (this training 94.6 to 97.1)" in text and "so 0.23 is assumed" in text
    assert all(deviation in text for deviation in DEVIATIONS["published"])
    assert NOT_COMPARABLE in text
    assert "random compared with none: as published." in text


def test_a_line_joins_the_levels_of_a_recipe_only_if_they_are_amounts():
    named = {recipe.name for recipe in RECIPES if not recipe.is_ordered}
    assert named == {
        *("time-embedding", "skip-connections", "conditioning", "unique-labels", "optimizer")
    }


def test_a_page_needs_results(tmp_path: Path):
    with pytest.raises(DataError, match="no results.jsonl with results"):
        write_results_page(tmp_path)
