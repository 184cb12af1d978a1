"""What a product of float32 numbers is: switches of PyTorch that hold for the whole process.

Since version 2.9 PyTorch keeps every switch twice, `fp32_precision` beside the older `allow_tf32`,
and raises where one is read that the other contradicts. Within the contexts below both say the
same, so that a program, a denoiser in Python or `torch.compile` may read either.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

_lock = threading.Lock()
_open: dict[object, bool] = {}
"""The contexts that are open, with whether TF32 is allowed in each; the last one counts."""
_to_restore: list[Callable[[], None]] = []
"""Sets the switches to what they were before the first context was opened."""


@contextmanager
def fp32_products(tf32: bool) -> Iterator[None]:
    """Set, within the context, whether GPUs may round the factors of float32 products to TF32.

    TF32 keeps 10 bits of the mantissa. CPUs multiply float32 in either case, also where the program
    allows them bfloat16. The switches are the process's: open one context around a whole scan or
    run. One within another of the same kind turns none of them, so that a thread beside it never
    sees them turn; of two kinds the one opened last counts.
    """
    this = object()
    with _lock:
        before = _in_force()
        if before is None:
            _to_restore[:] = [_keep(switch) for switch in _switches()]
        _open[this] = tf32
        if before != tf32:
            _allow(tf32)
    try:
        yield
    finally:
        with _lock:
            del _open[this]
            after = _in_force()
            if after is None:
                for restore in _to_restore:
                    restore()
            elif after != tf32:
                _allow(after)


@contextmanager
def float32_inference() -> Iterator[None]:
    """Evaluate networks without gradients, in float32 throughout."""
    with torch.inference_mode(), fp32_products(False):
        yield


def _in_force() -> bool | None:
    return next(reversed(_open.values()), None)


class _Switch(NamedTuple):
    read: Callable[[], Any]
    write: Callable[[Any], None]
    values: tuple[Any, Any]
    """What is written without and with TF32."""


def _switches() -> list[_Switch]:
    """All switches. The older ones come first, since they write the newer ones as well."""
    cuda, cudnn, mkldnn = _backends()
    switches = [
        _attribute(cuda.matmul, "allow_tf32", (False, True)),
        _attribute(cudnn, "allow_tf32", (False, True)),
        # Whether partial sums of half-precision products may be rounded to half precision as well.
        _attribute(cuda.matmul, "allow_fp16_reduced_precision_reduction", (False, False)),
        _attribute(cuda.matmul, "allow_bf16_reduced_precision_reduction", (False, False)),
        # Also says whether CPUs may round to bfloat16. "high" is TF32 on GPUs.
        _Switch(
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
            ("highest", "high"),
        ),
    ]
    if hasattr(cuda.matmul, "fp32_precision"):
        for place in (cuda.matmul, cudnn.conv, cudnn.rnn):
            switches.append(_attribute(place, "fp32_precision", ("ieee", "tf32")))
        for place in (mkldnn.matmul, mkldnn.conv, mkldnn.rnn):
            switches.append(_attribute(place, "fp32_precision", ("ieee", "ieee")))
    return switches


def _backends() -> tuple[Any, Any, Any]:
    return torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn


def _attribute(place: Any, name: str, values: tuple[Any, Any]) -> _Switch:
    return _Switch(lambda: getattr(place, name), lambda value: setattr(place, name, value), values)


def _allow(tf32: bool) -> None:
    for switch in _switches():
        switch.write(switch.values[tf32])


def _keep(switch: _Switch) -> Callable[[], None]:
    try:
        value = switch.read()
    except RuntimeError:  # the program uses the newer switches, which are kept as well
        return lambda: None
    return lambda: switch.write(value)
