"""From stored weights to a network: every name, shape and number is checked on the way."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.build import build_network
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.precond import Preconditioner
from memaudit.wording import listed, shown

MAX_VALUE = 1 << 20
"""Largest integer in a configuration."""
LIMITS = {"num_blocks": 256, "M": 10_000}
"""Limits on options that cost time however few weights there are."""
MAX_LIST = 64
"""Most entries of a list; the paper's longest, the skip connections of a deep network, has 25."""
MAX_TEXT = 80
"""Most characters of a keyword or a text."""


def assemble(stored: StoredNetwork, *, device: torch.device | str = "cpu") -> Preconditioner:
    """Build the network that `stored` describes and fill it with its weights.

    Returns:
        A denoiser in evaluation mode, float32, without gradients.

    Raises:
        CheckpointError: an unknown class or keyword, a tensor that is missing, surplus or of
            another shape, or weights that are not finite.
    """
    network = build_uninitialized(stored.config)
    load_weights(network, stored.tensors)
    return network.to(device).eval().requires_grad_(False)


def build_uninitialized(config: Mapping[str, Any]) -> Preconditioner:
    """The network of `config` with the names and shapes of its weights, but without values.

    Raises:
        CheckpointError: a class or keyword is unknown, or a value does not fit.
    """
    for key, value in config.items():
        check_option(key, value)
    try:
        with without_initialization():
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
    """

    IN_PLACE = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.IN_PLACE or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in (torch.randn, torch.rand):
            func = torch.empty
        return func(*args, **kwargs)


def check_option(key: str, value: Any) -> None:
    """Refuse what no constructor takes, or what takes long even without weights.

    Raises:
        CheckpointError: naming the option.
    """
    if not key.isidentifier() or len(key) > MAX_TEXT:
        raise CheckpointError(
            f"its configuration has the keyword {shown(key)}, which is not a name."
        )
    values = value if isinstance(value, list | tuple) else [value]
    limit = LIMITS.get(key, MAX_VALUE)
    if len(values) > MAX_LIST or any(isinstance(v, int) and abs(v) > limit for v in values):
        raise CheckpointError(
            f"its configuration asks for {key} = {shown(value)}; at most {limit:,}, and at most "
            f"{MAX_LIST} entries, are accepted."
        )
    if not all(v is None or isinstance(v, int | float | str) for v in values) or any(
        v != v or (isinstance(v, str) and len(v) > MAX_TEXT) for v in values
    ):
        raise CheckpointError(
            f"its configuration says {key} = {shown(value)}, which is not a number, a short "
            "text or a list of them."
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
