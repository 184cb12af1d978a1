"""A converted file knows what its source did not show, and opens with the other values."""

import json

import numpy as np
import pytest
import torch
from helpers.openai_unet import make_unet
from helpers.score_sde_unet import NCSNpp, checkpoint
from safetensors.torch import load_file, save_file

from memaudit.audit.denoising.other_options import other_options_of
from memaudit.data.images import ImageSet
from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints import convert_checkpoint, inspect_checkpoint, open_checkpoint

ARCH = "img_resolution=8,num_heads=2,data_range=-1..1"
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
DATA = ImageSet.from_array(IMAGES, source="train")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "ema.pt"
    torch.save(make_unet(num_heads=4, channel_mult=(1,)).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def native(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "native.safetensors"
    convert_checkpoint(source, path, arch=ARCH)
    return path


def described(facts):
    return [
        (fact.name, fact.value, fact.origin, set(fact.alternatives))
        for fact in facts
        if fact.origin != "file"
    ]


def rewritten(native, path, facts):
    metadata = {"format": "memaudit", "format_version": "1", "provenance": "{}"}
    metadata["config"] = json.dumps(open_checkpoint(native).config)
    save_file(load_file(native), path, {**metadata, "facts": json.dumps(facts)})
    return path


def test_the_same_other_values_are_tried_and_denoise_alike(source, native):
    of_source = open_checkpoint(source, arch=ARCH)
    of_native = open_checkpoint(native)
    assert described(of_native.facts) == described(of_source.facts)
    assert inspect_checkpoint(native).network.facts == of_native.facts
    expected = {each.option: each.change for each in other_options_of(of_source, DATA)}
    found = {each.option: each.change for each in other_options_of(of_native, DATA)}
    assert {"num_heads=4", "target=sample", "schedule=cosine", "data_range=0..1"} <= expected.keys()
    assert found == expected and len(set(found.values())) > 5


@torch.no_grad()
def test_options_are_said_together_of_a_converted_file(source, native, tmp_path):
    said = "num_heads=4,target=sample"
    found = open_checkpoint(native, arch=said)
    truth = open_checkpoint(source, arch=f"img_resolution=8,{said},data_range=-1..1")
    assert found.config == truth.config
    x, sigma = torch.randn(1, 3, 8, 8), torch.tensor(1.0)
    assert torch.equal(found.network(x, sigma), truth.network(x, sigma))
    heads = next(fact for fact in found.facts if fact.name == "num_heads")
    assert (heads.value, heads.origin) == ("4", "user") and "2" in heads.alternatives
    assert found.warnings[-1] == (
        "The user says, and the file does not show: num_heads = 4, target = sample."
    )
    # Converted once more, it is as its last choices say, and can be turned back.
    again = tmp_path / "again.safetensors"
    assert convert_checkpoint(native, again, arch=said).config == truth.config
    back = open_checkpoint(again, arch="num_heads=2,target=epsilon")
    assert back.config == open_checkpoint(native).config


@torch.no_grad()
def test_filters_and_noise_levels_follow_the_configuration(tmp_path):
    torch.manual_seed(0)
    model = NCSNpp(size=8, nf=16, mult=[1, 2], num_blocks=1, attention=[4], fir=True)
    source, native = tmp_path / "checkpoint_7.pth", tmp_path / "native.safetensors"
    torch.save(checkpoint(model)[0], source)
    convert_checkpoint(source, native, arch="img_resolution=8,fir=off")
    for said in ("fir=on", "fir=on,sde=vp-discrete", "sde=subvp"):
        found = open_checkpoint(native, arch=said)
        truth = open_checkpoint(source, arch=f"img_resolution=8,{said}")
        assert found.config == truth.config
        x, sigma = torch.randn(1, 3, 8, 8), torch.tensor(1.0)
        assert torch.equal(found.network(x, sigma), truth.network(x, sigma))


def test_messages_of_the_source_are_told_once(native):
    info = inspect_checkpoint(native).network
    assert "warnings" not in info.provenance
    assert sum("Assumed by default" in warning for warning in info.warnings) == 1


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("img_resolution=16", "no option 'img_resolution'; its options are num_heads, "),
        ("num_heads=3", "num_heads must be one of "),
        ("torchcfm", "no preset 'torchcfm'"),
    ],
)
def test_what_was_not_kept_is_refused(native, arch, message):
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(native, arch=arch)


def test_two_options_that_change_the_same_are_refused(native, tmp_path):
    change = {"set": {"target": "sample"}, "unset": []}
    kept = {"value": 1, "origin": "user", "changes": {"2": change}}
    path = rewritten(native, tmp_path / "two.safetensors", {"a": kept, "b": kept})
    assert open_checkpoint(path, arch="b=2").config["target"] == "sample"
    with pytest.raises(ConfigError, match="a and b decide the same"):
        open_checkpoint(path, arch="a=2,b=2")


@pytest.mark.parametrize(
    "kept",
    [
        7,
        {"value": 1, "origin": "user"},
        {"value": 1, "origin": "file", "changes": {}},
        {"value": 1, "origin": "user", "changes": []},
        {"value": 1, "origin": "user", "changes": {"2": {"set": {}}}},
        {"value": 1, "origin": "user", "changes": {"2": {"set": {}, "unset": [[]]}}},
        {
            "value": 1,
            "origin": "user",
            "changes": {str(i): {"set": {}, "unset": []} for i in range(101)},
        },
    ],
)
def test_a_broken_entry_is_refused(native, tmp_path, kept):
    with pytest.raises(CheckpointError, match="its metadata entry 'facts'"):
        open_checkpoint(rewritten(native, tmp_path / "broken.safetensors", {"a": kept}))
