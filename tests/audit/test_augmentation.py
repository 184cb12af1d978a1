"""A model that says it was trained on mirrored images is searched for mirrored copies."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memaudit.audit.augmentation import Augmentation, augmentation_of
from memaudit.audit.config import ScanConfig
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.scan import scan
from memaudit.audit.source import optimum_of
from memaudit.data.images import ImageSet
from memaudit.models.checkpoints import Checkpoint
from memaudit.training.config import TrainingConfig

MIRRORED = Augmentation(mirrored=True, transformed=False)
TRANSFORMED = Augmentation(mirrored=True, transformed=True)
ASSUMED = Augmentation(mirrored=True, transformed=False, is_assumed=True)
NEITHER = Augmentation(mirrored=False, transformed=False)


@pytest.mark.parametrize(
    ("config", "provenance", "expected"),
    [
        ({}, {}, NEITHER),
        ({"augment_dim": 0}, {"dataset": {"xflip": False}, "augmentation": None}, NEITHER),
        ({}, {"dataset": {"xflip": True}}, MIRRORED),
        ({}, {"assumed": {"xflip": True}}, ASSUMED),
        ({}, {"assumed": {"xflip": True}, "dataset": {"xflip": True}}, MIRRORED),
        ({}, {"training_config": {"xflip": True, "augment": 0.0}}, MIRRORED),
        ({}, {"training_config": {"xflip": False, "augment": 0.12}}, TRANSFORMED),
        ({"augment_dim": 9}, {}, TRANSFORMED),
        ({}, {"augmentation": {"class_name": "AugmentPipe", "p": 0.12}}, TRANSFORMED),
        ({}, {"dataset": ["xflip"], "training_config": "x"}, NEITHER),
    ],
)
def test_what_a_checkpoint_says_is_read(config: dict, provenance: dict, expected: Augmentation):
    assert augmentation_of(config, provenance) == expected


def test_the_names_are_those_that_training_writes():
    assert {"xflip", "augment"} <= TrainingConfig().as_dict().keys()


def _images(num_images: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_images, 3, 8, 8), np.uint8)
    return ImageSet(
        images, [f"{seed}/{i:03d}.png" for i in range(num_images)], source=f"set {seed}"
    )


TRAIN = _images(40, 0)


def mirroring(provenance: dict[str, Any]) -> Checkpoint:
    """A model that gives back the mirror images of TRAIN, and the images themselves."""
    both = np.concatenate([TRAIN.images, TRAIN.images[..., ::-1]])
    return replace(optimum_of(ImageSet.from_array(both)), provenance=provenance)


OPTIONS = ScanConfig(seeds=range(64), fail_above=0.6, without=("optimality", "recall"))


def test_mirrored_copies_are_found_where_the_checkpoint_says_so():
    blind = scan(mirroring({}), TRAIN, config=OPTIONS)
    assert 16 < blind.ratios.copies.count < 48
    told = scan(mirroring({"dataset": {"xflip": True}}), TRAIN, config=OPTIONS)
    assert told.ratios.copies.count == 64 and told.verdict == "FAIL"
    said = "mirror images searched as well, since the model was trained on them"
    assert said in told.conclusion.choices
    assert told.config.index.flips and not told.source.warnings


def test_what_the_search_cannot_see_is_a_warning():
    given = NeighborIndex(TRAIN.images)
    warned = scan(mirroring({"dataset": {"xflip": True}}), TRAIN, config=OPTIONS, index=given)
    assert "mirrored copies are not counted" in warned.source.warnings[0]
    warned = scan(mirroring({"augmentation": {"p": 0.12}}), TRAIN, config=OPTIONS)
    assert "scaled, rotated, stretched or shifted" in warned.source.warnings[0]
