"""The notebooks in examples/, run from top to bottom, each in a fresh kernel."""

from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
SMALL = 200_000
"""Bytes that a notebook may take, with its outputs."""


@pytest.mark.filterwarnings("default")  # those of Jupyter are not ours
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = "\n".join(map(text_of, outputs))
    assert "64 of 64 generated images copy a training image" in shown
    assert "0 of 64 generated images copy a training image" in shown
    assert "20 of 40, 50.0 %" in shown
    assert "verified: True" in shown
    data = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in each for each in data) == 4
    assert sum("text/html" in each for each in data) == 2  # a scan and a table
    said = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert all(text.startswith("\r") for text in said)  # progress, and no warning


def text_of(output: dict[str, Any]) -> str:
    """What an output says as text."""
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size <= SMALL
