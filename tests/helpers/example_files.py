"""The files that the examples in the documents name, and the examples themselves."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from helpers.tiny_networks import SMALLEST
from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint


def make_example_files(folder: Path, *, image_folders: Iterable[str]) -> None:
    """A checkpoint `model.safetensors`, folders of 12 images of 8×8 that fit it, and a photo."""
    torch.manual_seed(0)
    save_checkpoint(folder / "model.safetensors", build_network(SMALLEST), SMALLEST)
    rng = np.random.default_rng(0)
    for name in image_folders:
        (folder / name).mkdir()
        for i, image in enumerate(rng.integers(0, 256, (12, 8, 8, 3), np.uint8)):
            Image.fromarray(image).save(folder / name / f"{i:02}.png")
    photo = rng.integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(photo).save(folder / "photo.png")


def python_examples(page: Path) -> list[str]:
    """The Python of a Markdown page, example by example."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
