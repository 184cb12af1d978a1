"""A diffusers folder with a UNet2DModel and its scheduler, as a denoiser (extra `diffusers`).

The scheduler's configuration says how the U-Net F is preconditioned:

    discrete noise levels   σ_t = √((1 − ᾱ_t) / ᾱ_t), c_in = 1/√(σ² + 1), c_noise = t
      epsilon               D = x − σ F
      v_prediction          D = x / (σ² + 1) − σ/√(σ² + 1) F
      sample                D = F
    EDM                     EDM's scalings, arXiv:2206.00364, Table 1; with v_prediction −c_out

Weights are read like all others: a .bin file is a pickle, and is not run.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.assembly import (
    check_denoises,
    load_weights,
    without_initialization,
)
from memaudit.models.checkpoints.checkpoint import Checkpoint, CheckpointInfo, NetworkInfo
from memaudit.models.checkpoints.containers.raw_file import Contents, decode, read_file
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.format import SourceFormat
from memaudit.models.checkpoints.given import Given
from memaudit.models.checkpoints.json_metadata import read_json_file
from memaudit.models.checkpoints.weights import find_tensors
from memaudit.models.config_values import SCHEDULER_VALUES, UNET2D_VALUES, check_config
from memaudit.models.denoiser import evaluation
from memaudit.unpickler import Budget
from memaudit.wording import printable, shown

NAME = "diffusers UNet2DModel"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
FILES = (
    "a diffusers folder with a UNet2DModel has unet/config.json and scheduler/scheduler_config.json"
)
DISCRETE = {
    f"{name}Scheduler"
    for name in (
        *("DDPM", "DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete"),
        *("LMSDiscrete", "DPMSolverSinglestep", "DPMSolverMultistep", "UniPCMultistep"),
    )
}
EDM = {"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"}
DDPM_KEYWORDS = {
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    "rescale_betas_zero_snr",
}
"""Options of a discrete scheduler that decide its noise levels."""
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class _Files:
    """What a folder holds, read once."""

    unet: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    weights: Contents
    num_bytes: int
    """Size of the three files together."""
    sha256: str
    """Hash of the three files' hashes."""


def open_folder(path: str, device: torch.device | str, given: Given) -> Checkpoint:
    """Open a pipeline's folder, or that of its U-Net with the scheduler's configuration beside it.

    Raises:
        ConfigError: diffusers is not installed.
        CheckpointError: files are missing or broken, or the model is of an unsupported kind.
    """
    return _opened(_read_folder(Path(path)), path, device)


def _read_folder(folder: Path) -> _Files:
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    unet, unet_bytes = read_json_file(unet_folder / "config.json", hint=FILES)
    scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    scheduler, scheduler_bytes = read_json_file(
        scheduler_folder / "scheduler_config.json", hint=FILES
    )
    _check_supported(unet, scheduler)
    found = next((unet_folder / name for name in WEIGHTS if (unet_folder / name).exists()), None)
    if found is None:
        raise CheckpointError(f"{unet_folder} has none of the weights {', '.join(WEIGHTS)}.")
    try:
        weights = decode(read_file(found), Budget())
    except CheckpointError as error:
        raise type(error)(f"{found.name}: {error}") from error
    hashes = [hashlib.sha256(content).hexdigest() for content in (unet_bytes, scheduler_bytes)]
    lines = "".join(f"{each}\n" for each in (*hashes, weights.sha256))
    return _Files(
        unet,
        scheduler,
        weights,
        num_bytes=len(unet_bytes) + len(scheduler_bytes) + weights.num_bytes,
        sha256=hashlib.sha256(lines.encode()).hexdigest(),
    )


def _opened(files: _Files, path: str, device: torch.device | str) -> Checkpoint:
    tensors, _ = find_tensors(files.weights.value)
    noise_levels = _noise_levels(files.scheduler)
    unet = _unet(files.unet, tensors)
    network = DiffusersDenoiser(unet, noise_levels, files.scheduler)
    load_weights(unet, files.weights.read_tensors(tensors))
    network.eval().requires_grad_(False)
    check_denoises(network, num_levels=len(unet.config["block_out_channels"]))
    return Checkpoint(
        network=network.to(device),
        config={},
        provenance={"unet": files.unet, "scheduler": files.scheduler},
        sha256=files.sha256,
        format=NAME,
        path=path,
    )


