"""How many images are evaluated at a time, and what happens where memory runs out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from memaudit.errors import CheckpointError
from memaudit.models import group_size as module
from memaudit.models.checkpoints.formats.python_function import PythonDenoiser
from memaudit.models.denoiser import evaluation
from memaudit.models.execution import Execution
from memaudit.models.group_size import group_size, settled
from memaudit.models.memory import GroupSize, in_groups, is_out_of_memory
from memaudit.models.optimum.closed_form import ClosedFormOptimum

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), np.uint8)
GIB = 1 << 30


class Narrow(ClosedFormOptimum):
    """A denoiser that has memory for a few images at a time."""

    most = 3

    def __init__(self, images: np.ndarray = IMAGES) -> None:
        super().__init__(images)
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return super().__call__(x, sigma, class_labels)


def test_a_cpu_takes_a_constant_of_the_resolution():
    for batch_size in (None, 1, 7, 512):
        assert group_size(ClosedFormOptimum(IMAGES), Execution(batch_size)) == 64
    large = ClosedFormOptimum(np.zeros((2, 3, 64, 64), np.uint8))
    assert group_size(large, Execution()) == 4


@pytest.mark.parametrize(
    ("free", "of_eight", "expected"),
    [
        (60, 1.0, 256),  # 369 would fit
        (60, 0.01, 512),  # any number would
        (6, 8.0, 4),
        (6, 80.0, 1),
        (0.01, 8.0, 1),
    ],
)
def test_a_gpu_takes_what_its_free_memory_holds(
    monkeypatch: pytest.MonkeyPatch, free: float, of_eight: float, expected: int
):
    monkeypatch.setattr(module, "_peak_bytes", lambda *_: int(of_eight * GIB))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * GIB), 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    model = ClosedFormOptimum(IMAGES)
    assert group_size(model, Execution(device="cuda")) == expected
    assert settled(Execution(device="cuda"), model).batch_size == expected
    assert group_size(model, Execution(3, "cuda")) == 3
    assert group_size(model, Execution(10_000, "cuda")) == 512


def test_what_is_settled_stays():
    assert settled(Execution(), None).batch_size == 64
    assert settled(Execution(), ClosedFormOptimum(IMAGES)).batch_size == 64
    assert settled(Execution(7, "cuda"), None) == Execution(7, "cuda")


def failing_above(most: int) -> Callable[[slice], list[int]]:
    def evaluate(rows: slice) -> list[int]:
        if rows.stop - rows.start > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(rows.start, rows.stop))

    return evaluate


def test_groups_are_halved_for_the_rest_where_memory_runs_out():
    found = list(in_groups(11, 8, "cuda", failing_above(3)))
    assert [row for _, rows in found for row in rows] == list(range(11))
    assert [len(rows) for _, rows in found] == [2] * 5 + [1]


def test_a_single_image_that_does_not_fit_is_an_error_and_so_is_a_group_on_a_cpu():
    with pytest.raises(torch.OutOfMemoryError):
        list(in_groups(3, 2, "cuda", failing_above(0)))
    with pytest.raises(torch.OutOfMemoryError):
        list(in_groups(3, 2, "cpu", failing_above(1)))


def test_another_error_is_raised_at_once():
    group = GroupSize(8, "cuda")

    def evaluate() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        group.attempt(evaluate)
    assert group.size == 8


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_it_is_known_what_running_out_of_memory_looks_like(error: Exception, expected: bool):
    assert is_out_of_memory(error) is expected


def test_memory_that_runs_out_is_not_said_to_be_the_networks_fault():
    def denoiser(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    denoiser.img_channels, denoiser.img_resolution = 1, 8  # type: ignore[attr-defined]
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(torch.OutOfMemoryError):
        PythonDenoiser(denoiser, "module:function")(x, torch.tensor(1.0))
    with pytest.raises(torch.OutOfMemoryError), evaluation(x):
        denoiser()
    with pytest.raises(CheckpointError), evaluation(x):
        raise RuntimeError("sizes differ")
