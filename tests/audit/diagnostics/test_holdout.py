"""The floor: what the rule flags among held-out images, and images that are not held out."""

from dataclasses import replace

import numpy as np
import pytest

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.diagnostic import PageContext
from memaudit.audit.diagnostics.holdout import DIAGNOSTIC, HoldoutFloor
from memaudit.audit.diagnostics.section import Paragraph, Table
from memaudit.audit.memorization.rule import Rule, memorized
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.statistics.excess import excess_over_holdout
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import DataError


def image_set(images: np.ndarray, name: str = "{}", source: str = "array") -> ImageSet:
    return ImageSet(images, [name.format(i) for i in range(len(images))], source=source)


def noise(num_images: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_images, 3, 4, 4), dtype=np.uint8)


def scan_with_holdout(holdout: np.ndarray, *, rule: Rule | None = None) -> ScanResult:
    train = noise(30, 0)
    generated = np.concatenate([train[:8], noise(12, 1)])
    return scan(
        image_set(generated),
        image_set(train),
        holdout=image_set(holdout, source="held out"),
        config=ScanConfig(rule=rule or Rule()),
    )


def floor_of(result: ScanResult) -> HoldoutFloor:
    assert result.diagnostics.holdout is not None
    return result.diagnostics.holdout


def test_held_out_images_that_are_training_images_are_refused_and_named():
    train = noise(30, 0)
    holdout = np.concatenate([train[4:10], noise(5, 2)])
    with pytest.raises(DataError) as caught:
        scan(
            image_set(train),
            image_set(train, name="train-{}"),
            holdout=image_set(holdout, name="holdout-{}", source="held out"),
        )
    message = str(caught.value)
    assert "6 of the 11 held-out images in held out occur in the training set" in message
    assert "holdout-0 = train-4, holdout-1 = train-5" in message and "and 1 more" in message
    assert "holdout-5" not in message


@pytest.mark.parametrize("rule", [Rule(), Rule(duplicate_rms=0.0, confidence=0.8)])
def test_the_floor_is_the_rule_applied_to_held_out_images(rule: Rule):
    """Three held-out images are like training images, but no duplicates: the rule flags them."""
    train = noise(30, 0)
    near = np.clip(train[10:13].astype(int) + 12, 0, 255).astype(np.uint8)
    holdout = np.concatenate([near, noise(22, 3)])
    result = scan_with_holdout(holdout, rule=rule)
    floor = floor_of(result)

    differences = holdout[:, None].astype(int) - train[None]
    distances = np.sort((differences**2).reshape(25, 30, -1).sum(2), axis=1)
    flagged = int(memorized(distances[:, 0], distances[:, 1], rule.threshold).sum())
    assert flagged == 3
    assert floor.paper == clopper_pearson(flagged, 25, rule.confidence)
    assert floor.copies == floor.paper  # no two training images are duplicates
    assert floor.everyone == floor.copies
    assert (floor.path, floor.num_images) == ("held out", 25)
    assert floor.fingerprint == image_set(holdout).fingerprint
    assert floor.copies is not None
    assert floor.excess == excess_over_holdout(result.ratios.copies, floor.copies)
    assert floor.excess is not None and floor.excess.value < result.ratios.copies.ratio


def test_held_out_images_near_training_images_stand_in_a_row_of_their_own():
    near = np.clip(noise(30, 0)[:3].astype(int) + 2, 0, 255).astype(np.uint8)
    result = scan_with_holdout(np.concatenate([near, noise(22, 3)]))
    floor = floor_of(result)
    assert (floor.everyone.count, floor.everyone.total) == (3, 25)
    assert floor.copies is not None and (floor.copies.count, floor.copies.total) == (0, 22)
    _, table, _ = DIAGNOSTIC.section(floor, result.page_context)
    assert isinstance(table, Table)
    assert table.rows[0].note.startswith("3 of 25") and table.rows[1].note == "0 of 22"


def test_where_every_held_out_image_is_flagged_there_is_no_excess():
    result = scan_with_holdout(np.clip(noise(30, 0)[:5].astype(int) + 12, 0, 255).astype(np.uint8))
    floor = floor_of(result)
    assert floor.copies is not None and floor.copies.count == 5 and floor.excess is None
    (table,) = [
        block
        for block in DIAGNOSTIC.section(floor, result.page_context)
        if isinstance(block, Table)
    ]
    assert table.rows[-1].cells == ("–", "–")
    assert "nothing sets a copy apart" in table.rows[-1].note


def test_the_page_says_floor_and_excess():
    result = scan_with_holdout(noise(25, 3))
    floor = floor_of(result)
    page: PageContext = result.page_context
    first, table, small = DIAGNOSTIC.section(floor, page)
    assert isinstance(first, Paragraph) and "25 held-out images" in first.text
    assert isinstance(table, Table)
    assert [row.is_headline for row in table.rows] == [False, False, True]
    assert table.rows[0].note == "0 of 25"
    assert table.rows[-1].cells[0] == "40 %"
    assert isinstance(small, Paragraph) and small.is_small and floor.fingerprint in small.text
    odd = replace(floor, path="x" * 500)
    *_, small = DIAGNOSTIC.section(odd, page)
    assert isinstance(small, Paragraph) and len(small.text) < 350
