"""The demo's mechanics at a fraction of its length; the slow test runs all of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from memaudit.experiments import demo
from memaudit.experiments.timing import StepTime

pytest.importorskip("sklearn")


def test_digits_are_gray_bytes_with_labels():
    images = demo.load_digits()
    assert images.images.shape == (1797, 1, 8, 8)
    assert (images.images.min(), images.images.max()) == (0, 255)
    assert len(np.unique(images.images)) == 17
    assert images.num_classes == 10


def test_both_runs_are_trained_audited_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny = {"model_channels": 8, "channel_mult": (1,), "attn_resolutions": ()}
    short = dataclasses.replace(demo.NETWORK, **tiny, duration_images=64)
    monkeypatch.setattr(demo, "SIZES", (32, 40))
    monkeypatch.setattr(demo, "NETWORK", short)
    monkeypatch.setattr(demo, "NUM_SAMPLES", 4)
    threads, seen, tasks = torch.get_num_threads(), [], set()

    runs = demo.run_demo(
        tmp_path, progress=lambda task, *_, **__: tasks.add(task), on_run=seen.append
    )

    assert seen == runs and [len(run.data) for run in runs] == list(demo.SIZES)
    assert {"Training (32 images)", "Training (40 images)"} <= tasks
    for run in runs:
        assert run.page.is_file() and run.result.ratios.distinct.total == 4
    assert torch.get_num_threads() == threads

    written = [run.model.stat().st_mtime_ns for run in runs]
    again = demo.run_demo(tmp_path)
    assert [run.model.stat().st_mtime_ns for run in again] == written


def test_a_forecast_tells_what_other_programs_take_from_what_the_demo_needs(
    monkeypatch: pytest.MonkeyPatch,
):
    """Half of a core: the clock runs twice as fast as the processor's time."""
    seconds = iter([0.0, 4.0])
    monkeypatch.setattr(demo.time, "perf_counter", lambda: next(seconds))
    seconds_cpu = iter([0.0, 2.0])
    monkeypatch.setattr(demo.time, "process_time", lambda: next(seconds_cpu))
    step = StepTime(per_image=0.003, others=0.01, bytes_per_image=0.0, num_weights=1)
    monkeypatch.setattr(demo, "time_step", lambda *_, **__: step)
    forecast = demo.forecast_demo("cpu")
    assert forecast.seconds == pytest.approx(2 * (1000 * (64 * 0.003 + 0.01) + 500 * 35 * 0.001))
    assert forecast.undisturbed == pytest.approx(forecast.seconds / 2)


@pytest.mark.slow
def test_few_images_are_copied_and_many_are_not(tmp_path: Path):
    few, many = demo.run_demo(tmp_path)
    assert few.result.ratios.distinct.low > 0.85
    assert many.result.ratios.distinct.high < 0.02
