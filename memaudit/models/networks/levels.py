"""How the levels of U-Nets that other trainers wrote are gone through, whatever their names."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def go_down(
    x: Tensor,
    emb: Tensor,
    skips: list[Tensor],
    *,
    blocks: nn.ModuleList,
    attentions: nn.ModuleList,
    change: nn.Module | None,
) -> Tensor:
    """Apply a level on the way down, and append to `skips` what the way up is given.

    Args:
        x: features, [B, C, H, W].
        emb: embedding of noise level and class, which blocks and `change` are given as well.
        skips: appended to after each block and after `change`.
        blocks: residual blocks.
        attentions: one after each block; or none.
        change: what halves the height and the width; None at the last level.
    """
    for i, block in enumerate(blocks):
        x = block(x, emb)
        if len(attentions):
            x = attentions[i](x)
        skips.append(x)
    if change is not None:
        x = change(x, emb)
        skips.append(x)
    return x


def go_up(
    x: Tensor,
    emb: Tensor,
    skips: list[Tensor],
    *,
    blocks: nn.ModuleList,
    attentions: nn.ModuleList,
    change: nn.Module | None,
) -> Tensor:
    """Apply a level on the way up to x and the last of `skips`, which it takes away.

    Args:
        As for `go_down`; `change` doubles the height and the width, and is None at the first level.
    """
    for i, block in enumerate(blocks):
        x = block(torch.cat([x, skips.pop()], dim=1), emb)
        if len(attentions):
            x = attentions[i](x)
    return x if change is None else change(x, emb)


def check_per_level(num_levels: int, **lists: Sequence[int]) -> None:
    """Refuse lists that do not have one entry per level.

    Raises:
        ValueError: names the list.
    """
    for name, entries in lists.items():
        if len(entries) != num_levels:
            raise ValueError(
                f"{name} has {len(entries)} entries, but there are {num_levels} levels"
            )
