"""Snapshots as EDM's own classes would pickle them, made of networks of ours."""

import sys
from collections import OrderedDict
from typing import Any

import numpy as np
from torch import nn

TINY = {
    "class_name": "EDMPrecond",
    "img_resolution": 4,
    "img_channels": 1,
    "label_dim": 2,
    "model_type": "SongUNet",
    "model_channels": 4,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
SOURCE = 'open("MEMAUDIT_EXECUTED", "w").close()\n'
"""Stands for the source text in a snapshot: running it would leave a file."""
HOOKS = ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks")


class Persistent:
    """An object that pickles as one of EDM's persistent classes does."""

    def __init__(self, class_name: str, state: dict[str, Any], **meta: Any) -> None:
        state = {"_init_args": (), "_init_kwargs": {}, **state}
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": state,
            **meta,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        return function, (self.meta,)


def module_state(module: nn.Module) -> dict[str, Any]:
    """What EDM's networks have in their `__dict__`, of a network of ours."""
    children: dict[str, Any] = OrderedDict()
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleDict):
            children[name] = nn.ModuleDict()
            children[name].__dict__.update(module_state(child))
        else:
            children[name] = Persistent(type(child).__name__, module_state(child))
    return {
        "training": False,
        "_parameters": OrderedDict(module._parameters),
        "_buffers": OrderedDict(module._buffers),
        "_non_persistent_buffers_set": set(),
        **{hooks: OrderedDict() for hooks in HOOKS},
        "_modules": children,
        "skip_scale": np.sqrt(0.5),
    }
