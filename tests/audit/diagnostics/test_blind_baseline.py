"""The blind baseline, on sets of one kind and on sets that differ in ways a model never caused."""

import numpy as np
import pytest

from memaudit.audit.diagnostics.blind_baseline import DIAGNOSTIC, compare_blindly
from memaudit.audit.diagnostics.section import Paragraph
from memaudit.data.images import ImageSet


def draw(seed: int, num_images: int, *, brightness: float = 0.0, blur: bool = False) -> ImageSet:
    """Smooth fields with noise, uint8 [N, 3, 12, 12]."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(num_images, 3, 4, 4)).repeat(3, 2).repeat(3, 3)
    noise = 12 * rng.normal(size=coarse.shape)
    if blur:
        noise = (noise + np.roll(noise, 1, 3)) / 2**0.5
    pixels = 127.5 + brightness + 30 * coarse + noise
    return ImageSet.from_array(pixels.clip(0, 255).astype(np.uint8))


def test_sets_of_one_kind_are_not_told_apart():
    found = compare_blindly(draw(0, 300), draw(1, 200))
    assert (found.num_train, found.num_holdout) == (300, 200)
    assert found.auc.low <= 0.5 <= found.auc.high
    assert not found.differs
    assert not list(DIAGNOSTIC.lines(found))


@pytest.mark.parametrize("change", [{"brightness": 8.0}, {"blur": True}])
def test_sets_of_two_kinds_are_told_apart(change: dict):
    found = compare_blindly(draw(0, 300), draw(1, 300, **change))
    assert found.differs and found.auc.low > 0.5
    (line,) = DIAGNOSTIC.lines(found)
    assert "differ by themselves" in line and "is not to be interpreted" in line
    assert any(isinstance(block, Paragraph) for block in DIAGNOSTIC.section(found, None))


def test_repeated_images_are_seen_once():
    """Otherwise a copy in another fold would be recognized."""
    few = draw(2, 40)
    many = ImageSet.from_array(np.concatenate([few.images] * 10))
    found = compare_blindly(many, draw(3, 400))
    assert found.num_train == 40
    assert not found.differs


def test_too_few_images_give_no_result():
    assert compare_blindly(draw(4, 9), draw(5, 30)) is None
    assert compare_blindly(draw(4, 30), draw(5, 9)) is None


def test_the_same_images_give_the_same_result():
    assert compare_blindly(draw(6, 50), draw(7, 50)) == compare_blindly(draw(6, 50), draw(7, 50))


@pytest.mark.slow
@pytest.mark.parametrize(("num_train", "num_holdout"), [(25, 25), (200, 40), (40, 200)])
def test_sets_of_one_kind_are_told_apart_in_at_most_alpha_of_all_splits(
    num_train: int, num_holdout: int
):
    pool = draw(8, 2000).images
    rng = np.random.default_rng(9)
    differs = 0
    for run in range(150):
        chosen = rng.choice(len(pool), num_train + num_holdout, replace=False)
        sets = pool[chosen[:num_train]], pool[chosen[num_train:]]
        differs += compare_blindly(*map(ImageSet.from_array, sets), seed=run).differs
    assert differs <= 0.1 * 150  # 5 % at most; 1 in 500 such tests would exceed it at 5 %
