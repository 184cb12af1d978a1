"""OpenAI's U-Net in general: improved-diffusion, guided-diffusion (ADM) and what uses them.

Nichol and Dhariwal, arXiv:2102.09672; Dhariwal and Nichol, arXiv:2105.05233. torchcfm,
flow_matching and latent diffusion's pixel models have the same network. Parameters carry OpenAI's
names, so that weights load as they are.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.networks.layers import Conv2d, Direction, Linear, level_resolutions
from memaudit.models.networks.time_embedding import cos_sin
from memaudit.models.resolution import Resolution

NUM_GROUPS = 32
EPS = 1e-5


class OpenAIUNet(nn.Module):
    """U-Net F(x; noise_labels, class_labels). Level i has height and width of the images / 2^i.

    Options are named as OpenAI's where those say the same.

    Args:
        img_resolution: height and width of the images, each divisible by 2^(levels - 1).
        in_channels, out_channels: channels of the images and of the result.
        label_dim: classes; 0 for an unconditional network.
        model_channels: channels of the time's embedding.
        level_channels: channels of each level, multiples of 32.
        stem_channels: channels of the first convolution; None for those of the first level.
        num_blocks: residual blocks of each level's encoder; the decoder has one more.
        attn_levels: levels with self-attention, from 0; the middle always has it.
        num_heads: heads of each attention layer, unless num_head_channels says it.
        num_head_channels: channels of each head; None for num_heads.
        use_new_attention_order: the qkv layer's channels are q, k, v and then heads, instead of
            heads and then q, k, v.
        use_scale_shift_norm: the embedding scales and shifts the second norm of a block, instead of
            being added before it.
        resblock_updown: levels change resolution inside residual blocks, instead of layers of their
            own.
        conv_resample: those layers convolve as well.
        dropout: probability of dropping a feature in a block, in training.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        model_channels: int = 128,
        level_channels: Sequence[int] = (128, 256, 256, 256),
        stem_channels: int | None = None,
        num_blocks: int = 2,
        attn_levels: Sequence[int] = (1, 2),
        num_heads: int = 4,
        num_head_channels: int | None = None,
        use_new_attention_order: bool = False,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = False,
        conv_resample: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.resolutions = level_resolutions(img_resolution, len(level_channels))
        if not set(attn_levels) <= set(range(len(level_channels))):
            raise ValueError(
                f"attn_levels {list(attn_levels)} are not among the {len(level_channels)} levels"
            )
        self.model_channels = model_channels
        emb_channels = 4 * model_channels
        block = partial(
            ResBlock,
            emb_channels=emb_channels,
            use_scale_shift_norm=use_scale_shift_norm,
            dropout=dropout,
        )
        attention = partial(
            AttentionBlock,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            use_new_attention_order=use_new_attention_order,
        )

        def change(channels: int, direction: Direction) -> nn.Module:
            """From one level to the next."""
            if resblock_updown:
                return block(channels, channels, direction=direction)
            return (Downsample if direction == "down" else Upsample)(channels, conv_resample)

        # Embedding of time and class.
        self.time_embed = nn.Sequential(
            Linear(model_channels, emb_channels), nn.SiLU(), Linear(emb_channels, emb_channels)
        )
        self.label_emb = nn.Embedding(label_dim, emb_channels) if label_dim else None

        # Encoder.
        cur = level_channels[0] if stem_channels is None else stem_channels
        self.input_blocks = nn.ModuleList([Steps(Conv2d(in_channels, cur, 3))])
        skip_channels = [cur]
        for level, channels in enumerate(level_channels):
            if level:
                self.input_blocks.append(Steps(change(cur, "down")))
                skip_channels.append(cur)
            for _ in range(num_blocks):
                steps: list[nn.Module] = [block(cur, channels)]
                if level in attn_levels:
                    steps.append(attention(channels))
                self.input_blocks.append(Steps(*steps))
                cur = channels
                skip_channels.append(cur)

        self.middle_block = Steps(block(cur, cur), attention(cur), block(cur, cur))

        # Decoder.
        self.output_blocks = nn.ModuleList()
        for level, channels in reversed(list(enumerate(level_channels))):
            for i in range(num_blocks + 1):
                steps = [block(cur + skip_channels.pop(), channels)]
                if level in attn_levels:
                    steps.append(attention(channels))
                if level and i == num_blocks:
                    steps.append(change(channels, "up"))
                self.output_blocks.append(Steps(*steps))
                cur = channels
        self.out = nn.Sequential(GroupNorm32(cur), nn.SiLU(), Conv2d(cur, out_channels, 3))

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """Apply the network.

        Args:
            x: scaled noisy images, [B, in_channels, H, W].
            noise_labels: c_noise, float32 [B] or [1].
            class_labels: float32 [B or 1, label_dim], one-hot; needed if label_dim is not 0.

        Returns:
            [B, out_channels, H, W] in the dtype of x.
        """
        emb = self.time_embed(cos_sin(noise_labels, self.model_channels))
        if self.label_emb is not None:
            assert class_labels is not None
            emb = emb + class_labels @ self.label_emb.weight
        skips = []
        for steps in self.input_blocks:
            x = steps(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for steps in self.output_blocks:
            x = steps(torch.cat([x, skips.pop()], dim=1), emb)
        out: Tensor = self.out(x)
        return out


class Steps(nn.Sequential):
    """Layers one after another, of which residual blocks are given the embedding, too."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for step in self:
            x = step(x, emb) if isinstance(step, ResBlock) else step(x)
        return x


class ResBlock(nn.Module):
    """Residual block: [B, in_channels, H, W] → [B, out_channels, H', W'], where H' is H, H/2
    ("down") or 2H ("up")."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        emb_channels: int,
        use_scale_shift_norm: bool,
        dropout: float,
        direction: Direction | None = None,
    ) -> None:
        super().__init__()
        self.direction = direction
        self.use_scale_shift_norm = use_scale_shift_norm
        self.in_layers = nn.Sequential(
            GroupNorm32(in_channels), nn.SiLU(), Conv2d(in_channels, out_channels, 3)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), Linear(emb_channels, out_channels * (2 if use_scale_shift_norm else 1))
        )
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            Conv2d(out_channels, out_channels, 3),
        )
        self.skip_connection = (
            nn.Identity() if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[:-1](x)
        if self.direction is not None:
            h, x = _resampled(h, self.direction), _resampled(x, self.direction)
        h = self.in_layers[-1](h)
        shift = self.emb_layers(emb)[:, :, None, None].to(h.dtype)
        if self.use_scale_shift_norm:
            scale, shift = shift.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + shift)
        result: Tensor = self.skip_connection(x) + h
        return result


