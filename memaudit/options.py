"""What the fields of a configuration say of themselves: meaning, range, and option.

A configuration is a frozen dataclass. Each field is annotated once, and the library's checks and
the command line's options both come from it:

    @dataclass(frozen=True)
    class Execution:
        batch_size: Annotated[int, Option("Images sampled at a time.", at_least=1)] = 64

        def __post_init__(self) -> None:
            check_options(self)

Nothing heavy is imported here, so that `memaudit COMMAND --help` answers at once.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from fractions import Fraction
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from memaudit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that make sense somewhere."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    """The number must be larger than this."""
    below: float | None = None
    """The number must be smaller than this; infinity refuses only infinity."""

    @property
    def range_text(self) -> str:
        """What a number must be: `at least 1`, `between 0 and 1`; empty where any will do."""
        if self.above is not None and self.below is not None and self.below < math.inf:
            return f"between {self.above:g} and {self.below:g}"
        parts = [
            f"{words} {bound:,.10g}"
            for words, bound in (
                ("at least", self.at_least),
                ("more than", self.above),
                ("at most", self.at_most),
                ("less than", self.below),
            )
            if bound is not None and bound < math.inf
        ]
        if self.below == math.inf:
            parts.append("finite")
        return " and ".join(parts)

    def admits(self, number: float | Fraction) -> bool:
        """Whether a number lies in the range; NaN never does, infinity only in an open one."""
        if math.isnan(number):
            return False
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


@dataclass(frozen=True)
class Option(Range):
    """What a field means, which values it takes, and how the command line calls it."""

    help: str
    """One or two sentences, as `--help` shows them."""
    flag: str | None = None
    """Name on the command line, where it is not that of the field: `--steps`."""
    alias: str | None = None
    """A second name on the command line."""
    metavar: str | None = None
    """What stands for the value in `--help`: `N`, `SIGMA`."""
    default_text: str | None = None
    """What a default of None means, as `--help` shows it."""
    is_share: bool = False
    """Whether the number is a share, which a command also takes as `0.1%` or `1/1000`."""
    is_size: bool = False
    """Whether the value is (height, width), which a command also takes as `R` or `HxW`."""
    at_zero: str | None = None
    """What to say of a 0 that is out of the range, in whole sentences."""
    beyond: str | None = None
    """What to say of a number that is too large, in whole sentences."""


@dataclass(frozen=True)
class ConfigField:
    """A field of a configuration, taken apart."""

    name: str
    type: Any
    """Without None: int, float, bool, str, Fraction, Path or a tuple of one of them."""
    is_optional: bool
    """Whether None is a value."""
    choices: tuple[str, ...]
    """The values of a Literal; empty where any will do."""
    default: Any
    option: Option | None
    """None for a field that only the library sets."""

    @property
    def flag(self) -> str:
        """The option's name: `--batch-size` for batch_size, `--S_churn` for the paper's S_churn."""
        if self.option is not None and self.option.flag is not None:
            return self.option.flag
        name = self.name if self.name[0].isupper() else self.name.replace("_", "-")
        return f"--{name}"


def config_fields(config: type) -> Mapping[str, ConfigField]:
    """The fields of a configuration by name, in their order."""
    if config not in _FIELDS:
        hints = get_type_hints(config, include_extras=True)
        _FIELDS[config] = {
            field.name: _config_field(field, hints[field.name]) for field in fields(config)
        }
    return _FIELDS[config]


_FIELDS: dict[type, Mapping[str, ConfigField]] = {}
"""Read once each: type hints are slow to resolve."""


def check_options(config: Any) -> None:
    """Check every field of a configuration against its choices and its range.

    Raises:
        ConfigError: naming the field, its value and what is needed.
    """
    for field in config_fields(type(config)).values():
        value = getattr(config, field.name)
        if field.option is None or (value is None and field.is_optional):
            continue
        values = value if isinstance(value, tuple) else (value,)
        needed = field.option.range_text
        if field.choices:
            needed = f"one of {', '.join(field.choices)}"
            holds = all(item in field.choices for item in values)
        else:
            numbers = [item for item in values if isinstance(item, int | float | Fraction)]
            holds = all(field.option.admits(number) for number in numbers)
        if not holds:
            said = size_text(value) if field.option.is_size else shown(value)
            message = f"{{{field.name}}} is {said}; {needed or 'a number'} is needed."
            if field.option.at_zero is not None and value == 0:
                message += f" {field.option.at_zero}"
            option = field.option
            if option.beyond and option.below is not None and value >= option.below:
                message += f" {option.beyond}"
            raise ConfigError(message, field=field.name)


def shown(value: Any) -> str:
    """A value as a person would write it: `1/3`, `2,2,2`, `'first'`."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return repr(value) if isinstance(value, str) else str(value)


def size_text(size: tuple[int, ...]) -> str:
    """A height and a width as an option takes them: `32` or `32x48`."""
    return "x".join(map(str, size if len(set(size)) > 1 else size[:1]))


def _config_field(field: Field[Any], hint: Any) -> ConfigField:
    option = None
    if get_origin(hint) is not None and hasattr(hint, "__metadata__"):
        option = next((item for item in hint.__metadata__ if isinstance(item, Option)), None)
        hint = hint.__origin__
    is_optional = False
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        is_optional = len(kinds) < len(get_args(hint))
        hint = kinds[0] if len(kinds) == 1 else hint
    choices: tuple[str, ...] = ()
    if get_origin(hint) is Literal:
        choices, hint = get_args(hint), str
    default = field.default_factory() if callable(field.default_factory) else field.default
    return ConfigField(field.name, hint, is_optional, choices, default, option)
