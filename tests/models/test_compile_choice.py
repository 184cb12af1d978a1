"""Compiling for sampling: when, in which formats, and that images stay what they are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_networks import tiny

from memaudit.errors import ConfigError
from memaudit.models import compile_choice
from memaudit.models.compile_choice import count_flops, settle_compile
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig

SAMPLER = SamplerConfig(num_steps=3)
CPU = torch.device("cpu")


def network() -> Any:
    return tiny("EDMPrecond").eval().requires_grad_(False)


def settle(denoiser: Any, num_images: int = 100, **options: Any) -> str:
    execution = Execution(**{"batch_size": 4, "precision": "bf16"} | options)
    return settle_compile(execution, denoiser, num_images=num_images, sampler=SAMPLER).compile


def plainly(module: torch.nn.Module) -> None:
    """Take the compiler's place, whose kernels take a minute."""


def test_only_networks_in_half_precision_are_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("memaudit.models.precision.compile_kernels", plainly)
    assert settle(network(), compile="on") == "on"
    assert settle(network(), compile="off") == "off"
    assert settle(network(), compile="on", precision="fp32") == "off"
    assert settle(network(), compile="auto", num_images=10**12) == "off"  # on a CPU
    images = np.zeros((3, 1, 4, 4), np.uint8)
    assert settle(ClosedFormOptimum(images), compile="on") == "off"
    assert settle(None, compile="on") == "off"


def test_what_cannot_be_compiled_is_refused_if_it_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    def fails(module: torch.nn.Module) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr("memaudit.models.precision.compile_kernels", fails)
    with pytest.raises(ConfigError, match=r"cannot be compiled here .*no C compiler") as error:
        settle(network(), compile="on")
    assert error.value.fields == ("compile",)


@pytest.mark.slow  # loads sympy
def test_operations_are_those_of_products():
    one = torch.nn.Conv2d(3, 5, 3, padding=1)
    denoiser: Any = network()
    total = count_flops(denoiser, CPU)
    size = denoiser.img_resolution
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        one(torch.zeros(1, 3, size, size))
    assert counter.get_total_flops() == 2 * 5 * 3 * 9 * size * size
    assert total > 0


@pytest.mark.slow
def test_work_decides_and_not_time(monkeypatch: pytest.MonkeyPatch):
    """The same for the same images, whatever else the machine does."""
    there: Any = network()
    work = count_flops(there, CPU) * (2 * 3 - 1)
    monkeypatch.setattr(compile_choice, "WORTH", 50 * work)
    monkeypatch.setattr("memaudit.models.precision.compile_kernels", plainly)

    monkeypatch.setattr(compile_choice, "_is_gpu", lambda device: True)
    assert settle(there, num_images=49) == "off"
    assert settle(there, num_images=50) == "on"


@pytest.mark.slow
@pytest.mark.parametrize("label_dim", [0, 3])
def test_what_was_compiled_for_the_trial_serves_all_images(
    monkeypatch: pytest.MonkeyPatch, label_dim: int
):
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    def compile_plainly(module: torch.nn.Module) -> None:
        module.compile(backend=backend, fullgraph=True, dynamic=False)

    monkeypatch.setattr("memaudit.models.precision.compile_kernels", compile_plainly)
    denoiser = tiny("EDMPrecond", label_dim=label_dim).requires_grad_(False)
    # A CPU evaluates 64 images at a time, whatever is handed out.
    execution = Execution(batch_size=64, precision="bf16", compile="on")
    execution = settle_compile(execution, denoiser, num_images=70, sampler=SAMPLER)
    assert len(graphs) == 1
    list(generate_images(denoiser, range(70), config=SAMPLER, execution=execution))
    assert len(graphs) == 1


@pytest.mark.slow
def test_compiled_images_are_those_of_plain_kernels_but_for_rounding():
    denoiser, made = network(), {}
    for compile_ in ("off", "on"):
        execution = replace(
            Execution(batch_size=16, precision="bf16"),
            compile=settle(denoiser, compile=compile_),
        )
        (batch,) = generate_images(denoiser, range(16), config=SAMPLER, execution=execution)
        made[compile_] = batch.images.astype(int)
    assert np.abs(made["on"] - made["off"]).mean() < 1
