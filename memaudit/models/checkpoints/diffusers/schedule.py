"""What a scheduler of diffusers says of its network: noise levels, scalings and time.

    discrete noise levels   σ_t = √((1 − ᾱ_t) / ᾱ_t), input x/√(σ² + 1), time t
    continuous (Euler, v)   the same input, time ln(σ)/4
    flow matching           input x/(1 + σ), time T·σ/(1 + σ): data at time 0, velocity n − y
    EDM                     EDM's scalings, arXiv:2206.00364, Table 1; with v_prediction −c_out

The schedulers with discrete levels share them, and differ in how they sample. How a network would
have been sampled (steps, spacing, thresholding, clipping) is not used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from memaudit.errors import CheckpointError
from memaudit.models.devices import to_device
from memaudit.models.precond.base import Scalings, nearest
from memaudit.models.precond.discrete import usable_levels
from memaudit.models.precond.edm import edm_scalings
from memaudit.models.precond.flow import SIGMA_MAX
from memaudit.models.precond.targets import scalings_of
from memaudit.wording import printable, shown

DDPM_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
"""Options of a discrete scheduler that decide its noise levels, and what most assume."""
LATENT_DEFAULTS = {"beta_start": 0.00085, "beta_end": 0.012}
DISCRETE: Mapping[str, Mapping[str, Any]] = {
    **{
        f"{name}Scheduler": {}
        for name in (
            *("DDPM", "DDIM", "DDPMParallel", "DDIMParallel", "DDIMInverse", "PNDM", "RePaint"),
            *("EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete", "DEISMultistep"),
            *("DPMSolverSinglestep", "DPMSolverMultistep", "DPMSolverMultistepInverse"),
            *("UniPCMultistep", "SASolver"),
        )
    },
    **{
        f"{name}Scheduler": LATENT_DEFAULTS
        for name in ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE")
    },
}
"""Schedulers with discrete noise levels, and what each assumes other than DDPM."""
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
REFUSED = {
    **dict.fromkeys(
        ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler", "CMStochasticIterativeScheduler"),
        "its network was made to leap from noise to an image in a few steps (consistency), and "
        "does not denoise as a model of every noise level does",
    ),
    **dict.fromkeys(
        ("ScoreSdeVeScheduler", "KarrasVeScheduler", "ScoreSdeVpScheduler"),
        "its network is one of score_sde's, which is given its noise level in another way",
    ),
    "IPNDMScheduler": "its noise levels are not those that networks are trained on",
    "UnCLIPScheduler": "its network makes images of embeddings",
    "DDPMWuerstchenScheduler": "its network denoises latents",
    "CogVideoXDDIMScheduler": "its network denoises videos",
    "CogVideoXDPMScheduler": "its network denoises videos",
}
"""Schedulers that are known, and why a network with one is refused."""
PREDICTIONS = ("epsilon", "v_prediction", "sample")
FLOW_PREDICTION = "flow_prediction"
Time = Literal["level", "log", "flow"]


@dataclass(frozen=True)
class Schedule:
    """How a network's input and output are scaled, and what time it is given."""

    target: str
    """What the network predicts: epsilon, v_prediction, sample or velocity."""
    time: Time
    sigma_min: float
    sigma_max: float
    levels: Tensor | None = None
    """σ_t for t = 0, 1, …, float32 [T], ascending; None for continuous noise levels."""
    sigma_data: float | None = None
    """Standard deviation of the data of EDM's scalings; None for the others."""
    num_steps: int = 1000
    """Largest time of a flow."""

    def scalings(self, sigma: Tensor) -> Scalings:
        """c_skip, c_out, c_in and c_noise at noise levels sigma, float32 of any shape."""
        if self.sigma_data is not None:
            scalings = edm_scalings(sigma, self.sigma_data)
            sign = 1 if self.target == "epsilon" else -1
            return scalings._replace(c_out=sign * scalings.c_out)
        path = "linear" if self.time == "flow" else "vp"
        c_skip, c_out, c_in = scalings_of(self.target, sigma, path=path, data_at=0)
        return Scalings(c_skip, c_out, c_in, self._c_noise(sigma))

    def nearest_level(self, sigma: Tensor) -> Tensor:
        """Index t of the σ_t nearest to sigma, int64 of the same shape."""
        assert self.levels is not None
        return nearest(to_device(self.levels, sigma.device), sigma)

    def _c_noise(self, sigma: Tensor) -> Tensor:
        if self.time == "level":
            return self.nearest_level(sigma)
        return sigma.log() / 4 if self.time == "log" else self.num_steps * sigma / (1 + sigma)


