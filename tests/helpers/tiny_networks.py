"""The smallest networks that every preconditioner takes."""

from typing import Any

from memaudit.models.build import build_network
from memaudit.models.precond import Preconditioner

TINY: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
}


def tiny(class_name: str, **options: Any) -> Preconditioner:
    """A tiny network of EDM's in evaluation mode."""
    if class_name in ("DiscretePrecond", "FlowPrecond"):
        options = {"model_type": "DhariwalUNet"} | options
    return build_network({"class_name": class_name} | TINY | options).eval()


SMALLEST = {
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
"""Configuration of the smallest network that can be sampled, for tests of what is around it."""
