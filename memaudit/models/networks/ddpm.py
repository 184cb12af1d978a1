"""The U-Net of DDPM (Ho et al., arXiv:2006.11239, Appendix B), by its PyTorch port's names.

The port's names (`temb.dense.0`, `down.1.block.0.conv1`, `mid.attn_1.q`) are those of the
checkpoints of DDIM, DDRM and their relatives, so that weights load without a table.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.networks.layers import level_resolutions
from memaudit.models.networks.levels import Level, check_per_level, go_down, go_up
from memaudit.models.networks.time_embedding import sin_cos
from memaudit.models.resolution import Resolution

NUM_GROUPS = 32
EPS = 1e-6


class DDPMUNet(nn.Module):
    """DDPM's U-Net: the embedding of time is added, attention has one head.

    Args:
        img_resolution: height and width of the images, each divisible by 2^(levels - 1).
        in_channels: channels of the images.
        out_channels: channels that are returned; twice as many with a learned variance.
        label_dim: 0, since the network knows no classes.
        model_channels: width that `channel_mult` multiplies; the embedding has four times as many.
        channel_mult: width of each level, in units of `model_channels`.
        num_blocks: residual blocks per level, one more on the way up.
        has_attention: 1 for each level with attention after its residual blocks, else 0.
        conv_resample: up- and downsampling have a convolution.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 2,
        has_attention: Sequence[int] = (0, 1, 0, 0),
        conv_resample: bool = True,
    ) -> None:
        super().__init__()
        num_levels = len(channel_mult)
        if label_dim:
            raise ValueError(f"label_dim is {label_dim}, but DDPMUNet knows no classes")
        check_per_level(num_levels, has_attention=has_attention)
        if model_channels % NUM_GROUPS:
            raise ValueError(
                f"model_channels is {model_channels}, which does not split into {NUM_GROUPS} groups"
            )
        self.resolutions = level_resolutions(img_resolution, num_levels)
        emb_channels = 4 * model_channels
        widths = [model_channels * multiplier for multiplier in channel_mult]

        self.temb = _Embedding(model_channels, emb_channels)
        self.conv_in = nn.Conv2d(in_channels, model_channels, 3, padding=1)
        skips = [model_channels]
        cur = model_channels
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            stage = _DownStage()
            for _ in range(num_blocks):
                stage.add(cur, width, emb_channels, has_attention=bool(has_attention[level]))
                cur = width
                skips.append(cur)
            if level < num_levels - 1:
                stage.downsample = _Down(cur, with_conv=conv_resample)
                skips.append(cur)
            self.down.append(stage)

        self.mid = _Middle(cur, emb_channels)

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            last = _UpStage()
            for _ in range(num_blocks + 1):
                last.add(
                    cur + skips.pop(), width, emb_channels, has_attention=bool(has_attention[level])
                )
                cur = width
            if level:
                last.upsample = _Up(cur, with_conv=conv_resample)
            self.up.insert(0, last)
        self.norm_out = _norm(cur)
        self.conv_out = nn.Conv2d(cur, out_channels, 3, padding=1)

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """Apply the network.

        Args:
            x: scaled noisy images, [B, in_channels, H, W].
            noise_labels: time steps, float32 [B] or [1].
            class_labels: not used.

        Returns:
            [B, out_channels, H, W].
        """
        emb = self.temb(noise_labels)
        x = self.conv_in(x)
        skips = [x]
        for stage in self.down:
            x = stage(x, emb, skips)
        x = self.mid(x, emb)
        for stage in reversed(self.up):
            x = stage(x, emb, skips)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class _Embedding(nn.Module):
    """Sines and cosines of noise labels [B], and two layers: float32 [B, emb_channels], after a
    SiLU."""

    def __init__(self, channels: int, emb_channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.dense = nn.ModuleList(
            [nn.Linear(channels, emb_channels), nn.Linear(emb_channels, emb_channels)]
        )

    def forward(self, noise_labels: Tensor) -> Tensor:
        emb = sin_cos(noise_labels, self.channels)
        for layer in self.dense:
            emb = F.silu(layer(emb))
        return emb


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NUM_GROUPS, channels, eps=EPS)


class _Stage(nn.Module):
    """The residual blocks of one level, each with attention or none."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleList()
        self.attn = nn.ModuleList()

    def add(
        self, in_channels: int, out_channels: int, emb_channels: int, *, has_attention: bool
    ) -> None:
        self.block.append(_ResnetBlock(in_channels, out_channels, emb_channels))
        if has_attention:
            self.attn.append(_Attention(out_channels))


class _DownStage(_Stage):
    """One level on the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.downsample: nn.Module | None = None

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        return go_down(x, emb, skips, Level(self.block, self.attn, self.downsample))


class _UpStage(_Stage):
    """One level on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        return go_up(x, emb, skips, Level(self.block, self.attn, self.upsample))


class _Middle(nn.Module):
    """The blocks of the lowest resolution, with attention between them."""

    def __init__(self, channels: int, emb_channels: int) -> None:
        super().__init__()
        self.block_1 = _ResnetBlock(channels, channels, emb_channels)
        self.attn_1 = _Attention(channels)
        self.block_2 = _ResnetBlock(channels, channels, emb_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x, emb)), emb)
        return out


class _ResnetBlock(nn.Module):
    """Residual block; the embedding [B or 1, emb_channels] comes in after its SiLU."""

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.temb_proj = nn.Linear(emb_channels, out_channels)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(emb)[:, :, None, None].to(h.dtype)
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return out


class _Attention(nn.Module):
    """Self-attention among the pixels, of one head, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).mT.contiguous() for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        out: Tensor = x + self.proj_out(h.mT.reshape(x.shape))
        return out


class _Down(nn.Module):
    """Half the resolution: a convolution of stride 2, padded below and to the right alone."""

    def __init__(self, channels: int, *, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class _Up(nn.Module):
    """Twice the resolution: each pixel four times, then a convolution."""

    def __init__(self, channels: int, *, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x if self.conv is None else self.conv(x)
