"""Learning rate, average, budget and snapshots against the published bookkeeping."""

import json
from pathlib import Path
from typing import Any

import pytest

from memaudit.training.config import TrainingConfig
from memaudit.training.schedule import Schedule, format_epochs


@pytest.fixture(scope="module")
def numbers(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "training_numbers.json").read_text())


def test_budget_ramp_up_and_half_life_are_the_published_ones(numbers: dict[str, Any]):
    for row in numbers["schedule"]:
        schedule = Schedule(TrainingConfig(), row["dataset_size"])
        assert schedule.duration_images == 1000 * row["total_kimg"]
        assert schedule.lr_rampup_images == 1000 * row["lr_rampup_kimg"]
        assert schedule.ema_halflife_images == 1000 * row["ema_halflife_kimg"]


def test_ema_decays_of_all_modes_are_the_published_ones(numbers: dict[str, Any]):
    for size, batch, mode, decay, images_seen, beta in numbers["ema_beta"]["rows"]:
        config = TrainingConfig(batch_size=batch, ema_mode=mode, ema_decay=decay)
        assert Schedule(config, size).ema_beta(images_seen) == pytest.approx(beta, abs=1e-12)


def test_mode1_at_the_published_size_is_edms_own_average(numbers: dict[str, Any]):
    schedule = Schedule(TrainingConfig(ema_mode="mode1"), 50_000)
    official = numbers["edm_official"]
    assert schedule.ema_halflife_images == 1000 * official["ema_halflife_kimg"]
    assert schedule.lr_rampup_images == 1000 * official["lr_rampup_kimg"]
    for images_seen, beta in official["betas"]:
        assert schedule.ema_beta(images_seen) == pytest.approx(beta, abs=1e-12)


def test_the_learning_rate_rises_as_published(numbers: dict[str, Any]):
    for size, images_seen, factor in numbers["lr_factor"]["rows"]:
        assert Schedule(TrainingConfig(lr=1.0), size).lr(images_seen) == factor
        assert Schedule(TrainingConfig(lr=2e-4), size).lr(images_seen) == 2e-4 * factor


def test_the_plain_average_warms_up_to_its_decay():
    schedule = Schedule(TrainingConfig(ema_mode="plain", ema_decay=0.999, batch_size=64), 32)
    assert schedule.ema_beta(0) == 1 / 10
    assert schedule.ema_beta(64 * 90) == 91 / 100
    assert schedule.ema_beta(64 * 10_000) == 0.999


def test_the_budget_is_in_epochs_or_in_images():
    config = TrainingConfig(batch_size=64, epochs=10)
    assert Schedule(config, 100).duration_images == 1000
    assert Schedule(config, 100).num_steps == 16
    config = TrainingConfig(batch_size=64, duration_images=640)
    assert Schedule(config, 100).num_steps == 10


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"num_snapshots": 4}, [5, 10, 15, 20]),
        ({"num_snapshots": 3}, [7, 14, 20]),
        ({"num_snapshots": 1}, [20]),
        ({"snapshot_images": 60}, [6, 12, 18, 20]),
        ({"snapshot_images": 64}, [7, 13, 20]),
        ({"snapshot_images": 1}, list(range(1, 21))),
        ({"snapshot_epochs": 1.5}, [15, 20]),
    ],
)
def test_a_snapshot_follows_the_step_that_reaches_its_images(options: dict, steps: list[int]):
    config = TrainingConfig(batch_size=10, duration_images=200, **options)
    schedule = Schedule(config, 100)
    assert [n for n in range(1, 21) if schedule.is_snapshot(10 * n)] == steps


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [5, 10, 15, 20]), (2, [10, 20]), (3, [15, 20]), (9, [20])]
)
def test_every_nth_snapshot_is_known_by_images_seen(every: int, steps: list[int]):
    schedule = Schedule(TrainingConfig(batch_size=10, duration_images=200, num_snapshots=4), 100)
    assert [n for n in range(1, 21) if schedule.is_snapshot(10 * n, every=every)] == steps


@pytest.mark.parametrize(
    ("epochs", "text"),
    [(0.25, "0.25"), (2.56, "2.56"), (99.97, "100"), (1234.4, "1,234"), (4e4, "40,000")],
)
def test_epochs_are_written_with_three_digits_or_more(epochs: float, text: str):
    assert format_epochs(epochs) == text
