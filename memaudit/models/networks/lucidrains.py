"""The U-Net of lucidrains' denoising-diffusion-pytorch (MIT), as it is since 1.9.0, October 2023.

Modules carry that package's names, so that its weights load without a table. Each level has two
residual blocks and an attention whose keys and values begin with four learned ones (`mem_kv`):
linear attention (arXiv:1812.01243), or full attention at the levels that ask for it.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.networks.layers import level_resolutions
from memaudit.models.networks.levels import check_per_level
from memaudit.models.networks.time_embedding import sin_cos
from memaudit.models.resolution import Resolution

NUM_MEMORIES = 4
"""Learned keys and values per head."""


class LucidrainsUNet(nn.Module):
    """U-Net of denoising-diffusion-pytorch.

    Args:
        img_resolution: height and width of the images, each divisible by 2^(levels - 1).
        in_channels: channels of the images; twice as many come in with `self_condition`.
        out_channels: channels that are returned; twice those of the images with a learned variance.
        label_dim: 0, since the network knows no classes.
        model_channels: width that `channel_mult` multiplies; the embedding has four times as many.
        channel_mult: width of each level, in units of `model_channels`.
        init_channels: channels of the first convolution.
        full_attn: 1 for each level with full attention, 0 for linear attention.
        attn_heads: heads of the attention, per level.
        attn_dim_head: channels of a head, per level.
        self_condition: the network also gets an estimate of the clean images.
        fourier_dim: channels of a random or learned Fourier embedding of the noise label; 0 for a
            sinusoidal one.
        theta: period of the slowest sinusoid.
        norm_groups: groups of the residual blocks' norms, as before 2.0.0 of May 2024; 0 for norms
            of each pixel's channels.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        model_channels: int = 64,
        channel_mult: Sequence[int] = (1, 2, 4, 8),
        init_channels: int = 64,
        full_attn: Sequence[int] = (0, 0, 0, 1),
        attn_heads: Sequence[int] = (4, 4, 4, 4),
        attn_dim_head: Sequence[int] = (32, 32, 32, 32),
        self_condition: bool = False,
        fourier_dim: int = 0,
        theta: float = 10000.0,
        norm_groups: int = 0,
    ) -> None:
        super().__init__()
        num_levels = len(channel_mult)
        check_per_level(
            num_levels, full_attn=full_attn, attn_heads=attn_heads, attn_dim_head=attn_dim_head
        )
        if label_dim:
            raise ValueError(f"label_dim is {label_dim}, but LucidrainsUNet knows no classes")
        self.resolutions = level_resolutions(img_resolution, num_levels)
        self.self_condition = self_condition

        emb_channels = 4 * model_channels
        embedding: nn.Module
        if fourier_dim:
            embedding, channels = _Fourier(fourier_dim), fourier_dim + 1
        else:
            embedding, channels = _Sinusoidal(model_channels, theta), model_channels
        self.time_mlp = nn.Sequential(
            embedding,
            nn.Linear(channels, emb_channels),
            nn.GELU(),
            nn.Linear(emb_channels, emb_channels),
        )

        def resnet(cur: int, width: int) -> _ResnetBlock:
            return _ResnetBlock(cur, width, emb_channels, norm_groups)

        widths = [init_channels, *(model_channels * multiplier for multiplier in channel_mult)]
        self.init_conv = nn.Conv2d(in_channels * (1 + self_condition), widths[0], 7, padding=3)
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        for level in range(num_levels):
            outer, inner = widths[level], widths[level + 1]
            kind = _Attention if full_attn[level] else _LinearAttention
            heads, dim_head = attn_heads[level], attn_dim_head[level]
            down: nn.Module = nn.Conv2d(outer, inner, 3, padding=1)
            if level < num_levels - 1:
                down = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * outer, inner, 1))
            up: nn.Module = nn.Conv2d(inner, outer, 3, padding=1)
            if level > 0:
                up = nn.Sequential(nn.Upsample(scale_factor=2), up)
            self.downs.append(
                _Down(
                    [
                        resnet(outer, outer),
                        resnet(outer, outer),
                        kind(outer, heads, dim_head),
                        down,
                    ]
                )
            )
            self.ups.insert(
                0,
                _Up(
                    [
                        resnet(inner + outer, inner),
                        resnet(inner + outer, inner),
                        kind(inner, heads, dim_head),
                        up,
                    ]
                ),
            )
        self.mid_block1 = resnet(widths[-1], widths[-1])
        self.mid_attn = _Attention(widths[-1], attn_heads[-1], attn_dim_head[-1])
        self.mid_block2 = resnet(widths[-1], widths[-1])
        self.final_res_block = resnet(2 * widths[0], widths[0])
        self.final_conv = nn.Conv2d(widths[0], out_channels, 1)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        self_cond: Tensor | None = None,
    ) -> Tensor:
        """Apply the network.

        Args:
            x: scaled noisy images, [B, in_channels, H, W].
            noise_labels: time steps, float32 [B] or [1].
            class_labels: not used.
            self_cond: an estimate of the clean images, [B, in_channels, H, W]; None for zeros. Used
                with `self_condition` alone.

        Returns:
            [B, out_channels, H, W].
        """
        if self.self_condition:
            x = torch.cat(
                [torch.zeros_like(x) if self_cond is None else self_cond.to(x.dtype), x], 1
            )
        emb = self.time_mlp(noise_labels)
        x = self.init_conv(x)
        skips = [x]
        for down in self.downs:
            x = down(x, emb, skips)
        x = self.mid_block1(x, emb)
        x = self.mid_attn(x) + x
        x = self.mid_block2(x, emb)
        for up in self.ups:
            x = up(x, emb, skips)
        x = self.final_res_block(torch.cat([x, skips.pop()], dim=1), emb)
        out: Tensor = self.final_conv(x)
        return out


