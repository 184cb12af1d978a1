"""Held-out images that the images asked about are ranked among."""

from dataclasses import dataclass

import numpy as np

from memaudit.audit.image_check.config import CheckConfig
from memaudit.audit.image_check.training_place import (
    TrainingPlaces,
    find_places,
    images_within,
)
from memaudit.audit.memorization.controls import DENSE
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import DataError
from memaudit.progress import Progress, silent

EXAMINED = 1000
"""Held-out images that are looked at, at the least, if there are as many."""


@dataclass(frozen=True)
class ChosenControls:
    """Controls, and what they were chosen from."""

    images: ImageSet
    in_place: tuple[np.ndarray, ...]
    """For each control the positions of training images that it is near to."""
    num_examined: int
    near_training: Proportion | None
    """Examined images that are copies of a training image by the rule; None without any."""
    ratios: np.ndarray | None
    """Distance ratios of the examined images among the training images; None without any."""
    set_apart: tuple[str, ...]
    """Names of examined images that are not controls."""
    num_repeated: int
    """Further examined images that are not, because they are like a control."""
    is_dense: bool
    """Whether so many are near a training image that being near does not set one apart."""


def choose_controls(
    holdout: ImageSet,
    asked: ImageSet,
    config: CheckConfig,
    *,
    index: ImageSearch | None,
    pixels: NeighborIndex | None,
    progress: Progress = silent,
) -> ChosenControls:
    """Choose held-out images at random that are neither asked about nor in the training set.

    Held-out images that are copies of a training image by the rule are set apart, as in a scan: the
    model may have seen them. Where they are more than 1 %, the data is dense: near images are then
    what the distribution gives, and they are controls like all others. Held-out images within the
    duplicate radius of each other, or in dense data equal ones, are one control together.

    Args:
        holdout: images like those asked about that the model was not trained on.
        asked: the images asked about.
        config: how many are needed, of which class, and what counts as a copy.
        index: of the training images, or None without any.
        pixels: of their pixels.
        progress: told how many images are searched.

    Raises:
        DataError: none is left; no labels to choose a class by.
    """
    rows = _of_class(holdout, config.class_index)
    order = np.random.default_rng(0).permutation(rows)
    wanted = config.controls_for(len(asked))
    examined = holdout.take(order[: max(EXAMINED, 2 * wanted)])

    limit = largest_squared_distance(config.rule.duplicate_rms, asked.image_shape)
    of_asked = NeighborIndex(asked.images, flips=config.index.flips)
    is_asked = of_asked.nearest(examined.images, 1).squared_distance[:, 0] <= limit
    places: TrainingPlaces | None = None
    near_training, ratios, is_dense = None, None, False
    is_apart = is_asked
    if index is not None and pixels is not None:
        places = find_places(index, pixels, examined.images, config.rule, progress=progress)
        is_near = np.array([len(positions) > 0 for positions in places.in_place])
        near_training = clopper_pearson(int(is_near.sum()), len(is_near), config.rule.confidence)
        ratios = places.ratio[~is_asked]
        is_dense = near_training.count > 1 and near_training.ratio > DENSE
        if not is_dense:
            is_apart = is_asked | is_near
    left = np.flatnonzero(~is_apart)
    # Copies of one image are one control: a rank counts chances, of which they have one.
    different = left[_first_of_each(examined.images[left], 0 if is_dense else limit, config)]
    num_repeated = len(left) - len(different)
    left = different[:wanted]
    if not len(left):
        raise DataError(
            f"Each of the {len(examined):,} held-out images in {holdout.source} is like an image "
            "asked about or a training image, so that none is left as a control. Give others with "
            "{holdout}.",
            field="holdout",
        )
    nowhere = np.zeros(0, dtype=np.int64)
    return ChosenControls(
        images=examined.take(left),
        in_place=tuple(nowhere if places is None else places.in_place[i] for i in left),
        num_examined=len(examined),
        near_training=near_training,
        ratios=ratios,
        set_apart=tuple(examined.names[i] for i in np.flatnonzero(is_apart).tolist()),
        num_repeated=num_repeated,
        is_dense=is_dense,
    )


def _first_of_each(images: np.ndarray, limit: int, config: CheckConfig) -> np.ndarray:
    """Positions of images that are not within a squared distance of one that is kept before."""
    if not len(images):
        return np.zeros(0, dtype=np.int64)
    index = NeighborIndex(images, flips=config.index.flips)
    near, is_left = images_within(index, images, limit), np.ones(len(images), dtype=bool)
    for row, others in enumerate(near):
        if is_left[row]:
            is_left[others[others > row]] = False
    return np.flatnonzero(is_left)


def _of_class(holdout: ImageSet, class_index: int | None) -> np.ndarray:
    """Positions of the held-out images of a class, or of all."""
    if class_index is None:
        return np.arange(len(holdout))
    if holdout.labels is None:
        raise DataError(
            f"Images of one class are checked, but {holdout.source} has no labels, and images of "
            "other classes cannot be controls. Give {holdout} with labels, or leave {class_index} "
            "out.",
            field=("holdout", "class_index"),
        )
    rows = np.flatnonzero(holdout.labels == class_index)
    if not len(rows):
        raise DataError(
            f"{holdout.source} holds no image of class {class_index}; give some with {{holdout}}.",
            field="holdout",
        )
    return rows
