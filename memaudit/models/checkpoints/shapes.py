"""What the names and shapes of weights show of the network that they are of."""

import re
from collections.abc import Iterable, Mapping

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.wording import shown


def size(tensors: Mapping[str, StoredTensor], name: str, axis: int = 0) -> int:
    """Entries of a tensor along an axis; 0 for an axis that it does not have.

    Raises:
        CheckpointError: there is no such tensor.
    """
    tensor = tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"it lacks the tensor {shown(name)}, which such a network has.")
    return tensor.shape[axis] if axis < len(tensor.shape) else 0


def count(names: Iterable[str], prefix: str) -> int:
    """How many numbered modules there are under a prefix, such as `downs.`."""
    numbered = re.compile(re.escape(prefix) + r"(\d{1,3})\.")
    return len({match[1] for name in names if (match := numbered.match(name))})


def multiples(widths: Iterable[int], unit: int) -> list[int]:
    """Widths in units of another.

    Raises:
        CheckpointError: one of them is not a multiple.
    """
    found = list(widths)
    if unit < 1 or any(width < 1 or width % unit for width in found):
        raise CheckpointError(
            f"its levels have {', '.join(map(str, found))} channels, which must be multiples of "
            f"{unit}."
        )
    return [width // unit for width in found]
