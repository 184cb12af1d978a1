"""A diffusers folder denoises as diffusers' own schedulers say it does."""

import json
import os
import sys

import pytest
import torch

from memaudit.audit.source import holds_images
from memaudit.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from memaudit.models.checkpoints import convert_checkpoint, inspect_checkpoint, open_checkpoint
from memaudit.models.denoiser import Denoiser


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")


@pytest.fixture
def unet(diffusers):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ).eval()


@pytest.fixture
def save(tmp_path):
    def write(unet, scheduler, **options):
        unet.save_pretrained(tmp_path / "pipeline/unet", **options)
        scheduler.save_pretrained(tmp_path / "pipeline/scheduler")
        return tmp_path / "pipeline"

    return write


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0, 300, 999])
@torch.no_grad()
def test_discrete_levels_give_the_schedulers_clean_image(diffusers, unet, save, prediction, t):
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, clip_sample=False)
    checkpoint = open_checkpoint(save(unet, scheduler))
    network = checkpoint.network
    assert isinstance(network, Denoiser)
    assert (network.img_channels, network.img_resolution, network.label_dim) == (1, 8, 0)
    alpha_bar = scheduler.alphas_cumprod[t]
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    x = torch.randn(2, 1, 8, 8) * sigma
    scaled = x * alpha_bar.sqrt()
    expected = scheduler.step(unet(scaled, t).sample, t, scaled).pred_original_sample
    torch.testing.assert_close(network(x, sigma), expected, rtol=1e-3, atol=1e-4)
    assert float(network.round_sigma(sigma * 1.0001)) == pytest.approx(float(sigma))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_edms_scheduler_gives_edms_preconditioning(diffusers, unet, save, prediction):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_max=40.0)
    network = open_checkpoint(save(unet, scheduler)).network
    assert (network.sigma_min, network.sigma_max) == (0.002, 40.0)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(3.0)
    F_x = unet(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma)).sample
    expected = scheduler.precondition_outputs(x, F_x, sigma)
    torch.testing.assert_close(network(x, sigma), expected)


@torch.no_grad()
def test_classes_are_one_hot(diffusers, save):
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=3,
    ).eval()
    network = open_checkpoint(save(unet, diffusers.DDPMScheduler())).network
    assert network.label_dim == 3
    x, sigma = torch.randn(2, 3, 8, 8), network.noise_levels[500]
    scaled = x / (1 + sigma**2).sqrt()
    F_x = unet(scaled, 500, class_labels=torch.tensor([2, 0])).sample
    labels = torch.eye(3)[[2, 0]]
    torch.testing.assert_close(network(x, sigma, labels), x - sigma * F_x, rtol=1e-3, atol=1e-4)
    for other in (None, labels * 0.5 + 0.1):
        with pytest.raises(ValueError, match="must be one-hot"):
            network(x, sigma, other)


def test_a_bin_file_opens_and_is_not_run(diffusers, unet, save):
    folder = save(unet, diffusers.DDPMScheduler(), safe_serialization=False)
    weights = folder / "unet/diffusion_pytorch_model.bin"
    first = open_checkpoint(folder)
    assert first.network.unet.state_dict().keys() == unet.state_dict().keys()
    torch.save({"weight": print}, weights)
    with pytest.raises(UnsafeCheckpointError, match="__builtin__.print"):
        open_checkpoint(folder)


def test_the_hash_is_that_of_all_three_files(diffusers, unet, save):
    folder = save(unet, diffusers.DDPMScheduler())
    before = open_checkpoint(folder).sha256
    save(unet, diffusers.DDPMScheduler(beta_end=0.03))
    assert open_checkpoint(folder).sha256 != before


def test_a_folder_is_inspected(diffusers, unet, save):
    folder = save(unet, diffusers.DDPMScheduler())
    info = inspect_checkpoint(folder)
    assert info.safe and info.problem is None
    assert info.container == "diffusers folder"
    assert info.sha256 == open_checkpoint(folder).sha256
    assert info.network.preconditioning == "DDPMScheduler, epsilon"
    assert info.network.num_parameters == unet.num_parameters()
    assert info.network.img_resolution == 8


def test_a_diffusers_model_is_not_converted(diffusers, unet, save, tmp_path):
    folder = save(unet, diffusers.DDPMScheduler())
    with pytest.raises(CheckpointError, match="a diffusers UNet2DModel has no native form"):
        convert_checkpoint(folder, tmp_path / "model.safetensors")


