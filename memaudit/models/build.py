"""Build a denoiser from a flat configuration, as EDM's snapshots and our checkpoints hold one."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from memaudit.errors import ConfigError
from memaudit.models.config_values import VALUES, check_config
from memaudit.models.networks.edm2 import EDM2UNet
from memaudit.models.networks.registry import unet_class
from memaudit.models.precond import (
    ConsistencyPrecond,
    DiscretePrecond,
    EDM2Precond,
    EDMPrecond,
    FlowPrecond,
    Preconditioner,
    SDEPrecond,
    SelfConditionedPrecond,
    VEPrecond,
    VPPrecond,
    iDDPMPrecond,
)
from memaudit.wording import listed, shown

PRECONDITIONERS: dict[str, type[Preconditioner]] = {
    "VPPrecond": VPPrecond,
    "VEPrecond": VEPrecond,
    "iDDPMPrecond": iDDPMPrecond,
    "EDMPrecond": EDMPrecond,
    "ConsistencyPrecond": ConsistencyPrecond,
    "Precond": EDM2Precond,
    "DiscretePrecond": DiscretePrecond,
    "SelfConditionedPrecond": SelfConditionedPrecond,
    "FlowPrecond": FlowPrecond,
    "SDEPrecond": SDEPrecond,
}
"""Preconditioners by the names that configurations and published snapshots use."""

KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (int, "an integer"),
    float: ((int, float), "a number"),
    str: (str, "a string"),
    Sequence[int]: ((list, tuple), "a list of integers"),
    Sequence[float]: ((list, tuple), "a list of numbers"),
}
"""Annotation of an argument that `config_values` does not list → the types that a configuration may
hold there, in words."""


def build_network(config: Mapping[str, Any]) -> Preconditioner:
    """Build a new denoiser from a flat configuration.

    Args:
        config: `class_name`, a key of PRECONDITIONERS, and the keywords of that constructor and
            of the U-Net that `model_type` names, as in EDM.

    Returns:
        The denoiser in training mode, with weights initialized for training.

    Raises:
        ConfigError: a class or keyword is unknown or missing, or a value does not fit.
    """
    keywords = dict(config)
    class_name = keywords.pop("class_name", None)
    precond = PRECONDITIONERS.get(class_name) if isinstance(class_name, str) else None
    if precond is None:
        raise ConfigError(
            f"class_name is {shown(class_name)}, which memaudit does not know; it must be one of "
            f"{', '.join(PRECONDITIONERS)}."
        )
    try:
        _check_keywords(precond, keywords)
        network = precond(**keywords)
    except (ConfigError, ArithmeticError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{class_name} cannot be built as configured: {error}.") from error
    if not 0 <= network.sigma_min < network.sigma_max:  # nor NaN
        raise ConfigError(
            f"{class_name} as configured denoises from sigma_min = {network.sigma_min:g} to "
            f"sigma_max = {network.sigma_max:g}, which is not a range."
        )
    return network


def _check_keywords(precond: type[Preconditioner], keywords: Mapping[str, Any]) -> None:
    accepted = _parameters(precond)
    unet: type[nn.Module] = EDM2UNet
    if "model_type" in accepted:
        model_type = keywords.get("model_type", accepted["model_type"].default)
        VALUES["model_type"].check("model_type", model_type)
        unet = unet_class(model_type)
    accepted |= _parameters(unet)
    for name in ("in_channels", "out_channels"):
        accepted.pop(name, None)  # not for the configuration to set

    unknown = set(keywords) - set(accepted)
    if unknown:
        raise ValueError(
            f"unknown keyword {listed(unknown)}; accepted are {', '.join(sorted(accepted))}"
        )
    check_config(keywords, VALUES)
    for name in keywords.keys() - VALUES.keys():
        types, words = KINDS.get(accepted[name].annotation, (object, ""))
        if not isinstance(keywords[name], types):
            raise ValueError(f"{name} must be {words}, got {shown(keywords[name])}")


def _parameters(module: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """Arguments of a constructor, and of those of its bases that take its further keywords."""
    found: dict[str, inspect.Parameter] = {}
    for base in module.__mro__[: module.__mro__.index(nn.Module)]:
        own = list(inspect.signature(base).parameters.values())
        named = {each.name: each for each in own if each.kind != inspect.Parameter.VAR_KEYWORD}
        found = named | found
        if len(named) == len(own):
            break
    return found
