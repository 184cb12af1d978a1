"""What a result was made with: versions, device, time, and how long each step took."""

import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch

import memaudit

STEPS = ("index", "sampling", "search", "control", "optimum", "return_test", "membership")
"""Of a scan."""


def describe_environment(device: str) -> dict[str, str]:
    """Versions, device and time, as a report names them."""
    packages = {}
    for package in ("torch", "torchvision", "numpy", "scipy", "faiss-gpu", "faiss-cpu"):
        with suppress(PackageNotFoundError):
            packages[package] = version(package)
    return {
        "memaudit": memaudit.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU ({platform.machine()})",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **packages,
    }


class Clock:
    """Seconds spent on each step of a scan."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._seconds = dict.fromkeys(STEPS, 0.0)

    def lap(self, step: str) -> None:
        """Count the time since the last lap as time of this step."""
        now = time.perf_counter()
        self._seconds[step] += now - self._last
        self._last = now

    def timings(self) -> dict[str, float]:
        """Seconds of each step, and in total."""
        return {**self._seconds, "total": self._last - self._started}
