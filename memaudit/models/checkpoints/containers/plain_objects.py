"""Records of what programs keep beside weights: options, paths, kinds of number, random states.

None of them holds code, and nothing is made of them but what `inspect` shows. Each keeps what the
pickle gave it and copies nothing, so that one text or tuple can be referred to any number of times.
"""

from dataclasses import dataclass, field
from typing import Any

from memaudit.errors import CheckpointError, UnsafeCheckpointError
from memaudit.unpickler import Construct, Global, Record

MAX_PARTS = 256
"""Most parts of a path."""
MAX_AXES = 8

FACTORIES = {
    Global(module, name)
    for module in ("builtins", "__builtin__")
    for name in ("dict", "list", "int", "float", "str", "bool", "set", "tuple", "long", "unicode")
} | {Global("collections", "OrderedDict"), Global("typing", "Any")}
"""Types that a defaultdict or a configuration names. They make nothing here."""
DTYPES = {
    Global("torch", name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
}
BIT_GENERATORS = {
    Global(f"numpy.random._{name.lower()}", name) for name in ("MT19937", "PCG64", "Philox")
} | {
    Global("numpy.random._pcg64", "PCG64DXSM"),
    Global("numpy.random._sfc64", "SFC64"),
    Global("numpy.random.bit_generator", "SeedSequence"),
}
CALLBACKS = {
    Global(f"{lightning}.callbacks.{module}", name)
    for lightning in ("pytorch_lightning", "lightning.pytorch")
    for module, name in (
        ("model_checkpoint", "ModelCheckpoint"),
        ("early_stopping", "EarlyStopping"),
        ("lr_monitor", "LearningRateMonitor"),
    )
}
"""Classes that Lightning before 1.5 wrote as keys of what its callbacks keep."""


@dataclass
class Attributes(Record):
    """An object whose attributes are all that there is to it, such as an argparse.Namespace."""

    kind: str
    values: dict[Any, Any] = field(default_factory=dict, repr=False)

    def set_state(self, state: Any) -> None:
        if type(state) is not dict:
            raise CheckpointError(f"it holds a {self.kind} whose attributes are not a mapping.")
        self.values = state


@dataclass(frozen=True)
class PathText(Record):
    """A path of pathlib, as its parts. It is shown, and never followed."""

    parts: tuple[str, ...]

    def __str__(self) -> str:
        first, *others = self.parts or (".",)
        return first + "/".join(others) if first == "/" else "/".join(self.parts or (".",))


@dataclass
class RandomState(Record):
    """The state of a random generator of numpy's, of which nothing is kept."""

    def set_state(self, state: Any) -> None:
        pass


def _attributes(kind: str) -> Construct:
    def construct(arguments: tuple[Any, ...]) -> Attributes:
        if arguments:
            raise UnsafeCheckpointError(f"it builds a {kind} from arguments.")
        return Attributes(kind)

    return construct


def _path(arguments: tuple[Any, ...]) -> PathText:
    if len(arguments) > MAX_PARTS or not all(isinstance(part, str) for part in arguments):
        raise CheckpointError("it holds a path that is not a few texts.")
    return PathText(arguments)


def _defaultdict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    match arguments:
        case () | (None,):
            return {}
        case (Global() as factory,) if factory in FACTORIES:
            return {}
    raise UnsafeCheckpointError("it holds a defaultdict whose values something else would make.")


def _counter(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    match arguments:
        case ():
            return {}
        case (dict() as counts,):
            return counts
    raise UnsafeCheckpointError("it builds a Counter of something other than a dict.")


def _deque(arguments: tuple[Any, ...]) -> list[Any]:
    match arguments:
        case () | ((),) | ((), int() | None) | ([],) | ([], int() | None):
            return []
    raise UnsafeCheckpointError("it builds a deque of something other than its length.")


def _device(arguments: tuple[Any, ...]) -> str:
    match arguments:
        case (str(kind),) if len(kind) <= 20:
            return kind
        case (str(kind), int(index)) if len(kind) <= 20 and 0 <= index < 1000:
            return f"{kind}:{index}"
    raise CheckpointError("it holds a torch.device that is not a name and a number.")


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    match arguments:
        case (tuple(sizes),) if len(sizes) <= MAX_AXES and all(type(n) is int for n in sizes):
            return sizes
    raise CheckpointError("it holds a torch.Size that is not a few integers.")


def _random_state(arguments: tuple[Any, ...]) -> RandomState:
    for argument in arguments[:4]:
        match argument:
            case RandomState() | int() | None:
                continue
            case str() if len(argument) <= 20:
                continue
            case Global() if argument in BIT_GENERATORS | RANDOM_CONSTRUCTORS.keys():
                continue
        break
    else:
        if len(arguments) <= 4:
            return RandomState()
    raise UnsafeCheckpointError("it holds a random generator that is not one of numpy's.")


RANDOM_CONSTRUCTORS: dict[Global, Construct | None] = {
    Global("numpy.random._pickle", "__randomstate_ctor"): _random_state,
    Global("numpy.random._pickle", "__generator_ctor"): _random_state,
    Global("numpy.random._pickle", "__bit_generator_ctor"): _random_state,
    Global("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _random_state,
}
OMEGACONF = {
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.nodes": (
        *("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode", "PathNode"),
    ),
}
PLAIN_OBJECTS: dict[Global, Construct | None] = {
    Global("argparse", "Namespace"): _attributes("Namespace"),
    Global("types", "SimpleNamespace"): _attributes("SimpleNamespace"),
    **{
        Global(module, name): _attributes(name)
        for module, names in OMEGACONF.items()
        for name in names
    },
    **{
        Global(module, name): _path
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    },
    Global("collections", "defaultdict"): _defaultdict,
    Global("collections", "Counter"): _counter,
    Global("collections", "deque"): _deque,
    Global("torch", "device"): _device,
    Global("torch", "Size"): _size,
    **RANDOM_CONSTRUCTORS,
    **dict.fromkeys(FACTORIES - {Global("collections", "OrderedDict")}),
    **dict.fromkeys(DTYPES),
    **dict.fromkeys(BIT_GENERATORS),
    **dict.fromkeys(CALLBACKS),
}
"""What these pickles name, and what builds the record; None if it may only be named."""
