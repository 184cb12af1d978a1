"""One evaluation of a network as a CUDA graph, where starting its kernels takes the time.

A small network has hundreds of kernels of a few microseconds, and the CPU needs longer to start
each: a graph starts all of them at once. The kernels are the same, so the images are, too.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memaudit.models.denoiser import Denoiser
from memaudit.models.memory import is_out_of_memory
from memaudit.models.precond.base import Preconditioner

TRIED = 3
"""Evaluations that are timed, after one that warms up."""
RULES = 0.7
"""Share of an evaluation's time that starting its kernels takes, from which a graph pays."""
FEWEST = 100
"""Evaluations to come below which a graph is not worth its making."""


class Timing(NamedTuple):
    """Seconds of an evaluation."""

    host: float
    """Until the CPU had put it into the queue."""
    device: float
    """Between its first and its last kernel."""


def pays(timing: Timing, remaining: int) -> bool:
    """Whether a graph saves time.

    Args:
        timing: of evaluations one by one. Where the CPU is the slower of the two, the device waits
            for it, and both take about the same.
        remaining: evaluations to come.

    Examples:
        >>> pays(Timing(host=0.0010, device=0.0011), remaining=700)
        True
        >>> pays(Timing(host=0.0024, device=0.0300), remaining=700)
        False
    """
    return remaining >= FEWEST and timing.host > RULES * timing.device


def takes_graphs(denoiser: object) -> bool:
    """Whether a denoiser only queues kernels: a network of memaudit's, no code of others."""
    return isinstance(denoiser, Preconditioner)


@dataclass
class _Recorded:
    """A graph with the tensors that it reads and writes."""

    x: Tensor
    sigma: Tensor
    class_labels: Tensor | None
    output: Tensor
    replay: Callable[[], None]


Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
"""Records a call; gives the tensor of its result and what computes that again."""
Clock = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], Timing]]]
"""Makes a call; gives its result and what reads its time."""


class Graphed:
    """A denoiser whose evaluations become a graph once it is known that this pays.

    What it returns is overwritten by the next call; the sampler copies it to float64 before.

    Args:
        denoiser: a network (`takes_graphs`).
        num_evaluations: how often it will be called, about.
        record: how a call is recorded.
        clock: how the first evaluations are timed.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        num_evaluations: int,
        *,
        record: Record | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._denoiser, self._remaining = denoiser, num_evaluations
        self._record, self._clock = record or record_on_cuda, clock or timed_on_cuda
        self._timings: list[Callable[[], Timing]] = []
        self._is_worth: bool | None = None if num_evaluations >= FEWEST else False
        self._graphs: dict[Any, _Recorded] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Denoise, as `memaudit.models.denoiser.Denoiser`; `sigma` is a scalar."""
        self._remaining -= 1
        if self._is_worth is None:
            return self._try(x, sigma, class_labels)
        form = (x.shape, x.dtype, sigma.dtype, class_labels is None)
        if self._is_worth and not sigma.ndim and form not in self._graphs:
            self._add(form, x, sigma, class_labels)
        if not self._is_worth or sigma.ndim:
            return self._denoiser(x, sigma, class_labels)
        graph = self._graphs[form]
        graph.x.copy_(x)
        graph.sigma.copy_(sigma)
        if graph.class_labels is not None and class_labels is not None:
            graph.class_labels.copy_(class_labels)
        graph.replay()
        return graph.output

    def _try(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        """Evaluate, and decide after some evaluations."""
        D, timing = self._clock(lambda: self._denoiser(x, sigma, class_labels))
        self._timings.append(timing)
        if len(self._timings) == 1 + TRIED:
            timings = sorted(timing() for timing in self._timings[1:])
            self._is_worth = pays(timings[len(timings) // 2], self._remaining)
        return D

    def _add(self, form: Any, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> None:
        """Record an evaluation, unless that fails or gives other bits: then none is any more."""
        if any(known[0] != x.shape for known in self._graphs):  # groups were halved
            self._graphs.clear()
        labels = None if class_labels is None else class_labels.clone()
        own_x, own_sigma = torch.zeros_like(x), sigma.clone()
        expected = self._denoiser(x, sigma, class_labels)
        try:
            with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
                output, replay = self._record(lambda: self._denoiser(own_x, own_sigma, labels))
            own_x.copy_(x)  # after it was recorded: only a graph that computes gets it right
            replay()
            self._is_worth = torch.equal(output, expected)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._is_worth = False
        if self._is_worth:
            self._graphs[form] = _Recorded(own_x, own_sigma, labels, output, replay)
        else:
            self._graphs.clear()


def record_on_cuda(call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Record a call's kernels, with memory of their own."""
    cuda: Any = torch.cuda
    beside = cuda.Stream()
    beside.wait_stream(cuda.current_stream())
    with cuda.stream(beside):  # libraries make their choices outside of the recording
        call()
    cuda.current_stream().wait_stream(beside)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, capture_error_mode="thread_local"):  # a thread draws noise beside it
        output = call()
    return output, graph.replay


def timed_on_cuda(call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], Timing]]:
    """Queue a call between two events, whose time is read when it is asked for."""
    cuda: Any = torch.cuda
    before, after = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    before.record()
    started = time.perf_counter()
    result = call()
    host = time.perf_counter() - started
    after.record()

    def timing() -> Timing:
        after.synchronize()
        return Timing(host, before.elapsed_time(after) / 1000)

    return result, timing
