"""Seeds that nobody can have picked for what they give: consecutive ones. Imports no torch.

Under a gate, a verdict is about all that a model makes. Whoever tries seeds first and lists those
that are no copies would have it about these few images. Consecutive seeds leave one choice, where
they begin, and a nonce takes that as well.
"""

import hashlib
import json
from collections.abc import Sequence

SEED_LIMIT = 2**32
"""Seeds count modulo this number: larger ones would give the image of a smaller one again."""
LONGEST_NONCE = 200
"""Characters of a nonce, which is shown wherever the verdict is."""
MOST_FROM_NONCE = 2**27
"""Most seeds that a nonce draws: wherever they begin, there is room for as many."""


def are_consecutive(seeds: Sequence[int]) -> bool:
    """Whether each seed is the one after the seed before it; at least one seed."""
    # Ranges are compared as they are, since one may be too long to list.
    first = int(seeds[0])
    run = range(first, first + len(seeds))
    return seeds == run if isinstance(seeds, range) else tuple(seeds) == tuple(run)


def seeds_from_nonce(nonce: str, checkpoint: str | None, data: str, number: int) -> range:
    """Draw consecutive seeds that whoever made the checkpoint could not know.

    They begin at the first 8 bytes of SHA-256 of the three texts, as a JSON list in ASCII, taken as
    a big-endian number modulo 2³² − 2²⁷. More seeds continue fewer.

    Args:
        nonce: any text that was chosen after the checkpoint was handed in.
        checkpoint: SHA-256 of the checkpoint in hex, or None where it has none.
        data: fingerprint of the training images, in hex.
        number: how many seeds, at most MOST_FROM_NONCE.

    Examples:
        >>> seeds_from_nonce("2026-11-26 #7", "ab12", "cd34", 1000)
        range(3226435948, 3226436948)
    """
    if number > MOST_FROM_NONCE:
        raise ValueError(f"a nonce draws at most {MOST_FROM_NONCE:,} seeds; got {number:,}")
    digest = hashlib.sha256(json.dumps([nonce, checkpoint, data]).encode()).digest()
    first = int.from_bytes(digest[:8], "big") % (SEED_LIMIT - MOST_FROM_NONCE)
    return range(first, first + number)
