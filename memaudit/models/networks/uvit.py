"""UViT: a transformer with the long skips of a U-Net (Bao et al., arXiv:2209.12152)."""

import torch
from torch import Tensor, nn

from memaudit.models.networks.layers import Conv2d, Linear
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

EPS = 1e-5
CHANNELS_PER_HEAD = 64


class UViT(nn.Module):
    """Transformer F(x; noise_labels, class_labels) of [B, in_channels, H, W] images.

    Class (if any), noise level and patches are tokens alike. The first half of the blocks hands its
    tokens to the second half, in reverse order.

    Args:
        img_resolution: height and width of the images, multiples of patch_size.
        in_channels, out_channels: channels of the images and of the result.
        label_dim: classes; 0 for an unconditional network.
        patch_size: height and width of a patch.
        hidden_channels: channels of a token.
        mlp_channels: channels of the MLPs' inner layer; None for four times hidden_channels.
        depth: blocks, an odd number: as many before as after the one in the middle.
        num_heads: attention heads; None for one per 64 channels.
        qkv_bias: whether the layers that make q, k and v have a bias.
        time_mlp: whether two layers transform the embedding of the noise level.
        final_conv: whether a 3×3 convolution ends the network.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        patch_size: int = 2,
        hidden_channels: int = 512,
        mlp_channels: int | None = None,
        depth: int = 13,
        num_heads: int | None = None,
        qkv_bias: bool = False,
        time_mlp: bool = False,
        final_conv: bool = True,
    ) -> None:
        super().__init__()
        if depth % 2 == 0:
            raise ValueError(f"depth must be odd (half the blocks, one, half), got {depth}")
        self.hidden_channels = channels = hidden_channels
        self.patch_size = patch_size
        self.grid = patch_grid(img_resolution, patch_size)
        num_extra = 2 if label_dim else 1

        def block(*, skip: bool = False) -> Block:
            return Block(
                channels,
                mlp_channels or 4 * channels,
                num_heads or max(channels // CHANNELS_PER_HEAD, 1),
                qkv_bias=qkv_bias,
                skip=skip,
            )

        self.patch_embed = PatchEmbedding(patch_size, in_channels, channels)
        self.time_embed = (
            nn.Sequential(Linear(channels, 4 * channels), nn.SiLU(), Linear(4 * channels, channels))
            if time_mlp
            else None
        )
        self.label_emb = nn.Embedding(label_dim, channels) if label_dim else None
        self.pos_embed = nn.Parameter(torch.zeros(1, num_extra + self.grid.num_tokens, channels))
        self.in_blocks = nn.ModuleList(block() for _ in range(depth // 2))
        self.mid_block = block()
        self.out_blocks = nn.ModuleList(block(skip=True) for _ in range(depth // 2))
        self.norm = LayerNorm(channels, eps=EPS)
        self.decoder_pred = Linear(channels, patch_size**2 * out_channels)
        self.final_layer = Conv2d(out_channels, out_channels, 3) if final_conv else None
        nn.init.normal_(self.pos_embed, std=0.02)

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """Apply the network.

        Args:
            x: scaled noisy images, [B, in_channels, H, W].
            noise_labels: c_noise, float32 [B] or [1].
            class_labels: float32 [B or 1, label_dim]; needed if label_dim is not 0.

        Returns:
            [B, out_channels, H, W] in the dtype of x.
        """
        B = len(x)
        tokens = self.patch_embed(x)
        time = cos_sin(noise_labels, self.hidden_channels)
        if self.time_embed is not None:
            time = self.time_embed(time)
        extra = [time]
        if self.label_emb is not None:
            assert class_labels is not None
            extra.insert(0, class_labels @ self.label_emb.weight)
        extra = [token[:, None].to(x.dtype).expand(B, -1, -1) for token in extra]
        x = torch.cat([*extra, tokens], dim=1) + self.pos_embed.to(x.dtype)
        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())
        x = self.decoder_pred(self.norm(x))[:, len(extra) :]
        x = from_patches(x, self.grid, self.patch_size)
        if self.final_layer is not None:
            x = self.final_layer(x)
        return x


class Block(nn.Module):
    """Attention and MLP, each after a norm and added to its input; first, with `skip`, a layer that
    merges the tokens of an earlier block."""

    def __init__(
        self, channels: int, hidden: int, num_heads: int, *, qkv_bias: bool, skip: bool
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, eps=EPS)
        self.attn = Attention(channels, num_heads, qkv_bias=qkv_bias)
        self.norm2 = LayerNorm(channels, eps=EPS)
        self.mlp = Mlp(channels, hidden)
        self.skip_linear = Linear(2 * channels, channels) if skip else None

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            assert skip is not None
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x