UNET = {"_class_name": "UNet2DModel", "sample_size": 8}
SCHEDULER = {"_class_name": "DDPMScheduler"}


@pytest.mark.parametrize(
    ("unet_change", "scheduler_change", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, {}, "model is 'UNet2DConditionModel'"),
        ({"_class_name": "os.system"}, {}, "model is 'os.system'"),
        ({"time_embedding_type": "fourier"}, {}, "time_embedding_type is 'fourier'"),
        ({"center_input_sample": True}, {}, "center_input_sample is True"),
        ({"out_channels": 1}, {}, "out_channels is 1; at least its 3 in_channels are needed"),
        ({"sample_size": [8, 4, 2]}, {}, "sample_size must be an integer, .* got a list"),
        ({"sample_size": None}, {}, "does not say height and width of its images"),
        ({"class_embed_type": "simple_projection"}, {}, "class_embed_type is 'simple_projection'"),
        ({"class_embed_type": "timestep"}, {}, "does not say how many classes"),
        (
            {"layers_per_block": 10**9},
            {},
            "layers_per_block must be an integer, at least 1 and at most 256, got 10",
        ),
        ({}, {"_class_name": "ScoreSdeVeScheduler"}, "scheduler is 'ScoreSdeVeScheduler'"),
        ({}, {"_class_name": "LCMScheduler"}, "LCMScheduler': its network was made to leap"),
        ({}, {"_class_name": "UnknownScheduler"}, "memaudit knows DDPMScheduler, "),
        ({}, {"prediction_type": "flow"}, "prediction_type is 'flow'"),
        ({}, {"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'"),
        (
            {},
            {"_class_name": "EDMEulerScheduler", "prediction_type": "sample"},
            "with EDMEulerScheduler, memaudit knows epsilon, v_prediction",
        ),
        (
            {},
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "invert_sigmas, which turns time around",
        ),
        (
            {},
            {"num_train_timesteps": 10**9},
            "num_train_timesteps must be an integer, at least 1 and",
        ),
        ({}, {}, "has none of the weights"),
    ],
)
def test_a_folder_of_another_kind_is_refused_by_name(
    tmp_path, unet_change, scheduler_change, message
):
    for folder in ("unet", "scheduler"):
        (tmp_path / folder).mkdir()
    (tmp_path / "unet/config.json").write_text(json.dumps(UNET | unet_change))
    text = json.dumps(SCHEDULER | scheduler_change)
    (tmp_path / "scheduler/scheduler_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_a_folder_without_its_files_says_which(tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json is missing; a diffusers folder"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json is not valid JSON"):
        open_checkpoint(tmp_path)


def test_without_the_extra_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    (tmp_path / "config.json").write_text(json.dumps(UNET))
    (tmp_path / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04}.")
    with pytest.raises(
        ConfigError, match=r"pip install diffusers \(or this package with the extra \"diffusers\""
    ):
        open_checkpoint(tmp_path)


SPECIAL = {
    "a named pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "1,500,006 bytes; at most 1,048,576": lambda path: path.write_text("[]," * 500_002),
    "not valid JSON": lambda path: path.write_text("[" * 500_000),
    "nests deeper than 16": lambda path: path.write_text(f'{{"a":{"[" * 20}{"]" * 20}}}'),
    "not a JSON object": lambda path: path.write_text("[1]"),
    "not valid JSON: .*utf-8": lambda path: path.write_bytes(b'{"a": "\xff"}'),
    "not valid JSON: Exceeds": lambda path: path.write_text(f'{{"a": {"1" * 5000}}}'),
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json"])
def test_a_configuration_is_a_small_regular_file(tmp_path, name, special):
    (tmp_path / "config.json").write_text(json.dumps(UNET))
    (tmp_path / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (tmp_path / name).unlink()
    SPECIAL[special](tmp_path / name)
    assert not holds_images(tmp_path)
    for command in (open_checkpoint, inspect_checkpoint):
        with pytest.raises(CheckpointError, match=rf"{name} .*{special}"):
            command(tmp_path)


@pytest.mark.parametrize("special", ["a named pipe", "a device", "a folder"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_are_a_regular_file(tmp_path, special, suffix):
    (tmp_path / "config.json").write_text(json.dumps(UNET))
    (tmp_path / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    SPECIAL[special](tmp_path / f"diffusion_pytorch_model.{suffix}")
    with pytest.raises(CheckpointError, match=f"model.{suffix}: .* is {special}"):
        open_checkpoint(tmp_path)
