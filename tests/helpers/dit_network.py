"""DiT as its paper describes it (arXiv:2212.09748), with the published parameter names.

Written for these tests, slow and plain: the truth for files of DiT, SiT and REPA. It is compared
with the DiT of diffusers.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.chunk(self.heads, dim=-1) for part in self.qkv(x).chunk(3, dim=-1))
        scale = 1 / math.sqrt(q[0].shape[-1])
        heads = [(q[h] @ k[h].mT * scale).softmax(dim=-1) @ v[h] for h in range(self.heads)]
        return self.proj(torch.cat(heads, dim=-1))


def normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    x = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        parts = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + parts[2][:, None] * self.attn(normed(x, parts[0], parts[1]))
        h = self.mlp["fc1"](normed(x, parts[3], parts[4]))
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return x + parts[5][:, None] * self.mlp["fc2"](h)


class FinalLayer(nn.Module):
    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(normed(x, *self.adaLN_modulation(c).chunk(2, dim=1)))


class DiT(nn.Module):
    """F(x; t, class index), with weights that are all far from zero."""

    def __init__(
        self,
        *,
        size: int = 8,
        patch: int = 2,
        channels: int = 3,
        out_channels: int = 3,
        num_rows: int = 6,
        dim: int = 16,
        heads: int = 2,
        depth: int = 3,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = patch
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(channels, dim, patch, patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2, dim))
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))}
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(num_rows, dim)})
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.final_layer = FinalLayer(dim, patch**2 * out_channels)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.eval()

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        p = self.patch
        angle = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        c = self.t_embedder["mlp"](torch.cat([angle.cos(), angle.sin()], dim=1))
        c = c + self.y_embedder["embedding_table"](y)
        places = [(i, j) for i in range(0, x.shape[2], p) for j in range(0, x.shape[3], p)]
        tokens = [
            self.x_embedder["proj"](x[:, :, i : i + p, j : j + p])[:, :, 0, 0] for i, j in places
        ]
        h = torch.stack(tokens, dim=1) + self.pos_embed
        for block in self.blocks:
            h = block(h, c)
        values = self.final_layer(h, c)
        out = torch.zeros(len(x), values.shape[-1] // p**2, *x.shape[2:])
        for n, (i, j) in enumerate(places):
            patch = values[:, n].reshape(len(x), p, p, -1).permute(0, 3, 1, 2)
            out[:, :, i : i + p, j : j + p] = patch
        return out


RENAMED = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": ("transformer_blocks.0.norm1.emb.class_embedder.embedding_table"),
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
IN_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}


def as_diffusers(model: DiT, diffusers: Any) -> nn.Module:
    """The same network as a DiTTransformer2DModel, whose positions it takes over."""
    ours = model.state_dict()
    dim, channels = ours["x_embedder.proj.weight"].shape[:2]
    theirs: Any = diffusers.DiTTransformer2DModel(
        num_attention_heads=model.blocks[0].attn.heads,
        attention_head_dim=dim // model.blocks[0].attn.heads,
        in_channels=channels,
        out_channels=len(ours["final_layer.linear.bias"]) // model.patch**2,
        num_layers=len(model.blocks),
        sample_size=math.isqrt(model.pos_embed.shape[1]) * model.patch,
        patch_size=model.patch,
        num_embeds_ada_norm=len(ours["y_embedder.embedding_table.weight"]) - 1,
        norm_num_groups=1,
    ).eval()
    weights = {}
    for name, tensor in ours.items():
        module, part = name.rsplit(".", 1) if "." in name else (name, "")
        if module in RENAMED:
            weights[f"{RENAMED[module]}.{part}"] = tensor
        elif module.startswith("blocks."):
            _, i, inner = module.split(".", 2)
            block = f"transformer_blocks.{i}"
            if inner == "attn.qkv":
                for each, rows in zip("qkv", tensor.chunk(3), strict=True):
                    weights[f"{block}.attn1.to_{each}.{part}"] = rows
            else:
                weights[f"{block}.{IN_BLOCK[inner]}.{part}"] = tensor
    shared = theirs.transformer_blocks[0].norm1.emb
    # The published networks divide by the number of frequencies; diffusers by one less.
    shared.time_proj.downscale_freq_shift = 0
    for block in theirs.transformer_blocks:
        block.norm1.emb = shared
    for i in range(1, len(model.blocks)):
        start = "transformer_blocks.0.norm1.emb."
        weights |= {
            name.replace(".0.", f".{i}.", 1): tensor
            for name, tensor in weights.items()
            if name.startswith(start)
        }
    theirs.load_state_dict(weights)
    model.pos_embed.data = theirs.pos_embed.pos_embed.clone()
    return theirs
