"""What a checkpoint says of changed training images, and what follows from it for the search.

A model that was trained on mirrored images gives mirrored copies, which a search among the images
as they are does not see. Checkpoints of EDM and of memaudit say whether it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from memaudit.audit.config import ScanConfig
from memaudit.models.checkpoints import Checkpoint


@dataclass(frozen=True)
class Augmentation:
    """How training images were changed, as far as a checkpoint says."""

    mirrored: bool
    """Whether it was trained on mirrored images."""
    transformed: bool
    """Whether images were also scaled, rotated, stretched or shifted."""
    is_assumed: bool = False
    """Whether the file does not say that it was mirrored, but its program does so by default."""


def augmentation_of(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> Augmentation:
    """What a checkpoint says of augmentation.

    Args:
        config: the network's keywords; labels of augmentation show that it was trained with some.
        provenance: what the file says of its training: EDM's `dataset` and `augmentation`,
            memaudit's `training_config`; and what its program does by default, `assumed`.
    """
    dataset, ours = _part(provenance, "dataset"), _part(provenance, "training_config")
    assumed = _part(provenance, "assumed")
    transformed = bool(
        config.get("augment_dim") or provenance.get("augmentation") or ours.get("augment")
    )
    mirrored = bool(dataset.get("xflip") or ours.get("xflip")) or transformed
    if assumed.get("xflip") and not mirrored:
        return Augmentation(mirrored=True, transformed=False, is_assumed=True)
    return Augmentation(mirrored, transformed)


def search_what_was_trained_on(config: ScanConfig, checkpoint: Checkpoint) -> ScanConfig:
    """The configuration, with mirror images searched where the model was trained on them."""
    if augmentation_of(checkpoint.config, checkpoint.provenance).mirrored:
        return replace(config, index=replace(config.index, flips=True))
    return config


def augmentation_warnings(checkpoint: Checkpoint, *, flips: bool) -> tuple[str, ...]:
    """What a search among the training images cannot see of this model's copies.

    Args:
        checkpoint: the model.
        flips: whether mirror images are searched.
    """
    found = augmentation_of(checkpoint.config, checkpoint.provenance)
    warnings = []
    if found.mirrored and not flips:
        warnings.append(
            (
                "The checkpoint may have been trained on mirrored images"
                if found.is_assumed
                else "The checkpoint says that it was trained on mirrored images"
            )
            + ", but the index given does not search them: mirrored copies are not counted."
        )
    if found.transformed:
        warnings.append(
            "The checkpoint was trained on images that were also scaled, rotated, stretched or "
            "shifted (EDM's augmentation). It is sampled without, but a copy that is changed so "
            "would not be counted."
        )
    return tuple(warnings)


def _part(provenance: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A record in the provenance, which may hold anything, or an empty one."""
    value = provenance.get(name)
    return value if isinstance(value, Mapping) else {}
