"""What transformers on patches of an image are made of: patches as tokens, attention, and an MLP.

Parameters carry the names of timm's Vision Transformer, which U-ViT and DiT took over, so that
their weights load without a table. Weights are cast to the input's dtype in every layer.
"""

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.networks.layers import Linear
from memaudit.models.resolution import Resolution, height_and_width
from memaudit.options import size_text

MAX_TOKENS = 1 << 12
"""Most patches of an image. Attention compares each with each, in time that a file may not
choose."""


class Grid(NamedTuple):
    """Patches along the height and the width of an image."""

    rows: int
    columns: int

    @property
    def num_tokens(self) -> int:
        return self.rows * self.columns


def patch_grid(img_resolution: Resolution, patch_size: int) -> Grid:
    """How many patches an image has.

    Raises:
        ValueError: they do not fill the image, or there are too many of them.
    """
    height, width = height_and_width(img_resolution)
    size = size_text((height, width))
    if height % patch_size or width % patch_size:
        raise ValueError(f"img_resolution {size} is not a multiple of patch_size {patch_size}")
    grid = Grid(height // patch_size, width // patch_size)
    if grid.num_tokens > MAX_TOKENS:
        raise ValueError(
            f"{size} pixels in patches of {patch_size}x{patch_size} are {grid.num_tokens:,} "
            f"tokens; at most {MAX_TOKENS:,} are supported"
        )
    return grid


class PatchEmbedding(nn.Module):
    """Patches of [B, in_channels, H, W] as tokens [B, T, channels], row by row."""

    def __init__(self, patch_size: int, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.proj.weight.to(x.dtype), self.proj.bias
        bias = None if bias is None else bias.to(x.dtype)
        return F.conv2d(x, weight, bias, stride=self.proj.stride).flatten(2).mT


def from_patches(tokens: Tensor, grid: Grid, patch_size: int) -> Tensor:
    """Tokens [B, T, patch_size² · C] as images [B, C, H, W]; a token lists the channels of each
    pixel, row by row."""
    B, p = len(tokens), patch_size
    x = tokens.reshape(B, grid.rows, grid.columns, p, p, -1)  # [B, h, w, p, q, C]
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, -1, grid.rows * p, grid.columns * p)


class LayerNorm(nn.LayerNorm):
    """Layer norm of [..., channels] whose weights are cast to the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Attention(nn.Module):
    """Self-attention among tokens [B, T, channels]; q, k and v lie one after another, each a head
    after another."""

    def __init__(self, channels: int, num_heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} channels do not split into num_heads = {num_heads}")
        self.num_heads = num_heads
        self.qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(x).reshape(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.contiguous()  # [B, heads, T, c] each
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two layers with a GELU between them; `approximate` is that of torch's GELU."""

    def __init__(
        self, channels: int, hidden: int, *, approximate: Literal["none", "tanh"] = "none"
    ) -> None:
        super().__init__()
        self.approximate = approximate
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))
        return out
