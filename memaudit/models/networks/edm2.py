"""EDM2's U-Net: every layer keeps the magnitude of what passes through it.

Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models",
arXiv:2312.02696; equation numbers are that paper's. There are no biases and no norms with weights:
weights are normalized where they are used, and sums and concatenations are scaled so that inputs
of unit variance give an output of unit variance.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.networks.layers import Direction, attention, level_resolutions
from memaudit.models.resolution import Resolution


def normalize(x: Tensor, dim: Sequence[int], eps: float = 1e-4) -> Tensor:
    """x scaled to root mean square 1 over the axes `dim`; norms are taken in float32."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    rms = norm * math.sqrt(norm.numel() / x.numel())
    return x / (rms + eps).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over the standard deviation of SiLU(n), n ~ N(0, 1) (Eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 − t) a + t b, scaled to keep unit variance (Eq. 88)."""
    return torch.lerp(a, b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Concatenation along channels in which b contributes a share t (Eq. 103)."""
    channels_a, channels_b = a.shape[1], b.shape[1]
    scale = math.sqrt((channels_a + channels_b) / ((1 - t) ** 2 + t**2))
    weight_a = scale / math.sqrt(channels_a) * (1 - t)
    weight_b = scale / math.sqrt(channels_b) * t
    return torch.cat([weight_a * a, weight_b * b], dim=1)


