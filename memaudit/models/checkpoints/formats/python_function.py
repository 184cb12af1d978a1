"""`module:function`: the user's own denoiser, in Python.

Only here does memaudit run code that it is given, and it takes a text that can mean nothing else.
The function takes no arguments and returns a Denoiser: any callable D(x, sigma, class_labels) with
`img_channels` and `img_resolution` (one number, or height and width); `label_dim` (0), `sigma_min`
(0), `sigma_max` (∞) and `round_sigma` (none) may be left out. One that also denoises without a
class, where class_labels is None, says so by a `null_label` that is not None, and can be guided.
"""

import hashlib
import importlib
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.checkpoint import Checkpoint
from memaudit.models.checkpoints.format import SourceFormat
from memaudit.models.checkpoints.given import Given
from memaudit.models.memory import is_out_of_memory
from memaudit.models.resolution import Resolution, as_resolution

NAME = "Python denoiser"
REFERENCE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(text: str) -> bool:
    """Whether `text` is `module:function`, and not the name of a file."""
    return REFERENCE.fullmatch(text) is not None and not Path(text).exists()


def open_function(reference: str, device: torch.device | str, given: Given) -> Checkpoint:
    """Import the module, call the function and wrap what it returns.

    Raises:
        CheckpointError: there is no such module or function, it fails, or what it returns is not a
            denoiser.
    """
    module_name, _, name = reference.partition(":")
    module = _imported(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        raise CheckpointError(
            f"the module {module_name} has no function {name}; its file is {module.__file__}."
        )
    if hasattr(function, "img_resolution") and not isinstance(function, type):
        raise CheckpointError(
            f"{name} is a denoiser already; name a function without arguments that returns it, "
            f"such as `def make(): return {name}`."
        )
    try:
        denoiser = function()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{name}() failed with {_told(error)}.") from error
    source = Path(module.__file__).read_bytes() if module.__file__ else b""
    return Checkpoint(
        network=PythonDenoiser(denoiser, reference).to(device).eval().requires_grad_(False),
        config={},
        provenance={"module": module.__file__},
        sha256=hashlib.sha256(source).hexdigest(),
        format=NAME,
        path=reference,
        warnings=("The hash is that of the module's file, not that of the weights it loads.",),
    )


class PythonDenoiser(nn.Module):
    """A user's denoiser, whose answers are checked.

    Args:
        denoiser: callable D(x, sigma, class_labels); a torch module moves with this one.
        reference: how the user named it, for messages.
    """

    def __init__(self, denoiser: Callable[..., Any], reference: str) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.reference = reference
        if not callable(denoiser):
            raise CheckpointError(
                f"it returned {type(denoiser).__name__}; a callable D(x, sigma, class_labels) is "
                "needed."
            )
        self.img_channels = self._count("img_channels", 1)
        self.img_resolution = self._resolution()
        self.null_label = getattr(denoiser, "null_label", None)
        self.label_dim = self._count("label_dim", 0, default=0)
        self.sigma_min = self._level("sigma_min", 0.0)
        self.sigma_max = self._level("sigma_max", math.inf)
        if not 0 <= self.sigma_min < self.sigma_max:  # nor NaN
            raise CheckpointError(
                f"its denoiser works from sigma_min = {self.sigma_min:g} to sigma_max = "
                f"{self.sigma_max:g}, which is not a range."
            )

    def forward(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None
    ) -> Tensor:
        """Denoise; as `memaudit.models.denoiser.Denoiser`."""
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        try:
            denoised = self.denoiser(x.to(torch.float32), sigma, class_labels)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"{self.reference}: D(x, sigma, class_labels) failed with {_told(error)}."
            ) from error
        if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
            what = list(denoised.shape) if isinstance(denoised, Tensor) else type(denoised).__name__
            raise CheckpointError(
                f"{self.reference}: D(x, sigma, class_labels) returned {what} for x of "
                f"{list(x.shape)}; a tensor of the same shape is needed."
            )
        return denoised.to(torch.float32)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the user's denoiser supports."""
        rounded = getattr(self.denoiser, "round_sigma", None)
        return sigma if rounded is None else rounded(sigma)

    def _resolution(self) -> Resolution:
        value: Any = getattr(self.denoiser, "img_resolution", None)
        sides = value if isinstance(value, list | tuple) else (value, value)
        if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
            raise CheckpointError(
                f"its denoiser's img_resolution is {value!r}; a number from 1 or (height, width) "
                "is needed."
            )
        return as_resolution(sides)

    def _level(self, name: str, default: float) -> float:
        value = getattr(self.denoiser, name, default)
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"its denoiser's {name} is {value!r}; a number is needed."
            ) from error

    def _count(self, name: str, least: int, default: int | None = None) -> int:
        value = getattr(self.denoiser, name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise CheckpointError(
                f"its denoiser's {name} is {value!r}; a number from {least} is needed."
            )
        return value


def _imported(module_name: str) -> Any:
    """The module, which may lie in the current folder, as for `python -m`."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        raise CheckpointError(
            f"the module {module_name} could not be imported from {folder} or the environment: "
            f"{_told(error)}."
        ) from error
    finally:
        sys.path.remove(folder)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


FORMAT = SourceFormat(NAME, is_reference, open_function)
