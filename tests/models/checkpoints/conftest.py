"""Fixtures of the checkpoint tests: a tiny network and a snapshot of it."""

import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.edm_pickles import TINY, Persistent, module_state
from torch import nn

from memaudit.models.build import build_network


@pytest.fixture
def persistence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets pickle name the function that EDM's snapshots call."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
        raise AssertionError("a snapshot was run")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_network(TINY).eval()


@pytest.fixture
def as_persistent(persistence: None) -> Callable[..., Persistent]:
    def make(network: nn.Module, config: dict[str, Any] = TINY, **meta: Any) -> Persistent:
        kwargs = {key: value for key, value in config.items() if key != "class_name"}
        state = module_state(network) | {"_init_kwargs": kwargs}
        return Persistent(config["class_name"], state, **meta)

    return make


@pytest.fixture
def snapshot(tmp_path: Path, network: nn.Module, as_persistent: Callable[..., Persistent]) -> Path:
    """A network snapshot of `network`."""
    path = tmp_path / "network-snapshot-000512.pkl"
    loss = Persistent("EDMLoss", {"_init_kwargs": {"P_mean": -1.2}})
    data = {"class_name": "training.dataset.ImageFolderDataset", "path": "faces.zip"}
    values = {"ema": as_persistent(network), "loss_fn": loss, "augment_pipe": None}
    path.write_bytes(pickle.dumps(values | {"dataset_kwargs": data}, protocol=4))
    return path


@pytest.fixture
def same_output(network: nn.Module) -> Callable[[nn.Module], bool]:
    """Whether another network denoises to the same bits as `network`."""

    def compare(other: nn.Module) -> bool:
        torch.manual_seed(1)
        x, sigma, labels = torch.randn(2, 1, 4, 4), torch.tensor([0.1, 9.0]), torch.eye(2)
        with torch.no_grad():
            return torch.equal(network(x, sigma, labels), other(x, sigma, labels))

    return compare
