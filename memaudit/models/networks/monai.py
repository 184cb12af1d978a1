"""MONAI's DiffusionModelUNet for images (Apache-2.0), without cross-attention.

Modules carry MONAI's names, so that its weights load without a table. It is latent diffusion's
U-Net (Rombach et al., arXiv:2112.10752) with the embedding of time and class added.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.networks.layers import level_resolutions
from memaudit.models.networks.levels import Level, check_per_level, go_down, go_up
from memaudit.models.networks.time_embedding import cos_sin
from memaudit.models.resolution import Resolution

EPS = 1e-6


class MONAIUNet(nn.Module):
    """DiffusionModelUNet with two spatial dimensions and without conditioning.

    Args:
        img_resolution: height and width of the images, each divisible by 2^(levels - 1).
        in_channels: channels of the images.
        out_channels: channels that are returned.
        label_dim: number of classes; 0 for an unconditional network.
        channels: width of each level; the embedding has four times as many as the first.
        blocks_per_level: residual blocks of each level, one more on the way up.
        has_attention: 1 for each level with attention after its residual blocks, else 0.
        head_channels: channels of an attention head, per level.
        norm_num_groups: groups of the norms.
        resblock_updown: up- and downsampling are residual blocks.
        include_fc: attention ends in a linear layer.
        use_combined_linear: one layer gives q, k and v.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        channels: Sequence[int] = (32, 64, 64, 64),
        blocks_per_level: Sequence[int] = (2, 2, 2, 2),
        has_attention: Sequence[int] = (0, 0, 1, 1),
        head_channels: Sequence[int] = (8, 8, 8, 8),
        norm_num_groups: int = 32,
        resblock_updown: bool = False,
        include_fc: bool = True,
        use_combined_linear: bool = False,
    ) -> None:
        super().__init__()
        num_levels = len(channels)
        check_per_level(
            num_levels,
            blocks_per_level=blocks_per_level,
            has_attention=has_attention,
            head_channels=head_channels,
        )
        self.resolutions = level_resolutions(img_resolution, num_levels)
        self.num_channels = channels[0]
        emb_channels = 4 * channels[0]

        def resnet(cur: int, width: int, **options: bool) -> _ResnetBlock:
            return _ResnetBlock(cur, width, emb_channels, norm_num_groups, **options)

        def attention(level: int) -> _Attention:
            return _Attention(
                channels[level],
                head_channels[level],
                norm_num_groups,
                include_fc=include_fc,
                use_combined_linear=use_combined_linear,
            )

        self.conv_in = _Convolution(in_channels, channels[0], 3)
        self.time_embed = nn.Sequential(
            nn.Linear(channels[0], emb_channels),
            nn.SiLU(),
            nn.Linear(emb_channels, emb_channels),
        )
        self.class_embedding = nn.Embedding(label_dim, emb_channels) if label_dim else None

        cur = channels[0]
        skips = [cur]
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            stage = _DownStage()
            for _ in range(blocks_per_level[level]):
                stage.add(resnet(cur, width), attention(level) if has_attention[level] else None)
                cur = width
                skips.append(cur)
            if level < num_levels - 1:
                stage.downsampler = resnet(cur, cur, down=True) if resblock_updown else _Down(cur)
                skips.append(cur)
            self.down_blocks.append(stage)

        self.middle_block = _Middle(resnet(cur, cur), attention(num_levels - 1), resnet(cur, cur))

        self.up_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(channels))):
            last = _UpStage()
            for _ in range(blocks_per_level[level] + 1):
                last.add(
                    resnet(cur + skips.pop(), width),
                    attention(level) if has_attention[level] else None,
                )
                cur = width
            if level:
                last.upsampler = resnet(cur, cur, up=True) if resblock_updown else _Up(cur)
            self.up_blocks.append(last)
        self.out = nn.Sequential(
            nn.GroupNorm(norm_num_groups, cur, eps=EPS),
            nn.SiLU(),
            _Convolution(cur, out_channels, 3),
        )

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """Apply the network.

        Args:
            x: scaled noisy images, [B, in_channels, H, W].
            noise_labels: time steps, float32 [B] or [1].
            class_labels: float32 [B or 1, label_dim]; needed if label_dim is not 0.

        Returns:
            [B, out_channels, H, W].
        """
        emb = self.time_embed(cos_sin(noise_labels, self.num_channels))
        if self.class_embedding is not None:
            assert class_labels is not None
            emb = emb + class_labels @ self.class_embedding.weight
        emb = F.silu(emb)
        x = self.conv_in(x)
        skips = [x]
        for stage in self.down_blocks:
            x = stage(x, emb, skips)
        x = self.middle_block(x, emb)
        for stage in self.up_blocks:
            x = stage(x, emb, skips)
        out: Tensor = self.out(x)
        return out


