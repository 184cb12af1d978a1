"""The Python of docs/library.md, run from top to bottom where the files it names exist."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import memaudit
from memaudit.models.build import build_network

PAGE = Path(__file__).parents[1] / "docs" / "library.md"
NETWORK = {
    "class_name": "EDMPrecond",
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 0,
    "model_type": "SongUNet",
    "model_channels": 4,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    memaudit.save_checkpoint(tmp_path / "model.safetensors", build_network(NETWORK), NETWORK)
    rng = np.random.default_rng(0)
    for folder in ("train", "holdout", "generated"):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(rng.integers(0, 256, (12, 8, 8, 3), np.uint8)):
            Image.fromarray(image).save(tmp_path / folder / f"{i:02}.png")
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
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
