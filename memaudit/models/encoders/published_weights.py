"""From a file of published weights to an encoder: nothing in the file runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.assembly import load_weights, without_initialization
from memaudit.models.checkpoints.containers.raw_file import decode, read_file
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.opening import named
from memaudit.models.checkpoints.weights import find_weights
from memaudit.models.memory import is_out_of_memory
from memaudit.unpickler import Budget

Tensors = Mapping[str, StoredTensor]


@dataclass(frozen=True)
class OpenedNetwork:
    """An encoder with its weights."""

    network: nn.Module
    """float32 [B, C, H, W] → float32 [B, F], in evaluation mode, on the CPU."""
    sha256: str
    """SHA-256 of the file that the weights were read from."""
    side: int | None = None
    """Height and width of the only images that it takes; None where it takes others."""


def open_weights(
    path: str | Path,
    forms: Mapping[str, Callable[[Tensors], "Layout"]],
    *,
    needed: str,
) -> OpenedNetwork:
    """Read published weights by the safe reader, and build their network.

    Args:
        path: a file of torch.save, a pickle or safetensors.
        forms: for each form of the weights a regular expression of a name that only it has, and
            what lays out the network from names and shapes.
        needed: which file is needed, in whole sentences, for messages.

    Raises:
        UnsafeCheckpointError: the file needs something that only running its code could give.
        CheckpointError: it is missing, broken, or holds other weights.
    """
    with named(path):
        try:
            contents = decode(read_file(Path(path)), Budget())
        except CheckpointError as error:
            raise type(error)(f"{error} {needed}") from error
        found = [
            (lay_out, present)
            for anchor, lay_out in forms.items()
            if (present := find_weights(contents.value, anchor)) is not None
        ]
        if not found:
            raise CheckpointError(f"it does not hold the weights that are looked for. {needed}")
        lay_out, stored = found[0]
        layout = lay_out(stored.tensors)
        stored_weights = contents.read_tensors(layout.used)
        try:
            weights = layout.convert(stored_weights)
            with without_initialization(weights):
                network = layout.build()
        # Shapes come from a file that may be hostile: whatever they break is the file's fault.
        except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(f"its tensors do not fit together: {error}. {needed}") from error
        load_weights(network, weights)
    return OpenedNetwork(network.eval().requires_grad_(False), contents.sha256, layout.side)


@dataclass(frozen=True)
class Layout:
    """What names and shapes of stored tensors say of their network."""

    used: dict[str, StoredTensor]
    """The tensors that are the encoder's."""
    build: Callable[[], nn.Module]
    """Makes the network."""
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    """Gives the tensors the names that the network has for them."""
    side: int | None = None
    """As in `OpenedNetwork`."""
