"""A pretended CUDA device, for machines without one: `pytest -p helpers.pretended_cuda`.

Its tensors hold their numbers in the memory of the CPU and say that they are on cuda:0. They refuse
what a GPU refuses (operands on two devices, `.numpy()`), and `counted` has every kernel, copy
between host and device, and synchronization, by the line of the package that caused it. Not
pretended: CUDA graphs, NCCL, autocast's lists, rounding of a GPU's kernels, and limits of memory.

As a plugin of pytest it changes torch for the rest of the process.
"""

import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda:0")
_INSIDE = torch.device("meta")
"""What torch's C++ is told: it guards switches of a real device, and has nothing to guard here."""
_PACKAGE = str(Path(__file__).parents[2] / "memaudit") + os.sep

_VIEWS = {
    *("view", "_unsafe_view", "expand", "permute", "t", "transpose", "slice", "select", "chunk"),
    *("unsqueeze", "squeeze", "split", "split_with_sizes", "as_strided", "alias", "detach"),
    *("unbind", "_reshape_alias", "diagonal", "unfold", "lift_fresh", "numpy_T", "mT", "flatten"),
    "unflatten",
}
_NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_"),
    *("record_stream", "is_same_size", "sym_size", "sym_stride", "sym_numel", "is_pinned"),
    *("_has_same_storage_numel", "_fused_sdp_choice", "size", "stride"),
}
_WAITS = {
    *("nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive"),
    *("bincount", "equal", "repeat_interleave", "histc", "nonzero_numpy", "allclose"),
}
"""Operations whose result has a size that only the device knows."""
_INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
_MAY_MIX = {*_INDEXING, "_unsafe_index_put", "copy_", "_to_copy"}
"""Operations that take tensors of both devices, as CUDA does."""


@dataclass
class Counts:
    """What the device was asked to do, by name or by line of the package."""

    kernels: Counter[str] = field(default_factory=Counter)
    synchronizations: Counter[str] = field(default_factory=Counter)
    to_device: Counter[str] = field(default_factory=Counter)
    """Bytes."""
    to_host: Counter[str] = field(default_factory=Counter)
    """Bytes."""


COUNTS = Counts()


@contextmanager
def counted() -> Iterator[Counts]:
    """What happens inside, and nothing from before."""
    global COUNTS
    before, COUNTS = COUNTS, Counts()
    try:
        yield COUNTS
    finally:
        COUNTS = before


class PretendedTensor(Tensor):
    """A tensor on the pretended device; `inner` has its numbers, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> "PretendedTensor":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=_INSIDE,
            requires_grad=requires_grad,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})

    def record_stream(self, stream: Any) -> None: ...

    def tolist(self) -> Any:
        _synchronized("tolist")
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(_NO_NUMPY)
        _synchronized("numpy(force)")
        return self.inner.detach().numpy()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(_NO_NUMPY)

    def __repr__(self) -> str:
        return f"{self.inner!r} on a pretended device"

    def __reduce_ex__(self, protocol: int) -> Any:
        return PretendedTensor, (self.inner,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied: Any = PretendedTensor(self.inner.detach().clone())
        copied.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied


_NO_NUMPY = (
    "can't convert cuda:0 device type tensor to numpy. "
    "Use Tensor.cpu() to copy the tensor to host memory first."
)


class _Mode(TorchDispatchMode):
    """Sees the calls that make tensors on the device from none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _is_pretended(value: object) -> bool:
    return isinstance(value, PretendedTensor)


