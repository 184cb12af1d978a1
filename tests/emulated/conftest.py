"""Tests on the pretended CUDA device, which `make test-emulated` runs in a process of their own."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out where torch knows no pretended device."""
    return None if config.pluginmanager.hasplugin("helpers.pretended_cuda") else True