class AttentionBlock(nn.Module):
    """Self-attention among the pixels of [B, channels, H, W], added to them."""

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        num_head_channels: int | None,
        use_new_attention_order: bool,
    ) -> None:
        super().__init__()
        if channels % (num_head_channels or num_heads):
            split = f"{num_heads} heads (num_heads)"
            if num_head_channels is not None:
                split = f"heads of {num_head_channels} channels (num_head_channels)"
            raise ValueError(f"{channels} channels of an attention layer do not split into {split}")
        if num_head_channels is not None:
            num_heads = channels // num_head_channels
        self.num_heads = num_heads
        self.use_new_attention_order = use_new_attention_order
        self.norm = GroupNorm32(channels)
        self.qkv = PointwiseConv1d(channels, 3 * channels)
        self.proj_out = PointwiseConv1d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x).reshape(B, C, H * W))
        c = C // self.num_heads
        if self.use_new_attention_order:
            q, k, v = qkv.reshape(B, 3, self.num_heads, c, H * W).mT.unbind(1)
        else:
            q, k, v = qkv.reshape(B, self.num_heads, 3, c, H * W).mT.unbind(2)
        h = F.scaled_dot_product_attention(q, k, v).mT.reshape(B, C, H * W)
        result: Tensor = x + self.proj_out(h).reshape(B, C, H, W)
        return result


class PointwiseConv1d(nn.Conv1d):
    """Convolution of width 1 on [B, in_channels, L], its weights cast to the dtype of its input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return F.conv1d(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Downsample(nn.Module):
    """Half the resolution of [B, channels, H, W]: a convolution, or the mean of 2×2 pixels."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.op = StridedConv2d(channels, channels, 3, stride=2, padding=1) if use_conv else None

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = F.avg_pool2d(x, 2) if self.op is None else self.op(x)
        return result


class StridedConv2d(nn.Conv2d):
    """Convolution with a stride, its weights cast to the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.conv2d(x, weight, bias, stride=2, padding=1)


class Upsample(nn.Module):
    """Twice the resolution of [B, channels, H, W]: each pixel four times, then a convolution."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3) if use_conv else None

    def forward(self, x: Tensor) -> Tensor:
        x = _resampled(x, "up")
        result: Tensor = x if self.conv is None else self.conv(x)
        return result


class GroupNorm32(nn.GroupNorm):
    """Group norm of [B, channels, ...] in 32 groups."""

    def __init__(self, channels: int) -> None:
        if channels % NUM_GROUPS:
            raise ValueError(
                f"{channels} channels do not split into the {NUM_GROUPS} groups of OpenAI's norms"
            )
        super().__init__(NUM_GROUPS, channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


def _resampled(x: Tensor, direction: Direction) -> Tensor:
    if direction == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest")
