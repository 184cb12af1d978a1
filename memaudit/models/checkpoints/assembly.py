"""From stored weights to a network: every name, shape and number is checked on the way."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.precond import build_network

MAX_VALUE = 1 << 20
MAX_BLOCKS = 256
MAX_LIST = 64


def assemble(stored: StoredNetwork, *, device: torch.device | str = "cpu") -> nn.Module:
    """Build the network that `stored` describes and fill it with its weights.

    The network is laid out on the meta device first, so that a configuration of any size costs no
    memory before the weights are known to be there.

    Returns:
        A denoiser in evaluation mode, float32, without gradients.

    Raises:
        CheckpointError: an unknown class or keyword, a tensor that is missing, surplus or of
            another shape, or weights that are not finite.
    """
    network = lay_out(stored.config)
    expected = network.state_dict()
    _check_names_and_shapes(
        {name: list(t.shape) for name, t in expected.items()},
        {name: list(t.shape) for name, t in stored.tensors.items()},
    )
    weights = {name: _checked(name, tensor) for name, tensor in stored.tensors.items()}
    network.load_state_dict(weights, assign=True)
    return network.to(device).eval().requires_grad_(False)


def lay_out(config: Mapping[str, Any]) -> nn.Module:
    """The network of `config` on the meta device: names and shapes without memory."""
    for key, value in config.items():
        _check_option(key, value)
    try:
        with torch.device("meta"):
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
        raise CheckpointError(f"its network is none that memaudit can build. {error}") from error


def _check_option(key: str, value: Any) -> None:
    """Refuse what no constructor takes, or what keeps even the meta device busy for long."""
    values = value if isinstance(value, list | tuple) else [value]
    limit = MAX_BLOCKS if key == "num_blocks" else MAX_VALUE
    number = all(isinstance(v, int | float) for v in values)
    if len(values) > MAX_LIST or any(isinstance(v, int) and abs(v) > limit for v in values):
        raise CheckpointError(
            f"its configuration asks for {key} = {str(value)[:60]}; at most {limit:,}, and at "
            f"most {MAX_LIST} entries, are accepted."
        )
    text = isinstance(value, str) and (key == "class_name" or key.endswith("_type"))
    if not number and not text and value is not None:
        raise CheckpointError(
            f"its configuration says {key} = {str(value)[:60]!r}, which is not a number or a list "
            "of numbers."
        )


def _check_names_and_shapes(
    expected: Mapping[str, list[int]], found: Mapping[str, list[int]]
) -> None:
    missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        raise CheckpointError(
            f"it lacks {_listed(missing)}, which its configuration calls for"
            + (f", and has {_listed(surplus)} instead." if surplus else ".")
        )
    if surplus:
        raise CheckpointError(
            f"it holds {_listed(surplus)}, for which its configuration has no place."
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"tensor {name!r} is {found[name]} in the file, but its configuration calls for "
                f"{shape}."
            )


def _listed(names: Iterable[str]) -> str:
    """A few names, and how many more."""
    ordered = sorted(names)
    first = ", ".join(map(repr, ordered[:3]))
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return f"the tensor{'s' if len(ordered) > 1 else ''} {first}{more}"


def _checked(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(f"tensor {name!r} holds {tensor.dtype}; weights must be floating.")
    finite = tensor.isfinite()
    if not finite.all():
        raise CheckpointError(
            f"tensor {name!r} has {int((~finite).sum()):,} of {tensor.numel():,} values that are "
            "NaN or infinite: the training diverged or the file is damaged."
        )
    return tensor.to(torch.float32)
