"""What a native file keeps of the options that its source did not show, so that they can be tried.

A converted file has the configuration that was said or assumed. Its metadata entry `facts` says
which options that were, and what each of their values changes in the configuration:

    {"num_heads": {"value": 4, "origin": "default",
                   "changes": {"4": {"set": {}, "unset": []},
                               "8": {"set": {"num_heads": 8}, "unset": []}}}}
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.given import ArchOption, Fact, Facts, Given
from memaudit.models.checkpoints.json_metadata import json_object
from memaudit.models.config_values import Value
from memaudit.wording import joined, shown

ENTRY = "facts"
ORIGINS = ("user", "default")
MAX_VALUES = 100
"""Most values of an entry, each of which is opened when it is tried; formats have some twenty."""


def change_of(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the configuration `other` of `config`, as the entry has it."""
    return {
        "set": {
            name: value
            for name, value in other.items()
            if name not in config or config[name] != value
        },
        "unset": [name for name in config if name not in other],
    }


def kept_options(contents: Contents) -> tuple[ArchOption, ...]:
    """The options that a native file was converted with, and that have other values.

    Raises:
        CheckpointError: its entry is broken.
    """
    return tuple(
        ArchOption(name, name, Value(str, choices=tuple(kept["changes"])), is_told=False)
        for name, kept in _entry(contents).items()
        if kept["changes"]
    )


def with_kept_facts(
    contents: Contents, config: Mapping[str, Any], given: Given
) -> tuple[dict[str, Any], Facts]:
    """The configuration with the values that the user says, and the facts that are kept.

    Args:
        contents: a native file.
        config: its configuration.
        given: options of `kept_options`.

    Raises:
        CheckpointError: its entry is broken.
        ConfigError: a value that it does not have, or two that change the same keyword.
    """
    entry = _entry(contents)
    resolved = given.resolve(
        kept_options(contents), {}, {name: kept["value"] for name, kept in entry.items()}
    )
    by_name = {fact.name: fact for fact in resolved.facts}
    facts = []
    for name, kept in entry.items():
        fact = by_name.get(name, Fact(name, kept["value"], kept["origin"]))
        facts.append(fact if name in given.options else replace(fact, origin=kept["origin"]))
    changed: dict[str, str] = {}
    result = dict(config)
    for name, text in given.options.items():
        change = entry[name]["changes"][text]
        for keyword in (*change["set"], *change["unset"]):
            if (other := changed.setdefault(keyword, name)) != name:
                raise ConfigError(
                    f"In {{arch}}, {joined([other, name])} decide the same about a converted file, "
                    "so that it can be opened with one of them alone; convert its source again.",
                    field="arch",
                )
            result.pop(keyword, None)
        result |= change["set"]
    return result, Facts(tuple(facts), resolved.warnings)


def _entry(contents: Contents) -> dict[str, Any]:
    if ENTRY not in contents.metadata:
        return {}
    entry = json_object(contents.metadata, ENTRY)
    for name, kept in entry.items():
        if not (
            name.isidentifier()
            and isinstance(kept, dict)
            and {"value", "origin", "changes"} <= kept.keys()
            and kept["origin"] in ORIGINS
            and isinstance(kept["changes"], dict)
            and all(map(_is_change, kept["changes"].values()))
        ):
            raise CheckpointError(
                f"its metadata entry {ENTRY!r} does not say what it was converted with: "
                f"{shown(name)} is broken."
            )
    if (number := sum(len(kept["changes"]) for kept in entry.values())) > MAX_VALUES:
        raise CheckpointError(
            f"its metadata entry {ENTRY!r} has {number:,} values of options; at most {MAX_VALUES} "
            "are read."
        )
    return entry


def _is_change(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("set"), dict)
        and isinstance(value.get("unset"), list)
        and all(isinstance(keyword, str) for keyword in value["unset"])
    )
