"""Whether a network is compiled for sampling: decided once, by the work and not by timing.

Fusing rounds fewer intermediate results, so the last bits are not those of plain kernels. That is
why only images that are confirmed in fp32, or asked for in a faster format, are made like this.
"""

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from memaudit.errors import ConfigError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution
from memaudit.models.group_size import group_size
from memaudit.models.precision import DTYPES, in_format
from memaudit.models.precond.base import Preconditioner
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.trial import evaluate_blank
from memaudit.wording import short

WORTH = 2e16
"""Operations from which compiling pays: an H200 computes 1.9e14 of them a second in fp16, twice as
many compiled, and compiles for 20 to 60 s."""


def settle_compile(
    execution: Execution,
    denoiser: Denoiser | None,
    *,
    num_images: int,
    sampler: SamplerConfig,
) -> Execution:
    """Decide whether a network is compiled, and compile it if so.

    Args:
        execution: with the number format and the batch size resolved.
        denoiser: on the device that it names; None if nothing is evaluated.
        num_images: how many images will be sampled with it.
        sampler: with how many steps.

    Returns:
        The same with `compile` "on" or "off". It is off in fp32 and TF32, whose images count as
        they are.

    Raises:
        ConfigError: compiling was asked for, and fails.
    """
    off = replace(execution, compile="off")
    can = isinstance(denoiser, Preconditioner) and execution.precision in DTYPES
    if not can or execution.compile == "off":
        return off
    assert isinstance(denoiser, Preconditioner)
    device = torch.device(execution.device)
    if execution.compile == "auto":
        evaluations = (2 * (sampler.num_steps or 18) - 1) * num_images
        if not _is_gpu(device) or count_flops(denoiser, device) * evaluations < WORTH:
            return off
    on = replace(execution, compile="on")
    try:
        cast = in_format(denoiser, on.precision, compiled=True)
        with torch.inference_mode(), fp32_products(False):
            evaluate_blank(cast, group_size(denoiser, on), device)
    except Exception as error:  # whatever the compiler meets, such as a missing C compiler
        if execution.compile == "auto":
            return off
        raise ConfigError(
            f"The network cannot be compiled here ({type(error).__name__}: "
            f"{short(' '.join(str(error).split()))}). Leave {{compile}} off.",
            field="compile",
        ) from error
    return on


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def count_flops(denoiser: Preconditioner, device: torch.device) -> float:
    """Operations of an evaluation of one image; a multiplication and an addition are two."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(), fp32_products(False):
        evaluate_blank(denoiser, 1, device)
    return float(counter.get_total_flops())
