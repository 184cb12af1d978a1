"""Read a pickle without running it: only plain values and inert records of ours come out.

A pickle is a program for a stack machine. Python's own machine imports whatever the program names
and calls it. This one understands the opcodes that checkpoints and data sets need and refuses the
others; it never imports a global, but looks it up, exactly by module and name, in a table of
functions of ours that build records. Nothing that the file says can reach anything else.

Bounds: a length is compared with the bytes present before anything is read, a memo index costs one
entry whatever its value, and the number of opcodes is limited, hence time and memory too: no call
copies what others copied, and keys cannot collide on purpose. Nesting cannot exhaust Python's
stack, since the machine keeps its own.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from memaudit.errors import MemauditError
from memaudit.wording import quoted, shown

MAX_OPCODES = 1_000_000
"""Most instructions in a whole file; the largest of EDM's snapshots have some tens of thousands,
CIFAR-100 0.3 million."""
MAX_NAME = 1000
"""Most bytes or characters of a name of a module or global."""
MAX_INTEGER = 16
"""Most bytes of one integer."""
MAX_MARKS = 256
"""Most containers that are begun and not yet ended."""
MAX_KEY = 1 << 60
"""Largest integer that is a key. Python hashes larger ones by a remainder, so that a file could
name a million that collide; a table of them takes hours to fill."""
LONG_TEXT = 256
"""Characters from which on a text counts as the argument of one call only."""
MAX_TOLD = 10
"""Most reasons that a message gives; `Budget.named` has them all."""


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names: its name only, nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return quoted(f"{self.module}.{self.name}")


Construct = Callable[[tuple[Any, ...]], Any]
"""Builds an inert record from the arguments that the pickle would call a global with."""
Admitted = Mapping[Global, Construct | None]
"""The globals that may be named, and what builds a record; None if nothing does."""


class Record:
    """A value of ours that stands for an object; the pickle may give it a state."""

    def set_state(self, state: Any) -> None:
        """Take the state that the pickle gives; a subclass that does not override this has none."""


@dataclass(frozen=True)
class Dialect:
    """A kind of file that holds pickles: what it needs, and how it is refused."""

    noun: str
    """What messages call such a file: `checkpoint`."""
    broken: type[MemauditError]
    """Raised for a pickle that is damaged, too large, or not one of this kind."""
    unsafe: type[MemauditError]
    """Raised for what only running code could give."""
    max_text: int = 1 << 20
    """Bytes of one text; the source code in a snapshot has 36,000."""
    python2: bool = False
    """Whether strings of Python 2 are read: as bytes, which may be keys."""
    attributes: frozenset[str] = frozenset()
    """Attributes of a dict that are dropped; any other is refused."""
    advice: Mapping[str, str] = field(default_factory=dict)
    """What to do about a refused global, by the start of its module's name."""


class _Refused(Record):
    """Stands for whatever comes of a refused global, so that the others are named too."""

    def set_state(self, state: Any) -> None:
        pass


REFUSED = _Refused()


@dataclass
class Budget:
    """The work that one file may still cause, and the globals that it has named so far."""

    opcodes: int = MAX_OPCODES
    named: set[Global] = field(default_factory=set)


_OPCODES = {ord(info.code): info for info in pickletools.opcodes}
_FIXED = {"uint1": "<B", "uint2": "<H", "int4": "<i", "uint4": "<I", "uint8": "<Q", "float8": ">d"}
"""Kinds of argument that are one number, as struct reads them."""
_COUNTED = {
    **{"unicodestring1": 1, "unicodestring4": 4, "unicodestring8": 8},
    **{"bytes1": 1, "bytes4": 4, "bytes8": 8, "bytearray8": 8, "string1": 1, "string4": 4},
    **{"long1": 1, "long4": 4},
}
"""Kinds of argument that begin with their length, and the bytes of that length."""

_STRINGS = ("BINSTRING", "SHORT_BINSTRING")
_ARGUMENTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FILLS = {"APPEND": (list, 1), "SETITEM": (dict, 2), "APPENDS": (list, None)} | {
    "SETITEMS": (dict, None),
    "ADDITEMS": (set, None),
}
"""Container to fill, and with how many values; None for all since the last mark."""


