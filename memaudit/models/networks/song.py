"""SongUNet: DDPM++ and NCSN++ (Song et al., arXiv:2011.13456) as EDM restates them.

DDPM++ is positional embedding, standard encoder and decoder, filter [1, 1]. NCSN++ is Fourier
embedding, residual encoder, standard decoder, filter [1, 3, 3, 1], channel_mult_noise 2.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.networks.layers import (
    Conv2d,
    ConvThenDown,
    FourierEmbedding,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    Resample,
    UNetBlock,
    drop_labels,
    level_resolutions,
)
from memaudit.models.resolution import Resolution

Embedding = Literal["positional", "fourier"]
Encoder = Literal["standard", "skip", "residual"]
Decoder = Literal["standard", "skip"]

SQRT_HALF = math.sqrt(0.5)
EPS = 1e-6


class SongUNet(nn.Module):
    """U-Net F(x; noise_labels, class_labels, augment_labels) of [B, in_channels, H, W] images.

    Level i has height and width of the images / 2^i, and model_channels · channel_mult[i] channels.

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
        embedding_type: how the noise label is embedded.
        channel_mult_noise: multiplier of the noise embedding's channels.
        encoder_type: "skip" adds the downsampled input at every level, "residual" a learned
            pyramid of it, "standard" neither.
        decoder_type: "skip" sums an output of every level, "standard" takes the last one's.
        resample_filter: taps of the resampling filter, an even number.
        skip_connections: 0 or 1 for each encoder → decoder skip, in the encoder's order (Gu et
            al., arXiv:2310.02664): a skip of 0 feeds zeros to the decoder. None keeps all.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: Embedding = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Encoder = "standard",
        decoder_type: Decoder = "standard",
        resample_filter: Sequence[float] = (1, 1),
        skip_connections: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check_choice("embedding_type", embedding_type, Embedding)
        _check_choice("encoder_type", encoder_type, Encoder)
        _check_choice("decoder_type", decoder_type, Decoder)
        self.resolutions = level_resolutions(img_resolution, len(channel_mult))
        num_skips = len(channel_mult) * (num_blocks + 1)
        if skip_connections is None:
            skip_connections = [1] * num_skips
        if len(skip_connections) != num_skips or not set(skip_connections) <= {0, 1}:
            raise ValueError(
                f"skip_connections must be {num_skips} zeros or ones ({len(channel_mult)} levels "
                f"of num_blocks + 1 = {num_blocks + 1}), got {list(skip_connections)}"
            )
        self.skip_connections = [bool(keep) for keep in skip_connections]
        self.num_blocks = num_blocks
        self.label_dropout = label_dropout
        self.label_scale = math.sqrt(label_dim)
        self.encoder_type = encoder_type
        self.decoder_type = decoder_type
        noise_channels = model_channels * channel_mult_noise
        emb_channels = model_channels * channel_mult_emb
        channels = [model_channels * mult for mult in channel_mult]
        taps = resample_filter
        block = partial(
            UNetBlock,
            emb_channels=emb_channels,
            taps=taps,
            dropout=dropout,
            adaptive_scale=False,
            weighted_skip=True,
            skip_scale=SQRT_HALF,
            eps=EPS,
        )

        # Embedding of noise level, class and augmentation.
        self.map_noise: nn.Module
        if embedding_type == "positional":
            self.map_noise = PositionalEmbedding(noise_channels, endpoint=True)
        else:
            self.map_noise = FourierEmbedding(noise_channels)
        self.map_label = Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)

        # Encoder.
        self.enc = nn.ModuleDict()
        skip_channels = []
        cur, aux = in_channels, in_channels
        for level, size in enumerate(self.resolutions):
            name = str(size)
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(cur, model_channels, 3)
                cur = model_channels
            else:
                self.enc[f"{name}_down"] = block(cur, cur, direction="down")
                if encoder_type == "skip":
                    self.enc[f"{name}_aux_down"] = Resample("down", taps)
                    self.enc[f"{name}_aux_skip"] = Conv2d(aux, cur, 1)
                elif encoder_type == "residual":
                    self.enc[f"{name}_aux_residual"] = ConvThenDown(aux, cur, 3, taps=taps)
                    aux = cur
            skip_channels.append(cur)
            for i in range(num_blocks):
                num_heads = int(size.side in attn_resolutions)
                self.enc[f"{name}_block{i}"] = block(cur, channels[level], num_heads=num_heads)
                cur = channels[level]
                skip_channels.append(cur)

        # Decoder.
        self.dec = nn.ModuleDict()
        for level, size in reversed(list(enumerate(self.resolutions))):
            name = str(size)
            if size == self.resolutions[-1]:
                self.dec[f"{name}_in0"] = block(cur, cur, num_heads=1)
                self.dec[f"{name}_in1"] = block(cur, cur)
            else:
                self.dec[f"{name}_up"] = block(cur, cur, direction="up")
            for i in range(num_blocks + 1):
                num_heads = int(size.side in attn_resolutions and i == num_blocks)
                self.dec[f"{name}_block{i}"] = block(
                    cur + skip_channels.pop(), channels[level], num_heads=num_heads
                )
                cur = channels[level]
            if decoder_type == "skip" and size != self.resolutions[-1]:
                self.dec[f"{name}_aux_up"] = Resample("up", taps)
            if decoder_type == "skip" or level == 0:
                self.dec[f"{name}_aux_norm"] = GroupNorm(cur, eps=EPS)
                self.dec[f"{name}_aux_conv"] = Conv2d(cur, out_channels, 3)

        self._initialize()

    def _initialize(self) -> None:
        """Uniform weights of variance 2 / (fan_in + fan_out), zero biases (Song et al.).

        The last layer of every branch is nearly zero, so that a new block passes its input on. q,
        k and v are drawn as three layers of a tenth of the variance; one layer that makes all
        three has twice their fans, hence √0.2.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                gain = 1.0
                if name.endswith(("conv1", "proj", "aux_conv")):
                    gain = 1e-5
                elif name.endswith("qkv"):
                    gain = math.sqrt(0.2)
                nn.init.xavier_uniform_(module.weight, gain=gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

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
        x, skips = self._encode(x, emb)
        skips = [
            skip if keep else torch.zeros_like(skip)
            for skip, keep in zip(skips, self.skip_connections, strict=True)
        ]
        return self._decode(x, emb, skips)

    def _embed(
        self,
        batch_size: int,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None,
    ) -> Tensor:
        """The embedding of noise level, class and augmentation: float32 [B or 1, emb_channels]."""
        emb = self.map_noise(noise_labels)
        emb = emb.roll(emb.shape[1] // 2, dims=1)  # [cos | sin] → [sin | cos]
        if self.map_label is not None:
            assert class_labels is not None
            if self.training and self.label_dropout:
                class_labels = drop_labels(class_labels, self.label_dropout, batch_size)
            emb = emb + self.map_label(class_labels * self.label_scale)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = F.silu(self.map_layer0(emb))
        return F.silu(self.map_layer1(emb))

    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The features of the lowest level, and what each layer hands to the decoder."""
        skips = []
        aux = x
        for level, size in enumerate(self.resolutions):
            name = str(size)
            if level == 0:
                x = self.enc[f"{name}_conv"](x)
            else:
                x = self.enc[f"{name}_down"](x, emb)
                if self.encoder_type == "skip":
                    aux = self.enc[f"{name}_aux_down"](aux)
                    x = x + self.enc[f"{name}_aux_skip"](aux)
                elif self.encoder_type == "residual":
                    x = aux = (x + self.enc[f"{name}_aux_residual"](aux)) * SQRT_HALF
            skips.append(x)
            for i in range(self.num_blocks):
                x = self.enc[f"{name}_block{i}"](x, emb)
                skips.append(x)
        return x, skips

    def _decode(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        """The output, [B, out_channels, H, W], from the lowest level and the skips."""
        out: Tensor | None = None
        for size in reversed(self.resolutions):
            name = str(size)
            if size == self.resolutions[-1]:
                x = self.dec[f"{name}_in0"](x, emb)
                x = self.dec[f"{name}_in1"](x, emb)
            else:
                x = self.dec[f"{name}_up"](x, emb)
            for i in range(self.num_blocks + 1):
                x = self.dec[f"{name}_block{i}"](torch.cat([x, skips.pop()], dim=1), emb)
            if self.decoder_type == "skip" or size == self.resolutions[0]:
                h = F.silu(self.dec[f"{name}_aux_norm"](x))
                h = self.dec[f"{name}_aux_conv"](h)
                out = h if out is None else self.dec[f"{name}_aux_up"](out) + h
        assert out is not None
        return out


def _check_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
