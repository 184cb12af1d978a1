"""A check on the pretended device."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit.audit.image_check.check import check_images
from memaudit.audit.image_check.config import CheckConfig
from memaudit.audit.image_check.self_repeats import check_repeats
from memaudit.models.execution import Execution
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig

pytestmark = pytest.mark.emulated

TRAIN, HELD = smooth_images(20, 8, seed=0), smooth_images(60, 8, seed=1)
CONFIG = CheckConfig(
    seeds=range(40),
    sampler=SamplerConfig(num_steps=5),
    num_controls=39,
    sigmas=(0.5,),
    num_noises=2,
)


def test_a_check_finds_the_same_on_the_device():
    asked = np.concatenate([TRAIN[:1], HELD[:1]])
    on_gpu = replace(CONFIG, execution=Execution(device="cuda"))
    found = [
        check_images(
            ClosedFormOptimum(TRAIN, device=config.execution.device),
            asked,
            data=TRAIN,
            holdout=HELD,
            config=config,
        )
        for config in (CONFIG, on_gpu)
    ]
    assert [[image.finding for image in each.images] for each in found] == [
        ["given-back", "not-shown"]
    ] * 2
    cpu, gpu = (each.images[0] for each in found)
    assert gpu.copies.keys == cpu.copies.keys
    assert gpu.membership is not None and cpu.membership is not None
    assert gpu.membership.loss == pytest.approx(cpu.membership.loss, rel=1e-3)


def test_repeats_are_found_on_the_device():
    config = replace(CONFIG, execution=Execution(device="cuda"))
    model = ClosedFormOptimum(TRAIN[:3], device="cuda")
    assert check_repeats(model, config=config).report.repeats.count.num_repeated > 30
