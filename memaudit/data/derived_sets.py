"""Training sets made from others: other labels, two sources mixed, images repeated.

Each function returns a new set, the same on every machine. `select_images` in subsets.py takes a
part of a set.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from memaudit.data.images import ImageSet
from memaudit.data.preparation import AS_STORED
from memaudit.data.selection import Selection, Subset
from memaudit.data.set_recipe import DrawRule, LabelScheme, SetRecipe
from memaudit.data.subsets import select_images
from memaudit.errors import DataError


def build_set(recipe: SetRecipe, first: ImageSet, second: ImageSet | None = None) -> ImageSet:
    """Make a training set: select, mix, repeat and label, in this order.

    Args:
        recipe: what to do.
        first: the source.
        second: the images of `recipe.mix`, of the same shape.

    Raises:
        DataError: the sources do not have what the recipe asks for.
        ValueError: a second source is missing, or not called for.
    """
    if (second is None) != (recipe.share is None):
        raise ValueError("a second source and a share in the recipe go together")
    selection = recipe.selection
    if second is None or recipe.share is None or selection.size is None:
        images = select_images(first, selection)
    else:
        images = mix_images(
            select_images(first, replace(selection, size=None)),
            second,
            share=recipe.share,
            size=selection.size,
            rule=recipe.rule,
            seed=selection.subset_seed,
        )
    images = repeat_images(images, recipe.repeat)
    if recipe.labels is None:
        return images
    return label_images(
        images,
        recipe.labels,
        num_classes=recipe.num_classes,
        rule=recipe.rule,
        seed=recipe.label_seed,
    )


def label_images(
    images: ImageSet,
    scheme: LabelScheme,
    *,
    num_classes: int | None = None,
    rule: DrawRule = "published",
    seed: int = 1024,
) -> ImageSet:
    """The same images with the labels of one of the paper's schemes.

    Args:
        images: the set.
        scheme: "true" keeps the labels, "none" removes them, "random" draws one of `num_classes`
            for each image, "unique" gives every image a class of its own.
        num_classes: number of classes of random labels; the other schemes determine it themselves.
        rule: which generator random labels come from: "published" is Python's
            `randint(0, num_classes - 1)` for each image in order, "described" numpy's RandomState.
        seed: seed of random labels; the paper's is 1024.

    Raises:
        DataError: true labels are asked for, and there are none.
        ValueError: the scheme is unknown, or num_classes is given without random labels or missing
            for them.
    """
    if scheme not in ("true", "none", "random", "unique"):
        raise ValueError(f"scheme must be 'true', 'none', 'random' or 'unique', got {scheme!r}")
    if scheme == "random" and (num_classes is None or num_classes < 1):
        raise ValueError(f"random labels need num_classes, at least 1; got {num_classes}")
    if scheme != "random" and num_classes is not None:
        raise ValueError(
            f"num_classes is for random labels; {scheme} labels determine it themselves"
        )

    if scheme == "true":
        if images.labels is None:
            raise DataError(
                f"{images.source} has no labels; put its images in one folder per class, add a "
                "dataset.json or a `labels` array, or choose another label scheme."
            )
        return images
    labels = None
    if num_classes is not None:  # the scheme is "random"
        if rule == "published":
            rng = random.Random(seed)
            labels = np.array([rng.randint(0, num_classes - 1) for _ in images.names], np.int64)
        else:
            # RandomState and not a Generator: its stream is frozen.
            frozen = np.random.RandomState(seed % 2**31)
            labels = frozen.randint(0, num_classes, len(images), np.int64)
    elif scheme == "unique":
        labels = np.arange(len(images), dtype=np.int64)
    return replace(images, labels=labels, class_names=())


def mix_images(
    first: ImageSet,
    second: ImageSet,
    *,
    share: float,
    size: int,
    rule: DrawRule = "published",
    seed: int = 0,
) -> ImageSet:
    """`size` images of two sources without labels: the paper's mixtures by α.

    Published, they are the first ⌊size·(1 − share)⌋ images of the first source, as floating point
    has it (at 1,000 and 0.8, 199), and the first of the second. As described, a random choice of
    round(share·size) images of the second, where a half rounds to the even number, and of the
    first.

    Args:
        first: the source of the other images; they come first.
        second: the source of the share.
        share: α, 0 … 1.
        size: number of images.
        rule: see above.
        seed: which ones are described, as in `Selection(subset="random", subset_seed=seed)`.

    Returns:
        The images, each named by its source and its name there.

    Raises:
        DataError: the shapes differ, or a source has too few images.
        ValueError: share or size is out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be 0 … 1, got {share}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if first.image_shape != second.image_shape:
        raise DataError(
            f"Images of {first.source} are {list(first.image_shape)}, those of {second.source} "
            f"{list(second.image_shape)} (channels, height, width). Only images of one shape can "
            "be mixed; give {resolution}, {fit} and {mode}.",
            field=("resolution", "fit", "mode"),
        )
    is_published = rule == "published"
    num_first = int(size * (1 - share)) if is_published else size - round(share * size)
    subset: Subset = "first" if is_published else "random"
    parts = [
        select_images(images, Selection(size=number, subset=subset, subset_seed=seed))
        for images, number in ((first, num_first), (second, size - num_first))
        if number
    ]
    return ImageSet(
        np.concatenate([part.images for part in parts]),
        [f"{part.source}/{name}" for part in parts for name in part.names],
        source=" and ".join(part.source for part in parts),
        unread=Counter(first.unread) + Counter(second.unread),
        captions=_of_both(parts, "captions", None),
        groups=_groups_of_both(parts),
        groups_from=parts[0].groups_from,
        group_kind=parts[0].group_kind,
        repeats=_of_both(parts, "repeats", 1),
        notes=first.notes + second.notes,
        preparation=first.preparation if first.preparation == second.preparation else AS_STORED,
        kinds=Counter(first.kinds) + Counter(second.kinds),
    )


