"""Membership of the optimum, which knows all, and of a model that saw neither set."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from memaudit.audit.diagnostics import membership_inference
from memaudit.audit.diagnostics.membership_inference import (
    DIAGNOSTIC,
    MembershipConfig,
    infer_membership,
)
from memaudit.audit.statistics.auc import exceedance_p_value
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.optimum.closed_form import ClosedFormOptimum

CONFIG = MembershipConfig(sigmas=(0.2, 0.5), num_noises=1, max_fpr=0.05)


def draw(seed: int, num_images: int, **more) -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (num_images, 1, 6, 6), dtype=np.uint8)
    return ImageSet(images, [str(i) for i in range(num_images)], source=f"set {seed}", **more)


def test_the_optimum_gives_every_training_image_away():
    train, holdout = draw(0, 60), draw(1, 80)
    found = infer_membership(ClosedFormOptimum(train.images), train, holdout, config=CONFIG)
    assert found.auc.value == found.auc.high == 1 and found.auc.low > 0.9
    assert found.p_value < 1e-15 and found.auc_p_value < 1e-15
    assert (found.tpr.count, found.tpr.total) == (60, 60)
    assert (found.fpr.count, found.fpr.total) == (4, 80)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["num_train"] == 60


def test_a_model_that_saw_neither_set_does_no_better_than_the_false_positive_rate():
    stranger = ClosedFormOptimum(draw(2, 100).images)
    found = infer_membership(stranger, draw(3, 400), draw(4, 400), config=CONFIG)
    assert found.tpr.low < 0.05 < found.tpr.high + 0.03
    assert found.auc.low < 0.5 < found.auc.high
    assert min(found.p_value, found.auc_p_value) > 0.01
    assert found.fpr.ratio == 0.05


def test_a_conditional_model_is_asked_with_the_labels():
    train = draw(5, 20, labels=np.arange(20) % 2)
    holdout = draw(6, 20, labels=np.arange(20) % 2)
    model = ClosedFormOptimum(train.images, train.labels)
    assert infer_membership(model, train, holdout, config=CONFIG).auc.value == 1


def test_the_p_value_counts_that_the_threshold_was_set_on_held_out_images():
    stranger = ClosedFormOptimum(draw(2, 100).images)
    found = infer_membership(stranger, draw(3, 60), draw(4, 50), config=CONFIG)
    wanted = exceedance_p_value(found.tpr.count, 60, allowed=2, controls=50)
    assert found.p_value == wanted


def test_evidence_needs_either_test_at_half_of_alpha():
    train, holdout = draw(0, 60), draw(1, 80)
    known = infer_membership(ClosedFormOptimum(train.images), train, holdout, config=CONFIG)
    auc, rate = DIAGNOSTIC.evidence(known, 0.05)
    assert auc == f"membership AUC 1.000 ({known.auc.low:.3f} to 1.000, p < 1e-15)"
    assert rate == "100 % of training images above the membership threshold of 5.0 % (p < 1e-15)"
    barely = replace(known, p_value=0.03, auc_p_value=0.03)
    assert list(DIAGNOSTIC.evidence(barely, 0.05)) == []
    assert len(list(DIAGNOSTIC.evidence(barely, 0.06))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("num_train", "num_holdout"), [(300, 300), (300, 60)])
def test_a_model_that_knows_nothing_is_branded_in_at_most_alpha_of_all_runs(
    num_train: int, num_holdout: int, monkeypatch: pytest.MonkeyPatch
):
    """Scores of one distribution in place of the model's; 2,000 runs."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        membership_inference, "_scores", lambda d, images, *rest: rng.normal(size=len(images))
    )
    train, holdout = draw(0, num_train), draw(1, num_holdout)
    model = ClosedFormOptimum(train.images)
    branded = 0
    for _ in range(2000):
        found = infer_membership(model, train, holdout, config=CONFIG)
        branded += bool(list(DIAGNOSTIC.evidence(found, 0.05)))
    assert clopper_pearson(branded, 2000, 0.999).low <= 0.05


def test_too_few_controls_are_refused_with_the_number_needed():
    train = draw(7, 50)
    model = ClosedFormOptimum(train.images)
    config = replace(CONFIG, max_fpr=0.01)
    with pytest.raises(ConfigError, match="at least 100 held-out images, but .* gives 99"):
        infer_membership(model, train, draw(8, 99), config=config)
    with pytest.raises(ConfigError, match="gives 60"):
        infer_membership(model, train, draw(8, 200), config=replace(config, num_images=60))


@pytest.mark.parametrize(
    ("option", "value"), [("sigmas", ()), ("num_noises", 0), ("max_fpr", 0.0), ("confidence", 1.0)]
)
def test_options_that_make_no_sense_are_refused(option: str, value: object):
    with pytest.raises(ConfigError, match=option):
        MembershipConfig(**{option: value})


def test_the_model_is_asked_in_float32_throughout():
    """On a GPU cuDNN would round the inputs of convolutions to 10 bits."""
    train, holdout = draw(9, 20), draw(10, 20)
    allowed = []

    class Watched(ClosedFormOptimum):
        def __call__(self, x, sigma, class_labels=None):
            allowed.append(torch.backends.cudnn.allow_tf32)
            return super().__call__(x, sigma, class_labels)

    infer_membership(Watched(train.images), train, holdout, config=CONFIG)
    assert allowed and not any(allowed)
