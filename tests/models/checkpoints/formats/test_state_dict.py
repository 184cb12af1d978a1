"""Weights without a configuration open with the user's; files of other makes are named."""

import json
import pickle
from functools import partial

import pytest
import torch
from helpers.edm_pickles import TINY, Persistent
from safetensors import safe_open
from safetensors.torch import save_file

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.checkpoints.assembly import build_uninitialized
from memaudit.models.published_networks import PRESETS, PRESETS_BY_NAME, Preset

WEIGHT = "model.enc.4x4_conv.weight"


def save_old(weights, path):
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def save_pickle(weights, path):
    path.write_bytes(pickle.dumps(weights, protocol=4))


@pytest.mark.parametrize("save", [torch.save, save_old, save_pickle, save_file])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("part", ["denoiser", "U-Net"])
def test_a_state_dict_opens_under_any_usual_names(
    tmp_path, network, same_output, save, prefix, part
):
    weights = (network if part == "denoiser" else network.model).state_dict()
    save({f"{prefix}{name}": value for name, value in weights.items()}, tmp_path / "weights")
    checkpoint = open_checkpoint(tmp_path / "weights", config=TINY)
    assert same_output(checkpoint.network)
    assert checkpoint.config == TINY
    assert any("configuration is the user's" in warning for warning in checkpoint.warnings)


def test_the_average_is_taken_before_the_network_that_was_trained(tmp_path, network, same_output):
    trained = {name: value + 1 for name, value in network.state_dict().items()}
    path = tmp_path / "model.pt"
    torch.save({"model": trained, "ema": network.state_dict(), "epoch": 3}, path)
    assert same_output(open_checkpoint(path, config=TINY).network)
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
    warnings = open_checkpoint(path, config=TINY).warnings
    assert any("does not say whether they are the moving average" in w for w in warnings)


def test_the_unet_of_iddpm_needs_no_noise_levels(tmp_path):
    config = TINY | {"class_name": "iDDPMPrecond"}
    network = build_network(config).eval()
    torch.save(network.model.state_dict(), tmp_path / "unet.pt")
    opened = open_checkpoint(tmp_path / "unet.pt", config=config).network
    x, sigma = torch.randn(2, 1, 4, 4), torch.tensor([0.5, 20.0])
    with torch.no_grad():
        assert torch.equal(opened(x, sigma), network(x, sigma))


def test_the_weights_of_edm2_open(tmp_path):
    config = {
        "class_name": "Precond",
        "img_resolution": 4,
        "img_channels": 1,
        "model_channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
    }
    network = build_network(config).eval()
    torch.save(network.half().state_dict(), tmp_path / "edm2.pt")
    opened = open_checkpoint(tmp_path / "edm2.pt", config=config).network
    x, sigma = torch.randn(2, 1, 4, 4), torch.tensor([0.5, 20.0])
    with torch.no_grad():
        assert torch.equal(opened(x, sigma), network.float()(x, sigma))


def test_weights_alone_name_the_presets_that_fit(tmp_path, network):
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    for fact in ("fit no preset", "num_blocks = 1", "attn_resolutions = [4]", "label_dim = 2"):
        assert fact in str(caught.value)
    large = build_uninitialized(PRESETS_BY_NAME["cifar10-ddpmpp-edm"].config).state_dict()
    save_file({name: torch.zeros_like(value) for name, value in large.items()}, path)
    with pytest.raises(CheckpointError, match="fit the presets cifar10-ddpmpp-edm, which differ"):
        open_checkpoint(path)


