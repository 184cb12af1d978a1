"""Which files of a diffusers folder hold the network, its weights and its scheduler.

    pipeline/            model_index.json, unet/, scheduler/     or all files side by side
    pipeline/unet/       the network alone, with ../scheduler/
    output/checkpoint-N  unet/, unet_ema/, and ../scheduler/ once the training has ended

The average of the weights, `unet_ema`, is taken before `unet`. Weights are one file or several
with an index, and may be of a variant, such as `.fp16.` or `.non_ema.`, in their names.
"""

import os
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.diffusers.kinds import (
    CHECKPOINT_FOLDER,
    PARTS,
    refuse_another_kind,
    roots,
)
from memaudit.wording import listed, shown

FILES = (
    "a diffusers folder with a UNet2DModel has unet/config.json and scheduler/scheduler_config.json"
)
STEM = "diffusion_pytorch_model"
CONFIG, SCHEDULER = "config.json", "scheduler_config.json"
WEIGHTS = re.compile(
    rf"{STEM}(?:\.(?P<variant>\w{{1,40}}))?\.(?P<kind>safetensors|bin)"
    r"(?P<index>\.index(?:\.(?P<index_variant>\w{1,40}))?\.json)?",
    re.ASCII,
)
VARIANTS = ("ema", None, "fp32", "fp16", "bf16")
"""Variants in the order in which they are taken: the average, then by precision."""
TRAINING = ("optimizer.bin", "optimizer.pt", "random_states_0.pkl", "scheduler.bin")
"""Files that accelerate writes into the folder of a training checkpoint."""
MAX_ENTRIES = 10_000
"""Most entries of a folder that are looked at."""


@dataclass(frozen=True)
class Layout:
    """Where the files of a network are. None of them has been read, nor need be there."""

    root: Path
    """The folder that was named, or that of the file that was."""
    network: Path
    """The folder of the network's configuration and weights."""
    named: Path | None
    """The file of weights, if it was named."""

    @property
    def config(self) -> Path:
        return self.network / CONFIG

    def scheduler(self) -> Path | None:
        """The scheduler's configuration; None for a training checkpoint that has none above it.

        Raises:
            CheckpointError: it is missing.
        """
        above = roots(self.root)
        for folder in dict.fromkeys((*above, self.network)):
            for place in (folder / "scheduler", folder):
                if os.path.lexists(place / SCHEDULER):
                    return place / SCHEDULER
        is_training = any((self.root / name).exists() for name in TRAINING)
        if is_training or any(CHECKPOINT_FOLDER.fullmatch(each.resolve().name) for each in above):
            return None
        raise CheckpointError(f"{SCHEDULER} is missing; {FILES}.")

    def weights(self) -> Path:
        """The file of weights, or the index of several.

        Raises:
            CheckpointError: there is none, or it is not clear which is meant.
        """
        return self.named or _weights(self.network)


def is_model_folder(path: Path) -> bool:
    """Whether a folder is one of a model rather than of images, by the names in it."""
    names = ("model_index.json", CONFIG, SCHEDULER, "adapter_config.json", *TRAINING)
    return (
        any(os.path.lexists(path / name) for name in names)
        or any((path / part / CONFIG).exists() for part in PARTS)
        or any(WEIGHTS.fullmatch(name) for name in names_in(path, STEM))
        or bool(names_in(path, "pytorch_lora_weights"))
        or bool(_checkpoints(path))
    )


def is_weights_file(path: Path) -> bool:
    """Whether a file is one of diffusers' weights with the configuration beside it."""
    return (
        WEIGHTS.fullmatch(path.name) is not None
        and path.is_file()
        and (path.parent / CONFIG).exists()
    )


def find_layout(path: Path) -> Layout:
    """Where the files of the network at a path are.

    Args:
        path: a folder as drawn above, or one of the files of weights in it.

    Raises:
        CheckpointError: it is a model of another kind, or several training checkpoints.
    """
    if is_weights_file(path):
        refuse_another_kind(path.parent)
        return Layout(path.parent, path.parent, path)
    refuse_another_kind(path)
    return Layout(path, _network_folder(path), None)


