"""Fixtures that several rooms share."""

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("MEMAUDIT_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Contending thread pools make small networks far slower than one thread does."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference numbers computed by the field's public implementations."""
    return _folder("golden")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with CIFAR-10 (JPEG zips) and MNIST's test images (idx)."""
    return _folder("data")


def _folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set MEMAUDIT_SHARED to the folder that holds {name}/")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device, and there is none here")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
