"""Out of memory: what it looks like, and evaluating fewer images at a time."""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch

NO_MEMORY = ("allocate memory", "STATUS_ALLOC_FAILED", "out of memory")
"""What torch says where memory ran out, of a CPU's or within a library of a GPU."""

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the machine's fault: memory ran out, on a CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def give_memory_back(device: str | torch.device) -> None:
    """Return to a GPU what torch keeps for later, and what networks out of use still hold.

    CUDA graphs have memory of their own, which is free once nothing refers to them any more.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


class GroupSize:
    """How many images are evaluated at a time: halved where a GPU's memory runs out.

    Args:
        size: to begin with.
        device: where they are evaluated. On a CPU the size stays: images depend on it.
    """

    def __init__(self, size: int, device: str | torch.device) -> None:
        self.size = size
        self._device = torch.device(device)

    def attempt(self, evaluate: Callable[[], T]) -> T | None:
        """Evaluate; None if that took too much memory: then try again, with the new size.

        Raises:
            OutOfMemoryError: also for a single image.
        """
        try:
            return evaluate()
        except Exception as error:
            if self._device.type == "cpu" or self.size == 1 or not is_out_of_memory(error):
                raise
        # Only now is what the error's traceback kept alive free.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.size //= 2
        return None


def in_groups(
    total: int, size: int, device: str | torch.device, evaluate: Callable[[slice], T]
) -> Iterator[tuple[slice, T]]:
    """Evaluate rows in groups, of half as many for the rest where memory runs out.

    Args:
        total: number of rows.
        size: of a group, to begin with.
        device: where they are evaluated.
        evaluate: called with a range of rows, again with a part of them where memory ran out.

    Returns:
        An iterator of ranges of rows with their results, in order.
    """
    group, first = GroupSize(size, device), 0
    while first < total:
        rows = slice(first, min(first + group.size, total))
        result = group.attempt(partial(evaluate, rows))
        if result is not None:
            yield rows, result
            first = rows.stop