class _Convolution(nn.Module):
    """A convolution under the name that MONAI's wrapper gives it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _Stage(nn.Module):
    """The residual blocks of one level, each with attention or none."""

    def __init__(self) -> None:
        super().__init__()
        self.resnets = nn.ModuleList()
        self.attentions = nn.ModuleList()

    def add(self, block: nn.Module, attention: nn.Module | None) -> None:
        self.resnets.append(block)
        if attention is not None:
            self.attentions.append(attention)


class _DownStage(_Stage):
    """One level on the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.downsampler: nn.Module | None = None

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        return go_down(x, emb, skips, Level(self.resnets, self.attentions, self.downsampler))


class _UpStage(_Stage):
    """One level on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.upsampler: nn.Module | None = None

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        return go_up(x, emb, skips, Level(self.resnets, self.attentions, self.upsampler))


class _Middle(nn.Module):
    """The blocks of the lowest resolution, with attention between them."""

    def __init__(self, resnet_1: nn.Module, attention: nn.Module, resnet_2: nn.Module) -> None:
        super().__init__()
        self.resnet_1 = resnet_1
        self.attention = attention
        self.resnet_2 = resnet_2

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        out: Tensor = self.resnet_2(self.attention(self.resnet_1(x, emb)), emb)
        return out


class _ResnetBlock(nn.Module):
    """Residual block; the embedding [B or 1, emb_channels] comes in after its SiLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        num_groups: int,
        *,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.down, self.up = down, up
        self.norm1 = nn.GroupNorm(num_groups, in_channels, eps=EPS)
        self.conv1 = _Convolution(in_channels, out_channels, 3)
        self.time_emb_proj = nn.Linear(emb_channels, out_channels)
        self.norm2 = nn.GroupNorm(num_groups, out_channels, eps=EPS)
        self.conv2 = _Convolution(out_channels, out_channels, 3)
        self.skip_connection: nn.Module | None = None
        if in_channels != out_channels:
            self.skip_connection = _Convolution(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.down:
            x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        elif self.up:
            x, h = (F.interpolate(each, scale_factor=2.0, mode="nearest") for each in (x, h))
        h = self.conv1(h)
        h = h + self.time_emb_proj(emb)[:, :, None, None].to(h.dtype)
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + (x if self.skip_connection is None else self.skip_connection(x))
        return out


class _Attention(nn.Module):
    """Self-attention among the pixels, added to its input."""

    def __init__(
        self,
        channels: int,
        head_channels: int,
        num_groups: int,
        *,
        include_fc: bool,
        use_combined_linear: bool,
    ) -> None:
        super().__init__()
        if channels % head_channels:
            raise ValueError(
                f"head_channels is {head_channels}, into which {channels} channels do not split"
            )
        self.num_heads = channels // head_channels
        self.norm = nn.GroupNorm(num_groups, channels, eps=EPS)
        self.attn = _Projections(
            channels, include_fc=include_fc, use_combined_linear=use_combined_linear
        )

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        parts = self.attn.qkv_of(self.norm(x).flatten(2).mT)
        q, k, v = (part.reshape(B, H * W, self.num_heads, -1).transpose(1, 2) for part in parts)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        out: Tensor = x + self.attn(h).mT.reshape(x.shape)
        return out


class _Projections(nn.Module):
    """The layers before and after attention, on [B, HW, channels]."""

    def __init__(self, channels: int, *, include_fc: bool, use_combined_linear: bool) -> None:
        super().__init__()
        self.use_combined_linear = use_combined_linear
        if use_combined_linear:
            self.qkv = nn.Linear(channels, 3 * channels)
        else:
            self.to_q = nn.Linear(channels, channels)
            self.to_k = nn.Linear(channels, channels)
            self.to_v = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels) if include_fc else nn.Identity()

    def qkv_of(self, h: Tensor) -> tuple[Tensor, ...]:
        """q, k and v, each of the shape of h."""
        if self.use_combined_linear:
            parts: tuple[Tensor, ...] = self.qkv(h).chunk(3, dim=2)
            return parts
        return self.to_q(h), self.to_k(h), self.to_v(h)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.out_proj(h)
        return out


class _Down(nn.Module):
    """Half the resolution, by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = _Convolution(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class _Up(nn.Module):
    """Twice the resolution: each pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.postconv = _Convolution(channels, channels, 3)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        out: Tensor = self.postconv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
