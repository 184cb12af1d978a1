"""DiT: a transformer whose norms noise level and class scale (Peebles and Xie, arXiv:2212.09748).

SiT (arXiv:2401.08740) and REPA (arXiv:2410.06940) use the same network with other
preconditioning.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memaudit.models.networks.layers import Linear
from memaudit.models.networks.time_embedding import cos_sin
from memaudit.models.networks.transformer import (
    Attention,
    LayerNorm,
    Mlp,
    PatchEmbedding,
    from_patches,
    patch_grid,
)
from memaudit.models.resolution import Resolution

EPS = 1e-6
FREQUENCY_CHANNELS = 256
CHANNELS_PER_HEAD = 64


class DiT(nn.Module):
    """Transformer F(x; noise_labels, class_labels) of [B, in_channels, H, W] images.

    Args:
        img_resolution: height and width of the images, multiples of patch_size.
        in_channels, out_channels: channels of the images and of the result.
        label_dim: classes, at least 1: the network has no form without them.
        patch_size: height and width of a patch.
        hidden_channels: channels of a token.
        mlp_channels: channels of the MLPs' inner layer; None for four times hidden_channels.
        depth: blocks.
        num_heads: attention heads; None for one per 64 channels.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 1,
        patch_size: int = 2,
        hidden_channels: int = 384,
        mlp_channels: int | None = None,
        depth: int = 12,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        channels = hidden_channels
        self.patch_size = patch_size
        self.grid = patch_grid(img_resolution, patch_size)
        self.x_embedder = PatchEmbedding(patch_size, in_channels, channels)
        # Sines and cosines of the position, which the file has: they are not trained.
        self.pos_embed = nn.Parameter(
            torch.zeros(1, self.grid.num_tokens, channels), requires_grad=False
        )
        self.t_embedder = nn.ModuleDict(
            {
                "mlp": nn.Sequential(
                    Linear(FREQUENCY_CHANNELS, channels), nn.SiLU(), Linear(channels, channels)
                )
            }
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(label_dim, channels)})
        self.blocks = nn.ModuleList(
            Block(
                channels,
                mlp_channels or 4 * channels,
                num_heads or max(channels // CHANNELS_PER_HEAD, 1),
            )
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(channels, patch_size**2 * out_channels)

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """Apply the network.

        Args:
            x: scaled noisy images, [B, in_channels, H, W].
            noise_labels: c_noise, float32 [B] or [1].
            class_labels: float32 [B or 1, label_dim].

        Returns:
            [B, out_channels, H, W] in the dtype of x.
        """
        assert class_labels is not None
        table: Any = self.y_embedder["embedding_table"]
        time = self.t_embedder["mlp"](cos_sin(noise_labels, FREQUENCY_CHANNELS))
        emb = F.silu(time + class_labels @ table.weight)[:, None]  # [B or 1, 1, channels]
        x = self.x_embedder(x) + self.pos_embed.to(x.dtype)
        for block in self.blocks:
            x = block(x, emb)
        return from_patches(self.final_layer(x, emb), self.grid, self.patch_size)


class Block(nn.Module):
    """Attention and MLP, each scaled and shifted before and gated after by the embedding."""

    def __init__(self, channels: int, hidden: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, elementwise_affine=False, eps=EPS)
        self.attn = Attention(channels, num_heads, qkv_bias=True)
        self.norm2 = LayerNorm(channels, elementwise_affine=False, eps=EPS)
        self.mlp = Mlp(channels, hidden, approximate="tanh")
        self.adaLN_modulation = nn.Sequential(nn.Identity(), Linear(channels, 6 * channels))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Apply the block to tokens x [B, T, channels]; emb [B or 1, 1, channels] is activated."""
        parts = self.adaLN_modulation(emb).to(x.dtype).chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        x = x + gate_attn * self.attn(self.norm1(x) * (1 + scale_attn) + shift_attn)
        x = x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)
        return x


class FinalLayer(nn.Module):
    """Tokens as the values of their pixels."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = LayerNorm(channels, elementwise_affine=False, eps=EPS)
        self.linear = Linear(channels, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), Linear(channels, 2 * channels))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(emb).to(x.dtype).chunk(2, dim=-1)
        out: Tensor = self.linear(self.norm_final(x) * (1 + scale) + shift)
        return out
