"""Folders of models: what tells them from folders of images, and the file to read in one.

accelerate writes the weights of a training, of any network, as `model.safetensors`, beside its
optimizer and random states. U-ViT's `N.ckpt/` has the average as `nnet_ema.pth`, beside `nnet.pth`
and the rest. diffusers' folders are in `diffusers/layout.py`.
"""

import re
from pathlib import Path

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.diffusers.layout import is_model_folder, names_in
from memaudit.wording import listed, shown

AVERAGE = "nnet_ema.pth"
"""U-ViT's average, which is what its project samples."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
MORE = re.compile(r"(?:model_\d+\.safetensors|pytorch_model_\d+\.bin|custom_checkpoint_\d+\.pkl)")
"""Files of further models, and of objects such as an average, beside the first model's."""


def holds_model(folder: Path) -> bool:
    """Whether a folder is one of a model rather than of images."""
    return is_model_folder(folder) or is_weights_folder(folder)


def is_weights_folder(folder: Path) -> bool:
    """Whether a folder holds weights as accelerate or U-ViT name them, and no diffusers model."""
    names = (AVERAGE, *WEIGHTS, *SHARDED)
    return any((folder / name).is_file() for name in names) and not any(
        (folder / name).exists() for name in ("model_index.json", "config.json", "unet", "unet_ema")
    )


def file_to_read(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The file of weights that a path means, and what a user should know of the choice.

    Args:
        path: a file, or a folder that accelerate or U-ViT wrote.

    Raises:
        CheckpointError: a folder whose weights are divided among files.
    """
    if not path.is_dir():
        return path, ()
    if (path / AVERAGE).is_file():
        return path / AVERAGE, ()
    found = [name for name in WEIGHTS if (path / name).is_file()]
    if not found:
        raise CheckpointError(
            "its weights are divided among several files. Join them, as accelerate's "
            "merge_weights or its library does, and name the file."
        )
    more = [name for name in names_in(path, "") if MORE.fullmatch(name)]
    if not more:
        return path / found[0], ()
    return path / found[0], (
        f"Of the folder, {found[0]} was read. Beside it lie {listed(more)}, one of which may hold "
        "the moving average (EMA), which is what is sampled and published: name "
        f"{shown(str(path / more[0]))} to open it.",
    )
