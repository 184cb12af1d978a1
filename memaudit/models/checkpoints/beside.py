"""What lies beside the weights of a file: options, paths and counts, as plain JSON values.

Shown and never acted on. Whatever is long, deep or large is cut: a file may hold anything.
"""

import math
from collections.abc import Mapping
from typing import Any

from memaudit.models.checkpoints.containers.inert_objects import NumpyArray
from memaudit.models.checkpoints.containers.plain_objects import Attributes, PathText
from memaudit.unpickler import Global
from memaudit.wording import shown

OPTION_KEYS = {
    *("args", "config", "cfg", "hparams", "hyper_parameters", "hyperparameters", "opt", "options"),
    *("model_args", "model_config", "model_kwargs", "settings", "flags", "kwargs", "params"),
    *("train_config", "training_config", "unet_config", "diffusion_config"),
}
"""Keys under which programs keep the options of a model or a training."""
MAX_FACTS = 300
"""Most values that are taken from a file, those within others included."""
MAX_DEPTH = 4
MAX_TEXT = 1000
MAX_NAME = 100


def facts_beside(value: Any) -> dict[str, Any]:
    """Numbers, texts, paths and options that a decoded file holds beside its weights, by name."""
    if not isinstance(value, dict):
        return {}
    taker = _Taker()
    found = {}
    for key, part in value.items():
        if not isinstance(key, str) or not (_is_fact(part) or _is_options(key, part)):
            continue
        if taker.left <= 0:
            break
        found[key[:MAX_NAME]] = taker.plain(part, MAX_DEPTH)
    return found


def options_beside(value: Any) -> Mapping[str, Any]:
    """The options that a program kept beside the weights, such as its argparse.Namespace.

    As the file has them, unchecked; empty where it has none.
    """
    if isinstance(value, dict):
        for key, part in value.items():
            part = _unwrapped(part)
            if _is_options(key, part):
                return {name: _unwrapped(item) for name, item in part.items()}
    return {}


def _is_fact(part: Any) -> bool:
    return isinstance(part, bool | int | float | str | PathText | Attributes)


def _is_options(key: str, part: Any) -> bool:
    # `opt` is the optimizer's state in some programs' files.
    is_mapping = isinstance(part, dict) and part and "param_groups" not in part
    return key in OPTION_KEYS and bool(is_mapping)


def _unwrapped(value: Any) -> Any:
    """What an object with attributes stands for: OmegaConf's hold a value or a content."""
    for _ in range(MAX_DEPTH):
        if not isinstance(value, Attributes):
            break
        values = value.values
        value = values.get("_content", values.get("_val", values))
    return value


class _Taker:
    """Takes values out of a file that may hold any number of them, or itself."""

    def __init__(self) -> None:
        self.left = MAX_FACTS

    def plain(self, value: Any, depth: int) -> Any:
        self.left -= 1
        value = _unwrapped(value)
        if isinstance(value, bool | int | None):
            return value if not isinstance(value, int) or abs(value) < 2**63 else shown(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, str | PathText | Global):
            return str(value)[:MAX_TEXT]
        if isinstance(value, NumpyArray):
            return f"an array of shape {list(value.shape)}"
        if depth and isinstance(value, dict):
            taken = {}
            for name, item in value.items():
                if self.left <= 0:
                    break
                taken[str(name)[:MAX_NAME]] = self.plain(item, depth - 1)
            return taken
        if depth and isinstance(value, list | tuple) and len(value) <= MAX_FACTS:
            items = []
            for item in value:
                if self.left <= 0:
                    break
                items.append(self.plain(item, depth - 1))
            return items
        return shown(value)
