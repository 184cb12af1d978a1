"""The table of rules that may count besides the plain one.

To add one, write a file in this folder that ends in a `CopyRule`, and add one line to `RULES`.
"""

from memaudit.audit.neighbors.rules import (
    features,
    flips,
    shift,
    tiles,
    tone,
)
from memaudit.audit.neighbors.rules.rule import CopyRule

PIXELS = "pixels"
"""The plain rule, whole images pixel by pixel, which always counts."""

RULES: tuple[CopyRule, ...] = (
    tiles.RULE,
    tone.RULE,
    shift.RULE,
    flips.RULE,
    features.RULE,
)
"""In the order in which a copy that several rules see is credited."""

HAVE_LEVELS = frozenset(rule.name for rule in RULES if rule.has_levels)
"""Rules by which an image within the duplicate radius of a training image is a duplicate of it."""
