"""How many images a network evaluates at a time."""

from memaudit.models.denoiser import Denoiser, image_shape
from memaudit.models.execution import Execution


def group_size(denoiser: Denoiser, execution: Execution) -> int:
    """Images that are evaluated at a time.

    Convolutions and linear layers choose their kernels by the size of the batch, and kernels differ
    by up to 1e-6, which is enough to turn a byte. At one size, an image is the same beside any
    others. On a CPU it is a constant of the resolution: 64 images, or 8192 pixels, are as fast as
    more, and little to waste on a last group.

    Args:
        denoiser: any denoiser.
        execution: where it is, and how many images may be evaluated at a time on a GPU.
    """
    if not execution.device.startswith("cpu"):
        return execution.batch_size
    _, H, W = image_shape(denoiser)
    size = 64
    while size > 4 and size * H * W > 8192:
        size //= 2
    return size
