"""Which files of a folder are taken, and folders of other models, refused by what they are."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memaudit.audit.source import holds_images
from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import inspect_checkpoint, open_checkpoint
from memaudit.models.checkpoints.diffusers.layout import find_layout, which_weights

UNET = {"_class_name": "UNet2DModel", "sample_size": 8}
STEM = "diffusion_pytorch_model"


def write(path: Path, value: object = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())


@pytest.fixture
def pipeline(tmp_path):
    """A folder of a UNet2DModel, with empty files for weights."""

    def make(*weights: str, folder: str = "unet") -> Path:
        write(tmp_path / folder / "config.json", UNET)
        write(tmp_path / "scheduler/scheduler_config.json", {"_class_name": "DDPMScheduler"})
        for name in weights:
            write(tmp_path / folder / f"{STEM}.{name}")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("present", "taken"),
    [
        (["bin", "safetensors", "fp16.safetensors"], "safetensors"),
        (["bin", "fp16.safetensors"], "bin"),
        (["safetensors", "ema.safetensors"], "ema.safetensors"),
        (["bf16.safetensors", "fp16.bin", "fp16.safetensors"], "fp16.safetensors"),
        (["non_ema.safetensors", "fp16.safetensors"], "fp16.safetensors"),
        (["safetensors.index.json", "bin"], "safetensors.index.json"),
        (["safetensors.index.fp16.json", "non_ema.bin"], "safetensors.index.fp16.json"),
        (["final.safetensors", "non_ema.bin"], "final.safetensors"),
    ],
)
def test_the_plain_weights_come_before_variants_by_their_precision(pipeline, present, taken):
    assert find_layout(pipeline(*present)).weights().name == f"{STEM}.{taken}"


def test_weights_in_training_are_said_to_be_those(pipeline):
    weights = find_layout(pipeline("non_ema.safetensors")).weights()
    said, (warning,) = which_weights(weights)
    assert said.startswith("the network in training") and "average (EMA)" in warning


def test_two_variants_of_unknown_meaning_are_refused(pipeline):
    with pytest.raises(CheckpointError, match="the variants 'a', 'b', and it is not clear"):
        open_checkpoint(pipeline("a.safetensors", "b.safetensors"))


def test_weights_that_diffusers_does_not_read_are_named(pipeline):
    folder = pipeline()
    write(folder / "unet/diffusion_flax_model.msgpack")
    with pytest.raises(CheckpointError, match="none of the weights .* 'diffusion_flax_model"):
        open_checkpoint(folder)


def test_a_folder_of_training_checkpoints_names_the_latest(tmp_path):
    for step in (500, 1500, 1000):
        write(tmp_path / f"checkpoint-{step}/unet/config.json", UNET)
    assert not holds_images(tmp_path)
    with pytest.raises(CheckpointError, match="3 checkpoints of a training .*checkpoint-1500"):
        open_checkpoint(tmp_path)


STABLE = {
    **{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]},
    "text_encoder": ["transformers", "CLIPTextModel"],
}
KINDS = {
    "latents beside a vqvae": (
        {"unet/config.json": UNET, "vqvae/config.json": {}},
        "a pipeline of latents: its network denoises what the vqvae beside it makes",
    ),
    "latents by the index": (
        {"unet/config.json": UNET, "model_index.json": {"_class_name": "A", "vae": ["d", "V"]}},
        "a 'A' of latents",
    ),
    "latents around the network alone": (
        {"unet/config.json": UNET, "vae/config.json": {}, "NAMED": "unet"},
        "denoises what the vae beside it makes",
    ),
    "latents above a checkpoint": (
        {
            "checkpoint-5/unet/config.json": UNET,
            "vae/config.json": {},
            "NAMED": "checkpoint-5/unet",
        },
        "denoises what the vae beside it makes",
    ),
    "Stable Diffusion": (
        {"unet/config.json": {"_class_name": "UNet2DConditionModel"}, "model_index.json": STABLE},
        r"a 'StableDiffusionPipeline' of latents, from texts \(text_encoder\)",
    ),
    "texts": (
        {"unet/config.json": UNET, "text_encoder/config.json": {}},
        r"makes images from texts \(text_encoder\)",
    ),
    "a conditional network alone": (
        {"config.json": {"_class_name": "UNet2DConditionModel"}},
        "'UNet2DConditionModel': it denoises latents from texts",
    ),
    "FLUX": (
        {"transformer/config.json": {"_class_name": "FluxTransformer2DModel"}},
        r"its network is a transformer \(transformer/\)",
    ),
    "FLUX's transformer alone": (
        {"config.json": {"_class_name": "FluxTransformer2DModel"}},
        "it is the transformer of FLUX, of latents from texts",
    ),
    "DiT": (
        {
            "transformer/config.json": {"_class_name": "DiTTransformer2DModel"},
            "model_index.json": {"_class_name": "DiTPipeline", "vae": ["diffusers", "V"]},
        },
        "a 'DiTPipeline' of latents",
    ),
    "a vae": (
        {"config.json": {"_class_name": "AutoencoderKL"}},
        "variational autoencoder, which does not denoise",
    ),
    "a LoRA": (
        {"pytorch_lora_weights.safetensors": {}},
        r"a LoRA adapter \(pytorch_lora_weights.safetensors\)",
    ),
    "PEFT's adapter": (
        {"adapter_config.json": {}, "adapter_model.safetensors": {}},
        "a LoRA adapter",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_another_kind_is_refused_by_what_it_is(tmp_path, kind):
    files, message = KINDS[kind]
    named = tmp_path / str(files.get("NAMED", ""))
    for name, value in files.items():
        if name != "NAMED":
            write(tmp_path / name, value)
    assert not holds_images(named)
    for command in (open_checkpoint, inspect_checkpoint):
        with pytest.raises(CheckpointError, match=message):
            command(named)


def test_a_folder_of_images_stays_one(tmp_path):
    """Whatever its classes are called."""
    for name in ("transformer/0.png", "checkpoint-5/0.png", "unet/0.png", "vae/0.png"):
        write(tmp_path / name)
    assert holds_images(tmp_path)


def test_a_part_that_a_pipeline_left_out_is_not_there(pipeline):
    folder = pipeline("bin")
    write(folder / "model_index.json", {"_class_name": "A", "vae": [None, None]})
    assert find_layout(folder).weights().name.endswith("bin")


LORA = {
    "unet.down_blocks.0.attentions.0.to_q.lora_A.weight": "a LoRA adapter",
    "unet.mid_block.attn.processor.to_q_lora.down.weight": "a LoRA adapter",
    "lora_unet_down_blocks_0_attn1_to_q.lora_down.weight": "a LoRA adapter",
    "lycoris_blocks_0.lokr_w1": "a LoRA adapter",
    "double_blocks.0.img_attn.qkv.weight": "the transformer of FLUX",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "latent|Stable Diffusion 3",
    "transformer_blocks.0.attn1.to_q.weight": "a transformer of diffusers'",
    "encoder.down_blocks.0.resnets.0.conv1.weight": "an autoencoder",
    "text_model.encoder.layers.0.mlp.fc1.weight": "a text encoder",
}


@pytest.mark.parametrize("name", LORA)
def test_a_file_of_another_kind_is_refused_by_what_it_is(tmp_path, name):
    path = tmp_path / "adapter.safetensors"
    save_file({name: torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=LORA[name]):
        open_checkpoint(path)


@pytest.fixture
def sharded(tmp_path):
    pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    from helpers.diffusers_models import save_pipeline, tiny_unet, with_index

    save_pipeline(tmp_path, tiny_unet())
    write(tmp_path / "scheduler/scheduler_config.json", {"_class_name": "DDPMScheduler"})
    with_index(tmp_path)
    return tmp_path


def test_an_index_that_is_altered_is_refused(sharded):
    """Each change in turn; the whole opens."""
    unet = sharded / "unet"
    path = unet / f"{STEM}.safetensors.index.json"
    whole = json.loads(path.read_text())
    first = open_checkpoint(sharded)
    assert first.sha256 != "" and "index.json" in first.provenance["weights"]

    def refused(index: object, message: str) -> None:
        write(path, index)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(sharded)
        write(path, whole)

    places = whole["weight_map"]
    tensor, file = next(iter(places.items()))
    refused({}, "has no weight_map")
    refused({"weight_map": [1]}, "has no weight_map")
    for elsewhere in ("../scheduler/x", "/etc/passwd", "", "..", ".hidden", 7, "a" * 300):
        refused({"weight_map": places | {tensor: elsewhere}}, "which is not a file beside it")
    refused({"weight_map": {str(i): f"f{i}" for i in range(300)}}, "more than 256 files")
    refused({"weight_map": places | {"more": file}}, "do not agree on the tensor 'more'")
    refused({"weight_map": places | {tensor: "gone.safetensors"}}, "gone.safetensors|agree")
    save_file(load_file(unet / file) | {"more": torch.ones(1)}, unet / "other.safetensors")
    os.replace(unet / "other.safetensors", unet / file)
    with pytest.raises(CheckpointError, match="do not agree on the tensor 'more'"):
        open_checkpoint(sharded)
    (unet / file).unlink()
    os.mkfifo(unet / file)
    with pytest.raises(CheckpointError, match=f"{file}: .* a named pipe"):
        open_checkpoint(sharded)


def test_a_layer_by_both_its_names_is_refused(tmp_path):
    pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    from helpers.diffusers_models import save_pipeline, tiny_unet

    write(tmp_path / "scheduler/scheduler_config.json", {"_class_name": "DDPMScheduler"})
    path = save_pipeline(tmp_path, tiny_unet()) / f"unet/{STEM}.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("to_q.weight"))
    save_file(weights | {name.replace("to_q", "query"): weights[name].clone()}, path)
    with pytest.raises(CheckpointError, match="twice, by their names of before and since 2023"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("case", "weights", "sigmas"),
    [
        ("01_old_attention_names", "by names of before 2023", (0.0100013, 157.407)),
        ("09_variant_fp16", "(variant fp16)", (0.0100013, 157.407)),
        ("10_unet_and_unet_ema", "the moving average (EMA), in unet_ema/", (0.0100013, 157.407)),
        ("11_sample_size_list", "those in unet/", (0.0100013, 157.407)),
        ("13_euler_continuous", "those in unet/", (0.002, 700)),
        ("14_scheduler_deis", "those in unet/", (0.0100013, 157.407)),
    ],
)
def test_what_people_have_opens(real_cases, case, weights, sigmas):
    pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    checkpoint = open_checkpoint(real_cases / case)
    network = checkpoint.network
    assert weights in checkpoint.provenance["weights"]
    assert (network.img_channels, network.img_resolution) == (3, 8)
    assert (network.sigma_min, network.sigma_max) == pytest.approx(sigmas, rel=1e-5)
    assert checkpoint.warnings == ()


def test_accelerates_folder_is_its_first_file(tmp_path, network, same_output):
    from helpers.edm_pickles import TINY

    save_file(network.state_dict(), tmp_path / "model.safetensors")
    for name in ("optimizer.bin", "random_states_0.pkl"):
        write(tmp_path / name)
    assert not holds_images(tmp_path)
    checkpoint = open_checkpoint(tmp_path, config=TINY)
    assert same_output(checkpoint.network)
    assert inspect_checkpoint(tmp_path, config=TINY).network.img_resolution == 4
    average = {f"ema_model.{name}": value + 1 for name, value in network.state_dict().items()}
    torch.save(average | {"initted": torch.tensor(True)}, tmp_path / "custom_checkpoint_0.pkl")
    (warning,) = [w for w in open_checkpoint(tmp_path, config=TINY).warnings if "Beside" in w]
    assert "custom_checkpoint_0.pkl" in warning
    named = open_checkpoint(tmp_path / "custom_checkpoint_0.pkl", config=TINY)
    assert named.provenance["weights"] == "the moving average (EMA), under 'ema_model'"
    shutil.move(tmp_path / "model.safetensors", tmp_path / "model.safetensors.index.json")
    with pytest.raises(CheckpointError, match="divided among several files"):
        open_checkpoint(tmp_path)
