"""ADM as its authors describe it (arXiv:2105.05233), with the parameter names of their code.

Written for these tests from the paper and the published names, slow and plain: the truth for the
conversion of their weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResBlock(nn.Module):
    """Residual block with scale-shift norm; halves or doubles the resolution where asked."""

    def __init__(self, channels: int, emb: int, out: int, change: str | None = None) -> None:
        super().__init__()
        self.change = change
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(channels, out, 1) if out != channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[1](self.in_layers[0](x))
        if self.change == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.change == "up":
            h, x = F.interpolate(h, scale_factor=2), F.interpolate(x, scale_factor=2)
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


class AttentionBlock(nn.Module):
    """Self-attention, 64 channels a head; q, k and v lie in one of two orders."""

    def __init__(self, channels: int, order: str) -> None:
        super().__init__()
        self.order = order
        self.heads = channels // 64
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        B, C, H, W = x.shape
        flat = x.reshape(B, C, H * W)
        qkv = self.qkv(self.norm(flat))
        if self.order == "head first":
            q, k, v = qkv.reshape(B, self.heads, 3, 64, H * W).unbind(2)
        else:
            q, k, v = qkv.reshape(B, 3, self.heads, 64, H * W).unbind(1)
        weights = torch.einsum("bhct,bhcs->bhts", q / math.sqrt(64), k).softmax(dim=-1)
        a = torch.einsum("bhts,bhcs->bhct", weights, v).reshape(B, C, H * W)
        return (flat + self.proj_out(a)).reshape(B, C, H, W)


class Steps(nn.Sequential):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb)
        return x


class UNetModel(nn.Module):
    """F(x; t, class index) with attention at the resolutions `attention`."""

    def __init__(
        self,
        *,
        size: int,
        out_channels: int,
        model_channels: int,
        channel_mult: list[int],
        num_blocks: int,
        attention: list[int],
        num_classes: int,
        order: str,
    ) -> None:
        super().__init__()
        self.model_channels = model_channels
        emb = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb)
        )
        self.label_emb = nn.Embedding(num_classes, emb)
        ch = channel_mult[0] * model_channels
        self.input_blocks = nn.ModuleList([Steps(nn.Conv2d(3, ch, 3, padding=1))])
        skips = [ch]
        for level, mult in enumerate(channel_mult):
            for _ in range(num_blocks):
                layers: list[nn.Module] = [ResBlock(ch, emb, mult * model_channels)]
                ch = mult * model_channels
                if size in attention:
                    layers.append(AttentionBlock(ch, order))
                self.input_blocks.append(Steps(*layers))
                skips.append(ch)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(Steps(ResBlock(ch, emb, ch, "down")))
                skips.append(ch)
                size //= 2
        self.middle_block = Steps(
            ResBlock(ch, emb, ch), AttentionBlock(ch, order), ResBlock(ch, emb, ch)
        )
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(num_blocks + 1):
                layers = [ResBlock(ch + skips.pop(), emb, mult * model_channels)]
                ch = mult * model_channels
                if size in attention:
                    layers.append(AttentionBlock(ch, order))
                if level and i == num_blocks:
                    layers.append(ResBlock(ch, emb, ch, "up"))
                    size *= 2
                self.output_blocks.append(Steps(*layers))
        self.out = nn.Sequential(
            nn.GroupNorm(32, ch), nn.SiLU(), nn.Conv2d(ch, out_channels, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor, class_index: Tensor) -> Tensor:
        half = self.model_channels // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half) / half)
        angle = t[:, None] * freqs
        emb = self.time_embed(torch.cat([angle.cos(), angle.sin()], dim=1))
        emb = emb + self.label_emb(class_index)
        skips = []
        for block in self.input_blocks:
            x = block(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x)