def read_schedule(config: Mapping[str, Any]) -> Schedule:
    """What the configuration of a scheduler says of its network.

    Args:
        config: checked, as `check_schedule` does.

    Raises:
        CheckpointError: its noise levels cannot be computed, or are none.
    """
    name, target = config["_class_name"], prediction_of(config)
    if name in EDM:
        sigma_data = float(config.get("sigma_data", 0.5))
        return Schedule(target, "log", *_ends(config, (0.002, 80.0)), sigma_data=sigma_data)
    if name in FLOW or target == FLOW_PREDICTION:
        num_steps = config.get("num_train_timesteps", 1000)
        return Schedule("velocity", "flow", 0.0, SIGMA_MAX, num_steps=num_steps)
    levels = _noise_levels(config)
    ends = float(levels[0]), float(levels[-1])
    if _is_continuous(config):
        return Schedule(target, "log", *_ends(config, ends))
    return Schedule(target, "level", *ends, levels)


def prediction_of(config: Mapping[str, Any]) -> Any:
    """What a scheduler says that its network predicts."""
    # Until diffusers 0.10, a flag said so.
    former = "sample" if config.get("predict_epsilon") is False else "epsilon"
    default = "velocity" if config.get("_class_name") in FLOW else former
    return config.get("prediction_type", default)


def check_schedule(config: Mapping[str, Any]) -> None:
    """Refuse a scheduler by name whose network is not a denoiser as `Schedule` knows it.

    Raises:
        CheckpointError: it says which are known, or why this one is not.
    """
    name, target = config.get("_class_name"), prediction_of(config)
    advice = "Give another to memaudit as a Python denoiser (module:function)."
    if isinstance(name, str) and name in REFUSED:
        raise CheckpointError(f"its scheduler is {shown(name)}: {REFUSED[name]}. {advice}")
    known = (*DISCRETE, *EDM, *FLOW)
    if name not in known:
        raise CheckpointError(
            f"its scheduler is {shown(name)}; memaudit knows {', '.join(known)}. {advice}"
        )
    if name in FLOW:
        allowed: tuple[str, ...] = ("velocity",)
    elif name in EDM:
        allowed = ("epsilon", "v_prediction")
    elif config.get("use_flow_sigmas") is True:
        allowed = (FLOW_PREDICTION,)
    else:
        allowed = PREDICTIONS
    if target not in allowed:
        raise CheckpointError(
            f"its prediction_type is {shown(target)}; with {name}, memaudit knows "
            f"{', '.join(allowed)}. {advice}"
        )
    if config.get("invert_sigmas") is True:
        raise CheckpointError(f"its {name} has invert_sigmas, which turns time around. {advice}")


def _ends(config: Mapping[str, Any], default: tuple[float, float]) -> tuple[float, float]:
    """Smallest and largest of the continuous noise levels of a scheduler."""
    given = config.get("sigma_min"), config.get("sigma_max")
    low, high = (
        float(end if value is None else value) for value, end in zip(given, default, strict=True)
    )
    if not low < high:
        raise CheckpointError(
            f"its scheduler denoises from sigma_min = {low:g} to sigma_max = {high:g}, which is "
            "not a range."
        )
    return low, high


def _is_continuous(config: Mapping[str, Any]) -> bool:
    # As diffusers does: with other predictions, its time is discrete.
    return (
        config["_class_name"] == "EulerDiscreteScheduler"
        and config.get("timestep_type") == "continuous"
        and prediction_of(config) == "v_prediction"
    )


def _noise_levels(config: Mapping[str, Any]) -> Tensor:
    """σ_t of a scheduler with discrete levels, float32 [T], ascending."""
    from memaudit.models.checkpoints.diffusers.network import diffusers_package

    defaults = {**DDPM_DEFAULTS, **DISCRETE[config["_class_name"]]}
    keywords = {name: config.get(name, default) for name, default in defaults.items()}
    scheduler_class = diffusers_package().DDPMScheduler
    try:
        alpha_bar: Tensor = scheduler_class.from_config(keywords).alphas_cumprod
    # The values come from a file that may be hostile: whatever they break is the file's fault.
    except Exception as error:
        raise CheckpointError(f"its scheduler cannot be built: {reason_of(error)}.") from error
    # A training draws its times below num_train_timesteps, however many betas there are.
    alpha_bar = alpha_bar[: keywords["num_train_timesteps"]].to(torch.float64)
    try:
        return usable_levels(((1 - alpha_bar) / alpha_bar).sqrt().numpy())
    except ValueError as error:
        raise CheckpointError(f"{error}.") from error


def reason_of(error: Exception) -> str:
    """The first line of what a library says, or its kind."""
    text = str(error).strip() or type(error).__name__
    return str(printable(text.splitlines()[0][:300]))