def _line() -> str:
    """The line of the package that the call comes from."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(_PACKAGE):
            return f"{frame.filename.removeprefix(_PACKAGE)}:{frame.lineno}"
    return "outside memaudit"


def _synchronized(what: str) -> None:
    COUNTS.synchronizations[f"{what} {_line()}"] += 1


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name.split("::")[1]
    if name == "to":
        return _to(func, args, kwargs)
    flat, _ = tree_flatten((args, kwargs))
    pretended = [value for value in flat if _is_pretended(value)]
    plain = [value for value in flat if isinstance(value, Tensor) and not _is_pretended(value)]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    is_to_device = device is not None and device.type in ("cuda", "meta")
    if not pretended and not is_to_device:
        return func(*args, **kwargs)
    _check_devices(name, func, args, bool(pretended), plain)
    is_to_host = name == "_to_copy" and device is not None and device.type == "cpu"
    _count(name, args, kwargs, is_to_host=is_to_host, is_to_device=is_to_device)
    if name == "_fused_sdp_choice":
        return 0
    inner_args, inner_kwargs = tree_map(
        lambda value: value.inner if _is_pretended(value) else value, (args, dict(kwargs))
    )
    if "device" in inner_kwargs:
        inner_kwargs["device"] = torch.device("cpu")
    if name != "is_pinned":
        inner_kwargs.pop("pin_memory", None)
    result = func(*inner_args, **inner_kwargs)
    if is_to_host or name in ("_local_scalar_dense", "is_nonzero", "equal"):
        return result
    if name == "copy_" and not _is_pretended(args[0]):
        return args[0]
    if any(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns):
        return _written(func, args, kwargs)
    return tree_map(
        lambda value: (
            PretendedTensor(value)
            if isinstance(value, Tensor) and not _is_pretended(value)
            else value
        ),
        result,
    )


def _to(func: Any, args: Any, kwargs: Any) -> Any:
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    source, other = given["self"], given.get("other")
    device, dtype = given.get("device"), given.get("dtype")
    if other is not None:
        device, dtype = other.device, other.dtype
    device = source.device if device is None else torch.device(device)
    dtype = source.dtype if dtype is None else dtype
    is_there = device.type in ("cuda", "meta")
    if is_there == _is_pretended(source) and dtype == source.dtype and not given.get("copy"):
        return source
    where = CUDA if is_there else torch.device("cpu")
    options = {"dtype": dtype, "device": where, "non_blocking": bool(given.get("non_blocking"))}
    return _call(torch.ops.aten._to_copy.default, (source,), options)


def _check_devices(name: str, func: Any, args: Any, any_pretended: bool, plain: list[Any]) -> None:
    """CUDA's rules on operands of two devices."""
    if any_pretended and name not in _MAY_MIX and any(tensor.dim() for tensor in plain):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({func}) at {_line()}"
        )
    if name not in _INDEXING:
        return
    if not _is_pretended(args[0]):
        raise RuntimeError(f"a cpu tensor is indexed with one on cuda:0 by {func} at {_line()}")
    if "put" in name and not _is_pretended(args[2]) and args[2].dim():
        raise RuntimeError(f"expected a value on cuda:0, got cpu in {func} at {_line()}")


def _count(name: str, args: Any, kwargs: Any, *, is_to_host: bool, is_to_device: bool) -> None:
    if name == "_to_copy":
        is_from_device = _is_pretended(args[0])
        if is_from_device and is_to_host:
            _to_host(args[0])
        elif not is_from_device and is_to_device:
            is_overlapped = kwargs.get("non_blocking") and getattr(
                args[0], "is_pretended_pinned", 0
            )
            _to_device(args[0], is_overlapped=bool(is_overlapped))
        else:
            COUNTS.kernels[name] += 1
    elif name == "copy_":
        target, source = args[:2]
        is_asked = len(args) > 2 and args[2] or kwargs.get("non_blocking")
        if _is_pretended(target) and not _is_pretended(source):
            is_overlapped = is_asked and source.is_pinned()
            _to_device(source, is_overlapped=bool(is_overlapped))
        elif _is_pretended(source) and not _is_pretended(target):
            if not (is_asked and target.is_pinned()):
                _synchronized("to host")
            COUNTS.to_host[_line()] += _num_bytes(source)
        else:
            COUNTS.kernels[name] += 1
    elif name in ("_local_scalar_dense", "item", "is_nonzero"):
        _synchronized("item")
    elif name not in ("lift_fresh", "lift_fresh_copy"):
        if name in _INDEXING:
            for index in args[1]:
                if index is not None and not _is_pretended(index):
                    _to_device(index, is_overlapped=False)
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    _synchronized("mask")
        if name in _WAITS:
            _synchronized(name)
        if name not in _VIEWS and name not in _NO_KERNEL:
            COUNTS.kernels[name] += 1