def _of_both(parts: Sequence[ImageSet], what: str, missing: Any) -> Any:
    """What some of the parts have for each image, with `missing` for the others; or None."""
    values = [getattr(part, what) for part in parts]
    if all(value is None for value in values):
        return None
    joined = [
        item
        for part, value in zip(parts, values, strict=True)
        for item in ([missing] * len(part) if value is None else value)
    ]
    return np.array(joined, dtype=np.int64) if isinstance(missing, int) else joined


def _groups_of_both(parts: Sequence[ImageSet]) -> list[str | None] | None:
    """The groups of all images, with the source before each: two may use the same names."""
    if all(part.groups is None for part in parts):
        return None
    return [
        None if group is None else f"{part.source}/{group}"
        for part in parts
        for group in (part.groups or [None] * len(part))
    ]


def cut_groups(source: ImageSet, taken: ImageSet) -> list[str]:
    """The groups of a source of which some images were taken and others not, where groups count.

    Args:
        source: the whole.
        taken: a set that was built of it, and perhaps of another one.
    """
    if source.groups_from is None or taken.groups is None:
        return []
    there = set(taken.names)
    taken_of: dict[str, set[bool]] = {}
    for name, group in zip(source.names, source.groups or (), strict=True):
        is_there = name in there or f"{source.source}/{name}" in there  # as `mix_images` names it
        taken_of.setdefault(str(group), set()).add(is_there)
    return sorted(group for group, both in taken_of.items() if len(both) > 1)


def repeat_images(images: ImageSet, times: int) -> ImageSet:
    """Each image `times` times, one copy after the other.

    All copies of an image keep its name, so that a leak of any of them traces to the one file.

    Raises:
        ValueError: times is below 1.
    """
    if times < 1:
        raise ValueError(f"times must be at least 1, got {times}")
    if times == 1:
        return images
    return images.take(np.repeat(np.arange(len(images)), times))
