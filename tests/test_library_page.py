"""The Python of docs/library.md, run from top to bottom where the files it names exist."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers.example_files import make_example_files, python_examples

import memaudit

PAGE = Path(__file__).parents[1] / "docs" / "library.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    make_example_files(tmp_path, image_folders=("train", "holdout", "generated"))
    examples = python_examples(PAGE)
    page = ModuleType("library_page")
    monkeypatch.setitem(sys.modules, page.__name__, page)  # where dataclasses look names up
    for example in examples:
        code = example.replace("range(1000)", "range(8)")
        exec(compile(code, str(PAGE), "exec"), page.__dict__)
    assert (tmp_path / "report" / "report.html").exists()
    assert (tmp_path / "pairs.png").exists()
    assert page.ratio.total == 12
    assert page.DIAGNOSTIC.lines(page.Brightness(100.0, 90.0)) == [
        "Mean gray level 100.0, not 90.0."
    ]


def test_the_page_names_what_is_public() -> None:
    names = re.findall(r"memaudit\.(\w+)\(", PAGE.read_text(encoding="utf-8"))
    assert set(names) <= set(memaudit.__all__)
