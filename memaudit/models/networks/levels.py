"""How the levels of U-Nets that other trainers wrote are gone through, whatever their names."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Level(NamedTuple):
    """The modules of a level."""

    blocks: nn.ModuleList
    """Residual blocks, which are given the features and the embedding."""
    attentions: nn.ModuleList
    """One after each block; or none."""
    change: nn.Module | None
    """What halves or doubles the height and the width, given the same; None at the level where the
    way down or up ends."""

    def apply_block(self, i: int, x: Tensor, emb: Tensor) -> Tensor:
        x = self.blocks[i](x, emb)
        return self.attentions[i](x) if len(self.attentions) else x


def go_down(x: Tensor, emb: Tensor, skips: list[Tensor], level: Level) -> Tensor:
    """Apply a level on the way down.

    Args:
        x: features, [B, C, H, W].
        emb: embedding of noise level and class.
        skips: what the way up is given is appended, after each block and after `level.change`.
        level: its modules.
    """
    for i in range(len(level.blocks)):
        x = level.apply_block(i, x, emb)
        skips.append(x)
    if level.change is not None:
        x = level.change(x, emb)
        skips.append(x)
    return x


def go_up(x: Tensor, emb: Tensor, skips: list[Tensor], level: Level) -> Tensor:
    """Apply a level on the way up to x and the last of `skips`, which it takes away; see
    `go_down`."""
    for i in range(len(level.blocks)):
        x = level.apply_block(i, torch.cat([x, skips.pop()], dim=1), emb)
    return x if level.change is None else level.change(x, emb)


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
