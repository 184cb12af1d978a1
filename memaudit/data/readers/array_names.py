"""What the arrays of a file are called: images, labels, and of which split."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from memaudit.data.layout import canonical_split
from memaudit.wording import listed


class Arrays(NamedTuple):
    """The arrays of one split by their names."""

    images: str
    labels: str | None


_IMAGES = ("images", "image", "imgs", "img", "arr_0", "samples", "x", "X", "data", "features")
_LABELS = ("labels", "label", "arr_1", "y", "Y", "targets", "target", "classes")
_LABELS_OF_IMAGES = ("labels", "label", "y", "targets", "target")
_OTHER = ("names", "manifest", "mean")
_OF_IMAGES = ("images", "image", "imgs", "img", "x", "data")
_KINDS = "|".join((*_OF_IMAGES, "labels", "label", "y", "targets", "target"))
_OF_SPLIT = (
    # MedMNIST; groups of HDF5
    re.compile(rf"(?P<split>[a-z]+)[_/](?P<kind>{_KINDS})"),
    re.compile(rf"(?P<kind>{_KINDS})[_/](?P<split>[a-z]+)"),  # Keras
)


def left_out(source: str, images: Iterable[str], splits: Mapping[str, Arrays]) -> tuple[str, ...]:
    """A note on arrays that may be images and belong to no split.

    Args:
        source: their file.
        images: the arrays with as many axes as images have.
        splits: the arrays that were understood.
    """
    known = {name for arrays in splits.values() for name in arrays}
    others = [name for name in images if name not in known]
    if not others:
        return ()
    was = "was" if len(others) == 1 else "were"
    return (f"{source} also holds {listed(others)}, which {was} not read.",)


def arrays_of_splits(names: Collection[str]) -> dict[str, Arrays]:
    """The arrays of images in a file, by split; empty if none is one by its name.

    A file without splits has one, which is called "".
    """
    if "images" in names:
        labels = next((name for name in _LABELS_OF_IMAGES if name in names), None)
        return {"": Arrays("images", labels)}
    found: dict[str, dict[str, str]] = {}
    for name in names:
        for pattern in _OF_SPLIT:
            match = pattern.fullmatch(name.lower())
            split = canonical_split(match["split"]) if match else None
            if match and split:
                kind = "images" if match["kind"] in _OF_IMAGES else "labels"
                found.setdefault(split, {}).setdefault(kind, name)
    splits = {
        split: Arrays(kinds["images"], kinds.get("labels"))
        for split, kinds in found.items()
        if "images" in kinds
    }
    if splits:
        return splits
    labels = next((name for name in _LABELS if name in names), None)
    images = next((name for name in _IMAGES if name in names), None)
    if images is None:
        others = [name for name in names if name not in (*_OTHER, labels)]
        images = others[0] if len(others) == 1 else None
    if images is None:
        return {}
    return {"": Arrays(images, labels)}
