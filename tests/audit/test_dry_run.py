"""A forecast of a scan is that of the scan that follows."""

import numpy as np
import pytest

from memaudit.audit.config import ScanConfig
from memaudit.audit.dry_run import forecast_scan, num_evaluations
from memaudit.audit.scan import scan
from memaudit.errors import ConfigError, DataError
from memaudit.models.sampler_config import SamplerConfig

TRAIN = np.random.default_rng(0).integers(0, 256, (80, 3, 8, 8), np.uint8)


def test_a_forecast_knows_what_the_scan_will_take():
    config = ScanConfig(seeds=range(70), fail_above=0.01, without=("optimality",))
    forecast = forecast_scan("optimum", TRAIN, config=config)
    result = scan("optimum", TRAIN, config=config)
    assert forecast.num_images == 70
    assert forecast.earliest_stop == len(result.generated) == 64
    assert forecast.likely_stop == 377
    assert forecast.index_bytes == result.search.num_bytes
    assert forecast.state_bytes == 70 * TRAIN[0].size
    assert forecast.optimum_images == 0
    assert forecast.seconds_per_image is not None and forecast.seconds_per_image > 0
    assert forecast.floor is not None and "each judged among the others" in forecast.floor


def test_the_comparison_with_the_optimum_counts_as_images():
    forecast = forecast_scan("optimum", TRAIN, holdout=255 - TRAIN[:50])
    # 80 + 50 images at 18 levels, and 64 trajectories of 35 evaluations.
    assert forecast.optimum_images == -(-130 * 18 // 35) + 64
    assert forecast.likely_stop is None and forecast.floor is None


def test_given_images_cost_no_sampling():
    forecast = forecast_scan(TRAIN[:7], TRAIN, config=ScanConfig(fail_above=0.1))
    assert (forecast.num_images, forecast.seconds_per_image) == (7, None)
    assert forecast.likely_stop is None and forecast.seconds(10) is None


def test_what_a_scan_refuses_is_refused():
    with pytest.raises(ConfigError, match="none are given"):
        forecast_scan("optimum", TRAIN, config=ScanConfig(also=("membership",)))
    with pytest.raises(DataError):
        forecast_scan(np.zeros((3, 3, 4, 4), np.uint8), TRAIN)


def test_evaluations_are_those_of_the_solver():
    assert num_evaluations(SamplerConfig()) == 35
    assert num_evaluations(SamplerConfig(num_steps=10, solver="euler")) == 10
