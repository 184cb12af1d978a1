"""What is told apart about devices."""

import numpy as np
import pytest
import torch

from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.cli.options import choose_device
from memaudit.errors import ConfigError
from memaudit.models.devices import device_name, exact_device, is_supported, like, with_float64
from memaudit.models.optimum.closed_form import ClosedFormOptimum

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_90a", "compute_90"]
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), False), ((7, 5), True), ((8, 9), True), ((9, 0), True), ((12, 0), True)],
)
def test_a_gpu_is_supported_by_machine_code_of_its_kind_or_older_ptx(
    capability: tuple[int, int], expected: bool
):
    assert is_supported(capability, WHEEL) is expected


def test_other_names_of_architectures_say_nothing():
    assert is_supported((9, 4), ["gfx90a", "gfx942"])
    assert is_supported((9, 0), [])


def test_searches_and_the_optimum_compute_on_the_cpu_where_integers_or_float64_are_missing():
    assert NeighborIndex(IMAGES, device="mps").device == torch.device("cpu")
    optimum = ClosedFormOptimum(IMAGES, device="xpu:0")
    assert optimum.device == torch.device("cpu") == exact_device("mps")
    denoiser, device = with_float64(optimum, torch.device("meta"))
    assert (denoiser, device) == (optimum, torch.device("meta"))
    assert device_name("cpu").startswith("CPU (")
    assert device_name("mps").startswith("mps")


def test_a_number_gets_to_a_device_as_it_is():
    x = torch.zeros(2, dtype=torch.float64)
    number = torch.tensor(0.1, dtype=torch.float64)
    assert like(number, x) is number
    assert like(number, torch.zeros(2, device="meta")).device.type == "meta"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "is not known"),
        ("cuda:x", "is not known"),
        ("mps", "torch sees none here"),
        ("xpu:1", "torch sees none here"),
    ],
)
def test_devices_that_are_not_there_are_refused(name: str, message: str):
    with pytest.raises(ConfigError, match=message):
        choose_device(name)


def test_auto_takes_the_cpu_where_torch_has_no_code_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla K80")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: WHEEL)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (3, 7))
    assert choose_device("auto") == "cpu"
    assert "no code for Tesla K80 (capability 3.7)" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    assert choose_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="only 2 GPUs"):
        choose_device("cuda:2")
