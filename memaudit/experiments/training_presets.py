"""Training configurations to start from, and changes to them as written on a command line.

Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args, get_origin

from memaudit.errors import ConfigError
from memaudit.options import ConfigField, config_fields
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
"""DDPM++ with 189,000 parameters, which trains within minutes on a CPU at 8x8."""

PRESETS: Mapping[str, TrainingConfig] = {"paper": TrainingConfig(), "laptop": LAPTOP}
"""The base setup of Gu et al., arXiv:2310.02664, and one small enough for a laptop."""


def change_config(config: TrainingConfig, changes: Sequence[str]) -> TrainingConfig:
    """Set some fields of a configuration.

    Args:
        config: the configuration to start from.
        changes: each `field=value`, such as `lr=2e-3`, `channel_mult=1,2`, `conditional=true` or
            `duration_images=none`.

    Raises:
        ConfigError: a field is unknown, or a value is of the wrong kind or out of range.
    """
    known = config_fields(TrainingConfig)
    values = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in known:
            raise ConfigError(
                f"{change!r} does not change a training; write field=value with one of the fields "
                f"{', '.join(known)}."
            )
        try:
            values[name] = _parse_field(text.strip(), known[name])
        except ValueError as error:
            raise ConfigError(f"{change!r}: {error}.") from error
    return replace(config, **values)


def describe_config(config: TrainingConfig) -> str:
    """Describe a configuration by the nearest preset and the fields that differ from it.

    Returns:
        Such as `preset laptop, with lr=0.001 channel_mult=1,2,2`, as `change_config` takes them.
    """
    fields = asdict(config)
    changed = {
        name: [field for field, value in asdict(preset).items() if fields[field] != value]
        for name, preset in PRESETS.items()
    }
    nearest = min(changed, key=lambda name: len(changed[name]))
    changes = " ".join(f"{field}={_write_value(fields[field])}" for field in changed[nearest])
    return f"preset {nearest}" + (f", with {changes}" if changes else "")


def _write_value(value: Any) -> str:
    """Write a field's value as `_parse_field` reads it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _parse_field(text: str, field: ConfigField) -> Any:
    if field.is_optional and text.lower() == "none":
        return None
    if get_origin(field.type) is tuple:
        kind = get_args(field.type)[0]
        return tuple(_parse_value(part, kind) for part in text.split(",") if text)
    return _parse_value(text, field.type)


def _parse_value(text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false is needed")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        needed = "a whole number" if kind is int else "a number"
        raise ValueError(f"{text!r} is not {needed}") from None
