"""A choice that shapes do not show, against denoisers of which it is known which is right."""

import numpy as np
import pytest
import torch
from helpers.openai_unet import make_unet

from memaudit.audit.config import ScanConfig
from memaudit.audit.denoising import other_options
from memaudit.audit.denoising.loss_test import check_denoising
from memaudit.audit.denoising.other_options import other_options_of, try_other_options
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import make_report
from memaudit.audit.scan import scan
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import Checkpoint, open_checkpoint
from memaudit.models.checkpoints.formats import ddpm, diffusers, dit, lucidrains, monai, uvit
from memaudit.models.checkpoints.given import Fact, Given
from memaudit.models.optimum.closed_form import ClosedFormOptimum

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), np.uint8)
DATA = ImageSet.from_array(IMAGES, source="train")
HEADS = Fact("num_heads", 4, "default", ("1", "2"))


class Skewed(ClosedFormOptimum):
    """An optimum that is a little off."""

    def __init__(self, images, share=0.01):
        super().__init__(images)
        self.share = share

    def __call__(self, x, sigma, class_labels=None):
        return super().__call__(x, sigma, class_labels) + self.share * x


def test_the_right_choice_is_found_whichever_is_configured():
    def open_as(arch):
        if arch == "torchcfm,num_heads=1":
            raise ConfigError("it does not fit")
        assert arch == "torchcfm,num_heads=2"
        return ClosedFormOptimum(IMAGES)

    facts = (HEADS, Fact("schedule", "linear", "file", ("cosine",)))
    (found,) = try_other_options(Skewed(IMAGES), facts, "torchcfm,num_heads=4", open_as, DATA)
    assert found.option == "num_heads=2" and found.is_better and found.change < 0.5

    (found,) = try_other_options(
        ClosedFormOptimum(IMAGES),
        facts,
        "torchcfm",
        lambda arch: Skewed(IMAGES) if "2" in arch else open_as(arch),
        DATA,
    )
    assert not found.is_better and found.change > 2


def test_choices_without_effect_are_not_better():
    same = ClosedFormOptimum(IMAGES)
    found = try_other_options(same, (HEADS,), None, lambda arch: same, DATA)
    assert [option.change for option in found] == [pytest.approx(1)] * 2
    assert not any(option.is_better for option in found)
    assert try_other_options(same, (), None, lambda arch: same, DATA) == ()


def test_every_option_of_a_format_is_tried_with_its_other_values(tmp_path):
    path = tmp_path / "ema.pt"
    torch.save(make_unet(num_heads=4, channel_mult=(1,)).state_dict(), path)
    arch = "img_resolution=8,num_heads=2"
    found = other_options_of(open_checkpoint(path, arch=arch), DATA)
    tried = {option.option for option in found}
    assert {"num_heads=1", "num_heads=8", "use_new_attention_order=on", "target=sample"} <= tried
    assert {"schedule=cosine", "rescale_timesteps=off", "data_range=0..1"} <= tried
    assert "num_heads=2" not in tried


def test_a_pass_needs_that_no_other_option_denoises_better(monkeypatch):
    def checkpoint(network, arch=None):
        return Checkpoint(network, {}, {}, "0", "bare weights", "a.pt", arch=arch, facts=(HEADS,))

    def open_as(path, *, arch, device):
        assert path == "a.pt"
        return checkpoint(ClosedFormOptimum(IMAGES), arch)

    monkeypatch.setattr(other_options, "open_checkpoint", open_as)
    wrong, right = checkpoint(Skewed(IMAGES)), checkpoint(ClosedFormOptimum(IMAGES))
    found = check_denoising(wrong.network, DATA, checkpoint=wrong)
    assert found.denoises and not found.allows_pass
    assert "better with num_heads=" in found.option_problem
    assert found.option_problem in found.warnings
    result = scan(wrong, DATA, config=ScanConfig(seeds=range(20), fail_above=0.9))
    assert result.denoising.other_options == found.other_options
    assert result.source.warnings[0] == found.option_problem
    page = render_page(result, make_report(result))
    assert "Yes, but better as another network." in page
    assert check_denoising(right.network, DATA, checkpoint=right).allows_pass


def test_losses_that_no_eye_sees_are_alike():
    found = try_other_options(
        Skewed(IMAGES, 1e-4), (HEADS,), None, lambda arch: ClosedFormOptimum(IMAGES), DATA
    )
    assert not any(option.is_better for option in found)


@pytest.mark.parametrize(
    ("options", "tried"),
    [
        (
            monai.OPTIONS,
            {"target=sample", "data_range=-1..1", "num_head_channels=16", "norm_num_groups=8"},
        ),
        (ddpm.OPTIONS, {"target=v_prediction", "schedule=cosine", "data_range=0..1"}),
        (lucidrains.OPTIONS[-1:], {"data_range=0..1"}),
        (dit.OPTIONS, {"num_heads=6", "path=gvp"}),
        (uvit.OPTIONS, {"num_heads=16", "target=sample", "null_label=last"}),
        (diffusers.OPTIONS[3:], {"target=v_prediction", "beta_schedule=scaled_linear"}),
    ],
    ids=["monai", "ddpm", "lucidrains", "dit", "uvit", "diffusers"],
)
def test_what_no_file_of_a_format_shows_has_other_values_to_try(options, tried):
    known = {"img_resolution": 8, "num_classes": 0}
    found = {option.name: known[option.name] for option in options if option.name in known}
    defaults = {"num_heads": 4, "null_label": "none"}
    facts = Given().resolve(options, found, defaults).facts
    assert tried <= {f"{fact.name}={value}" for fact in facts for value in fact.alternatives}


def test_a_value_that_no_network_has_is_refused_by_name():
    for options in (monai.OPTIONS, ddpm.OPTIONS, lucidrains.OPTIONS):
        with pytest.raises(
            ConfigError, match=r"data_range must be one of -1\.\.1, 0\.\.1, got '2'"
        ):
            Given.parse("data_range=2").resolve(
                options, {"img_resolution": 8, "target": "epsilon", "schedule": "linear"}
            )
