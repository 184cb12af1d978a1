"""Does the training set hold an image: exactly, or as a near copy?"""

from dataclasses import dataclass, replace

import numpy as np

from memaudit.audit.image_check.result import InTraining
from memaudit.audit.memorization.matches import Matches, match_images
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.audit.statistics.conformal import conformal_p
from memaudit.audit.statistics.per_class import holm
from memaudit.data.images import ImageSet
from memaudit.progress import Progress, silent

FIRST_K, WIDENING = 16, 8
NAMED = 20
"""Training images that are named for one image."""


@dataclass(frozen=True)
class TrainingPlaces:
    """Where some images stand in the training set."""

    matches: Matches
    """The images, judged as if they had been generated."""
    in_place: tuple[np.ndarray, ...]
    """For each image the positions of training images that it equals or is near to, int64."""
    equal: tuple[np.ndarray, ...]
    """For each image the positions of training images that it equals, int64."""
    p_value: tuple[float, ...] | None = None
    """Chance of a distance ratio as small, by rank among held-out images; None without any."""
    p_adjusted: tuple[float, ...] | None = None
    """The same with Holm's correction for the number of images."""

    def nearest(self, row: int) -> int:
        """The training image that an image equals, is a copy of, or is nearest to."""
        equal = self.equal[row]
        return int(equal[0]) if len(equal) else int(self.matches.copied[row])

    def rule(self, row: int) -> tuple[str, str] | None:
        """The further rule by which alone an image is a copy, and where; None if there is none."""
        credited = int(self.matches.credited[row])
        if credited < 1 or len(self.equal[row]):
            return None
        found = self.matches.finds[credited - 1]
        return found.rule, found.where[row]

    @property
    def ratio(self) -> np.ndarray:
        """float64 [B]: distance ratios, 0 at distance 0 even where that is from two images."""
        d1 = self.matches.squared_distance1
        return np.where(d1 == 0, 0.0, self.matches.distance_ratio)

    @property
    def near_copies(self) -> list[int]:
        """Images that are near to a training image but equal none."""
        places = zip(self.in_place, self.equal, strict=True)
        return [row for row, (near, equal) in enumerate(places) if len(near) and not len(equal)]


def find_places(
    index: ImageSearch,
    pixels: NeighborIndex,
    images: np.ndarray,
    rule: Rule,
    *,
    progress: Progress = silent,
) -> TrainingPlaces:
    """Find the training images that each image equals or is near to.

    These are the training images within `rule.duplicate_rms` of it and, where it is a copy by the
    rule of a scan, the nearest training image with its duplicates.

    Args:
        index: of the training images, at least 2.
        pixels: of the same images' pixels.
        images: uint8 [B, C, H, W].
        rule: what counts as a copy.
        progress: told how many images are searched.
    """
    matches = match_images(index, images, rule, progress=progress)
    limit = largest_squared_distance(rule.duplicate_rms, pixels.images.shape[1:])
    near = images_within(pixels, images, limit)
    copies = np.flatnonzero(matches.is_copy)
    if len(copies):
        originals = np.asarray(pixels.images[matches.copied[copies]])
        for row, more in zip(copies, images_within(pixels, originals, limit), strict=True):
            near[row] = np.union1d(near[row], more)
    return TrainingPlaces(matches, tuple(near), tuple(images_within(pixels, images, 0)))


def images_within(index: ImageSearch, images: np.ndarray, limit: int) -> list[np.ndarray]:
    """The positions of all indexed images within a squared distance of each image, int64."""
    found = [np.zeros(0, dtype=np.int64) for _ in images]
    k, todo = min(FIRST_K, len(index.images)), np.arange(len(images))
    while len(todo):
        near = index.nearest(images[todo], k)
        within = near.squared_distance <= limit
        is_done = ~within[:, -1] | (k == len(index.images))
        for i in np.flatnonzero(is_done):
            found[todo[i]] = np.sort(near.index[i, within[i]])
        todo, k = todo[~is_done], min(WIDENING * k, len(index.images))
    return found


def rank_places(
    places: TrainingPlaces,
    pixels: NeighborIndex,
    control_ratios: np.ndarray,
    *,
    alpha: float,
    duplicate_rms: float,
) -> TrainingPlaces:
    """Rank distance ratios among those of held-out images.

    An image whose ratio is smaller than held-out images have it by more than chance is near to its
    nearest training image, too, whatever the threshold of the rule.

    Args:
        places: of the images asked about.
        pixels: the index of the training images' pixels.
        control_ratios: of at least one held-out image.
        alpha: chance that an image is called near although it is like the held-out ones, over all
            images.
        duplicate_rms: radius of duplicates in gray levels.
    """
    p_value = conformal_p(places.ratio, control_ratios).p_value.tolist()
    p_adjusted = holm(p_value)
    limit = largest_squared_distance(duplicate_rms, pixels.images.shape[1:])
    in_place = list(places.in_place)
    for row, p in enumerate(p_adjusted):
        if p <= alpha and not len(in_place[row]):
            nearest = places.matches.nn1[row : row + 1]
            in_place[row] = images_within(pixels, np.asarray(pixels.images[nearest]), limit)[0]
    return replace(
        places, in_place=tuple(in_place), p_value=tuple(p_value), p_adjusted=tuple(p_adjusted)
    )


def find_in_training(
    places: TrainingPlaces, index: ImageSearch, data: ImageSet
) -> tuple[InTraining, ...]:
    """What is said of each image asked about.

    Args:
        places: of the images asked about.
        index: of the training images.
        data: the training images.
    """
    said = []
    for q, (positions, equal) in enumerate(zip(places.in_place, places.equal, strict=True)):
        named = equal if len(equal) else positions
        nearest, rule = places.nearest(q), places.rule(q)
        said.append(
            InTraining(
                kind="equal" if len(equal) else "near" if len(positions) else "no",
                nearest=data.names[nearest],
                index=nearest,
                rule=None if rule is None else rule[0],
                where="" if rule is None else rule[1],
                distance=index.space.distance(places.matches.squared_distance1[q].item()),
                distance_ratio=float(places.ratio[q]),
                names=tuple(data.names[i] for i in named[:NAMED].tolist()),
                p_value=None if places.p_value is None else places.p_value[q],
                p_adjusted=None if places.p_adjusted is None else places.p_adjusted[q],
            )
        )
    return tuple(said)
