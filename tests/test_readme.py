"""The Python of README.md, run from top to bottom where the files it names exist."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint

README = Path(__file__).parents[1] / "README.md"
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
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "model.safetensors", build_network(NETWORK), NETWORK)
    rng = np.random.default_rng(0)
    for folder in ("train", "generated"):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(rng.integers(0, 256, (12, 8, 8, 3), np.uint8)):
            Image.fromarray(image).save(tmp_path / folder / f"{i:02}.png")
    examples = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    assert examples
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "report" / "report.html").exists()
