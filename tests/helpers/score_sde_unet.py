"""DDPM++ and NCSN++ as score_sde_pytorch names and orders their weights (arXiv:2011.13456).

Written for these tests from the paper and the published names, slow and plain: the truth for the
conversion of their weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def filtered(x: Tensor, direction: str, fir: bool) -> Tensor:
    """x [B, C, H, W] at half or twice the resolution: zeros between, a blur, every second pixel."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if fir else [1.0, 1.0])
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    B, C, H, W = x.shape
    if direction == "up":
        wide = torch.zeros(B, C, 2 * H, 2 * W)
        wide[:, :, ::2, ::2] = 4 * x
        left = len(taps) // 2
        x = F.pad(wide, (left, left - 1, left, left - 1))
    else:
        pad = (len(taps) - 2) // 2
        x = F.pad(x, (pad, pad, pad, pad))
    kernel = kernel.flip(0, 1).expand(C, 1, -1, -1)
    x = F.conv2d(x, kernel, groups=C)
    return x if direction == "up" else x[:, :, ::2, ::2]


class Fourier(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(16 * torch.randn(channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        angle = x[:, None] * self.W[None] * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Pointwise(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(0.2 * torch.randn(channels, channels))
        self.b = nn.Parameter(0.2 * torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bihw,io->bohw", x, self.W) + self.b[:, None, None]


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (Pointwise(channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = self.NIN_0(h), self.NIN_1(h), self.NIN_2(h)
        B, C, H, W = q.shape
        w = torch.einsum("bchw,bcij->bhwij", q, k) / C**0.5
        w = w.reshape(B, H, W, H * W).softmax(-1).reshape(B, H, W, H, W)
        return (x + self.NIN_3(torch.einsum("bhwij,bcij->bchw", w, v))) / 2**0.5


class Block(nn.Module):
    def __init__(self, channels: int, out: int, emb: int, fir: bool, change: str = "") -> None:
        super().__init__()
        self.fir, self.change = fir, change
        self.GroupNorm_0 = norm(channels)
        self.Conv_0 = nn.Conv2d(channels, out, 3, padding=1)
        self.Dense_0 = nn.Linear(emb, out)
        self.GroupNorm_1 = norm(out)
        self.Dropout_0 = nn.Dropout(0.1)
        self.Conv_1 = nn.Conv2d(out, out, 3, padding=1)
        if channels != out or change:
            self.Conv_2 = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.change:
            h, x = filtered(h, self.change, self.fir), filtered(x, self.change, self.fir)
        h = self.Conv_0(h) + self.Dense_0(F.silu(emb))[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(F.silu(self.GroupNorm_1(h))))
        return ((self.Conv_2(x) if hasattr(self, "Conv_2") else x) + h) / 2**0.5


class Combine(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.Conv_0(x) + h


class ConvDown(nn.Module):
    """Blur, then a convolution that takes every second pixel."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.Conv2d_0 = nn.Conv2d(channels, out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = (torch.outer(taps, taps) / taps.sum() ** 2).expand(x.shape[1], 1, -1, -1)
        return self.Conv2d_0(F.conv2d(F.pad(x, (2, 2, 2, 2)), kernel, groups=x.shape[1]))


class NCSNpp(nn.Module):
    """F(x; time_cond), with all its parts in one list in the order in which they run."""

    def __init__(
        self,
        *,
        size: int,
        channels: int = 3,
        nf: int,
        mult: list[int],
        num_blocks: int,
        attention: list[int],
        fourier: bool = False,
        fir: bool = False,
        progressive_input: str = "none",
        progressive: str = "none",
        centered: bool = True,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
    ) -> None:
        super().__init__()
        levels = torch.linspace(math.log(sigma_max), math.log(sigma_min), 1000).exp()
        self.register_buffer("sigmas", levels)
        self.nf, self.mult, self.num_blocks, self.attention = nf, mult, num_blocks, attention
        self.fir, self.centered, self.fourier = fir, centered, fourier
        self.progressive_input, self.progressive = progressive_input, progressive
        self.embedding = 4 * nf

        modules: list[nn.Module] = [Fourier(nf)] if fourier else []
        modules += [
            nn.Linear(2 * nf if fourier else nf, 4 * nf),
            nn.Linear(4 * nf, 4 * nf),
            nn.Conv2d(channels, nf, 3, padding=1),
        ]
        skips, ch, pyramid = [nf], nf, channels
        for level, m in enumerate(mult):
            for _ in range(num_blocks):
                modules.append(Block(ch, nf * m, 4 * nf, fir))
                ch = nf * m
                if size >> level in attention:
                    modules.append(Attention(ch))
                skips.append(ch)
            if level < len(mult) - 1:
                modules.append(Block(ch, ch, 4 * nf, fir, "down"))
                if progressive_input == "input_skip":
                    modules.append(Combine(pyramid, ch))
                elif progressive_input == "residual":
                    modules.append(ConvDown(pyramid, ch))
                    pyramid = ch
                skips.append(ch)
        modules += [Block(ch, ch, 4 * nf, fir), Attention(ch), Block(ch, ch, 4 * nf, fir)]
        for level, m in reversed(list(enumerate(mult))):
            for _ in range(num_blocks + 1):
                modules.append(Block(ch + skips.pop(), nf * m, 4 * nf, fir))
                ch = nf * m
            if size >> level in attention:
                modules.append(Attention(ch))
            if progressive == "output_skip" or level == 0:
                modules += [norm(ch), nn.Conv2d(ch, channels, 3, padding=1)]
            if level:
                modules.append(Block(ch, ch, 4 * nf, fir, "up"))
        self.all_modules = nn.ModuleList(modules)

    def forward(self, x: Tensor, time_cond: Tensor) -> Tensor:
        modules = iter(self.all_modules)
        if self.fourier:
            emb = next(modules)(time_cond.log())
        else:
            half = self.nf // 2
            freqs = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
            angle = time_cond[:, None] * freqs
            emb = torch.cat([angle.sin(), angle.cos()], dim=1)
        emb = next(modules)(emb)
        emb = next(modules)(F.silu(emb))
        if not self.centered:
            x = 2 * x - 1
        pyramid = x
        hs = [next(modules)(x)]
        for level in range(len(self.mult)):
            for _ in range(self.num_blocks):
                h = next(modules)(hs[-1], emb)
                if h.shape[-1] in self.attention:
                    h = next(modules)(h)
                hs.append(h)
            if level < len(self.mult) - 1:
                h = next(modules)(hs[-1], emb)
                if self.progressive_input == "input_skip":
                    pyramid = filtered(pyramid, "down", self.fir)
                    h = next(modules)(pyramid, h)
                elif self.progressive_input == "residual":
                    pyramid = h = (next(modules)(pyramid) + h) / 2**0.5
                hs.append(h)
        h = next(modules)(hs[-1], emb)
        h = next(modules)(h)
        h = next(modules)(h, emb)
        out = None
        for level in reversed(range(len(self.mult))):
            for _ in range(self.num_blocks + 1):
                h = next(modules)(torch.cat([h, hs.pop()], dim=1), emb)
            if h.shape[-1] in self.attention:
                h = next(modules)(h)
            if self.progressive == "output_skip" or level == 0:
                part = F.silu(next(modules)(h))
                part = next(modules)(part)
                out = part if out is None else filtered(out, "up", self.fir) + part
            if level:
                h = next(modules)(h, emb)
        assert next(modules, None) is None
        if self.fourier:
            out = out / time_cond[:, None, None, None]
        return out


def checkpoint(model: NCSNpp, *, seed: int = 0) -> tuple[dict, dict[str, Tensor]]:
    """What score_sde_pytorch saves, with an average that is another network; and that average."""
    generator = torch.Generator().manual_seed(seed)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    shadow = [p.detach() + 0.05 * torch.randn(p.shape, generator=generator) for _, p in trained]
    average = dict(model.state_dict())
    average |= {name: tensor for (name, _), tensor in zip(trained, shadow, strict=True)}
    return {
        "optimizer": {"state": {}, "param_groups": [{"lr": 2e-4, "params": []}]},
        "model": {f"module.{name}": tensor for name, tensor in model.state_dict().items()},
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow},
        "step": 7,
    }, average
