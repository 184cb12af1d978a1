"""Checks by further rules: parts, shifts and tone of an image."""

from dataclasses import replace

import numpy as np
import pytest

from memaudit import CheckConfig, ImageSet, IndexConfig, check_images
from memaudit.audit.image_check.result import CheckResult

CONFIG = CheckConfig(num_controls=39, index=IndexConfig(match=("tiles", "tone")))


def textured(num_images: int, seed: int) -> np.ndarray:
    """Images whose tiles differ, uint8 [N, 3, 16, 16]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_images, 3, 8, 8)).astype(np.uint8)
    return coarse.repeat(2, axis=2).repeat(2, axis=3)


TRAIN = ImageSet(textured(30, 0), [f"train/{i}.png" for i in range(30)], source="train")
HELD = textured(60, 1)
FRESH = textured(20, 2)


def half_of(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The left halves of images beside the right halves of others."""
    return np.concatenate([images[..., :8], others[..., 8:]], axis=3)


@pytest.fixture(scope="module")
def of_halves() -> CheckResult:
    """A training and a held-out image, asked of images that copy half of the former."""
    generated = np.concatenate([half_of(TRAIN.images[[4, 4]], FRESH[:2]), FRESH[2:]])
    asked = np.concatenate([TRAIN.images[4:5], HELD[:1]])
    return check_images(generated, asked, data=TRAIN, holdout=HELD, config=CONFIG)


def test_a_model_that_gives_half_of_an_image_back_gives_it_back(of_halves: CheckResult):
    assert [one.finding for one in of_halves.images] == ["given-back", "not-shown"]
    copied = of_halves.images[0]
    assert copied.copies.share.count == 2
    close = copied.copies.closest[0]
    assert close.rules.startswith("tiles (") and close.ratio_words == f"by {close.rules}"
    assert not any(other.rules for other in copied.copies.closest if not other.is_copy)
    assert copied.p_value == 1 / 40
    assert of_halves.report.match == ("pixels", "tiles", "tone")
    assert of_halves.report.controls is not None
    assert of_halves.report.controls.copied.count == 0


def test_without_the_rule_the_half_is_not_seen():
    generated = np.concatenate([half_of(TRAIN.images[[4, 4]], FRESH[:2]), FRESH[2:]])
    plain = replace(CONFIG, index=IndexConfig())
    found = check_images(generated, TRAIN.images[4:5], data=TRAIN, holdout=HELD, config=plain)
    assert found.images[0].copies.share.count == 0


def test_an_image_that_holds_a_part_of_a_training_image_is_asked_about_it():
    asked = half_of(TRAIN.images[7:8], FRESH[:1])
    generated = np.concatenate([TRAIN.images[7:8], FRESH[2:]])
    found = check_images(generated, asked, data=TRAIN, holdout=HELD, config=CONFIG)
    (one,) = found.images
    assert one.in_training is not None
    assert (one.in_training.kind, one.in_training.rule) == ("near", "tiles")
    assert one.in_training.names == ("train/7.png",) and "2×2" in one.in_training.where
    assert one.finding == "given-back"
    assert "the training image that this one copies by tiles (train/7.png)" in one.answer


def test_rules_count_without_training_images_too():
    brighter = (TRAIN.images[4:5] * 0.7 + 60).round().astype(np.uint8)
    generated = np.concatenate([brighter, FRESH])
    found = check_images(generated, TRAIN.images[4:6], holdout=HELD, config=CONFIG)
    assert [one.finding for one in found.images] == ["given-back", "not-shown"]
