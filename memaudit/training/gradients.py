"""All gradients of a network in one flat tensor, summed over the ranks while they are computed."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memaudit.training.distributed import Ranks

BUCKET = 6_500_000
"""Numbers in one message between ranks: 26 MB, long enough to use a network's full speed, and short
enough for the first to leave while most of the backward pass is still to come."""


class Gradients:
    """The gradients of a step, one after another in one tensor, with the loss behind them.

    A whole network is cleared, sanitized and sent to other ranks as one tensor, with a handful of
    kernels instead of several for each parameter. Several rounds add up.

    With several ranks the sum over them is taken in buckets, each of which leaves as soon as the
    last round's backward pass has computed it, beside what is still to be computed.

    Args:
        parameters: float32, all on one device.
        ranks: the processes whose gradients are summed.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
        self._parameters = list(parameters)
        sizes = [p.numel() for p in self._parameters]
        self._flat = torch.zeros(sum(sizes) + 1, device=self._parameters[0].device)
        self.numbers = self._flat[:-1]
        """All gradients, float32 [number of weights]."""
        self.loss: Tensor = self._flat[-1]
        """Sum of the losses that the rounds added: a scalar."""
        split = torch.split(self.numbers, sizes)
        self._views = [v.view_as(p) for v, p in zip(split, self._parameters, strict=True)]

        self._several_ranks = ranks.num_ranks > 1
        self._buckets = _buckets(sizes, BUCKET if self._several_ranks else sum(sizes))
        self._is_last_round = False
        self._num_missing: list[int] = []
        self._num_collected = 0
        self._messages: list[Any] = []
        if self._several_ranks:
            for number, bucket in enumerate(self._buckets):
                for p in self._parameters[bucket]:
                    p.register_post_accumulate_grad_hook(self._note(number))  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Set all gradients and the loss to 0."""
        self._flat.zero_()

    def add(self, loss: Tensor, scaled: Tensor, *, is_last: bool) -> None:
        """Add the gradients of one round.

        Args:
            loss: what is added to `loss`, a scalar.
            scaled: the scalar whose gradients are added.
            is_last: whether no other round of the step follows, so that sums may be taken.
        """
        self._is_last_round = is_last
        self._num_missing = [bucket.stop - bucket.start for bucket in self._buckets]
        self._num_collected = 0
        # Autograd would add to gradients that exist with a kernel for each; otherwise it hands over
        # its own tensors.
        for p in self._parameters:
            p.grad = None
        self.loss.add_(loss.detach())
        torch.autograd.backward(scaled)
        while self._num_collected < len(self._buckets):
            self._collect()
        for p, view in zip(self._parameters, self._views, strict=True):
            p.grad = view

    def finish(self) -> None:
        """Wait for the sums over the ranks, if there are several."""
        for message in self._messages:
            message.wait()
        self._messages.clear()

    def sanitize(self) -> None:
        """Replace NaN by 0 and ±inf by ±1e5, as published; the loss stays as it is."""
        torch.nan_to_num(self.numbers, nan=0.0, posinf=1e5, neginf=-1e5, out=self.numbers)

    def _note(self, bucket: int) -> Any:
        """Make the hook that is called when a parameter of a bucket has its gradient."""

        def noted(_: Tensor) -> None:
            self._num_missing[bucket] -= 1
            # In a fixed order, in which all ranks meet.
            while self._num_collected < len(self._buckets) and (
                self._num_missing[self._num_collected] == 0
            ):
                self._collect()

        return noted

    def _collect(self) -> None:
        """Add the next bucket's gradients, and send it after the last round."""
        bucket = self._buckets[self._num_collected]
        self._num_collected += 1
        parameters, views = self._parameters[bucket], self._views[bucket]
        pairs = [(v, p.grad) for v, p in zip(views, parameters, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_add_([v for v, _ in pairs], [grad for _, grad in pairs])
        for p in parameters:
            p.grad = None
        if self._several_ranks and self._is_last_round:
            first = views[0].storage_offset()
            last = views[-1].storage_offset() + views[-1].numel()
            # The loss travels with the last parameters, whose gradients come first.
            last += bucket.stop == len(self._parameters)
            self._messages.append(dist.all_reduce(self._flat[first:last], async_op=True))


def _buckets(sizes: list[int], largest: int) -> list[slice]:
    """Split parameters into runs of at most `largest` numbers, in the order of a backward pass."""
    buckets = []
    stop = len(sizes)
    while stop > 0:
        start, total = stop - 1, sizes[stop - 1]
        while start > 0 and total + sizes[start - 1] <= largest:
            start -= 1
            total += sizes[start]
        buckets.append(slice(start, stop))
        stop = start
    return buckets
