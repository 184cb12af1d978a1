"""A forecast of a scan is that of the scan that follows."""

import time

import numpy as np
import pytest
from helpers.tiny_networks import tiny
from torch import Tensor

from memaudit.audit import dry_run
from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics import membership_inference, noise_and_return
from memaudit.audit.dry_run import forecast_scan
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.scan import scan
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.models.execution import Execution, Precision
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.sampling_time import SamplingTime, num_evaluations, time_sampling

TRAIN = np.random.default_rng(0).integers(0, 256, (80, 3, 8, 8), np.uint8)


def test_a_forecast_knows_what_the_scan_will_take():
    config = ScanConfig(seeds=range(70), fail_above=0.01, without=("optimality",))
    forecast = forecast_scan("optimum", TRAIN, config=config)
    result = scan("optimum", TRAIN, config=config)
    assert forecast.num_images == 70
    assert forecast.earliest_stop == len(result.generated) == 64
    assert forecast.likely_stop == 377
    assert forecast.index_bytes == result.search.num_bytes
    assert forecast.making_bytes is not None and forecast.making_bytes >= forecast.index_bytes
    assert forecast.state_bytes == 70 * TRAIN[0].size
    assert "optimality" not in {each.step for each in forecast.steps}
    assert forecast.denoises is not None and result.denoising is not None
    assert forecast.denoises == result.denoising.message
    assert forecast.seconds_per_image is not None and forecast.seconds_per_image > 0
    assert forecast.floor is not None and "each judged among the others" in forecast.floor


class Slow(ClosedFormOptimum):
    """A model whose evaluations take as long on every machine."""

    SECONDS = 0.004

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        time.sleep(self.SECONDS)
        return super().__call__(x, sigma, class_labels)


@pytest.mark.parametrize("screening", [None, ScreeningConfig(screen_share=0.5)])
def test_a_forecast_counts_the_evaluations_of_the_scan(screening: ScreeningConfig | None):
    """At least as long as a model that sleeps takes; a busy machine only adds to it."""
    model = Slow(TRAIN)
    config = ScanConfig(seeds=range(256), screening=screening, without=("optimality",))
    forecast = forecast_scan(model, TRAIN, config=config)
    said = {each.step: each.seconds for each in forecast.steps}
    least = 4 * 35 * Slow.SECONDS  # screened, too: nearly all are candidates of an optimum
    least *= 1 if screening is None else 0.7
    assert said["sampling"] > least
    if screening is not None:
        assert said["screening"] > 4 * screening.screen_steps * Slow.SECONDS
    assert forecast.seconds == pytest.approx(sum(said.values()))


def test_the_comparison_with_the_optimum_is_a_step_of_its_own():
    forecast = forecast_scan("optimum", TRAIN, holdout=255 - TRAIN[:50])
    steps = [each.step for each in forecast.steps]
    assert steps == ["denoising test", "index", "controls", "sampling", "search", "optimality"]
    assert all(each.seconds > 0 for each in forecast.steps)
    assert forecast.optimum_bytes == 4 * TRAIN.size
    assert forecast.likely_stop is None and forecast.floor is None


def test_diagnostics_on_request_are_counted_as_they_run():
    """By the calls of a model that counts the images of each."""
    model = Slow(TRAIN)
    model.SECONDS = 0  # type: ignore[misc]
    images, holdout = ImageSet.from_array(TRAIN), ImageSet.from_array(255 - TRAIN)
    sampler = SamplerConfig(num_steps=2)
    expected = noise_and_return.forecast_evaluations(model, images, holdout, sampler)
    assert expected == (80 + 80) * 6 * 3
    assert membership_inference.forecast_evaluations(images, holdout) == (80 + 80) * 4 * 4


def test_the_time_of_sampling_is_that_of_whole_groups():
    timed = time_sampling(Slow(TRAIN), SamplerConfig(), execution=Execution())
    assert timed.group == 64
    assert timed.seconds(65, SamplerConfig()) == 2 * timed.seconds(64, SamplerConfig())
    assert timed.per_evaluation >= Slow.SECONDS
    assert timed.per_image(SamplerConfig()) == timed.seconds(64, SamplerConfig()) / 64


