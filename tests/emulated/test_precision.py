"""A scan in fp16 on a GPU, which is what `auto` chooses there."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_networks import tiny

import memaudit
from memaudit.audit import confirmation, confirmed_images
from memaudit.audit import sampling as audit_sampling
from memaudit.audit.config import ScanConfig
from memaudit.models.execution import Execution
from memaudit.models.precision import in_format, resolve_precision
from memaudit.models.sampler_config import SamplerConfig

pytestmark = pytest.mark.emulated


def network() -> Any:
    torch.manual_seed(0)
    return tiny("EDMPrecond").to("cuda")


def test_auto_is_fp16_for_networks_on_a_recent_gpu():
    on_gpu = Execution(device="cuda")
    assert resolve_precision(network(), on_gpu) == "fp16"
    assert resolve_precision(network(), Execution(precision="tf32", device="cuda")) == "tf32"
    cast: Any = in_format(network(), "fp16")
    assert {p.device.type for p in cast.parameters()} == {"cuda"}


def test_a_scan_in_fp16_there_is_confirmed(monkeypatch: pytest.MonkeyPatch):
    for module in (confirmation, confirmed_images, audit_sampling):
        monkeypatch.setattr(module, "PROBE_SIZE", 16)
    train = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
    found = {
        precision: memaudit.scan(
            network(),
            train,
            config=ScanConfig(
                seeds=range(48),
                sampler=SamplerConfig(num_steps=3),
                without=("optimality", "recall"),
                execution=Execution(8, "cuda", precision),
            ),
        )
        for precision in ("auto", "fp32")
    }
    auto, exact = found["auto"], found["fp32"]
    assert auto.config.execution.precision == "fp16" and exact.confirmation is None
    assert auto.confirmation is not None and auto.confirmation.probe is not None
    assert auto.confirmation.fast_seeds is not None
    assert np.array_equal(auto.matches.is_copy, exact.matches.is_copy)
    assert np.array_equal(auto.generated[:16], exact.generated[:16])