class _Down(nn.ModuleList):
    """One level on the way down: two residual blocks, attention and downsampling, by number."""

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        """Apply the level, and append what the way up is given."""
        block1, block2, attention, down = self
        x = block1(x, emb)
        skips.append(x)
        x = block2(x, emb)
        x = attention(x) + x
        skips.append(x)
        out: Tensor = down(x)
        return out


class _Up(nn.ModuleList):
    """One level on the way up: two residual blocks, attention and upsampling, by number."""

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        """Apply the level to x and the last of `skips`, which it takes away."""
        block1, block2, attention, up = self
        x = block1(torch.cat([x, skips.pop()], dim=1), emb)
        x = block2(torch.cat([x, skips.pop()], dim=1), emb)
        out: Tensor = up(attention(x) + x)
        return out


class _Sinusoidal(nn.Module):
    """Sines and cosines of noise labels [B], with θ given."""

    def __init__(self, channels: int, theta: float) -> None:
        super().__init__()
        if channels < 4:
            raise ValueError(f"model_channels is {channels}; a sinusoidal embedding needs 4")
        self.channels, self.theta = channels, theta

    def forward(self, noise_labels: Tensor) -> Tensor:
        return sin_cos(noise_labels, self.channels, self.theta)


class _Fourier(nn.Module):
    """[t | sin 2πwt | cos 2πwt] of noise labels t [B] at channels / 2 frequencies w."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(channels // 2))

    def forward(self, noise_labels: Tensor) -> Tensor:
        t = noise_labels[:, None]
        angle = t * self.weights * 2 * math.pi
        return torch.cat([t, angle.sin(), angle.cos()], dim=1)


class _RMSNorm(nn.Module):
    """x √c / ‖x‖ g for each pixel's c channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.normalize(x, dim=1) * self.g * x.shape[1] ** 0.5
        return out


class _Block(nn.Module):
    """Convolution, norm, an optional scale and shift, and SiLU."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = (
            nn.GroupNorm(norm_groups, out_channels) if norm_groups else _RMSNorm(out_channels)
        )

    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift.to(x.dtype).chunk(2, dim=1)
            x = x * (scale + 1) + shift
        return F.silu(x)


class _ResnetBlock(nn.Module):
    """Residual block whose first half the embedding [B or 1, emb_channels] scales and shifts."""

    def __init__(
        self, in_channels: int, out_channels: int, emb_channels: int, norm_groups: int
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.block1 = _Block(in_channels, out_channels, norm_groups)
        self.block2 = _Block(out_channels, out_channels, norm_groups)
        self.res_conv = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.block2(self.block1(x, self.mlp(emb)[:, :, None, None]))
        out: Tensor = h + self.res_conv(x)
        return out


class _LinearAttention(nn.Module):
    """Attention of linear cost: softmax of q over channels and of k over pixels."""

    def __init__(self, channels: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.norm = _RMSNorm(channels)
        self.mem_kv = nn.Parameter(torch.randn(2, heads, dim_head, NUM_MEMORIES))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * dim_head, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(heads * dim_head, channels, 1), _RMSNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        heads, dim_head = self.mem_kv.shape[1:3]
        q, k, v = self.to_qkv(self.norm(x)).reshape(B, 3, heads, dim_head, H * W).unbind(1)
        memory_k, memory_v = (memory.expand(B, -1, -1, -1) for memory in self.mem_kv)
        k = torch.cat([memory_k, k], dim=-1).softmax(dim=-1)  # [B, heads, d, M + HW]
        v = torch.cat([memory_v, v], dim=-1)
        q = q.softmax(dim=-2) * dim_head**-0.5
        out: Tensor = self.to_out(((v @ k.mT) @ q).reshape(B, -1, H, W))
        return out


class _Attention(nn.Module):
    """Attention among the pixels."""

    def __init__(self, channels: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.norm = _RMSNorm(channels)
        self.mem_kv = nn.Parameter(torch.randn(2, heads, NUM_MEMORIES, dim_head))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * dim_head, 1, bias=False)
        self.to_out = nn.Conv2d(heads * dim_head, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        heads, _, dim_head = self.mem_kv.shape[1:]
        qkv = self.to_qkv(self.norm(x)).reshape(B, 3, heads, dim_head, H * W).mT
        q, k, v = qkv.contiguous().unbind(1)  # [B, heads, HW, d]
        memory_k, memory_v = (memory.expand(B, -1, -1, -1) for memory in self.mem_kv)
        k, v = torch.cat([memory_k, k], dim=-2), torch.cat([memory_v, v], dim=-2)
        h = F.scaled_dot_product_attention(q, k, v).mT.reshape(B, -1, H, W)
        out: Tensor = self.to_out(h)
        return out