@pytest.mark.parametrize("shape", [[], [0], [3], [2, 3, 4, 5, 6]])
def test_weights_of_odd_shapes_are_refused_and_not_stumbled_over(tmp_path, network, shape):
    path = tmp_path / "weights.pt"
    odd = {name: torch.zeros(shape) for name in network.state_dict()}
    torch.save(odd, path)
    for config in (None, TINY):
        with pytest.raises(CheckpointError, match="in the file, but|without a configuration"):
            open_checkpoint(path, config=config)
    torch.save(odd | {f"module.{WEIGHT}": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="holds a tensor twice"):
        open_checkpoint(path, config=TINY)


def test_a_preset_opens_what_was_trained_as_it(tmp_path, monkeypatch, network, same_output):
    presets = {"tiny": Preset("tiny", TINY)}
    monkeypatch.setattr("memaudit.models.checkpoints.given.PRESETS_BY_NAME", presets)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    assert same_output(open_checkpoint(tmp_path / "weights.pt", arch="tiny").network)


def test_a_configuration_is_only_for_files_without_one(snapshot):
    with pytest.raises(ConfigError, match="a configuration of its own"):
        open_checkpoint(snapshot, config=TINY)
    with pytest.raises(ConfigError, match="no preset 'cifar100', and .* says what it is"):
        open_checkpoint(snapshot, arch="cifar100")
    with pytest.raises(ConfigError, match="a configuration of its own"):
        open_checkpoint(snapshot.parent, config=TINY)
    with pytest.raises(ValueError, match="not both"):
        open_checkpoint(snapshot, arch="cifar10-ddpmpp-vp", config=TINY)


def test_every_published_network_has_a_preset():
    assert len(PRESETS) == 18
    assert len({preset.name for preset in PRESETS}) == 18
    assert sum(preset.file.startswith("edm-") for preset in PRESETS) == 9
    by_name = PRESETS_BY_NAME
    assert by_name["edm-cifar10-32x32-uncond-vp"] == by_name["cifar10-ddpmpp-edm"]
    for preset in PRESETS:
        build_uninitialized(preset.config)


@pytest.mark.parametrize("case", ["cifar10_uncond_vp", "cifar10_cond_ve", "ffhq64_uncond_vp"])
def test_presets_are_the_published_configurations(golden, case):
    with safe_open(golden / "full_size.safetensors", "pt") as file:
        config = json.loads(file.metadata()[case])["config"]
    config.pop("use_fp16")
    assert config in [preset.config for preset in PRESETS]


def test_safetensors_with_a_configuration_of_ours_opens(tmp_path, network, same_output):
    path = tmp_path / "slim.safetensors"
    save_file(network.state_dict(), path, {"config": json.dumps(TINY)})
    checkpoint = open_checkpoint(path)
    assert same_output(checkpoint.network)
    assert checkpoint.config == TINY


ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (
            partial(
                torch.save,
                {"step": 1, "model": {"a": ONE}, "opt": {}, "ema": {}, "scaler": None},
            ),
            "lucidrains",
        ),
        (
            partial(torch.save, {"config": {}, "model": {}, "model_ema": {}, "opt": {}}),
            "training checkpoint of k-diffusion",
        ),
        (
            lambda path: save_file(
                {"a": ONE}, path, {"config": json.dumps({"model": {"type": "image_v1"}})}
            ),
            "k-diffusion's, for a network of type 'image_v1'",
        ),
        (partial(torch.save, {"down_blocks.0.weight": ONE}), "weights of a diffusers model alone"),
        (
            partial(torch.save, {"state_dict": {"model.diffusion_model.out.weight": ONE}}),
            "latent diffusion",
        ),
        (partial(torch.save, {"optimizer": {}, "model": {}, "ema": {}, "step": 0}), "score_sde"),
        (partial(torch.save, {"weight": ONE}), "holds 1 values named 'weight'"),
        (partial(torch.save, [1, 2]), "a format that memaudit does not know: it holds a list"),
    ],
)
def test_a_file_of_another_make_is_refused_by_name(tmp_path, save, message):
    path = tmp_path / "other"
    save(path)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_a_stylegan_snapshot_is_refused_by_name(tmp_path, persistence):
    path = tmp_path / "network-snapshot.pkl"
    for key, message in (("G_ema", "StyleGAN"), ("D", "without `ema` or `net`")):
        path.write_bytes(pickle.dumps({key: Persistent("Generator", {})}))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)