class MPFourier(nn.Module):
    """√2 cos(f c + p) of noise labels c [B] → [B, channels] (Eq. 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, noise_labels: Tensor) -> Tensor:
        return torch.addcmul(self.phases, noise_labels[:, None], self.freqs).cos() * math.sqrt(2)


class MPConv(nn.Module):
    """Linear layer (kernel None) or convolution, its weight normalized for every output (Eq. 47).

    In training the stored weight is normalized as well, in place: forced weight normalization
    (Eq. 66), which keeps the effective learning rate from decaying.
    """

    _fixed: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, kernel: int | None = None) -> None:
        super().__init__()
        size = () if kernel is None else (kernel, kernel)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *size))
        self.register_buffer("_fixed", None, persistent=False)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """x [B, in_channels] or [B, in_channels, H, W]; the result is `gain` times larger."""
        dims = range(1, self.weight.ndim)
        if self.training:
            with torch.no_grad():
                self.weight.copy_(normalize(self.weight, tuple(dims)))
        w = self._weight(gain).to(x.dtype) if self._fixed is None else self._fixed
        return F.linear(x, w) if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)

    def _weight(self, gain: Tensor | float) -> Tensor:
        w = normalize(self.weight.float(), tuple(range(1, self.weight.ndim)))
        return w * (gain / math.sqrt(w[0].numel()))

    def fix(self, dtype: torch.dtype, gain: Tensor | float = 1.0) -> None:
        """Normalize the weight once, for a network whose weights no longer change; `gain` is that
        of every later call. A network of this size spends 3 ms on it in every evaluation."""
        with torch.no_grad():
            self._fixed = self._weight(gain).to(dtype)

    def train(self, mode: bool = True) -> "MPConv":
        if mode:
            self._fixed = None
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._fixed = None
        super()._load_from_state_dict(*args)


class Block(nn.Module):
    """Residual block, its features scaled by the embedding, and attention if asked for.

    Args:
        in_channels, out_channels: channels of x and of the result.
        emb_channels: channels of the embedding.
        encoder: an encoder block changes channels first and then normalizes every pixel; a
            decoder block changes them where the branches meet.
        direction: halve ("down") or double ("up") the resolution first.
        num_heads: attention heads after the convolutions; 0 for no attention.
        dropout: probability of dropping a feature, in training.
        res_balance, attn_balance: share of the branch in the sum with its input.
        clip_act: bound on the magnitude of the result.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        encoder: bool,
        direction: Direction | None = None,
        num_heads: int = 0,
        dropout: float,
        res_balance: float,
        attn_balance: float,
        clip_act: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.direction = direction
        self.num_heads = num_heads
        self.dropout = dropout
        self.res_balance = res_balance
        self.attn_balance = attn_balance
        self.clip_act = clip_act

        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(out_channels if encoder else in_channels, out_channels, 3)
        self.emb_linear = MPConv(emb_channels, out_channels)
        self.conv_res1 = MPConv(out_channels, out_channels, 3)
        changes = in_channels != out_channels
        self.conv_skip = MPConv(in_channels, out_channels, 1) if changes else None
        if num_heads:
            self.attn_qkv = MPConv(out_channels, out_channels * 3, 1)
            self.attn_proj = MPConv(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: features, [B, in_channels, H, W].
            emb: embedding of noise level and class, [B or 1, emb_channels].

        Returns:
            [B, out_channels, H', W'] in the dtype of x, where H' is H, H/2 ("down") or 2H ("up").
        """
        if self.direction == "down":
            x = F.avg_pool2d(x, 2)
        elif self.direction == "up":
            x = F.interpolate(x, scale_factor=2)
        if self.encoder:
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), [1])

        scale = 1 + self.emb_linear(emb, gain=self.emb_gain)[:, :, None, None]
        h = self.conv_res0(mp_silu(x))
        h = mp_silu(h * scale.to(h.dtype))
        h = self.conv_res1(F.dropout(h, self.dropout, self.training))

        if not self.encoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, h, self.res_balance)
        if self.num_heads:
            h = self.attn_proj(self._cosine_attention(self.attn_qkv(x)))
            x = mp_sum(x, h, self.attn_balance)
        return x.clip(-self.clip_act, self.clip_act)

    def _cosine_attention(self, qkv: Tensor) -> Tensor:
        """Attention with q, k and v [B, heads, c, HW] of unit magnitude (paper, B.3)."""
        B, _, H, W = qkv.shape
        unit = normalize(qkv.reshape(B, self.num_heads, -1, 3, H * W), [2])
        return attention(unit.reshape(qkv.shape), self.num_heads)


class EDM2UNet(nn.Module):
    """U-Net F(x; noise_labels, class_labels) of EDM2.

    Level i has height and width of the images / 2^i, and model_channels · channel_mult[i] channels.

    Args:
        img_resolution: height and width of the images, each divisible by 2^(levels - 1).
        img_channels: channels of the images and of the result.
        label_dim: classes; 0 for an unconditional network.
        model_channels: base number of channels.
        channel_mult: multiplier of each level.
        channel_mult_noise: multiplier of the noise embedding's channels; None for channel_mult[0].
        channel_mult_emb: multiplier of the embedding's channels; None for the largest channel_mult.
        num_blocks: residual blocks of each level's encoder; the decoder has one more.
        attn_resolutions: shorter sides of the levels with self-attention.
        label_balance: share of the class in the embedding.
        concat_balance: share of a skip connection where it is concatenated.
        channels_per_head: channels of an attention head.
        dropout: probability of dropping a feature in a block, in training.
        res_balance, attn_balance: share of a block's branch in the sum with its input.
        clip_act: bound on the magnitude of a block's result.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        img_channels: int,
        *,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float = 256.0,
    ) -> None:
        super().__init__()
        self.resolutions = level_resolutions(img_resolution, len(channel_mult))
        self.num_blocks = num_blocks
        self.label_balance = label_balance
        self.label_scale = math.sqrt(label_dim)
        self.concat_balance = concat_balance
        noise_channels = model_channels * (channel_mult_noise or channel_mult[0])
        emb_channels = model_channels * (channel_mult_emb or max(channel_mult))
        channels = [model_channels * mult for mult in channel_mult]
        block = partial(
            Block,
            emb_channels=emb_channels,
            dropout=dropout,
            res_balance=res_balance,
            attn_balance=attn_balance,
            clip_act=clip_act,
        )

        self.out_gain = nn.Parameter(torch.zeros([]))

        # Embedding of noise level and class.
        self.emb_fourier = MPFourier(noise_channels)
        self.emb_noise = MPConv(noise_channels, emb_channels)
        self.emb_label = MPConv(label_dim, emb_channels) if label_dim else None

        # Encoder.
        self.enc = nn.ModuleDict()
        skip_channels = []
        cur = channels[0]
        for level, size in enumerate(self.resolutions):
            name = str(size)
            num_heads = channels[level] // channels_per_head if size.side in attn_resolutions else 0
            if level == 0:
                self.enc[f"{name}_conv"] = MPConv(img_channels + 1, cur, 3)
            else:
                self.enc[f"{name}_down"] = block(cur, cur, encoder=True, direction="down")
            skip_channels.append(cur)
            for i in range(num_blocks):
                self.enc[f"{name}_block{i}"] = block(
                    cur, channels[level], encoder=True, num_heads=num_heads
                )
                cur = channels[level]
                skip_channels.append(cur)

        # Decoder.
        self.dec = nn.ModuleDict()
        for level, size in reversed(list(enumerate(self.resolutions))):
            name = str(size)
            num_heads = channels[level] // channels_per_head if size.side in attn_resolutions else 0
            if size == self.resolutions[-1]:
                self.dec[f"{name}_in0"] = block(
                    cur, cur, encoder=False, num_heads=cur // channels_per_head
                )
                self.dec[f"{name}_in1"] = block(cur, cur, encoder=False)
            else:
                self.dec[f"{name}_up"] = block(cur, cur, encoder=False, direction="up")
            for i in range(num_blocks + 1):
                self.dec[f"{name}_block{i}"] = block(
                    cur + skip_channels.pop(), channels[level], encoder=False, num_heads=num_heads
                )
                cur = channels[level]
        self.out_conv = MPConv(cur, img_channels, 3)

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """Apply the network.

        Args:
            x: scaled noisy images, [B, img_channels, H, W].
            noise_labels: c_noise, float32 [B] or [1].
            class_labels: float32 [B or 1, label_dim]; needed if label_dim is not 0.

        Returns:
            [B, img_channels, H, W] in the dtype of x.
        """
        emb = self.emb_noise(self.emb_fourier(noise_labels))
        if self.emb_label is not None:
            assert class_labels is not None
            label = self.emb_label(class_labels * self.label_scale)
            emb = mp_sum(emb, label, self.label_balance)
        emb = mp_silu(emb)

        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # stands in for biases
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
                x = mp_cat(x, skips.pop(), self.concat_balance)
                x = self.dec[f"{name}_block{i}"](x, emb)
        out: Tensor = self.out_conv(x, gain=self.out_gain)
        return out

    @property
    def are_weights_fixed(self) -> bool:
        """Whether `fix_weights` was called since the weights were loaded or trained."""
        return self.out_conv._fixed is not None

    def fix_weights(self, dtype: torch.dtype) -> None:
        """Normalize all weights once: those of the embeddings in float32, the others in `dtype`."""
        for module in self.modules():
            if isinstance(module, MPConv):
                module.fix(dtype if module.weight.ndim == 4 else torch.float32)
        for module in self.modules():
            if isinstance(module, Block):
                module.emb_linear.fix(torch.float32, module.emb_gain)
        self.out_conv.fix(dtype, self.out_gain)
