"""OpenAI's U-Net as its authors describe it (arXiv:2102.09672, arXiv:2105.05233), with the
parameter names of their code.

Written for these tests from the papers and the published names, slow and plain: the truth for the
network that opens their weights.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.GroupNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)


class ResBlock(nn.Module):
    """Residual block; halves or doubles the resolution where asked."""

    def __init__(
        self, channels: int, emb: int, out: int, scale_shift: bool, change: str | None = None
    ) -> None:
        super().__init__()
        self.change, self.scale_shift = change, scale_shift
        self.in_layers = nn.Sequential(
            Norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, (1 + scale_shift) * out))
        self.out_layers = nn.Sequential(
            Norm(out), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(channels, out, 1) if out != channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[1](self.in_layers[0](x))
        if self.change == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.change == "up":
            h, x = F.interpolate(h, scale_factor=2), F.interpolate(x, scale_factor=2)
        h = self.in_layers[2](h)
        shift = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + shift)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Self-attention; q, k and v lie in one of two orders."""

    def __init__(self, channels: int, head_channels: int, new_order: bool) -> None:
        super().__init__()
        self.new_order = new_order
        self.c, self.heads = head_channels, channels // head_channels
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        B, C, H, W = x.shape
        flat = x.reshape(B, C, H * W)
        qkv = self.qkv(self.norm(flat))
        if self.new_order:
            q, k, v = qkv.reshape(B, 3, self.heads, self.c, H * W).unbind(1)
        else:
            q, k, v = qkv.reshape(B, self.heads, 3, self.c, H * W).unbind(2)
        weights = torch.einsum("bhct,bhcs->bhts", q / math.sqrt(self.c), k).softmax(dim=-1)
        a = torch.einsum("bhts,bhcs->bhct", weights, v).reshape(B, C, H * W)
        return (flat + self.proj_out(a)).reshape(B, C, H, W)


class Down(nn.Module):
    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, 2, 1) if conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        if conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2)
        return self.conv(x) if hasattr(self, "conv") else x


class Steps(nn.Sequential):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb)
        return x


class UNetModel(nn.Module):
    """F(x; t, class index) with attention at the levels `attention`."""

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        model_channels: int = 32,
        channel_mult: tuple[int, ...] = (1, 2),
        num_blocks: int = 1,
        attention: tuple[int, ...] = (1,),
        num_classes: int = 0,
        head_channels: int = 16,
        num_heads: int | None = None,
        new_order: bool = False,
        scale_shift: bool = True,
        updown: bool = False,
        conv_resample: bool = True,
    ) -> None:
        super().__init__()
        self.model_channels = model_channels
        emb = 4 * model_channels

        def block(channels: int, out: int, change: str | None = None) -> nn.Module:
            return ResBlock(channels, emb, out, scale_shift, change)

        def attend(channels: int) -> nn.Module:
            each = channels // num_heads if num_heads else head_channels
            return AttentionBlock(channels, each, new_order)

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb)
        )
        if num_classes:
            self.label_emb = nn.Embedding(num_classes, emb)
        ch = channel_mult[0] * model_channels
        self.input_blocks = nn.ModuleList([Steps(nn.Conv2d(in_channels, ch, 3, padding=1))])
        skips = [ch]
        for level, mult in enumerate(channel_mult):
            for _ in range(num_blocks):
                layers: list[nn.Module] = [block(ch, mult * model_channels)]
                ch = mult * model_channels
                if level in attention:
                    layers.append(attend(ch))
                self.input_blocks.append(Steps(*layers))
                skips.append(ch)
            if level < len(channel_mult) - 1:
                down = block(ch, ch, "down") if updown else Down(ch, conv_resample)
                self.input_blocks.append(Steps(down))
                skips.append(ch)
        self.middle_block = Steps(block(ch, ch), attend(ch), block(ch, ch))
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(num_blocks + 1):
                layers = [block(ch + skips.pop(), mult * model_channels)]
                ch = mult * model_channels
                if level in attention:
                    layers.append(attend(ch))
                if level and i == num_blocks:
                    layers.append(block(ch, ch, "up") if updown else Up(ch, conv_resample))
                self.output_blocks.append(Steps(*layers))
        self.out = nn.Sequential(Norm(ch), nn.SiLU(), nn.Conv2d(ch, out_channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, class_index: Tensor | None = None) -> Tensor:
        half = self.model_channels // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half) / half)
        angle = t[:, None] * freqs
        emb = self.time_embed(torch.cat([angle.cos(), angle.sin()], dim=1))
        if class_index is not None:
            emb = emb + self.label_emb(class_index)
        skips = []
        for block in self.input_blocks:
            x = block(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x)


def make_unet(seed: int = 0, **options: Any) -> UNetModel:
    """A tiny network in evaluation mode."""
    torch.manual_seed(seed)
    return UNetModel(**options).eval()
