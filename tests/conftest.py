"""Fixtures that several rooms share, and what keeps tests that run in parallel apart."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Read when torch is imported: each worker, and each process that a test starts, keeps to one core.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

SHARED = Path(os.environ.get("MEMAUDIT_SHARED", Path(__file__).parents[2] / "shared"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Contending thread pools make small networks far slower than one thread does."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of each worker's own, so that no test reads or writes the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMAUDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference numbers computed by the field's public implementations."""
    return _folder("golden")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with CIFAR-10 (JPEG zips) and MNIST's test images (idx)."""
    return _folder("data")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's browser, driven by playwright; each worker starts one."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"there is no browser here: none of {', '.join(BROWSERS)}")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def barriers() -> Callable[[Any], list[Any]]:
    """What axe-core finds serious or critical on a browser's page: rule and elements."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def find(page: Any) -> list[Any]:
        found = axe.run(page).response
        assert found["passes"]
        return [
            (rule["id"], [node["html"] for node in rule["nodes"]])
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
        ]

    return find


@pytest.fixture(scope="session")
def misplaced_words() -> Callable[[Any], list[str]]:
    """Words of charts on a browser's page that leave their chart or run into others."""

    def find(page: Any) -> list[str]:
        charts = page.evaluate(
            """() => [...document.querySelectorAll('svg.plot')].map(plot =>
                [plot, ...plot.querySelectorAll('text')]
                    .map(element => [element.getBoundingClientRect(), element.textContent])
                    .filter(([box, _]) => box.width > 0)
                    .map(([box, text]) => [box.left, box.top, box.right, box.bottom, text]))"""
        )
        assert charts
        misplaced = []
        for plot, *words in charts:
            assert len(words) >= 6
            for i, (left, top, right, bottom, word) in enumerate(words):
                inside = left >= plot[0] - 1 and top >= plot[1] - 1
                inside &= right <= plot[2] + 1 and bottom <= plot[3] + 1
                # A line box is taller than the digits in it.
                apart = all(
                    left >= other[2]
                    or right <= other[0]
                    or top >= other[3] - 4
                    or bottom <= other[1] + 4
                    for other in words[:i]
                )
                if not (inside and apart):
                    misplaced.append(word)
        return misplaced

    return find


@pytest.fixture(scope="session")
def real_cases() -> Path:
    """Small sets and checkpoints in the forms that people hold."""
    return _folder("cases/real")


def _folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set MEMAUDIT_SHARED to the folder that holds {name}/")
    return folder


MAX_WORKERS = 8
"""Each worker imports torch, in about 400 MB."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers for `-n auto`: one per core that this process may use."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was skipped, by reason: a skip that nobody reads is a test that nobody runs."""
    skipped = [report.longrepr[2] for report in terminalreporter.getreports("skipped")]
    if skipped:
        terminalreporter.section("skipped")
    for reason, count in Counter(skipped).most_common():
        terminalreporter.line(f"{count:5} {reason.removeprefix('Skipped: ')}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device, and there is none here")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