def inspect_folder(path: str, given: Given) -> CheckpointInfo:
    """What a folder holds; it raises what `open_folder` does."""
    files = _read_folder(Path(path))
    checkpoint = _opened(files, path, "cpu")
    scheduler, network = checkpoint.provenance["scheduler"], checkpoint.network
    assert isinstance(network, DiffusersDenoiser)
    return CheckpointInfo(
        path=path,
        num_bytes=files.num_bytes,
        sha256=checkpoint.sha256,
        container="diffusers folder",
        globals=(),
        safe=True,
        problem=None,
        network=NetworkInfo(
            format=checkpoint.format,
            preconditioning=f"{scheduler['_class_name']}, {network.prediction_type}",
            architecture=checkpoint.provenance["unet"]["_class_name"],
            config=checkpoint.provenance["unet"],
            num_parameters=sum(p.numel() for p in network.parameters()),
            dtypes={},
            img_resolution=network.img_resolution,
            img_channels=network.img_channels,
            label_dim=network.label_dim,
            sigma_min=network.sigma_min,
            sigma_max=network.sigma_max,
            provenance={"scheduler": scheduler},
            warnings=checkpoint.warnings,
        ),
    )


class DiffusersDenoiser(nn.Module):
    """A UNet2DModel with the preconditioning that its scheduler implies.

    Args:
        unet: the UNet2DModel.
        noise_levels: σ_t for t = 0, 1, …, float32 [T]; None for EDM's continuous levels.
        scheduler: configuration of the scheduler.
    """

    noise_levels: Tensor | None

    def __init__(
        self, unet: nn.Module, noise_levels: Tensor | None, scheduler: Mapping[str, Any]
    ) -> None:
        super().__init__()
        config: Any = unet.config
        self.unet = unet
        self.register_buffer("noise_levels", noise_levels)
        self.prediction_type = scheduler.get("prediction_type", "epsilon")
        self.sigma_data = float(scheduler.get("sigma_data", 0.5))
        self.img_channels = config.in_channels
        self.img_resolution = config.sample_size
        self.label_dim = config.num_class_embeds or 0
        if noise_levels is None:
            self.sigma_min = float(scheduler.get("sigma_min", 0.002))
            self.sigma_max = float(scheduler.get("sigma_max", 80.0))
        else:
            self.sigma_min, self.sigma_max = float(noise_levels[0]), float(noise_levels[-1])

    def forward(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None
    ) -> Tensor:
        """Denoise; as `memaudit.models.denoiser.Denoiser`, with one-hot class_labels."""
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        data = 1.0 if self.noise_levels is not None else self.sigma_data
        variance = sigma**2 + data**2
        if self.noise_levels is None:
            c_noise = sigma.log() / 4
        else:
            c_noise = self._nearest_level(sigma)
        labels = self._class_index(class_labels) if self.label_dim else None
        with evaluation(x):
            F_x: Tensor = self.unet(
                variance.rsqrt() * x, c_noise.flatten(), class_labels=labels
            ).sample
        F_x = F_x[:, : self.img_channels]  # Further channels are a learned variance.
        if self.prediction_type == "sample":
            return F_x
        if self.noise_levels is not None and self.prediction_type == "epsilon":
            return x - sigma * F_x
        sign = 1 if self.prediction_type == "epsilon" else -1
        return data**2 / variance * x + sign * sigma * data * variance.rsqrt() * F_x

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the U-Net was trained on."""
        if self.noise_levels is None:
            return sigma
        return self.noise_levels[self._nearest_level(sigma)].to(sigma.dtype)

    def _nearest_level(self, sigma: Tensor) -> Tensor:
        """Index t of the σ_t nearest to sigma, int64 of the same shape."""
        assert self.noise_levels is not None
        return (sigma[..., None].to(torch.float32) - self.noise_levels).abs().argmin(dim=-1)

    def _class_index(self, class_labels: Tensor | None) -> Tensor:
        if class_labels is None or not torch.equal(class_labels.sum(1), class_labels.amax(1)):
            raise ValueError(
                f"class_labels must be one-hot [B, {self.label_dim}]: a UNet2DModel with classes "
                "has no other input for them"
            )
        return class_labels.argmax(dim=1)


def _check_supported(unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    """Refuse by name what `DiffusersDenoiser` does not support."""
    for found, what, supported in (
        (unet.get("_class_name"), "model", ("UNet2DModel",)),
        (unet.get("time_embedding_type", "positional"), "time_embedding_type", ("positional",)),
        (unet.get("class_embed_type"), "class_embed_type", (None,)),
        (unet.get("center_input_sample", False), "center_input_sample", (False,)),
        (scheduler.get("_class_name"), "scheduler", tuple(sorted(DISCRETE | EDM))),
        (scheduler.get("prediction_type", "epsilon"), "prediction_type", PREDICTIONS),
    ):
        if found not in supported:
            names = ", ".join(str(name) for name in supported)
            raise CheckpointError(
                f"its {what} is {shown(found)}; memaudit knows {names}. Give another to memaudit "
                "as a Python denoiser (module:function)."
            )
    if "sample_size" not in unet:
        raise CheckpointError("its configuration lacks the sample_size; one number is needed.")
    try:
        check_config(unet, UNET2D_VALUES, ignore_others=True)
        check_config(scheduler, SCHEDULER_VALUES, ignore_others=True)
    except ConfigError as error:
        raise CheckpointError(f"in its configuration, {error}.") from error
    channels, returned = (unet.get(key, 3) for key in ("in_channels", "out_channels"))
    if returned < channels:  # it would be stretched to fit
        raise CheckpointError(
            f"its out_channels is {returned}; at least its {channels} in_channels are needed."
        )
    size, num_levels = unet["sample_size"], len(unet.get("block_out_channels", ()))
    if num_levels and size % (1 << (num_levels - 1)):
        raise CheckpointError(
            f"its sample_size is {size}, which cannot be halved for its {num_levels} levels; a "
            f"multiple of {1 << (num_levels - 1)} is needed."
        )


def _unet(config: Mapping[str, Any], present: Mapping[str, StoredTensor]) -> Any:
    # Other keywords have no effect, and diffusers would print them.
    keywords = {name: config[name] for name in UNET2D_VALUES.keys() & config.keys()}
    unet_class = _diffusers().UNet2DModel
    try:
        with without_initialization(present):
            return unet_class.from_config(keywords)
    except CheckpointError:
        raise
    # The values come from a file that may be hostile: whatever they break is the file's fault.
    except Exception as error:
        raise CheckpointError(f"its UNet2DModel cannot be built: {_reason(error)}.") from error


def _noise_levels(config: Mapping[str, Any]) -> Tensor | None:
    """σ_t of a scheduler with discrete levels, float32 [T], ascending; None for EDM's."""
    if config["_class_name"] in EDM:
        return None
    keywords = {name: config[name] for name in DDPM_KEYWORDS & config.keys()}
    # The discrete schedulers share their noise levels' options, and differ in how they sample.
    scheduler_class = _diffusers().DDPMScheduler
    try:
        alpha_bar: Tensor = scheduler_class.from_config(keywords).alphas_cumprod
    except Exception as error:
        raise CheckpointError(f"its scheduler cannot be built: {_reason(error)}.") from error
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt().to(torch.float32)
    sigma = sigma[sigma.isfinite()]  # Schedules without signal at the end reach infinity.
    if not len(sigma) or not (sigma[1:] >= sigma[:-1]).all() or not sigma[0] > 0:
        raise CheckpointError(
            "its scheduler has no finite noise levels, or they do not ascend from above 0."
        )
    return sigma


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return str(printable(text.splitlines()[0][:300]))


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ConfigError(
            "A diffusers folder needs the package diffusers: install memaudit with its extra, "
            "memaudit-diffusion[diffusers]."
        ) from error
    return diffusers


FORMAT = SourceFormat(NAME, os.path.isdir, open_folder, inspect_folder)