def test_given_images_cost_no_sampling():
    forecast = forecast_scan(TRAIN[:7], TRAIN, config=ScanConfig(fail_above=0.1))
    assert (forecast.num_images, forecast.seconds_per_image) == (7, None)
    assert forecast.likely_stop is None and forecast.denoises is None
    assert [each.step for each in forecast.steps] == ["index", "controls", "search"]


def test_a_faster_format_is_forecast_with_its_probe_and_what_is_sampled_again(monkeypatch):
    timed = {"fp32": SamplingTime(0.02, 0.0, 64), "bf16": SamplingTime(0.01, 0.0, 64)}
    monkeypatch.setattr(
        dry_run,
        "time_sampling",
        lambda *_, execution, **__: timed[execution.precision],
    )
    source = tiny("EDMPrecond", img_resolution=8, label_dim=0).eval()

    def seconds(number: int, precision: Precision) -> float:
        config = ScanConfig(
            seeds=range(number),
            execution=Execution(precision=precision),
            without=("optimality",),
        )
        forecast = forecast_scan(source, TRAIN, config=config)
        (sampling,) = (each.seconds for each in forecast.steps if each.step == "sampling")
        if precision == "bf16":
            assert forecast.seconds_per_image == sampling / number
        return sampling

    groups = 512 // 64 + 2  # the probe, and 15 % of the 512 images after it
    assert seconds(1024 + 64, "bf16") == pytest.approx(35 * (17 * 0.01 + groups * 0.02))
    assert seconds(1024, "bf16") == seconds(1024, "fp32")


def test_a_gate_that_screens_has_no_likely_stop():
    config = ScanConfig(
        seeds=range(64), fail_above=0.01, screening=ScreeningConfig(), without=("optimality",)
    )
    forecast = forecast_scan(Slow(TRAIN), TRAIN, config=config)
    assert forecast.likely_stop is None and forecast.earliest_stop is None
    assert forecast.floor is not None


@pytest.mark.parametrize(("limit", "has_likely_stop"), [(0.1, True), (0.001, False)])
def test_a_gate_passes_no_images_of_a_faster_format(monkeypatch, limit, has_likely_stop):
    monkeypatch.setattr(dry_run, "time_sampling", lambda *_, **__: SamplingTime(0.01, 0.0, 64))
    source = tiny("EDMPrecond", img_resolution=8, label_dim=0).eval()
    config = ScanConfig(
        seeds=range(5000),
        fail_above=limit,
        execution=Execution(precision="bf16"),
        without=("optimality",),
    )
    forecast = forecast_scan(source, TRAIN, config=config)
    assert (forecast.likely_stop is not None) == has_likely_stop
    assert forecast.earliest_stop is not None


def test_what_a_scan_refuses_is_refused():
    faster = ScanConfig(screening=ScreeningConfig(), execution=Execution(precision="bf16"))
    network = tiny("EDMPrecond", img_resolution=8, label_dim=0).eval()
    with pytest.raises(ConfigError, match="leaves a faster format nothing to save"):
        forecast_scan(network, TRAIN, config=faster)
    with pytest.raises(ConfigError, match="none are given"):
        forecast_scan("optimum", TRAIN, config=ScanConfig(also=("membership",)))
    with pytest.raises(DataError, match="held-out"):
        forecast_scan("optimum", TRAIN, holdout=TRAIN[:5])
    classes = np.arange(80) % 3
    labeled = ImageSet(TRAIN, [f"{i}.png" for i in range(80)], source="train", labels=classes)
    with pytest.raises(ConfigError, match="have 3 classes, but the model 2"):
        forecast_scan(
            tiny("EDMPrecond", img_resolution=8, label_dim=2).eval(),
            labeled,
            config=ScanConfig(fail_above=0.1),
        )
    with pytest.raises(DataError):
        forecast_scan(np.zeros((3, 3, 4, 4), np.uint8), TRAIN)


def test_evaluations_are_those_of_the_solver():
    assert num_evaluations(SamplerConfig()) == 35
    assert num_evaluations(SamplerConfig(num_steps=10, solver="euler")) == 10
