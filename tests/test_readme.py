"""The Python of README.md, run from top to bottom where the files it names exist."""

from pathlib import Path

import pytest
from helpers.example_files import make_example_files, python_examples

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_example_files(tmp_path, image_folders=("train", "generated"))
    examples = python_examples(README)
    assert examples
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "report" / "report.html").exists()
