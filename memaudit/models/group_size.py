"""How many images a network evaluates at a time.

Convolutions and linear layers choose their kernels by the size of the batch, and kernels differ by
up to 1e-6, which is enough to turn a byte. At one size, an image is the same beside any others.
"""

from dataclasses import replace

import torch

from memaudit.models.arithmetic import float32_inference
from memaudit.models.denoiser import Denoiser, image_shape
from memaudit.models.execution import HANDED_OUT, Execution
from memaudit.models.memory import is_out_of_memory
from memaudit.models.trial import evaluate_blank

LARGEST = 512
"""A GPU takes no more images, which would not be faster. Fewer are slower in small networks, where
the starts of kernels rule."""
PROBED = 8
"""Images whose memory is measured."""
SPARE = 1.3
"""Share of memory by which an image may take more than was measured."""


def group_size(denoiser: Denoiser, execution: Execution) -> int:
    """Images that are evaluated at a time.

    On a CPU it is a constant of the resolution: 64 images, or 8192 pixels, are as fast as more, and
    little to waste on a last group. On a GPU it is as many as its free memory holds by what a few
    take, a power of two up to LARGEST, or `execution.batch_size` if that is less.

    Args:
        denoiser: any denoiser, on the device that `execution` names.
        execution: where it is, and how many images may be evaluated at a time on a GPU.
    """
    device = torch.device(execution.device)
    if device.type != "cpu" and execution.batch_size is not None:
        return min(execution.batch_size, LARGEST)
    if device.type == "cuda":
        return _that_fits(denoiser, device)
    _, H, W = image_shape(denoiser)
    size = 64
    while size > 4 and size * H * W > 8192:
        size //= 2
    return size


def settled(execution: Execution, denoiser: Denoiser | None) -> Execution:
    """With the batch size of this model, where it is chosen automatically.

    Args:
        execution: as asked for.
        denoiser: on the device that it names; None if nothing is evaluated.
    """
    if execution.batch_size is not None:
        return execution
    if denoiser is None or torch.device(execution.device).type == "cpu":
        return replace(execution, batch_size=HANDED_OUT)
    return replace(execution, batch_size=group_size(denoiser, execution))


def _that_fits(denoiser: Denoiser, device: torch.device) -> int:
    # One image first, since libraries take memory for themselves at the first call.
    _peak_bytes(denoiser, 1, device)
    per_image = _peak_bytes(denoiser, PROBED, device) / PROBED
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + cached
    fitting = min(LARGEST, int(free / (SPARE * per_image))) if per_image else LARGEST
    return 1 << max(fitting, 1).bit_length() - 1


def _peak_bytes(denoiser: Denoiser, num_images: int, device: torch.device) -> int:
    """Memory that the evaluation of some images takes for a while."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        with float32_inference():
            evaluate_blank(denoiser, num_images, device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return torch.cuda.mem_get_info(device)[1]  # a group of one, and smaller ones on the way
    return torch.cuda.max_memory_allocated(device) - before
