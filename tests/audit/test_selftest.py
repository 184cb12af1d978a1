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
from memaudit.errors import ConfigError, DataError
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig

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
    blind = lambda self, duplicate_rms: np.zeros(len(self), bool)  # noqa: E731
    monkeypatch.setattr(matches.Matches, "is_near", blind)
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
    assert found["model_controls"] == []


def test_images_that_cannot_be_judged_are_refused():
    with pytest.raises(DataError, match="at least 2"):
        selftest(draw(6, 1), config=CONFIG)
    with pytest.raises(DataError, match=r"memory gives.*\[3, 4, 4\].*\[3, 8, 8\]"):
        selftest(draw(6, 9), holdout=draw(7, 9, shape=(3, 4, 4)), config=CONFIG)


# ------------------------------------------------------------------------------------------------
# On a model

FAST = ScanConfig(seeds=range(60), sampler=SamplerConfig(num_steps=3))


def test_a_model_that_copies_nothing_passes_its_controls():
    found = selftest(draw(0, 100), model=draw(8, 60), holdout=draw(1, 100), config=FAST)
    exchanged, label_test, planted, all_found = found.model_controls
    assert found.passed
    assert exchanged.measured is not None and exchanged.measured.count == 0
    assert exchanged.verdict == "PASS"
    assert label_test.p is not None and label_test.p > 0.01
    assert planted.verdict == "FAIL"
    assert planted.measured is not None and planted.measured.count == 18  # 30 % of 60
    assert all_found.measured is not None
    assert (all_found.measured.count, all_found.measured.total) == (18, 18)
    assert planted.name == "18 planted images"


def test_a_model_that_only_copies_passes_its_controls():
    """With the roles exchanged it is far from what it is searched for, and p is near 1."""
    train = draw(0, 100)
    found = selftest(
        train, model=ClosedFormOptimum(train.images), holdout=draw(1, 100), config=FAST
    )
    exchanged, label_test, planted, _ = found.model_controls
    assert found.passed
    assert exchanged.measured is not None and exchanged.measured.count == 0
    assert label_test.p is not None and label_test.p > 0.9
    assert planted.measured is not None and planted.measured.count == 60


def test_held_out_images_that_the_model_knows_fail_its_controls():
    """What was called held out was trained on, and the roles are exchanged in truth."""
    known = draw(1, 100)
    found = selftest(
        draw(0, 100), model=ClosedFormOptimum(known.images), holdout=known, config=FAST
    )
    exchanged, label_test, planted, all_found = found.model_controls
    assert not found.passed
    assert (exchanged.passed, label_test.passed) == (False, False)
    assert (planted.passed, all_found.passed) == (True, True)


def test_a_broken_rule_fails_the_controls_of_a_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matches, "memorized", lambda S1, S2, t: np.zeros(len(S1), bool))
    blind = lambda self, duplicate_rms: np.zeros(len(self), bool)  # noqa: E731
    monkeypatch.setattr(matches.Matches, "is_near", blind)
    found = selftest(draw(0, 100), model=draw(8, 60), holdout=draw(1, 100), config=FAST)
    assert [control.passed for control in found.model_controls] == [True, True, False, False]


def test_a_model_needs_held_out_images_and_enough_samples():
    train, model = draw(0, 50), draw(8, 60)
    with pytest.raises(ConfigError, match="no held-out images are given"):
        selftest(train, model=model, config=FAST)
    few = ScanConfig(seeds=range(19))
    with pytest.raises(ConfigError, match="at least 20 of its images; there are 19"):
        selftest(train, model=model, holdout=draw(1, 50), config=few)
    with pytest.raises(DataError, match=r"\[3, 4, 4\]"):
        selftest(train, model=draw(8, 60, shape=(3, 4, 4)), holdout=draw(1, 50), config=FAST)


@pytest.mark.slow
def test_the_label_test_of_exchanged_roles_is_uniform_for_a_model_that_copies_nothing():
    """Kolmogorov and Smirnov, over 200 repetitions; p takes the values 0.001, 0.002, …"""
    from scipy.stats import kstest

    p_values = []
    for seed in range(200):
        images = draw(1000 + seed, 90, shape=(1, 4, 4))
        train, holdout, model = (images.take(np.arange(i, i + 30)) for i in (0, 30, 60))
        found = selftest(train, model=model, holdout=holdout, config=ScanConfig(seeds=range(30)))
        p = found.model_controls[1].p
        assert p is not None
        p_values.append(p)
    assert kstest(p_values, "uniform").pvalue > 0.001
    assert np.mean(np.array(p_values) <= 0.05) <= 0.1