def _network_folder(root: Path) -> Path:
    for part in ("unet_ema", "unet"):
        if (root / part).is_dir():
            return root / part
    checkpoints = _checkpoints(root)
    if checkpoints and not (root / CONFIG).exists():
        raise CheckpointError(
            f"it holds {len(checkpoints):,} checkpoints of a training and no model of its own. "
            f"Name one of them, such as {shown(checkpoints[-1])} in it."
        )
    if not os.path.lexists(root / CONFIG) and (root / "transformer").is_dir():
        raise CheckpointError(
            "its network is a transformer (transformer/), of which diffusers has none of pixels. "
            "Scan images that it generated instead."
        )
    return root


def _checkpoints(root: Path) -> list[str]:
    """Folders of training checkpoints in a folder, the latest last."""
    names = [name for name in names_in(root, "checkpoint-") if CHECKPOINT_FOLDER.fullmatch(name)]
    return sorted(
        (name for name in names if any((root / name / part).is_dir() for part in PARTS)),
        key=lambda name: int(name.split("-")[1]),
    )


def names_in(folder: Path, start: str) -> list[str]:
    """Names in a folder that begin with `start`, in order."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES)]
    except OSError:
        return []
    return sorted(name for name in names if name.startswith(start))


def _weights(folder: Path) -> Path:
    """The file of weights to take in a network's folder: plain, then by precision."""
    matches = [match for name in names_in(folder, STEM) if (match := WEIGHTS.fullmatch(name))]
    ranked = sorted(matches, key=_rank)
    if not ranked:
        others = names_in(folder, "")
        held = f" It holds {listed(others)}." if others else ""
        raise CheckpointError(
            f"{folder} has none of the weights {STEM}.safetensors, {STEM}.bin.{held}"
        )
    best = ranked[0]
    alike = {_variant(match) for match in ranked if _rank(match)[0] == _rank(best)[0]}
    if _variant(best) not in VARIANTS and len(alike) > 1:
        raise CheckpointError(
            f"{folder} has weights of the variants {listed(map(str, alike))}, and it is not clear "
            "which are meant. Name the file itself."
        )
    return folder / best[0]


def _variant(match: re.Match[str]) -> str | None:
    return match["variant"] or match["index_variant"]


def _rank(match: re.Match[str]) -> tuple[int, bool, bool, str]:
    variant = _variant(match)
    if variant in VARIANTS:
        place = VARIANTS.index(variant)
    else:
        place = len(VARIANTS) + ("non_ema" in str(variant))
    return place, match["kind"] == "bin", match["index"] is not None, match[0]


def which_weights(weights: Path) -> tuple[str, tuple[str, ...]]:
    """Which weights are taken, in words, and what a user should know of them."""
    match = WEIGHTS.fullmatch(weights.name)
    assert match is not None
    variant, network = _variant(match), weights.parent
    place = f"{network.resolve().name}/{weights.name}"
    warnings = []
    if variant and "non_ema" in variant:
        said = f"the network in training, not its average (EMA), in {place}"
        warnings.append(
            f"The weights are those of the network in training ({weights.name}), not its moving "
            "average (EMA), which is what is sampled and published."
        )
    elif variant == "ema" or network.resolve().name == "unet_ema":
        said = f"the moving average (EMA), in {place}"
    else:
        said = f"those in {place}; it does not say whether they are the average (EMA)"
        if (network.resolve().parent / "unet_ema" / CONFIG).exists():
            warnings.append(
                "The weights are those of the network in training: its moving average (EMA), which "
                "is what is sampled and published, lies beside it in unet_ema."
            )
    if variant and "non_ema" not in variant:
        said += f" (variant {variant})"
    return said, tuple(warnings)
