"""Near-equal images of a model, without its training images."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit import CheckConfig, Denoiser, ImageSet, SamplerConfig, check_repeats
from memaudit.audit.report.repeats_page import repeats_dict, repeats_page, write_repeats
from memaudit.audit.source import optimum_of
from memaudit.errors import ConfigError, DataError

CONFIG = CheckConfig(seeds=range(60), sampler=SamplerConfig(num_steps=8))


def test_a_model_that_knows_a_few_images_by_heart_repeats_itself(
    train: ImageSet, holdout: ImageSet
):
    model = optimum_of(train.take(np.arange(10)))
    found = check_repeats(model, holdout=holdout, config=CONFIG)
    count, controls = found.report.repeats.count, found.report.controls
    assert count.num_repeated > 50
    assert count.effective_number is not None and 6 < count.effective_number < 12
    assert controls is not None and controls.num_repeated == 0
    assert found.report.headline.endswith("; of 160 held-out images, none is.")
    assert found.keys == tuple(range(60))
    first, second = found.report.repeats.groups[0].rows[:2]
    assert np.abs(found.generated[first].astype(int) - found.generated[second]).max() <= 8


def test_a_model_that_copies_nothing_does_not_repeat_itself(never_copies: Denoiser):
    found = check_repeats(never_copies, config=CONFIG)
    assert found.report.headline == "No two of 60 generated images are near-equal."
    assert found.report.controls is None


def test_the_page_and_the_json_hold_the_groups(tmp_path: Path):
    images = np.repeat(smooth_images(3, 8, seed=0), [4, 2, 1], axis=0)
    names = [f"<script>{i}</script>" for i in range(7)]
    found = check_repeats(ImageSet(images, names, source="generated"))
    page = write_repeats(found, tmp_path).read_text(encoding="utf-8")
    content = json.loads((tmp_path / "repeats.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(repeats_dict(found)))
    assert content["repeats"]["groups"][0]["rows"] == [0, 1, 2, 3]
    assert "Group 1: 4 images" in page and "not in the group: " in page
    assert "<script" not in page
    assert "<img" in page and "<img" not in repeats_page(found, "none")
    assert "nothing says how often such images are near-equal by themselves" in page


def test_what_cannot_be_searched_is_refused(train: ImageSet):
    with pytest.raises(ConfigError, match="name a checkpoint or generated images"):
        check_repeats("optimum")
    with pytest.raises(DataError, match="They must be alike"):
        check_repeats(train, holdout=np.zeros((2, 3, 4, 4), np.uint8))
    with pytest.raises(DataError, match="holds no images"):
        check_repeats(train.take(np.arange(0)))
