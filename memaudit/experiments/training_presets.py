"""Training configurations to start from, and changes to them in the form of a command line."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args, get_origin, get_type_hints

from memaudit.errors import ConfigError
from memaudit.training.config import TrainingConfig

LAPTOP = TrainingConfig(
    precond="edm",
    model_channels=16,
    channel_mult=(1, 2),
    num_blocks=1,
    dropout=0.0,
    batch_size=64,
    lr=2e-3,
    lr_rampup_epochs=0,
    ema_mode="plain",
    ema_decay=0.999,
    epochs=2000,
    num_snapshots=4,
)
"""DDPM++ with 189,000 parameters: minutes on a CPU at 8x8."""

PRESETS: Mapping[str, TrainingConfig] = {"paper": TrainingConfig(), "laptop": LAPTOP}
"""The base set-up of Gu et al., arXiv:2310.02664, and one that is small enough for a laptop."""


def with_changes(config: TrainingConfig, changes: Sequence[str]) -> TrainingConfig:
    """`config` with some fields set anew.

    Args:
        config: to start from.
        changes: each `field=value`, such as `lr=2e-3`, `channel_mult=1,2`, `conditional=true` or
            `duration_images=none`.

    Raises:
        ConfigError: an unknown field, a value of another kind, or out of its range.
    """
    types_of = get_type_hints(TrainingConfig)
    values = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in types_of:
            raise ConfigError(
                f"{change!r} changes nothing of a training; write field=value with one of the "
                f"fields {', '.join(types_of)}."
            )
        try:
            values[name] = _parse(text.strip(), types_of[name])
        except ValueError as error:
            raise ConfigError(f"{change!r}: {error}.") from error
    return replace(config, **values)


def described(config: TrainingConfig) -> str:
    """The preset that `config` is nearest to, and the fields in which it differs from that.

    Such as `preset laptop, with lr=0.001 channel_mult=1,2,2`, as `with_changes` takes them.
    """
    fields = asdict(config)
    changed = {
        name: [field for field, value in asdict(preset).items() if fields[field] != value]
        for name, preset in PRESETS.items()
    }
    nearest = min(changed, key=lambda name: len(changed[name]))
    changes = " ".join(f"{field}={_written(fields[field])}" for field in changed[nearest])
    return f"preset {nearest}" + (f", with {changes}" if changes else "")


def _written(value: Any) -> str:
    """A field's value as `_parse` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _parse(text: str, kind: Any) -> Any:
    """Text as a value of a field's type."""
    if isinstance(kind, types.UnionType):
        kinds = get_args(kind)
        if type(None) in kinds and text.lower() == "none":
            return None
        (kind,) = (one for one in kinds if one is not type(None))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return tuple(_parse(part, item) for part in text.split(","))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false is needed")
        return text.lower() == "true"
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        needed = "a whole number" if kind is int else "a number"
        raise ValueError(f"{text!r} is not {needed}") from None
