"""What the U-Nets of EDM are made of: resampling, convolutions, embeddings and the residual block.

Parameters and buffers carry EDM's names, so that its weights load without a table. Weights are
stored in float32 and cast to the input's dtype in every layer. Sources: Song et al. (DDPM++,
NCSN++; arXiv:2011.13456), Dhariwal and Nichol (ADM; arXiv:2105.05233), Karras et al. (EDM;
arXiv:2206.00364, Appendix F).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.resolution import Resolution, height_and_width
from memaudit.options import size_text

Direction = Literal["up", "down"]


class LevelSize(NamedTuple):
    """Height and width of the features at one level of a U-Net."""

    height: int
    width: int

    def __str__(self) -> str:
        """As in the names of its layers: `32x32`."""
        return f"{self.height}x{self.width}"

    @property
    def side(self) -> int:
        """Its shorter side, which `attn_resolutions` lists."""
        return min(self)


def level_resolutions(img_resolution: Resolution, num_levels: int) -> list[LevelSize]:
    """Height and width of every level of a U-Net, the images' first, each half the one before."""
    height, width = height_and_width(img_resolution)
    step = 1 << max(num_levels - 1, 0)
    if num_levels < 1 or min(height, width) < 1 or height % step or width % step:
        raise ValueError(
            f"img_resolution {size_text((height, width))} cannot be halved for the {num_levels} "
            f"levels; {'it' if height == width else 'each side'} must be a multiple of {step}"
        )
    return [LevelSize(height >> level, width >> level) for level in range(num_levels)]


def low_pass(taps: Sequence[float]) -> Tensor:
    """Separable filter of unit sum, float32 [1, 1, K, K], from its K taps."""
    if len(taps) % 2:
        raise ValueError(f"resample_filter needs an even number of taps, got {list(taps)}")
    f = torch.tensor(taps, dtype=torch.float32)
    return (f[:, None] * f / f.sum().square())[None, None]


def is_box(taps: Sequence[float]) -> bool:
    """Whether a filter of these taps takes means of 2×2 pixels."""
    return len(taps) == 2 and taps[0] == taps[1]


def resample(
    x: Tensor,
    direction: Direction,
    kernel: Tensor,
    *,
    padding: int | None = None,
    is_box: bool = False,
) -> Tensor:
    """Halve or double the resolution of x [B, C, H, W], each channel by the same filter.

    `padding` is in pixels of the larger image; None keeps the images centered. `is_box` says that
    the filter is that of taps [1, 1], which are means of 2×2 pixels and repeated pixels: the same
    bits, and many times faster than CUDA's convolutions of single channels. CPUs convolve faster.
    """
    if is_box and x.is_cuda:
        return F.avg_pool2d(x, 2) if direction == "down" else F.interpolate(x, scale_factor=2)
    channels = x.shape[1]
    if padding is None:
        padding = (kernel.shape[-1] - 1) // 2
    if direction == "down":
        weight = kernel.to(x.dtype).repeat(channels, 1, 1, 1)
        return F.conv2d(x, weight, stride=2, padding=padding, groups=channels)
    # Three values in four are zero before the filter: 4 keeps the mean.
    weight = (4 * kernel).to(x.dtype).repeat(channels, 1, 1, 1)
    return F.conv_transpose2d(x, weight, stride=2, padding=padding, groups=channels)


class Resample(nn.Module):
    """Resampling without weights: half ("down") or twice ("up") the resolution of [B, C, H, W]."""

    resample_filter: Tensor

    def __init__(self, direction: Direction, taps: Sequence[float]) -> None:
        super().__init__()
        self.direction = direction
        self.is_box = is_box(taps)
        self.register_buffer("resample_filter", low_pass(taps))

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.direction, self.resample_filter, is_box=self.is_box)


class Linear(nn.Linear):
    """Linear layer on [B, in_features] whose weights are cast to the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), _cast(self.bias, x))


class Conv2d(nn.Conv2d):
    """Convolution that keeps the resolution, after resampling if `direction` is given.

    [B, in_channels, H, W] → [B, out_channels, H', W'], where H' is H, H/2 ("down") or 2H ("up").
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        direction: Direction | None = None,
        taps: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)
        self.direction, self.is_box = direction, is_box(taps)
        if direction is not None:
            self.register_buffer("resample_filter", low_pass(taps))

    def forward(self, x: Tensor) -> Tensor:
        if self.direction is not None:
            x = resample(x, self.direction, self.resample_filter, is_box=self.is_box)
        return F.conv2d(x, self.weight.to(x.dtype), _cast(self.bias, x), padding=self.padding)


class ConvThenDown(nn.Conv2d):
    """Convolution and then halving, over one common zero padding (NCSN++'s residual branch).

    [B, in_channels, H, W] → [B, out_channels, H/2, W/2].
    """

    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, taps: Sequence[float]
    ) -> None:
        padding = kernel // 2 + (len(taps) - 1) // 2
        super().__init__(in_channels, out_channels, kernel, padding=padding)
        self.is_box = is_box(taps)
        self.register_buffer("resample_filter", low_pass(taps))

    def forward(self, x: Tensor) -> Tensor:
        # The filter keeps constants, so the bias may be added before it.
        x = F.conv2d(x, self.weight.to(x.dtype), _cast(self.bias, x), padding=self.padding)
        return resample(x, "down", self.resample_filter, padding=0, is_box=self.is_box)


