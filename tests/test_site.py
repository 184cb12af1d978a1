"""The documentation site: built strictly, and read without the network."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import memaudit
from memaudit.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_reference_has_every_option_and_public_name(site: Path) -> None:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        page = (site / "reference" / "commands" / f"{name}.html").read_text("utf-8")
        for option in (each for each in command.params if isinstance(each, click.Option)):
            assert option.hidden or option.opts[0] in page
    api = "".join(page.read_text("utf-8") for page in (site / "reference" / "api").glob("*.html"))
    for public in memaudit.__all__:
        assert public.startswith("__") or f'id="memaudit.{public}"' in api
    assert 'id="memaudit.Denoiser.__call__"' in api
    assert "Annotated[" not in api


@pytest.mark.slow
def test_pages_load_nothing_from_the_network_and_search_from_disk(site: Path, browser: Any) -> None:
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    for name in ("index.html", "reference/commands/scan.html", "reference/api/audit.html"):
        page.goto((site / name).as_uri())
    page.keyboard.press("/")
    page.keyboard.type("floor", delay=50)
    page.wait_for_selector(".md-search-result__item", timeout=20_000)
    page.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_keep_nobody_out(
    site: Path, browser: Any, barriers: Callable[[Any], list[Any]], scheme: str
) -> None:
    page = browser.new_page(color_scheme=scheme)
    for name in (
        "index.html",
        "glossary.html",
        "comparison.html",
        "gallery/index.html",
        "reference/commands/scan.html",
        "reference/api/audit.html",
        "tutorials/audit_in_a_notebook.html",
    ):
        page.goto((site / name).as_uri())
        assert barriers(page) == [], name
    page.set_viewport_size({"width": 400, "height": 900})
    page.goto((site / "start" / "data_owner.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()
