"""What each number and text of a model's configuration may be: the one table of ranges.

Configurations come from files that may be hostile, and every command checks them here, before a
network is built. The ranges are wide: they leave out what cannot be computed with, not what is
unusual. Keywords that are not listed, such as those of a network that was added, are held to
general bounds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memaudit.errors import ConfigError
from memaudit.options import Range
from memaudit.wording import shown

MAX_RESOLUTION = 1024
"""Largest height and width of images; models of larger ones work on latents."""
MAX_CLASSES = 1 << 20
MAX_LEVELS = 10_000
"""Most discrete noise levels; published models have up to 4,000."""
MAX_LIST = 64
"""Most entries of a list; the paper's longest, the skip connections of a deep network, has 25."""
MAX_TEXT = 80
"""Most characters of a keyword or a text."""
MAX_NUMBER = 1 << 20
"""Largest magnitude of a number whose meaning is not known."""

NOUNS = {
    bool: ("true or false", "truth values"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
}


@dataclass(frozen=True)
class Value:
    """What one keyword may hold."""

    kind: type
    """bool, int, float (integers included) or str, of at most MAX_TEXT characters."""
    range: Range = field(default_factory=Range)
    is_optional: bool = False
    """Whether None is a value."""
    most_entries: int | None = None
    """Most entries, where it is a list of such values; None where it is a single one."""
    choices: tuple[str, ...] = ()
    """The texts that it may be; empty for any."""
    is_pair: bool = False
    """Whether it is one such value or a list of two."""

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is not of the kind, or out of the range.

        Raises:
            ConfigError: naming the keyword, the value and what is needed.
        """
        if value is None and self.is_optional:
            return
        if self.is_pair:
            both = value if isinstance(value, list | tuple) else [value, value]
            if len(both) != 2 or not all(map(self._admits, both)):
                raise ConfigError(f"{name} must be {self.words}, got {shown(value)}")
            return
        if self.most_entries is None:
            if not self._admits(value):
                raise ConfigError(f"{name} must be {self.words}, got {shown(value)}")
            return
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} must be {self.words}, got {shown(value)}")
        if len(value) > self.most_entries:
            raise ConfigError(
                f"{name} has {len(value):,} entries; at most {self.most_entries:,} make sense"
            )
        for entry in value:
            if not self._admits(entry):
                raise ConfigError(f"{name} must be {self.words}, got the entry {shown(entry)}")

    def _admits(self, value: Any) -> bool:
        if self.kind is str:
            return (
                isinstance(value, str)
                and len(value) <= MAX_TEXT
                and (not self.choices or value in self.choices)
            )
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        kinds = (int, float) if self.kind is float else int
        return isinstance(value, kinds) and self.range.admits(value)

    @property
    def words(self) -> str:
        """What it must be: `an integer, at least 1`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        one, many = NOUNS[self.kind]
        limits = self.range.range_text
        if self.kind is str:
            limits = f"of at most {MAX_TEXT} characters"
        if self.most_entries is not None:
            return f"a list of {many}" + (f", each {limits}" if limits else "")
        two = ", or a height and a width" if self.is_pair else ""
        return one + (f", {limits}" if limits else "") + two


def _count(least: int, most: int, *, is_optional: bool = False) -> Value:
    return Value(int, Range(at_least=least, at_most=most), is_optional)


def _counts(least: int, most: int) -> Value:
    return Value(int, Range(at_least=least, at_most=most), most_entries=MAX_LIST)


def _number(**limits: float) -> Value:
    return Value(float, Range(**limits))


FLAG, TEXT = Value(bool), Value(str)
OPTIONAL_TEXT = Value(str, is_optional=True)
TEXTS = Value(str, most_entries=MAX_LIST)
CHANNELS = _count(1, 1 << 14)
RESOLUTION = Value(int, Range(at_least=1, at_most=MAX_RESOLUTION), is_pair=True)
SHARE = _number(at_least=0, at_most=1)
POSITIVE = _number(above=0, at_most=1e6)
_BETA = Range(above=0, at_most=1)

VALUES: Mapping[str, Value] = {
    # Every denoiser.
    "img_resolution": RESOLUTION,
    "img_channels": _count(1, 64),
    "label_dim": _count(0, MAX_CLASSES),
    "use_fp16": FLAG,
    "model_type": TEXT,
    # Preconditioners. Of other trainers' networks:
    "target": TEXT,
    "schedule": TEXT,
    "num_steps": _count(2, MAX_LEVELS),
    "beta_start": Value(float, _BETA, is_optional=True),
    "beta_end": Value(float, _BETA, is_optional=True),
    "betas": Value(float, _BETA, True, MAX_LEVELS),
    "sigmas": Value(float, Range(above=0), True, MAX_LEVELS),
    "time_scale": POSITIVE,
    "sde": TEXT,
    "beta_max": _number(above=0, at_most=80),
    "path": TEXT,
    "data_at": _count(0, 1),
    "data_range": TEXT,
    "null_label": OPTIONAL_TEXT,
    "learned_variance": FLAG,
    # EDM's. VP's largest noise level, √(exp(½ β_d + β_min) − 1), must be a float32.
    "sigma_data": _number(at_least=1e-6, at_most=1e6),
    "sigma_min": _number(at_least=0, at_most=1e6),
    "sigma_max": _number(above=0),
    "beta_d": _number(at_least=1e-3, at_most=80),
    "beta_min": _number(at_least=0, at_most=40),
    "epsilon_t": _number(above=0, below=1),
    "C_1": _number(at_least=1e-6, at_most=1),
    "C_2": _number(at_least=0, at_most=1),
    "M": _count(2, MAX_LEVELS),
    "logvar_channels": CHANNELS,
    # Transformers.
    "patch_size": _count(1, 256),
    "hidden_channels": CHANNELS,
    "mlp_channels": _count(1, 1 << 16, is_optional=True),
    "depth": _count(1, 256),
    "num_heads": _count(1, 1 << 10, is_optional=True),
    "qkv_bias": FLAG,
    "time_mlp": FLAG,
    "final_conv": FLAG,
    # U-Nets.
    "augment_dim": _count(0, 1024),
    "model_channels": CHANNELS,
    "channel_mult": _counts(1, 64),
    "channel_mult_emb": _count(1, 64, is_optional=True),
    "channel_mult_noise": _count(1, 64, is_optional=True),
    "num_blocks": _count(1, 256),
    "attn_resolutions": _counts(0, MAX_RESOLUTION),
    "dropout": SHARE,
    "label_dropout": SHARE,
    "embedding_type": TEXT,
    "encoder_type": TEXT,
    "decoder_type": TEXT,
    "resample_filter": Value(float, Range(at_least=-1e3, at_most=1e3), most_entries=MAX_LIST),
    "skip_connections": Value(int, Range(at_least=0, at_most=1), True, MAX_LIST),
    "channels_per_head": CHANNELS,
    "level_channels": _counts(1, 1 << 14),
    "stem_channels": _count(1, 1 << 14, is_optional=True),
    "attn_levels": _counts(0, MAX_LIST),
    "num_head_channels": _count(1, 1 << 14, is_optional=True),
    "use_new_attention_order": FLAG,
    "use_scale_shift_norm": FLAG,
    "resblock_updown": FLAG,
    "conv_resample": FLAG,
    "label_balance": SHARE,
    "concat_balance": SHARE,
    "res_balance": SHARE,
    "attn_balance": SHARE,
    "clip_act": POSITIVE,
    # U-Nets of lucidrains, MONAI and the DDPM port.
    "init_channels": CHANNELS,
    "norm_groups": _count(0, 1 << 14),
    "full_attn": _counts(0, 1),
    "attn_heads": _counts(1, 1 << 14),
    "attn_dim_head": _counts(1, 1 << 14),
    "self_condition": FLAG,
    "fourier_dim": _count(0, 1 << 14),
    "theta": _number(above=1, at_most=1e9),
    "channels": _counts(1, 1 << 14),
    "blocks_per_level": _counts(1, 256),
    "has_attention": _counts(0, 1),
    "head_channels": _counts(1, 1 << 14),
    "norm_num_groups": _count(1, 1 << 14),
    "include_fc": FLAG,
    "use_combined_linear": FLAG,
}
"""Keywords of the constructors in `precond/` and `networks/`."""

UNET2D_VALUES: Mapping[str, Value] = {
    "_class_name": TEXT,
    "sample_size": replace(RESOLUTION, is_optional=True),
    "in_channels": _count(1, 64),
    "out_channels": _count(1, 128),
    "center_input_sample": FLAG,
    "time_embedding_type": TEXT,
    "time_embedding_dim": _count(1, 1 << 16, is_optional=True),
    "freq_shift": _number(at_least=0, at_most=1),
    "flip_sin_to_cos": FLAG,
    "down_block_types": TEXTS,
    "mid_block_type": OPTIONAL_TEXT,
    "up_block_types": TEXTS,
    "block_out_channels": _counts(1, 1 << 14),
    "layers_per_block": _count(1, 256),
    "mid_block_scale_factor": _number(at_least=1e-6, at_most=1e6),
    "downsample_padding": _count(0, 8),
    "downsample_type": TEXT,
    "upsample_type": TEXT,
    "dropout": SHARE,
    "act_fn": TEXT,
    "attention_head_dim": _count(1, 1 << 14, is_optional=True),
    "norm_num_groups": _count(1, 1 << 14),
    "attn_norm_num_groups": _count(1, 1 << 14, is_optional=True),
    "norm_eps": _number(above=0, at_most=1),
    "resnet_time_scale_shift": TEXT,
    "add_attention": FLAG,
    "class_embed_type": OPTIONAL_TEXT,
    "num_class_embeds": _count(1, MAX_CLASSES, is_optional=True),
    "num_train_timesteps": _count(1, MAX_LEVELS, is_optional=True),
}
"""Keywords of a UNet2DModel of diffusers."""

SCHEDULER_VALUES: Mapping[str, Value] = {
    "_class_name": TEXT,
    "prediction_type": TEXT,
    "num_train_timesteps": _count(1, MAX_LEVELS),
    "beta_start": Value(float, _BETA),
    "beta_end": Value(float, _BETA),
    "beta_schedule": TEXT,
    "trained_betas": Value(float, _BETA, True, MAX_LEVELS),
    "rescale_betas_zero_snr": FLAG,
    "sigma_data": VALUES["sigma_data"],
    "sigma_min": replace(VALUES["sigma_min"], is_optional=True),
    "sigma_max": replace(VALUES["sigma_max"], is_optional=True),
    "timestep_type": Value(str, choices=("discrete", "continuous")),
    "predict_epsilon": FLAG,
    "use_flow_sigmas": FLAG,
    "invert_sigmas": FLAG,
}
"""Keywords of a scheduler of diffusers that say what the network was trained with. The others say
how it would have sampled, and are not used."""


def check_config(
    config: Mapping[str, Any], values: Mapping[str, Value], *, ignore_others: bool = False
) -> None:
    """Check every number and text of a configuration.

    Args:
        config: keywords and what they hold.
        values: what they may hold.
        ignore_others: leave out keywords that `values` does not list, since nothing is done with
            them; otherwise they are held to general bounds.

    Raises:
        ConfigError: naming the keyword, its value and what is needed.
    """
    for name, value in config.items():
        if not isinstance(name, str) or not name.isidentifier() or len(name) > MAX_TEXT:
            raise ConfigError(f"the keyword {shown(name)} is not a name")
        if name in values:
            values[name].check(name, value)
        elif not ignore_others:
            _check_unknown(name, value)


def _check_unknown(name: str, value: Any) -> None:
    entries = value if isinstance(value, list | tuple) else [value]
    if len(entries) > MAX_LIST:
        raise ConfigError(f"{name} has {len(entries):,} entries; at most {MAX_LIST} make sense")
    for entry in entries:
        if isinstance(entry, str) and len(entry) <= MAX_TEXT:
            continue
        if entry is None or (
            isinstance(entry, int | float) and (abs(entry) <= MAX_NUMBER or entry == math.inf)
        ):
            continue
        raise ConfigError(
            f"{name} must be a number of at most {MAX_NUMBER:,}, a text of at most {MAX_TEXT} "
            f"characters or a list of them, got {shown(entry)}"
        )
