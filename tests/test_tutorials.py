"""The notebooks in docs/tutorials/, run from top to bottom, each in a fresh kernel."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
SMALL = 250_000
"""Bytes that a notebook may take, with its outputs."""
SAYS = {
    "audit_in_a_notebook": (
        "64 of 64 generated images copy a training image",
        "0 of 64 generated images copy a training image",
        "20 of 40, 50.0 %",
        "verified: True",
    ),
    "audit_a_folder_of_images": (
        "6 of 60 generated images copy a training image",
        "9 of 60, 15.0 %",
        "000.jpg - The generator gives back this training image",
        "003.jpg - The generator gives back this training image",
        "050.jpg - Not shown",
    ),
    "a_gate_in_ci": ("memaudit: PASS", "FAIL - FAIL", "INCONCLUSIVE - ", "would probably decide"),
    "audit_a_diffusers_model": ("problem: None", "denoises"),
    "cifar10_walkthrough": ("Trained on 8: FAIL", "Trained on 300: PASS", "verified: True"),
    "emm_of_a_setup": ("EMM (ε = 0.5): ",),
    "a_diagnostic_of_your_own": ("0 of 300", "effectively", "p = 0.001"),
}
"""What each of them has to find, whatever the machine."""
NEEDS = {
    "audit_a_diffusers_model": ("diffusers", "sklearn"),
    "cifar10_walkthrough": ("sklearn",),
    "emm_of_a_setup": ("sklearn",),
}


@pytest.mark.filterwarnings("default")  # those of Jupyter are not ours
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if path.stem == "audit_in_a_notebook" else pytest.mark.slow)
        for path in TUTORIALS
    ],
    ids=lambda path: path.stem,
)
def test_a_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for package in ("ipykernel", "matplotlib", *NEEDS.get(path.stem, ())):
        pytest.importorskip(package)
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("CIFAR10", raising=False)
    commands = tmp_path / "bin"  # this memaudit, whatever is installed
    commands.mkdir()
    program = commands / "memaudit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m memaudit "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = "\n".join(map(text_of, outputs))
    for said in SAYS[path.stem]:
        assert said in shown
    errors = [output["text"] for output in outputs if output.get("name") == "stderr"]
    theirs = "IProgress not found"  # tqdm's warning, which diffusers loads
    assert all(text.startswith("\r") or theirs in text for text in errors)  # and no warning
    committed = nbformat.read(path, as_version=4)
    assert count_pictures(notebook) == count_pictures(committed)


def count_pictures(notebook: Any) -> int:
    """The number of figures that a notebook shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def text_of(output: dict[str, Any]) -> str:
    """What an output says as text."""
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_small(path: Path) -> None:
    assert path.stat().st_size <= SMALL
    assert path.stem in SAYS
