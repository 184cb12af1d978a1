"""Reads the pickles inside the CIFAR archives without running anything.

They are dicts of numbers, strings, lists and one numpy array of bytes, written by Python 2. A
pickle is a small program for a stack machine; this one knows the instructions that such a dict
needs and the names of numpy's constructor, for which it does the work itself. Nothing is imported
or called, and any other instruction or name is refused.
"""

import io
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY = "numpy ndarray"
_DTYPE = "numpy dtype"
_ENCODE = "_codecs encode"
_GLOBALS = (*_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE)


@dataclass(frozen=True)
class _Global:
    """A name that stands in the pickle; never looked up."""

    name: str


@dataclass
class _Array:
    """A numpy array, empty until its state arrives."""

    values: np.ndarray | None = None


class _ByteType:
    """numpy's dtype of bytes, the only one admitted."""


def load_plain_dict(data: bytes) -> dict[str, Any]:
    """The dict in `data`, a pickle of protocol 2 as Python 2 or 3 writes it.

    Returns:
        Keys as str; values as ints, bytes or str, lists, and uint8 arrays.

    Raises:
        ValueError: anything else, saying what; nothing of it was run.
    """
    try:
        result = _run(io.BytesIO(data))
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is a broken pickle") from error
    if not isinstance(result, dict):
        raise ValueError(f"it holds a {type(result).__name__}, not a dict")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): _plain(value)
        for key, value in result.items()
    }


def _plain(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value


def _run(stream: io.BytesIO) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def take(count: int) -> bytes:
        data = stream.read(count)
        if len(data) != count:
            raise ValueError("it ends too early")
        return data

    def number(form: str) -> int:
        return struct.unpack(form, take(struct.calcsize(form)))[0]

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def last(count: int) -> tuple[Any, ...]:
        items = tuple(stack[len(stack) - count :])
        del stack[len(stack) - count :]
        return items

    while True:
        opcode = take(1)
        match opcode:
            # Numbers and strings
            case b"K":
                stack.append(number("<B"))
            case b"M":
                stack.append(number("<H"))
            case b"J":
                stack.append(number("<i"))
            case b"U":
                stack.append(take(number("<B")))
            case b"T":
                stack.append(take(number("<I")))
            case b"X":
                stack.append(take(number("<I")).decode())
            case b"N":
                stack.append(None)
            case b"\x88" | b"\x89":
                stack.append(opcode == b"\x88")
            # The memo
            case b"q":
                memo[number("<B")] = stack[-1]
            case b"r":
                memo[number("<I")] = stack[-1]
            case b"h":
                stack.append(memo[number("<B")])
            case b"j":
                stack.append(memo[number("<I")])
            # Lists, tuples and dicts
            case b"(":
                marks.append(len(stack))
            case b"]":
                stack.append([])
            case b"a":
                item = stack.pop()
                stack[-1].append(item)
            case b"e":
                items = since_mark()
                stack[-1].extend(items)
            case b")":
                stack.append(())
            case b"\x85" | b"\x86" | b"\x87":
                stack.append(last(opcode[0] - 0x84))
            case b"t":
                stack.append(tuple(since_mark()))
            case b"}":
                stack.append({})
            case b"s":
                key, value = last(2)
                stack[-1][key] = value
            case b"u":
                items = since_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            # The array
            case b"c":
                stack.append(_global(stream))
            case b"R":
                function, arguments = last(2)
                stack.append(_construct(function, arguments))
            case b"b":
                state = stack.pop()
                _fill(stack[-1], state)
            # Begin and end
            case b"\x80":
                if number("<B") != 2:
                    raise ValueError("it is not a pickle of protocol 2")
            case b".":
                return stack.pop()
            case _:
                raise ValueError(f"it holds the pickle instruction {opcode!r}")


def _global(stream: io.BytesIO) -> _Global:
    module, name = (stream.readline(256).rstrip(b"\n").decode() for _ in range(2))
    if f"{module} {name}" not in _GLOBALS:
        raise ValueError(f"it names {module}.{name}, which no CIFAR batch needs")
    return _Global(f"{module} {name}")


def _construct(function: _Global, arguments: Any) -> Any:
    """What calling `function` would give."""
    if function.name == _DTYPE and arguments[0] in ("u1", b"u1"):
        return _ByteType()
    if function.name in _RECONSTRUCT and arguments[0] == _Global(_NDARRAY):
        return _Array()
    # Python 3 writes bytes as text, to be encoded again.
    if function.name == _ENCODE and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    raise ValueError(f"it calls {function.name} with arguments that no CIFAR batch needs")


def _fill(target: Any, state: Any) -> None:
    """What setting the state of an array gives; that of a dtype says nothing new."""
    if isinstance(target, _ByteType):
        return
    if not isinstance(target, _Array):
        raise ValueError("it sets the state of something other than an array")
    _version, shape, dtype, fortran_order, values = state
    if not isinstance(dtype, _ByteType) or fortran_order or len(values) != math.prod(shape):
        raise ValueError("it holds an array that is not of bytes, one for each place")
    target.values = np.frombuffer(values, np.uint8).reshape(shape)
