"""The self-test must pass on a sound instrument and fail on a broken one."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization import matches
from memaudit.audit.selftest import selftest
from memaudit.data.images import ImageSet
from memaudit.data.sources import open_images
from memaudit.errors import DataError

CONFIG = ScanConfig(seeds=tuple(range(100)))


def draw(seed: int, num_images: int, *, shape=(3, 8, 8)) -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (num_images, *shape), dtype=np.uint8)
    return ImageSet(images, [f"{seed}[{i}]" for i in range(num_images)])


@pytest.mark.parametrize("holdout", [None, draw(1, 80)])
def test_it_passes_on_random_images(holdout):
    found = selftest(draw(0, 500), holdout=holdout, config=CONFIG)
    optimum, others, planted = found.controls
    assert found.passed
    assert (optimum.measured.count, optimum.measured.total) == (100, 100)
    assert (others.measured.count, others.measured.total) == (0, 100 if holdout is None else 80)
    assert planted.measured.count == (30 if holdout is None else 24)
    assert others.name == ("mixtures of training images" if holdout is None else "held-out images")


def test_it_passes_on_duplicated_images():
    """The published rule would score the optimum 0 here."""
    images = draw(2, 100)
    twice = ImageSet(np.repeat(images.images, 2, axis=0), [f"[{i}]" for i in range(200)])
    found = selftest(twice, config=CONFIG)
    assert found.passed
    assert found.controls[0].measured.ratio == 1


def test_it_passes_on_handwritten_digits(shared_data):
    """Real images, at 28x28: MNIST's test images against each other."""
    images = open_images(shared_data / "mnist-t10k-images-idx3-ubyte.gz")
    order = np.random.default_rng(0).permutation(len(images))
    found = selftest(images.take(order[:1000]), holdout=images.take(order[1000:2000]))
    assert found.passed, found
    assert found.controls[0].measured.total == 256


def test_held_out_images_that_are_training_images_fail_it():
    images = draw(3, 200)
    found = selftest(images, holdout=images, config=CONFIG)
    assert not found.passed
    assert [control.passed for control in found.controls] == [True, False, False]


def test_a_rule_that_is_blind_or_sees_copies_everywhere_fails_it(monkeypatch):
    images = draw(4, 200)
    monkeypatch.setattr(matches, "memorized", lambda S1, S2, t: np.zeros(len(S1), bool))
    assert [control.passed for control in selftest(images, config=CONFIG).controls] == [
        False,
        True,
        False,
    ]
    monkeypatch.setattr(matches, "memorized", lambda S1, S2, t: np.ones(len(S1), bool))
    assert [control.passed for control in selftest(images, config=CONFIG).controls] == [
        True,
        False,
        False,
    ]


def test_the_result_is_plain_json():
    found = json.loads(json.dumps(asdict(selftest(draw(5, 50), config=CONFIG)), allow_nan=False))
    assert found["passed"] is True
    assert {"name", "expected", "tolerance", "measured", "passed"} == set(found["controls"][0])


def test_images_that_cannot_be_judged_are_refused():
    with pytest.raises(DataError, match="at least 2"):
        selftest(draw(6, 1), config=CONFIG)
    with pytest.raises(DataError, match=r"memory gives.*\[3, 4, 4\].*\[3, 8, 8\]"):
        selftest(draw(6, 9), holdout=draw(7, 9, shape=(3, 4, 4)), config=CONFIG)
