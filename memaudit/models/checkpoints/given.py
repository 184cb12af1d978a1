"""What the user says about a network where its file does not: `NAME,option=value,…`.

One text, the same for the command line, the library and the report. NAME is a preset
(`published_networks.py`), which is a whole configuration, or a family of a format, such as
`torchcfm`, which is a set of defaults; it may be left out. The options are those that the file's
format declares, each with its meaning, values and default.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.config_values import Value
from memaudit.models.published_networks import PRESETS_BY_NAME
from memaudit.models.resolution import as_resolution
from memaudit.wording import joined, shown

Origin = Literal["file", "user", "default"]


class Required:
    """The default of an option that has none: the user must say it if the file does not."""


@dataclass(frozen=True)
class ArchOption:
    """A fact about a network that its file may not show, so that the user can say it."""

    name: str
    meaning: str
    value: Value
    """What it may be."""
    default: Any = Required
    """Assumed, with a warning, where neither file nor user nor family says it."""
    alternatives: tuple[str, ...] = ()
    """Other values worth trying, of an option that is a number."""
    is_told: bool = True
    """Whether it is a warning that the default was assumed; False where a wrong one shows."""


@dataclass(frozen=True)
class Fact:
    """One option of a network, and who says so."""

    name: str
    value: Any
    origin: Origin
    """Whether the file shows it, the user said it, or the default was assumed."""
    alternatives: tuple[str, ...] = ()
    """Its other values, as the user would say them."""


@dataclass(frozen=True)
class Facts:
    """All options of a network, resolved."""

    facts: tuple[Fact, ...]
    warnings: tuple[str, ...]
    """What was assumed, and what the user says."""

    def __getitem__(self, name: str) -> Any:
        return next(fact.value for fact in self.facts if fact.name == name)


@dataclass(frozen=True)
class Given:
    """What the user says about a network."""

    text: str | None = None
    """As it was written."""
    name: str | None = None
    """A preset or a family; None if there was no name."""
    options: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    """The configuration in full: the preset's, or given as such."""

    @classmethod
    def parse(cls, arch: str | None, config: Mapping[str, Any] | None = None) -> "Given":
        """What the texts and values given to `open_checkpoint` say.

        Raises:
            ConfigError: an option without a value, or twice.
            ValueError: both are given.
        """
        if arch is None:
            return cls(config=config)
        if config is not None:
            raise ValueError("give arch or config, not both")
        name, options = None, {}
        for number, part in enumerate(arch.split(",")):
            key, equals, value = (text.strip() for text in part.partition("="))
            if not equals and number == 0:
                name = key
            elif not equals or not key or not value or key in options:
                raise ConfigError(
                    f"{{arch}} has {shown(part)}; a name and then option=value, each option once, "
                    "are needed, separated by commas.",
                    field="arch",
                )
            else:
                options[key] = value
        preset = PRESETS_BY_NAME.get((name or "").removesuffix(".pkl"))
        return cls(arch, name, options, None if preset is None else dict(preset.config))

    def with_option(self, name: str, value: str) -> str:
        """The text with another value of an option."""
        said = {**self.options, name: value}
        parts = [f"{option}={text}" for option, text in said.items()]
        return ",".join(parts if self.name is None else [self.name, *parts])

    def check(
        self,
        what: str,
        options: Sequence[ArchOption],
        families: Mapping[str, Mapping[str, Any]],
        *,
        takes_config: bool,
    ) -> None:
        """Refuse what a format does not take.

        Args:
            what: what the file is, in words.
            options: those that the format declares.
            families: its families, with the defaults of each.
            takes_config: whether it takes a preset, or a configuration in full.

        Raises:
            ConfigError: a name or an option that it does not have; the message lists those it has.
        """
        if self.config is not None and not takes_config:
            raise ConfigError(
                f"{what} has a configuration of its own; leave out the one given."
                if not families
                else f"{what} takes no preset, but a name of {joined(list(families))}."
            )
        if self.name is not None and self.config is None and self.name not in families:
            known = [*families, *(PRESETS_BY_NAME if takes_config else ())]
            raise ConfigError(
                f"There is no preset {shown(self.name)}"
                + (
                    f". The presets are {', '.join(known)}."
                    if known
                    else f", and {what} says what it is; leave it out."
                )
            )
        names = [option.name for option in options]
        for name in self.options:
            if name not in names:
                raise ConfigError(
                    f"{what} has no option {shown(name)}; "
                    + (f"its options are {', '.join(names)}." if names else "it has none.")
                )

    def resolve(
        self,
        options: Sequence[ArchOption],
        found: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
    ) -> Facts:
        """The value of every option: the file's, else the user's, else the default.

        Args:
            options: those that the format declares.
            found: what the file shows, by option.
            defaults: of the family or of this file, instead of the options' own.

        Raises:
            ConfigError: a value out of its range, or other than what the file shows.
            CheckpointError: an option without a default that neither file nor user says.
        """
        facts: list[Fact] = []
        for option in options:
            if option.name in self.options:
                value = _parsed(option, self.options[option.name])
                if option.name in found and not _equal(found[option.name], value):
                    raise ConfigError(
                        f"{{arch}} says that {option.name} is {as_said(value)}, but the file shows "
                        f"{as_said(found[option.name])}; leave it out.",
                        field="arch",
                    )
                origin: Origin = "file" if option.name in found else "user"
                facts.append(Fact(option.name, value, origin))
            elif option.name in found:
                facts.append(Fact(option.name, found[option.name], "file"))
            else:
                value = (defaults or {}).get(option.name, option.default)
                if value is Required:
                    raise CheckpointError(
                        f"it does not say {option.meaning}: say it with {{arch}}, as "
                        f"{option.name}={_example(option.value)}.",
                        field="arch",
                    )
                facts.append(Fact(option.name, value, "default"))
        facts = [
            replace(fact, alternatives=_alternatives(option, fact.value))
            for option, fact in zip(options, facts, strict=True)
        ]
        return Facts(tuple(facts), self._warnings(options, facts))

    def _warnings(self, options: Sequence[ArchOption], facts: Sequence[Fact]) -> tuple[str, ...]:
        told = {option.name for option in options if option.is_told}
        by_origin = {
            origin: ", ".join(
                f"{fact.name} = {as_said(fact.value)}"
                for fact in facts
                if fact.origin == origin and (origin == "user" or fact.name in told)
            )
            for origin in ("user", "default")
        }
        warnings = []
        if by_origin["user"]:
            warnings.append(f"The user says, and the file does not show: {by_origin['user']}.")
        if by_origin["default"]:
            of = "" if self.name is None else f" of {self.name}"
            warnings.append(
                f"Assumed by default{of}, since the file does not show it: {by_origin['default']}. "
                "A network opened with a wrong one does not denoise its training images; "
                "`memaudit inspect` with training images tests that."
            )
        return tuple(warnings)


