"""What a source's folders and side files mean, where a user says so; imports neither numpy nor
torch."""

from dataclasses import dataclass
from typing import Annotated

from memaudit.errors import DataError
from memaudit.options import Option, check_options
from memaudit.wording import joined, quoted

ALL_SPLITS = "all"
"""The split that is every image, whatever split it lies in."""
LABELS_FROM = ("folder", "prefix", "none")
"""Where labels may come from; any other text is a file."""
OWN_GROUPS = "own"
"""Groups that the source itself names; any other text is a file or a regular expression."""


@dataclass(frozen=True)
class Layout:
    """Which split of a source is meant, and where its labels and groups come from."""

    split: Annotated[
        str | None,
        Option(
            "Take this split of a source that is divided into train, val and test; all takes every "
            "image.",
            metavar="NAME",
            default_text="train, if there is one",
        ),
    ] = None
    labels_from: Annotated[
        str | None,
        Option(
            "Labels: those of the folder that each image lies in, of the prefix of its name before "
            "the first _, none, or those in a CSV file with a name and a label in each row.",
            flag="--labels",
            metavar="folder|prefix|none|FILE",
            default_text="as the source has them",
        ),
    ] = None

    groups_from: Annotated[
        str | None,
        Option(
            "Which images belong together, such as those of a patient, a video or a product: what "
            "the parentheses of a regular expression find in each name (patient_(\\d+)), a CSV "
            "file with a name and a group in each row, or own, as the source has them.",
            flag="--group",
            metavar="REGEX|FILE.csv|own",
            default_text="every image by itself",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_options(self)


DEFAULT_LAYOUT = Layout()


def canonical_split(name: str) -> str | None:
    """`train`, `val` or `test` for the names that these go by; None for any other name."""
    return _SPLITS.get(name.lower().rstrip("0123456789"))  # COCO has train2017


_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def choose_split(source: str, names: list[str], wanted: str | None) -> str:
    """The one of a source's splits that is meant.

    Args:
        source: its name in an error.
        names: its splits, at least one.
        wanted: what the user asks for, or None.

    Raises:
        DataError: there is no such split, or it is not clear which one is meant.
    """
    of = wanted or "train"
    found = [name for name in names if name == of]
    found = found or [name for name in names if canonical_split(name) == of]
    if wanted is None and not found and len(names) == 1:
        found = names
    if len(found) == 1:
        return found[0]
    known = joined([quoted(name) for name in names])
    if found:
        said = f"{source} has {joined([quoted(name) for name in found])}, which both mean {of}"
    elif wanted is None:
        said = f"{source} is divided into {known}, none of which is called train"
    else:
        said = f"{source} has no split {quoted(wanted)}; it is divided into {known}"
    raise DataError(
        f"{said}. Choose one with {{split}}, or {ALL_SPLITS} for every image.", field="split"
    )