def _to_host(source: Tensor) -> None:
    COUNTS.to_host[_line()] += _num_bytes(source)
    _synchronized("to host")


def _to_device(source: Tensor, *, is_overlapped: bool) -> None:
    COUNTS.to_device[_line()] += _num_bytes(source)
    if not is_overlapped:
        _synchronized("to device")


def _written(func: Any, args: Any, kwargs: Any) -> Any:
    """The arguments that an operation writes into, which it returns."""
    written = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        if argument.name in kwargs:
            value = kwargs[argument.name]
        else:
            value = args[position] if position < len(args) else None
        if _is_pretended(value) and value.shape != value.inner.shape:
            raise RuntimeError(f"the shape was changed by {func} at {_line()}")
        written.append(value)
    return written[0] if len(func._schema.returns) == 1 else tuple(written)


class _Event:
    """An event that has always happened."""

    def __init__(self, *where: Any, **options: Any) -> None: ...
    def record(self, stream: Any = None) -> None: ...
    def wait(self, stream: Any = None) -> None: ...
    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        _synchronized("event")

    def elapsed_time(self, end: "_Event") -> float:
        return 1.0


class _Stream(_Event):
    """A stream whose work is done as soon as it is queued."""

    def wait_stream(self, stream: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def record_event(self, event: _Event | None = None) -> _Event:
        return event or _Event()


def _pinned(tensor: Tensor, device: Any = None) -> Tensor:
    pinned = tensor.clone()
    pinned.is_pretended_pinned = True  # type: ignore[attr-defined]
    return pinned


def _made_there(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.tensor and torch.as_tensor, which copy to a device below what can be seen."""

    def made(data: Any, *args: Any, device: Any = None, **options: Any) -> Tensor:
        if isinstance(data, Tensor) and make is _AS_TENSOR:
            return data.to(device=device or data.device, dtype=options.get("dtype") or data.dtype)
        if device is not None and torch.device(device).type == "cuda":
            return make(data, *args, **options).to(CUDA)
        return make(data, *args, device=device, **options)

    return made


_AS_TENSOR = torch.as_tensor


def pytest_configure() -> None:
    """Make torch believe in a GPU, before tests are collected."""
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
    cuda: Any = torch.cuda
    answers = {
        "_lazy_init": None,
        "init": None,
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "mem_get_info": (60 << 30, 80 << 30),
        "max_memory_allocated": 1 << 30,
        "reset_peak_memory_stats": None,
        "memory_allocated": 0,
        "memory_reserved": 0,
        "empty_cache": None,
        "get_device_name": "NVIDIA Pretended",
        "get_device_capability": (9, 0),
        "get_arch_list": ["sm_80", "sm_90"],
        "is_bf16_supported": True,
        "manual_seed": None,
        "manual_seed_all": None,
        "get_rng_state": torch.empty(0, dtype=torch.uint8),
        "set_rng_state": None,
    }
    for name, answer in answers.items():
        setattr(cuda, name, lambda *args, _answer=answer, **kwargs: _answer)
    cuda.default_generators = (torch.default_generator,)  # what draws below what can be seen
    cuda.synchronize = lambda device=None: _synchronized("synchronize")
    cuda.Event, cuda.Stream, cuda.stream = _Event, _Stream, lambda stream: nullcontext()
    cuda.current_stream = cuda.default_stream = lambda device=None: _Stream()
    patched: Any = torch
    patched.Tensor.pin_memory = _pinned
    patched.Tensor.is_pinned = lambda self, device=None: hasattr(self, "is_pretended_pinned")
    patched.tensor, patched.as_tensor = _made_there(torch.tensor), _made_there(_AS_TENSOR)
    # Tensors of inference mode pass by dispatch modes.
    patched.inference_mode = lambda mode=True: torch.no_grad()
    torch.autograd.set_multithreading_enabled(False)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _Mode().__enter__()
