"""A small checkpoint and small sets of images, on disk, for every command's tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from helpers.tiny_networks import SMALLEST

from memaudit.cli.main import cli
from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint

NETWORK = SMALLEST | {"model_channels": 8}


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run `memaudit ARGS…`; the result has exit_code, stdout and stderr."""
    return lambda *args: CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network for 3x8x8 images."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "net.safetensors"
    save_checkpoint(path, build_network(NETWORK), NETWORK)
    return path


@pytest.fixture(scope="session")
def make_npz(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write noise images of a shape to an npz."""

    def make(num_images: int, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        path = tmp_path_factory.mktemp("images") / "images.npz"
        np.savez(path, images=rng.integers(0, 256, (num_images, *shape), dtype=np.uint8))
        return path

    return make
