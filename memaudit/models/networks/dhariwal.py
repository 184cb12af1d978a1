"""DhariwalUNet: ADM (Dhariwal and Nichol, arXiv:2105.05233) as EDM restates it."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.networks.layers import (
    Conv2d,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    UNetBlock,
    drop_labels,
    level_resolutions,
)
from memaudit.models.resolution import Resolution

EPS = 1e-5
CHANNELS_PER_HEAD = 64


class DhariwalUNet(nn.Module):
    """U-Net F(x; noise_labels, class_labels, augment_labels).

    Level i has height and width of the images / 2^i, and model_channels · channel_mult[i] channels.
    Attention has one head for every 64 channels, hence none in levels of fewer.

    Args:
        img_resolution: height and width of the images, each divisible by 2^(levels - 1).
        in_channels, out_channels: channels of the images and of the result.
        label_dim: classes; 0 for an unconditional network.
        augment_dim: augmentation labels; 0 for none.
        model_channels: base number of channels.
        channel_mult: multiplier of each level.
        channel_mult_emb: multiplier of the embedding's channels.
        num_blocks: residual blocks of each level's encoder; the decoder has one more.
        attn_resolutions: shorter sides of the levels with self-attention.
        dropout: probability of dropping a feature in a block, in training.
        label_dropout: probability of dropping an image's class label, in training.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.resolutions = level_resolutions(img_resolution, len(channel_mult))
        self.num_blocks = num_blocks
        self.label_dropout = label_dropout
        emb_channels = model_channels * channel_mult_emb
        channels = [model_channels * mult for mult in channel_mult]
        block = partial(
            UNetBlock,
            emb_channels=emb_channels,
            dropout=dropout,
            adaptive_scale=True,
            weighted_skip=False,
            skip_scale=1.0,
            eps=EPS,
        )

        # Embedding of noise level, augmentation and class.
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)
        self.map_label = Linear(label_dim, emb_channels, bias=False) if label_dim else None

        # Encoder.
        self.enc = nn.ModuleDict()
        skip_channels = []
        cur = channels[0]
        for level, size in enumerate(self.resolutions):
            name = str(size)
            num_heads = channels[level] // CHANNELS_PER_HEAD if size.side in attn_resolutions else 0
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(in_channels, cur, 3)
            else:
                self.enc[f"{name}_down"] = block(cur, cur, direction="down")
            skip_channels.append(cur)
            for i in range(num_blocks):
                self.enc[f"{name}_block{i}"] = block(cur, channels[level], num_heads=num_heads)
                cur = channels[level]
                skip_channels.append(cur)

        # Decoder.
        self.dec = nn.ModuleDict()
        for level, size in reversed(list(enumerate(self.resolutions))):
            name = str(size)
            num_heads = channels[level] // CHANNELS_PER_HEAD if size.side in attn_resolutions else 0
            if size == self.resolutions[-1]:
                self.dec[f"{name}_in0"] = block(cur, cur, num_heads=cur // CHANNELS_PER_HEAD)
                self.dec[f"{name}_in1"] = block(cur, cur)
            else:
                self.dec[f"{name}_up"] = block(cur, cur, direction="up")
            for i in range(num_blocks + 1):
                self.dec[f"{name}_block{i}"] = block(
                    cur + skip_channels.pop(), channels[level], num_heads=num_heads
                )
                cur = channels[level]
        self.out_norm = GroupNorm(cur, eps=EPS)
        self.out_conv = Conv2d(cur, out_channels, 3)

        self._initialize()

    def _initialize(self) -> None:
        """Uniform weights and biases within ±√(1 / fan_in), as torch draws them, with ADM's two
        exceptions: the last layer of every branch is zero, class embeddings are N(0, 1)."""
        for name, module in self.named_modules():
            if name.endswith(("conv1", "proj", "out_conv")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Apply the network.

        Args:
            x: scaled noisy images, [B, in_channels, H, W].
            noise_labels: c_noise, float32 [B] or [1].
            class_labels: float32 [B or 1, label_dim]; needed if label_dim is not 0.
            augment_labels: float32 [B or 1, augment_dim], or None for no augmentation.

        Returns:
            [B, out_channels, H, W] in the dtype of x.
        """
        emb = self._embed(len(x), noise_labels, class_labels, augment_labels)
        skips = []
        for level, size in enumerate(self.resolutions):
            name = str(size)
            x = self.enc[f"{name}_down"](x, emb) if level else self.enc[f"{name}_conv"](x)
            skips.append(x)
            for i in range(self.num_blocks):
                x = self.enc[f"{name}_block{i}"](x, emb)
                skips.append(x)
        for size in reversed(self.resolutions):
            name = str(size)
            if size == self.resolutions[-1]:
                x = self.dec[f"{name}_in0"](x, emb)
                x = self.dec[f"{name}_in1"](x, emb)
            else:
                x = self.dec[f"{name}_up"](x, emb)
            for i in range(self.num_blocks + 1):
                x = self.dec[f"{name}_block{i}"](torch.cat([x, skips.pop()], dim=1), emb)
        out: Tensor = self.out_conv(F.silu(self.out_norm(x)))
        return out

    def _embed(
        self,
        batch_size: int,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None,
    ) -> Tensor:
        """The embedding of noise level, class and augmentation: float32 [B or 1, emb_channels]."""
        emb = self.map_noise(noise_labels)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = F.silu(self.map_layer0(emb))
        emb = self.map_layer1(emb)
        if self.map_label is not None:
            assert class_labels is not None
            if self.training and self.label_dropout:
                class_labels = drop_labels(class_labels, self.label_dropout, batch_size)
            emb = emb + self.map_label(class_labels)
        return F.silu(emb)
