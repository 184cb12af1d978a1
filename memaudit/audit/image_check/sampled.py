"""Generated images against the pool: copies among all, and sampling that starts near an image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memaudit.audit.image_check.config import CheckConfig
from memaudit.audit.image_check.pool import Pool
from memaudit.audit.image_check.result import CloseImage, Copies, Returns, ReturnsFrom
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.errors import ConfigError
from memaudit.models.denoiser import Denoiser
from memaudit.models.generate import generate_images
from memaudit.progress import Progress

SHOWN_CLOSEST = 6
"""Generated images that are shown for each image asked about."""
LISTED_KEYS = 1000
"""Copies whose seeds or names are listed for each image asked about."""
START_BYTES = 256 << 20
"""Most bytes of images that sampling starts at, at a time."""

Keyed = tuple[Sequence[int | str], np.ndarray]
"""Some generated images, uint8 [B, C, H, W], behind their seeds or names."""


@dataclass(frozen=True)
class Collected:
    """What the generated images say of the pool."""

    score: np.ndarray
    """float64 [P]: the smallest distance ratio of a generated image to each."""
    num_copies: np.ndarray
    """int64 [P]: generated images that copy each."""
    num_by_rules: np.ndarray | None
    """int64 [P]: those that do by a further rule than that of whole images; None without any."""
    total: int
    """Generated images."""
    keys: tuple[tuple[int | str, ...], ...]
    """Seeds or names of the first copies of each image asked about."""
    closest: tuple[tuple[CloseImage, ...], ...]
    """The closest generated images of each image asked about."""
    pictures: tuple[np.ndarray, ...]
    """Their pixels, uint8 [k, C, H, W] each."""

    def copies(self, q: int, p_value: float | None, confidence: float) -> Copies:
        """What is said of an image asked about."""
        share = clopper_pearson(int(self.num_copies[q]), self.total, confidence)
        return Copies(share, self.keys[q], self.closest[q], p_value)


def collect_copies(pool: Pool, batches: Iterable[Keyed], num_values: int) -> Collected:
    """Compare generated images with the pool, as they come.

    Args:
        pool: the images asked about and their controls.
        batches: generated images.
        num_values: what a squared distance is divided by before the root, as in `Space`.
    """
    num_images, asked = len(pool.images), range(pool.num_asked)
    score, num_copies = np.full(num_images, np.inf), np.zeros(num_images, dtype=np.int64)
    num_by_rules = np.zeros(num_images, dtype=np.int64)
    keys: list[list[int | str]] = [[] for _ in asked]
    closest: list[list[tuple[CloseImage, np.ndarray]]] = [[] for _ in asked]
    total = 0
    for batch_keys, images in batches:
        for start in range(0, len(images), pool.rows_at_a_time):
            rows = slice(start, start + pool.rows_at_a_time)
            part, part_keys = images[rows], batch_keys[rows]
            found = pool.compare(part)
            ratio = found.ratio
            score = np.minimum(score, ratio.min(0))
            num_copies += found.is_copy.sum(0)
            num_by_rules += found.by_rules.sum(0)
            total += len(part)
            for q in asked:
                copies = np.flatnonzero(found.is_copy[:, q])[: LISTED_KEYS - len(keys[q])]
                keys[q] += [part_keys[i] for i in copies]
                # Copies first: one that is only within the radius may have a larger ratio. Equal
                # ratios by distance: the ratio of a copy of another image is infinite.
                order = np.lexsort(
                    (found.squared_distance[:, q], ratio[:, q], ~found.is_copy[:, q])
                )[:SHOWN_CLOSEST]
                closest[q] += [
                    (
                        CloseImage(
                            key=part_keys[i],
                            distance=float(np.sqrt(found.squared_distance[i, q] / num_values)),
                            distance_ratio=float(ratio[i, q]),
                            is_copy=bool(found.is_copy[i, q]),
                            rules=found.rules_alone.get((int(i), q), ""),
                        ),
                        np.array(part[i]),
                    )
                    for i in order
                ]
                closest[q].sort(
                    key=lambda item: (
                        not item[0].is_copy,
                        item[0].distance_ratio,
                        item[0].distance,
                    )
                )
                del closest[q][SHOWN_CLOSEST:]
    return Collected(
        score=score,
        num_copies=num_copies,
        num_by_rules=None if pool.everything is None else num_by_rules,
        total=total,
        keys=tuple(map(tuple, keys)),
        closest=tuple(tuple(close for close, _ in one) for one in closest),
        pictures=tuple(np.stack([picture for _, picture in one]) for one in closest),
    )


@dataclass(frozen=True)
class Tried:
    """Noise and return, of every image of the pool."""

    sigmas: tuple[float, ...]
    """Ascending."""
    returned: np.ndarray
    """int64 [L, P]: samplings that ended in a copy."""
    num_noises: int
    score: np.ndarray
    """float64 [P]: the mean of the distance ratio of what was sampled, at most 1."""

    def returns(self, q: int, num_asked: int, p_value: float | None, confidence: float) -> Returns:
        """What is said of an image asked about."""
        controls = self.returned[:, num_asked:]
        back = 2 * controls >= self.num_noises

        def share(level: int) -> Proportion | None:
            if not controls.shape[1]:
                return None
            return clopper_pearson(int(back[level].sum()), back.shape[1], confidence)

        return Returns(
            levels=tuple(
                ReturnsFrom(sigma, int(self.returned[level, q]), self.num_noises, share(level))
                for level, sigma in enumerate(self.sigmas)
            ),
            score=float(self.score[q]),
            p_value=p_value,
        )


def try_returns(
    denoiser: Denoiser,
    pool: Pool,
    labels: np.ndarray | None,
    config: CheckConfig,
    *,
    progress: Progress,
) -> Tried:
    """Sample from every image of the pool with noise, at every noise level.

    Every image has the same noises, so that images differ by what the model does alone.

    Args:
        denoiser: the model.
        pool: the images asked about and their controls.
        labels: the class of each, int64 [P]; None for a model without classes.
        config: noise levels, number of noises, sampler.
        progress: told how many images are sampled.

    Raises:
        ConfigError: no noise level is within the model's range.
    """
    sigmas = tuple(sorted(sigma for sigma in set(config.sigmas) if sigma <= denoiser.sigma_max))
    if not sigmas:
        raise ConfigError(
            f"The smallest of the {{sigmas}} to return from is {min(config.sigmas):g}, but the "
            f"model handles at most {denoiser.sigma_max:g}; choose smaller ones.",
            field="sigmas",
        )
    num_images, noises = len(pool.images), config.num_noises
    at_a_time = max(1, START_BYTES // (pool.images[:1].nbytes * noises))
    ratio = np.empty((len(sigmas), num_images, noises))
    is_copy = np.empty(ratio.shape, dtype=bool)
    for level, sigma in enumerate(sigmas):
        for first in range(0, num_images, at_a_time):
            z = np.arange(first, min(first + at_a_time, num_images))
            rows = np.repeat(z, noises)
            before = (level * num_images + first) * noises

            def told(
                task: str, done: int, total: int | None, note: str = "", before: int = before
            ) -> None:
                progress("Returning from noise", before + done, ratio.size, note)

            batches = generate_images(
                denoiser,
                np.tile(np.arange(noises), len(z)).tolist(),
                config=replace(config.sampler.by_edm, sigma_max=sigma),
                class_index=None if labels is None else labels[rows].tolist(),
                start=np.asarray(pool.images[rows]),
                execution=replace(config.execution, precision="fp32"),
                progress=told,
            )
            done = 0
            for batch in batches:
                for start in range(0, len(batch.images), pool.rows_at_a_time):
                    part = batch.images[start : start + pool.rows_at_a_time]
                    found, own = pool.compare(part), rows[done : done + len(part)]
                    noise = np.arange(done, done + len(part)) % noises
                    i = np.arange(len(part))
                    ratio[level, own, noise] = found.ratio[i, own]
                    is_copy[level, own, noise] = found.is_copy[i, own]
                    done += len(part)
    return Tried(
        sigmas=sigmas,
        returned=is_copy.sum(2),
        num_noises=noises,
        score=np.minimum(ratio, 1).mean((0, 2)),
    )
