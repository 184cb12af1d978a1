"""From stored weights to a network: every name, shape and number is checked on the way."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.build import build_network
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.denoiser import Denoiser, image_shape
from memaudit.models.networks.edm2 import EDM2UNet
from memaudit.models.precond import Preconditioner
from memaudit.wording import listed, shown

PROBE_SIGMAS = (0.002, 80.0)
"""Noise levels at which a network is tried, cut to its range."""
PROBE_SIZE = 8
"""Least height and width of the images that a network is tried on."""
CONSTANTS = re.compile(r"(?:^|\.)(?:u|resample_filter)$")
"""Names of weights that follow from the configuration."""
CONSTANT_TOLERANCE = 1e-2
"""Largest relative error of a stored constant; half precision has 5e-4, and so has iDDPM's u."""


def assemble(stored: StoredNetwork, *, device: torch.device | str = "cpu") -> Preconditioner:
    """Build the network that `stored` describes and fill it with its weights.

    Returns:
        A denoiser in evaluation mode, float32, without gradients.

    Raises:
        CheckpointError: an unknown class or keyword, a value out of its range, a tensor that is
            missing, surplus or of another shape, weights that are not finite, or a network that
            cannot denoise.
    """
    network = build_uninitialized(stored.config, present=stored.tensors)
    _check_constants(network, stored.tensors)
    load_weights(network, stored.tensors)
    network.eval().requires_grad_(False)
    check_denoises(network, num_levels=len(getattr(network.model, "resolutions", ())))
    network.to(device)
    if isinstance(network.model, EDM2UNet):
        network.model.fix_weights(torch.float32)
    return network


def build_uninitialized(
    config: Mapping[str, Any], *, present: Mapping[str, Any] | None = None
) -> Preconditioner:
    """The network of `config` with the names and shapes of its weights, but without values.

    Args:
        config: `class_name` and the constructor's keywords.
        present: the weights that are there for it, by name; None for a configuration of ours.

    Raises:
        CheckpointError: a class or keyword is unknown, a value is out of its range, or the network
            needs far more weights than are there.
    """
    try:
        with without_initialization(present):
            return build_network(config)
    # The values come from a file that may be hostile: whatever they break is the file's fault.
    except (
        ConfigError,
        ArithmeticError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise CheckpointError(f"memaudit cannot build its network. {error}") from error


def check_denoises(network: Denoiser, *, num_levels: int) -> None:
    """Denoise one small image of noise at both ends of the network's range.

    What the configuration makes impossible fails here, when the file is opened, for every command
    alike.

    Args:
        network: a denoiser in evaluation mode, on the CPU.
        num_levels: of its U-Net, each of half the resolution; 0 where it is not known.

    Raises:
        CheckpointError: it fails, or returns anything but finite images of the same shape.
    """
    C, H, W = image_shape(network)
    if num_levels:
        step = 1 << (num_levels - 1)
        least = step * -(-PROBE_SIZE // step)
        H, W = min(H, least), min(W, least)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, C, H, W, generator=generator)
    labels = torch.eye(1, network.label_dim) if network.label_dim else None
    for level in PROBE_SIGMAS:
        sigma = torch.tensor(min(max(level, network.sigma_min), network.sigma_max))
        with torch.inference_mode():
            D = network(sigma * noise, sigma, labels)
        if D.shape != noise.shape or not D.isfinite().all():
            raise CheckpointError(
                f"it denoises an image of {list(noise.shape)} at sigma = {float(sigma):g} to "
                + (
                    "numbers that are not finite."
                    if D.shape == noise.shape
                    else f"{list(D.shape)}."
                )
            )


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give `network` the weights `tensors`, in float32, if they are exactly what it needs.

    Raises:
        CheckpointError: a tensor that is missing, surplus, of another shape, or not finite.
    """
    _check_names_and_shapes(
        {name: list(t.shape) for name, t in network.state_dict().items()},
        {name: list(t.shape) for name, t in tensors.items()},
    )
    weights = {name: _checked(name, tensor) for name, tensor in tensors.items()}
    network.load_state_dict(weights, assign=True)


class without_initialization(TorchFunctionMode):
    """A context in which modules are made with weights that have no values.

    Memory that is never written costs nothing, so that a file cannot ask for more than it holds.
    (The meta device would do as well, but loads torch's compiler: many seconds.)

    Args:
        present: the weights that the file has, by name. A configuration that calls for far more is
            refused as soon as that shows; None trusts it.
    """

    IN_PLACE = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_})
    RANDOM = frozenset({torch.randn, torch.rand})
    MADE = RANDOM | {torch.empty, torch.zeros, torch.ones}

    def __init__(self, present: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._tensors = self._numbers = math.inf
        if present is not None:
            # Twice as many, so that what is missing or of another shape is told by its name.
            self._tensors = 2 * len(present) + 100
            self._numbers = 2 * sum(math.prod(t.shape) for t in present.values()) + (1 << 20)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.IN_PLACE or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in self.MADE:
            self._count(args, kwargs)
        if func in self.RANDOM:
            func = torch.empty
        return func(*args, **kwargs)

    def _count(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        sizes = args or (kwargs.get("size", ()),)
        shape = sizes[0] if isinstance(sizes[0], list | tuple) else sizes
        self._tensors -= 1
        self._numbers -= math.prod(shape)
        if self._tensors < 0 or self._numbers < 0:
            raise CheckpointError(
                "its configuration calls for a network of far more weights than the file has."
            )


def _check_names_and_shapes(
    expected: Mapping[str, list[int]], found: Mapping[str, list[int]]
) -> None:
    missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        raise CheckpointError(
            f"it lacks the tensor {listed(missing)}, which its configuration calls for"
            + (f", and has {listed(surplus)} instead." if surplus else ".")
        )
    if surplus:
        raise CheckpointError(
            f"it holds the tensor {listed(surplus)}, for which its configuration has no place."
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"tensor {shown(name)} is {found[name]} in the file, but its configuration calls "
                f"for {shape}."
            )


def _check_constants(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse stored values of what the configuration says already: noise levels and filters.

    With other noise levels a model would be sampled, and found harmless, where it does not denoise.
    """
    for name, expected in network.named_buffers():
        found = tensors.get(name)
        if not CONSTANTS.search(name) or found is None or found.shape != expected.shape:
            continue  # names and shapes are checked where the weights are loaded
        found, expected = found.to(torch.float64), expected.to(torch.float64)
        if not torch.isclose(found, expected, rtol=CONSTANT_TOLERANCE, atol=1e-3).all():
            raise CheckpointError(
                f"tensor {shown(name)} is not what its configuration makes of it: it was altered, "
                "or the configuration is not its own."
            )


def _checked(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"tensor {shown(name)} holds {tensor.dtype}; weights must be floating."
        )
    finite = tensor.isfinite()
    if not finite.all():
        raise CheckpointError(
            f"tensor {shown(name)} has {int((~finite).sum()):,} of {tensor.numel():,} values that "
            "are NaN or infinite: the training diverged or the file is damaged."
        )
    return tensor.to(torch.float32)