def _alternatives(option: ArchOption, value: Any) -> tuple[str, ...]:
    """The other values of an option, as the user would say them."""
    known = ("on", "off") if option.value.kind is bool else option.value.choices
    return tuple(text for text in (*known, *option.alternatives) if text != as_said(value))


def _parsed(option: ArchOption, text: str) -> Any:
    """The value that a text says, of the option's kind and range."""
    value: Any = text
    try:
        if option.value.kind is bool:
            value = {"true": True, "on": True, "false": False, "off": False}[text.lower()]
        elif option.value.is_pair:
            sides = [int(side) for side in text.split("x")]
            value = as_resolution(sides if len(sides) > 1 else sides * 2)
        elif option.value.kind is int:
            value = int(text)
        elif option.value.kind is float:
            value = float(text)
            if math.isnan(value):
                raise ValueError
        option.value.check(option.name, value)
    except ConfigError as error:
        raise ConfigError(f"In {{arch}}, {error}.", field="arch") from error
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"In {{arch}}, {option.name} must be {option.value.words}, got {shown(text)}.",
            field="arch",
        ) from error
    return value


def _equal(found: Any, said: Any) -> bool:
    if isinstance(found, float) and isinstance(said, int | float):
        return math.isclose(found, said, rel_tol=1e-6)
    return bool(found == said)


def as_said(value: Any) -> str:
    """A value of an option as the user would say it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return shown(value) if isinstance(value, list | tuple) else str(value)


def _example(value: Value) -> str:
    return value.choices[0] if value.choices else "32"
