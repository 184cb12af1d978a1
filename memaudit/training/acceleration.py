"""How a GPU computes the rounds of a step: how many images at a time, compiled, as a CUDA graph.

Found out by trying and timing when a run starts. On a CPU rounds are computed as the configuration
says, and a network is compiled only where it says so: the bits of a run do not depend on forecasts.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from memaudit.training.config import Precision

COMPILING_SECONDS = 60.0
"""What compiling takes, about."""
COMPILE_SECONDS = 2 * COMPILING_SECONDS
"""What must be saved for compiling to pay, since its gain is a forecast."""
COMPILED_SHARE = {"fp32": 0.1, "bf16": 0.4, "fp16": 0.4}
"""Share of a step that compiling saves: work of little arithmetic, of which fp32 has less. An H200
saved 0.44 for the base network on 8×8 images in bf16; that of fp32 is a forecast."""
LAUNCH_BOUND = 0.7
"""A step is ruled by launches if queueing it takes this share of its time."""
WARM_UPS = 3
TIMED = 5

Round = Callable[..., None]
"""Takes tensors, some of which may be None, and leaves gradients behind."""


@dataclass(frozen=True)
class StepSpeed:
    """How long a step takes, in seconds."""

    queued: float
    """Until the host has queued it."""
    done: float
    """Until the device has computed it."""

    @property
    def launches_rule(self) -> bool:
        """Whether the device waits for the host."""
        return self.queued > LAUNCH_BOUND * self.done


def find_batch_gpu(try_round: Callable[[int], None], share: int) -> int:
    """Find how many images of a share of a batch fit on a device at a time, by trying.

    Args:
        try_round: computes a round of that many images; raises torch.OutOfMemoryError if it cannot.
        share: images that the device computes in a step.

    Returns:
        The largest divisor of the share that fits, halving each time.

    Raises:
        torch.OutOfMemoryError: not even one image fits.
    """
    batch_gpu = share
    while True:
        try:
            try_round(batch_gpu)
            return batch_gpu
        except torch.OutOfMemoryError:
            if batch_gpu == 1:
                raise
        # Outside of the handler, whose error holds on to what the round had allocated.
        torch.cuda.empty_cache()
        batch_gpu = next(n for n in range(batch_gpu // 2, 0, -1) if share % n == 0)


def time_steps(step: Callable[[], object], device: torch.device) -> StepSpeed:
    """Time a step once it is warm."""
    for _ in range(WARM_UPS):
        step()
    times = []
    for _ in range(TIMED):
        # From an empty queue: a full one holds the host back, as if launches were slow.
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        step()
        queued = time.perf_counter()
        torch.cuda.synchronize(device)
        times.append((queued - started, time.perf_counter() - started))
    return StepSpeed(*(statistics.median(each) for each in zip(*times, strict=True)))


def compiling_pays(step_seconds: float, steps_left: int, precision: Precision) -> bool:
    """Return whether compiling is forecast to save more time than it takes."""
    return step_seconds * steps_left * COMPILED_SHARE[precision] > COMPILE_SECONDS


def norms_keep_channels_last(device: torch.device) -> bool:
    """Return whether a device normalizes groups without copying images to another layout."""
    x = torch.zeros(1, 8, 2, 2, device=device).contiguous(memory_format=torch.channels_last)
    return F.group_norm(x, 8).is_contiguous(memory_format=torch.channels_last)


class GraphedRound:
    """A round that is recorded once and then replayed with one launch: a CUDA graph.

    What a replay reads are the tensors that it was recorded with; others are copied into them.
    Random numbers are those of torch's own generator as it stands at a replay.

    Args:
        compute: what is recorded. All that it calls must be kernels, of the same shapes each time.
        record: records a call and returns what replays it; `record_graph`.
    """

    def __init__(
        self, compute: Round, record: Callable[[Callable[[], None]], Callable[[], None]]
    ) -> None:
        self._compute = compute
        self._record = record
        self._inputs: list[Tensor | None] = []
        self._replay: Callable[[], None] | None = None

    def __call__(self, *inputs: Tensor | None) -> None:
        """Compute the round with these tensors, of the same shapes at each call."""
        if self._replay is None:
            self._inputs = [None if t is None else t.clone() for t in inputs]
            self._replay = self._record(lambda: self._compute(*self._inputs))
        for own, given in zip(self._inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self._replay()


def record_graph(call: Callable[[], None]) -> Callable[[], None]:
    """Record a call as a CUDA graph, and return what replays it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries allocate at a first call, which a graph cannot
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
