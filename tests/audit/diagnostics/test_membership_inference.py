"""Membership of the optimum, which knows all, and of a model that saw neither set."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from memaudit.audit.diagnostics.membership_inference import MembershipConfig, infer_membership
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
    assert found.auc == 1
    assert (found.tpr.count, found.tpr.total) == (60, 60)
    assert (found.fpr.count, found.fpr.total) == (4, 80)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["num_train"] == 60


def test_a_model_that_saw_neither_set_does_no_better_than_the_false_positive_rate():
    stranger = ClosedFormOptimum(draw(2, 100).images)
    found = infer_membership(stranger, draw(3, 400), draw(4, 400), config=CONFIG)
    assert found.tpr.low < 0.05 < found.tpr.high + 0.03
    assert found.auc == pytest.approx(0.5, abs=0.08)
    assert found.fpr.ratio == 0.05


def test_a_conditional_model_is_asked_with_the_labels():
    train = draw(5, 20, labels=np.arange(20) % 2)
    holdout = draw(6, 20, labels=np.arange(20) % 2)
    model = ClosedFormOptimum(train.images, train.labels)
    assert infer_membership(model, train, holdout, config=CONFIG).auc == 1


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