@dataclass
class Unpickler:
    """Reads the pickles in `data`, one per call, from `position` on.

    Args:
        data: bytes of the file.
        dialect: kind of the file.
        admitted: what may be named.
        budget: shared by all pickles of a file.
        persistent: what stands for a persistent id, or None if there may be none.
        position: first byte of the next pickle.
    """

    data: memoryview
    dialect: Dialect
    admitted: Admitted
    budget: Budget
    persistent: Callable[[Any], Any] | None = None
    position: int = 0

    def load(self) -> Any:
        """The next pickle's value.

        Raises:
            MemauditError: the dialect's `unsafe` where it names or needs something that only
                running code could give; its `broken` where it is cut short, too large, or not a
                pickle.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._refused: dict[str, None] = {}
        self._copied = 0
        try:
            while (opcode := self._opcode()).name != "STOP":
                self._step(opcode)
            value = self._pop()
        except MemauditError:
            self._check_refused()
            raise
        self._check_refused()
        return value

    def _check_refused(self) -> None:
        if self._refused:
            reasons = list(self._refused)
            more = f" and {len(reasons) - MAX_TOLD} more" if len(reasons) > MAX_TOLD else ""
            raise self.dialect.unsafe(
                f"it {' and '.join(reasons[:MAX_TOLD])}{more}, which no {self.dialect.noun} needs; "
                f"it was not loaded and nothing in it ran. {self._advice()}"
            )

    def _advice(self) -> str:
        refused = sorted(each.module for each in self.budget.named if each not in self.admitted)
        for start, advice in self.dialect.advice.items():
            if any(module.startswith(start) for module in refused):
                return advice
        return "If you trust where it comes from, report this so that it can be looked at."

    def _spend(self, opcodes: int) -> None:
        """Take work off the budget, counted in opcodes."""
        self.budget.opcodes -= opcodes
        if self.budget.opcodes < 0:
            raise self.dialect.broken(
                f"its pickle has more than {MAX_OPCODES:,} instructions; no {self.dialect.noun} "
                "needs that."
            )

    def _spend_text(self, length: int) -> None:
        """Count the characters that a call may copy: all calls together, as many as the file has
        bytes."""
        self._copied += length if length > LONG_TEXT else 0
        if self._copied > len(self.data):
            raise self.dialect.broken(
                f"its pickle uses the same text for many calls, which no {self.dialect.noun} does."
            )

    # Reading.

    def _take(self, size: int) -> memoryview:
        if size > len(self.data) - self.position:
            raise self.dialect.broken(
                f"at byte {self.position:,} its pickle announces {size:,} bytes more, but "
                f"{len(self.data) - self.position:,} are there: the file is cut short or damaged."
            )
        self.position += size
        return self.data[self.position - size : self.position]

    def _opcode(self) -> pickletools.OpcodeInfo:
        """The next opcode; its argument is left in `_argument`."""
        self._spend(1)
        code = self._take(1)[0]
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise self.dialect.broken(
                f"byte {self.position - 1:,} of its pickle is {code:#04x}, which is not "
                "an instruction: the file is damaged or not a pickle."
            )
        kind = opcode.arg.name if opcode.arg else ""
        self._argument: Any = None
        if kind in _FIXED:
            format = _FIXED[kind]
            (self._argument,) = struct.unpack(format, self._take(struct.calcsize(format)))
        elif kind in _COUNTED:
            self._argument = self._counted(kind)
        elif kind == "stringnl_noescape_pair":
            self._argument = Global(self._line(), self._line())
        elif kind:
            self._argument = self._line()
        return opcode

    def _counted(self, kind: str) -> str | int | memoryview:
        size = int.from_bytes(self._take(_COUNTED[kind]), "little")
        content = self._take(size)
        if kind.startswith(("bytes", "bytearray", "string")):
            return content
        limit = MAX_INTEGER if kind.startswith("long") else self.dialect.max_text
        if size > limit:
            raise self.dialect.broken(
                f"at byte {self.position:,} its pickle has a value of {size:,} bytes where at most "
                f"{limit:,} make sense."
            )
        if kind.startswith("long"):
            return int.from_bytes(content, "little", signed=True)
        return self._text(content)

    def _line(self) -> str:
        content = bytes(self.data[self.position : self.position + MAX_NAME])
        size = content.find(b"\n")
        if size < 0:
            raise self.dialect.broken(
                f"at byte {self.position:,} its pickle has a name without end."
            )
        self._take(size + 1)
        return self._text(memoryview(content)[:size])

    def _text(self, content: memoryview) -> str:
        try:
            return str(content, "utf-8")
        except UnicodeDecodeError as error:
            raise self.dialect.broken(
                f"at byte {self.position:,} its pickle has a text that is not UTF-8: the file is "
                "damaged."
            ) from error

    # The stack.

    def _top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise self.dialect.broken(
                f"at byte {self.position:,} its pickle uses a value that is not there: the file is "
                "damaged."
            )
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _pop_many(self, count: int | None) -> list[Any]:
        """The last `count` values, or those since the last mark."""
        if count is not None:
            return [self._pop() for _ in range(count)][::-1]
        if not self._marks:
            raise self.dialect.broken(
                f"at byte {self.position:,} its pickle ends a container that it never began: the "
                "file is damaged."
            )
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    # The opcodes.

    def _step(self, code: pickletools.OpcodeInfo) -> None:
        opcode = code.name
        if opcode in _ARGUMENTS:
            self._stack.append(self._argument)
        elif opcode in _STRINGS and self.dialect.python2:
            self._stack.append(bytes(self._argument))
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            self._stack.append(_EMPTY[opcode]())
        elif opcode in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._recall(self._argument))
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[self._argument] = self._top()
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif opcode == "MARK":
            self._mark()
        elif opcode == "TUPLE" or opcode in _TUPLES:
            self._stack.append(tuple(self._pop_many(_TUPLES.get(opcode))))
        elif opcode in _FILLS:
            self._fill(*_FILLS[opcode])
        elif opcode == "GLOBAL":
            self._stack.append(self._named(self._argument))
        elif opcode == "STACK_GLOBAL":
            self._stack.append(self._named(Global(*map(self._checked_name, self._pop_many(2)))))
        elif opcode in ("REDUCE", "NEWOBJ"):
            self._construct()
        elif opcode == "BUILD":
            self._set_state()
        elif opcode == "BINPERSID":
            self._stack.append(self._look_up(self._pop()))
        elif opcode not in ("PROTO", "FRAME"):
            self._refuse(code)

    def _refuse(self, code: pickletools.OpcodeInfo) -> None:
        """Note the instruction, and continue as if it gave nothing of use."""
        self._refused[f"uses the instruction {code.name}"] = None
        if isinstance(self._argument, Global):
            self._named(self._argument)
        since_mark = pickletools.stackslice in code.stack_before
        self._pop_many(None if since_mark else len(code.stack_before))
        self._stack.extend([REFUSED] * len(code.stack_after))

    def _mark(self) -> None:
        if len(self._marks) == MAX_MARKS:
            raise self.dialect.broken(f"its pickle nests more than {MAX_MARKS} containers.")
        self._marks.append(len(self._stack))

    def _recall(self, index: int) -> Any:
        if index not in self._memo:
            raise self.dialect.broken(
                f"at byte {self.position:,} its pickle refers to a value that it never stored: "
                "the file is damaged."
            )
        return self._memo[index]

    def _fill(self, container: type, count: int | None) -> None:
        values = self._pop_many(count)
        target: Any = self._top()
        if target is REFUSED:
            return
        kind = type(target)
        if kind is not container:
            raise self.dialect.unsafe(
                f"its pickle puts items into {shown(target)} as if it were a {container.__name__}."
            )
        if kind is list:
            target.extend(values)
        elif kind is set:
            target.update(map(self._checked_key, values))
        elif len(values) % 2:
            raise self.dialect.broken("its pickle has a key without a value: the file is damaged.")
        else:
            target.update(zip(map(self._checked_key, values[::2]), values[1::2], strict=True))

    def _named(self, named: Global) -> Global | Record:
        self.budget.named.add(named)
        if named in self.admitted:
            return named
        self._refused[f"names the global {named}"] = None
        return REFUSED

    def _construct(self) -> None:
        called, arguments = self._pop_many(2)
        if called is REFUSED:
            self._stack.append(REFUSED)
            return
        construct = self.admitted[called] if isinstance(called, Global) else None
        if construct is None or type(arguments) is not tuple:
            raise self.dialect.unsafe(
                f"its pickle calls {called if isinstance(called, Global) else shown(called)}, "
                f"which no {self.dialect.noun} does. Nothing in it ran."
            )
        # One list or text may be the argument of many calls.
        self._spend(sum(len(part) for part in arguments if isinstance(part, list)))
        self._spend_text(sum(len(part) for part in arguments if isinstance(part, str)))
        self._stack.append(construct(arguments))

    def _set_state(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Record):
            if type(target).set_state is Record.set_state:
                raise self.dialect.unsafe(
                    f"it sets the state of a {type(target).__name__}, which has none."
                )
            target.set_state(state)
        elif (
            type(target) is not dict
            or type(state) is not dict
            or not state
            or not self.dialect.attributes.issuperset(state)
        ):
            raise self.dialect.unsafe(
                f"its pickle sets attributes of {shown(target)}, which no {self.dialect.noun} "
                "does. Nothing in it ran."
            )

    def _look_up(self, key: Any) -> Any:
        if self.persistent is None:
            raise self.dialect.unsafe(
                f"its pickle uses a persistent id, which no {self.dialect.noun} of its kind does."
            )
        return self.persistent(key)

    def _checked_name(self, name: Any) -> str:
        if not isinstance(name, str) or len(name) > MAX_NAME:
            raise self.dialect.broken(
                f"its pickle names a global by {shown(name)}, which is not a name."
            )
        return name

    def _checked_key(self, key: Any) -> Any:
        if isinstance(key, Global):
            return str(key)  # a class as a key stands for its name
        # The hash of nested tuples can take exponential time.
        if not isinstance(key, (str, int, bytes) if self.dialect.python2 else (str, int)):
            raise self.dialect.broken(
                f"its pickle has {shown(key)} as a key; a text or number is needed."
            )
        check_key(key, self.dialect)
        return key


def check_key(key: str | bytes | int, dialect: Dialect) -> None:
    """Refuse an integer that is too large to be hashed without collisions."""
    if isinstance(key, int) and abs(key) >= MAX_KEY:
        raise dialect.broken(f"its pickle has a key of {key.bit_length()} bits.")


def encoded_text(arguments: tuple[Any, ...], *, max_length: int) -> bytes | None:
    """The bytes that `_codecs.encode(text, "latin1")` gives, as Python 3 writes them at protocol 2.

    None for other arguments, since other codecs may run code.
    """
    match arguments:
        case (str(text), "latin1") if len(text) <= max_length:
            try:
                return text.encode("latin1")
            except UnicodeEncodeError:
                pass
    return None