class GroupNorm(nn.GroupNorm):
    """Group norm of [B, channels, H, W], in groups of at least 4 channels, at most 32 groups."""

    def __init__(self, channels: int, *, eps: float) -> None:
        num_groups = min(32, channels // 4)
        if num_groups == 0 or channels % num_groups:
            raise ValueError(
                f"{channels} channels do not split into equal groups of at least 4 (at most 32 "
                "groups); choose other model_channels or channel_mult"
            )
        super().__init__(num_groups, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class PositionalEmbedding(nn.Module):
    """[cos | sin] of noise labels [B] at n = channels / 2 frequencies 10000^(-i/n).

    With `endpoint` the exponent runs to -1: 10000^(-i/(n-1)).
    """

    def __init__(self, channels: int, *, endpoint: bool = False) -> None:
        super().__init__()
        self.num_frequencies = channels // 2
        self.endpoint = endpoint

    def forward(self, noise_labels: Tensor) -> Tensor:
        n = self.num_frequencies
        i = torch.arange(n, dtype=torch.float32, device=noise_labels.device)
        freqs = (1 / 10000) ** (i / (n - 1 if self.endpoint else n))
        return _cos_sin(noise_labels, freqs)


class FourierEmbedding(nn.Module):
    """[cos | sin] of noise labels [B] at channels / 2 random frequencies, 2π·N(0, 16²)."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * 16)

    def forward(self, noise_labels: Tensor) -> Tensor:
        # 2π·freqs is rounded first, as in EDM: another order shows at labels near 999.
        return _cos_sin(noise_labels, 2 * math.pi * self.freqs)


def _cos_sin(noise_labels: Tensor, freqs: Tensor) -> Tensor:
    angle = noise_labels[:, None] * freqs  # [B, n]
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def drop_labels(class_labels: Tensor, probability: float, batch_size: int) -> Tensor:
    """Zero whole rows of class_labels at random: [B or 1, label_dim] → [B, label_dim]."""
    keep = torch.rand(batch_size, 1, device=class_labels.device) >= probability
    return class_labels * keep


def attention(qkv: Tensor, num_heads: int) -> Tensor:
    """Self-attention among the pixels.

    Args:
        qkv: [B, 3C, H, W]; the channels are ordered head, then channel, then q, k, v.
        num_heads: heads, each of C / num_heads channels.

    Returns:
        [B, C, H, W]. The softmax is taken in float32 whatever the dtype of `qkv`.
    """
    B, _, H, W = qkv.shape
    qkv = qkv.reshape(B, num_heads, -1, 3, H * W).permute(3, 0, 1, 4, 2)  # [3, B, heads, HW, c]
    q, k, v = qkv.contiguous()  # the fused kernels want the channels of a pixel side by side
    return F.scaled_dot_product_attention(q, k, v).mT.reshape(B, -1, H, W)


class UNetBlock(nn.Module):
    """Residual block with the noise level (and class) mixed in, and attention if asked for.

    Args:
        in_channels, out_channels: channels of x and of the result.
        emb_channels: channels of the embedding.
        direction: halve ("down") or double ("up") the resolution.
        taps: filter taps of that resampling.
        num_heads: attention heads after the convolutions; 0 for no attention.
        dropout: probability of dropping a feature, in training.
        adaptive_scale: the embedding scales and shifts the second norm (ADM) instead of being
            added before it (DDPM++).
        weighted_skip: the shortcut around a resampling block has a 1×1 convolution even where
            the number of channels does not change (DDPM++).
        skip_scale: factor after every addition: √½ keeps the variance (DDPM++), 1 does not (ADM).
        eps: of the norms.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        direction: Direction | None = None,
        taps: Sequence[float] = (1, 1),
        num_heads: int = 0,
        dropout: float,
        adaptive_scale: bool,
        weighted_skip: bool,
        skip_scale: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.num_heads = num_heads
        self.dropout = dropout
        self.adaptive_scale = adaptive_scale
        self.skip_scale = skip_scale

        self.norm0 = GroupNorm(in_channels, eps=eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, direction=direction, taps=taps)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1))
        self.norm1 = GroupNorm(out_channels, eps=eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3)

        self.skip: nn.Module | None = None
        if in_channels != out_channels or (direction is not None and weighted_skip):
            self.skip = Conv2d(in_channels, out_channels, 1, direction=direction, taps=taps)
        elif direction is not None:
            self.skip = Resample(direction, taps)

        if num_heads:
            self.norm2 = GroupNorm(out_channels, eps=eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1)
            self.proj = Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: features, [B, in_channels, H, W].
            emb: embedding of noise level and class, float32 [B or 1, emb_channels].

        Returns:
            [B, out_channels, H', W'] in the dtype of x, where H' is H, H/2 ("down") or 2H ("up").
        """
        h = self.conv0(F.silu(self.norm0(x)))

        shift = self.affine(emb)[:, :, None, None].to(h.dtype)
        if self.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + shift)
        h = self.conv1(F.dropout(F.silu(h), self.dropout, self.training))

        x = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.num_heads:
            h = self.proj(attention(self.qkv(self.norm2(x)), self.num_heads))
            x = (h + x) * self.skip_scale
        return x


def _cast(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(x.dtype)
