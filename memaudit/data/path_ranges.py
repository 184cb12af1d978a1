"""Paths that stand for several files: `{00000..00123}.tar`; imports neither numpy nor torch."""

import itertools
import math
import re
from pathlib import Path

from memaudit.errors import DataError
from memaudit.wording import shown

_MAX_FILES = 100_000


def is_range(path: Path) -> bool:
    """Whether a path has braces that stand for several names."""
    return bool(_BRACES.search(str(path)))


_BRACES = re.compile(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}")
_STEPS = re.compile(r"(\d{1,12})\.\.(\d{1,12})")


def expanded(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for: `{00..12}` or `{a,b}`.

    Raises:
        DataError: there are too many, or a range runs backwards.
    """
    pieces = _BRACES.split(pattern)
    choices = [[pieces[0]]]
    for inside, after in zip(pieces[1::2], pieces[2::2], strict=True):
        if steps := _STEPS.fullmatch(inside):
            first, last = int(steps[1]), int(steps[2])
            if not 0 <= last - first < _MAX_FILES:
                raise DataError(
                    f"{shown(pattern)} must run upwards and name at most {_MAX_FILES:,} files."
                )
            choices.append([f"{i:0{len(steps[1])}d}" for i in range(first, last + 1)])
        else:
            choices.append(inside.split(","))
        choices.append([after])
    if math.prod(map(len, choices)) > _MAX_FILES:
        raise DataError(f"{shown(pattern)} names more than {_MAX_FILES:,} files.")
    return ["".join(parts) for parts in itertools.product(*choices)]
