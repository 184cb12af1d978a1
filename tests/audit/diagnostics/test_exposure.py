"""The order of exposure against leaks that are known."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.exposure import DIAGNOSTIC, compare_with_leaks
from memaudit.audit.neighbors.exposure import rank_exposure
from memaudit.audit.scan import scan
from memaudit.data.images import ImageSet

ALSO = ScanConfig(also=("exposure",))


def named(images: np.ndarray, source: str = "train") -> ImageSet:
    return ImageSet(images, [f"{source} {i}" for i in range(len(images))], source=source)


@pytest.fixture(scope="module")
def train() -> ImageSet:
    images = smooth_images(60, 8, seed=0)
    return named(np.concatenate([images, images[10:13], images[10:11]]))  # 10 is there 3 times


def test_copies_of_the_most_exposed_images_give_a_correlation(train: ImageSet):
    exposure = rank_exposure(train)
    assert set(exposure.index[:3]) == {10, 11, 12} and exposure.index[0] == 10
    copied = exposure.index[[0, 0, 1, 1, 2, 3]]
    given = np.concatenate([train.images[copied], smooth_images(30, 8, seed=9)])
    result = scan(named(given, "given"), train, config=ALSO)
    found = result.diagnostics.exposure
    assert found is not None
    assert (found.num_kinds, found.num_leaked) == (60, 4)
    assert (found.first.count, found.first.total, found.rest.count) == (4, 6, 0)
    assert found.correlation.rho > 0.4 and found.correlation.p_value == 0.001
    assert found.auc is not None and found.auc.value == 1.0
    said = str(list(DIAGNOSTIC.section(found, result.page_context)))
    assert "sees noisy copies of isolated images more easily" in said
    assert "4 of 60 images, duplicates taken together" in said
    assert "66.7 % of its first tenth leaked" in next(iter(DIAGNOSTIC.lines(found)))


def test_copies_of_the_least_exposed_give_a_negative_one(train: ImageSet):
    exposure = rank_exposure(train)
    leaks = np.zeros(len(exposure), dtype=np.int64)
    leaks[-4:] = 1
    found = compare_with_leaks(exposure, leaks)
    assert found is not None and found.auc is not None
    assert found.correlation.rho < -0.3 and found.correlation.p_value > 0.9
    assert found.auc.value < 0.01  # two images that are each other's nearest stand equally
    assert (found.first.count, found.rest.count) == (0, 4)


def test_what_the_order_does_not_tell_apart_stands_equally(train: ImageSet):
    exposure = rank_exposure(train)
    even = replace(exposure, isolation=np.ones(60), times_shown=np.ones(60, dtype=np.int64))
    leaks = np.arange(60) < 5
    assert compare_with_leaks(even, leaks.astype(np.int64)) is None


def test_one_leak_has_no_auc_and_none_has_nothing_to_say(train: ImageSet):
    exposure = rank_exposure(train)
    leaks = np.zeros(len(exposure), dtype=np.int64)
    assert compare_with_leaks(exposure, leaks) is None
    leaks[0] = 5
    found = compare_with_leaks(exposure, leaks)
    assert found is not None and found.auc is None
    assert len(list(DIAGNOSTIC.section(found, None))) == 3
    fresh = named(smooth_images(30, 8, seed=9), "given")
    assert scan(fresh, train, config=ALSO).diagnostics.exposure is None
