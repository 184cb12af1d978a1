"""Record what produced a result: versions, device and time, and how long each step took."""

import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import memaudit
from memaudit.models.devices import device_name
from memaudit.ranks.joined import num_sharing

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "faiss-gpu", "faiss-cpu")
"""Packages whose versions a report names."""


@dataclass(frozen=True)
class Package:
    """An installed package."""

    name: str
    version: str


@dataclass(frozen=True)
class Environment:
    """The software and the machine that produced a result."""

    memaudit: str
    """Version of memaudit."""
    python: str
    platform: str
    device: str
    """Name of the GPU, or the architecture of the CPU."""
    finished: str
    """When the result was complete, in ISO 8601 with time zone."""
    packages: tuple[Package, ...]
    num_ranks: int = 1
    """Processes that shared the sampling."""


@dataclass(frozen=True)
class StepTime:
    """How long a step took."""

    step: str
    seconds: float


@dataclass(frozen=True)
class Timings:
    """How long a scan and its steps took; skipped steps are not listed."""

    total: float
    """Seconds of the whole scan."""
    steps: tuple[StepTime, ...]


def describe_environment(device: str) -> Environment:
    """Collect versions, device and time."""
    packages = []
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            packages.append(Package(package, version(package)))
    return Environment(
        memaudit=memaudit.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        device=device_name(device),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        packages=tuple(packages),
        num_ranks=num_sharing(),
    )


class Clock:
    """Measures how long the steps of a scan take."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def lap(self, step: str) -> None:
        """Add the time since the last lap to this step."""
        now = time.perf_counter()
        self._seconds[step] = self._seconds.get(step, 0.0) + now - self._last
        self._last = now

    def timings(self) -> Timings:
        """Seconds of each step, and in total."""
        steps = tuple(StepTime(step, seconds) for step, seconds in self._seconds.items())
        return Timings(total=self._last - self._started, steps=steps)
