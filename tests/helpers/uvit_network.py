"""U-ViT as its paper describes it (arXiv:2209.12152), with the published parameter names.

Written for these tests, slow and plain: the truth for its files.
"""

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        heads = []
        for q_h, k_h, v_h in zip(
            *(part.chunk(self.heads, dim=-1) for part in (q, k, v)), strict=True
        ):
            weights = (q_h @ k_h.mT / math.sqrt(q_h.shape[-1])).softmax(dim=-1)
            heads.append(weights @ v_h)
        return self.proj(torch.cat(heads, dim=-1))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(0.5 * h * (1 + torch.erf(h / math.sqrt(2))))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, bias: bool, skip: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, heads, bias), Mlp(dim)
        if skip:
            self.skip_linear = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViT(nn.Module):
    """F(x; t, class index)."""

    def __init__(
        self,
        *,
        size: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        num_classes: int = 0,
        channels: int = 3,
        bias: bool = False,
        time_mlp: bool = False,
        conv: bool = True,
    ) -> None:
        super().__init__()
        self.patch, self.dim, self.channels = patch, dim, channels
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, dim, patch, stride=patch)})
        if time_mlp:
            self.time_embed = nn.Sequential(
                nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim)
            )
        if num_classes:
            self.label_emb = nn.Embedding(num_classes, dim)
        extras = 2 if num_classes else 1
        self.pos_embed = nn.Parameter(torch.randn(1, extras + (size // patch) ** 2, dim))
        self.in_blocks = nn.ModuleList(Block(dim, heads, bias) for _ in range(depth // 2))
        self.mid_block = Block(dim, heads, bias)
        self.out_blocks = nn.ModuleList(Block(dim, heads, bias, True) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, patch**2 * channels)
        if conv:
            self.final_layer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        B, C, H, W = x.shape
        p, half = self.patch, self.dim // 2
        patches = [
            self.patch_embed["proj"](x[:, :, i : i + p, j : j + p])[:, :, 0, 0]
            for i in range(0, H, p)
            for j in range(0, W, p)
        ]
        angle = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        time = torch.cat([angle.cos(), angle.sin()], dim=1)
        tokens = [self.time_embed(time) if hasattr(self, "time_embed") else time, *patches]
        if y is not None:
            tokens.insert(0, self.label_emb(y))
        h = torch.stack(tokens, dim=1) + self.pos_embed
        skips = []
        for block in self.in_blocks:
            h = block(h)
            skips.append(h)
        h = self.mid_block(h)
        for block in self.out_blocks:
            h = block(h, skips.pop())
        values = self.decoder_pred(self.norm(h))[:, -len(patches) :]
        image = torch.zeros(B, C, H, W)
        for n, (i, j) in enumerate((i, j) for i in range(0, H, p) for j in range(0, W, p)):
            image[:, :, i : i + p, j : j + p] = values[:, n].reshape(B, p, p, C).permute(0, 3, 1, 2)
        return self.final_layer(image) if hasattr(self, "final_layer") else image
