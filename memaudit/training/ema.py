"""The exponential moving average of the weights, which is what gets sampled and audited.

After a step of B images, w_ema ← β w_ema + (1 - β) w.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PUBLISHED_SIZE = 50_000
"""Training images of CIFAR-10, to which the paper scales its decays."""
PUBLISHED_HALFLIFE = 500_000
"""EDM's half-life in images."""
PUBLISHED_BATCH = 512
"""EDM's batch size."""


def ema_beta(
    mode: str,
    *,
    images_seen: int,
    batch_size: int,
    halflife_images: float,
    num_images: int,
    decay: float,
    rampup_ratio: float,
) -> float:
    """Return the decay β of one step.

    With n images seen before the step, B the batch size, H the half-life, h = min(H, 0.05 n) and
    r = 50,000 / |D|:

        mode1   β = 2^(-B / h)                                   EDM's
        mode2   β = 2^(-512 / (h r))
        mode3   β = 2^(-B / 500,000)
        mode4   β = decay · 2^(-B / (h r)) / 2^(-B / 500,000)    tends to `decay` with H = 10 |D|
        plain   β = min(decay, (1 + t) / (10 + t)), t = n / B    by steps, not images or epochs

    Source: modes 1-4 are those of Gu et al., arXiv:2310.02664, who ran mode2, and mode4 where they
    varied the decay (at their batch of 512 the two end at the same decay but for 5e-7); EDM,
    arXiv:2206.00364, uses mode1.

    Args:
        mode: one of the names above.
        images_seen: n, before the step.
        batch_size: B.
        halflife_images: H.
        num_images: |D|, the number of training images.
        decay: the value that `mode4` and `plain` end at, in [0, 1).
        rampup_ratio: the 0.05 above.

    Raises:
        ValueError: there is no such mode.
    """
    if mode == "plain":
        step = images_seen / batch_size
        return min(decay, (1 + step) / (10 + step))
    published = math.pow(0.5, batch_size / PUBLISHED_HALFLIFE)
    if mode == "mode3":
        return published
    halflife = max(min(halflife_images, images_seen * rampup_ratio), 1e-8)
    scaled_halflife = halflife * PUBLISHED_SIZE / num_images
    if mode == "mode1":
        return math.pow(0.5, batch_size / halflife)
    if mode == "mode2":
        return math.pow(0.5, PUBLISHED_BATCH / scaled_halflife)
    if mode == "mode4":
        return decay * math.pow(0.5, batch_size / scaled_halflife) / published
    raise ValueError(f"mode must be mode1 … mode4 or plain, got {mode!r}")


def copy_for_average(network: nn.Module) -> nn.Module:
    """Copy a network to hold its average: in evaluation mode, without gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: Sequence[Tensor], weights: Sequence[Tensor], beta: float) -> None:
    """Move averaged weights toward those of the network.

    Args:
        average: changed in place.
        weights: the network's after a step.
        beta: decay β, in [0, 1].
    """
    torch._foreach_lerp_(list(average), list(weights), 1 - beta)
