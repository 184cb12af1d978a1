"""The slow truth about neighbors, and kinds of images that are hard to search."""

from fractions import Fraction

import numpy as np


def all_distances(x, y, *, flips=False):
    """Σ (x − y)² for every pair, in integers from the differences themselves; int64 [B, N].

    With `flips` the smaller of those to y and to its mirror image.
    """
    if flips:
        return np.minimum(all_distances(x, y), all_distances(x, y[..., ::-1]))
    x, y = (a.reshape(len(a), -1).astype(np.int32) for a in (x, y))
    return np.stack([np.square(row - y).sum(1, dtype=np.int64) for row in x])


def brute_force(queries, images, k, *, flips=False):
    """index and squared distance [B, k]; the stable sort leaves ties in order of index."""
    S = all_distances(queries, images, flips=flips)
    index = np.argsort(S, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(S, index, 1)


def brute_force_distinct(queries, images, duplicate_rms, *, flips=False):
    """The nearest image outside the duplicates of the nearest; -1 if there is none."""
    limit = Fraction(duplicate_rms) ** 2 * images[0].size
    found = []
    for S in all_distances(queries, images, flips=flips):
        apart = all_distances(images[[S.argmin()]], images, flips=flips)[0]
        rest = [i for i in np.argsort(S, kind="stable") if apart[i] > limit]
        found.append((rest[0], S[rest[0]]) if rest else (-1, -1))
    return np.array(found).T


def noise(rng, num_images, shape, low=0, high=256):
    return rng.integers(low, high, (num_images, *shape), dtype=np.uint8)


def few_levels(rng, num_images, shape):
    return noise(rng, num_images, shape, 100, 102)


def flat(rng, num_images, shape):
    return np.broadcast_to(noise(rng, num_images, (1, 1, 1)), (num_images, *shape))


def identical(rng, num_images, shape):
    return np.broadcast_to(noise(rng, 1, shape), (num_images, *shape))


def extremes(rng, num_images, shape):
    return 255 * noise(rng, num_images, shape, 0, 2)


def near_duplicates(rng, num_images, shape):
    """A few images with ±1 on some pixels."""
    images = noise(rng, 3, shape, 1, 255)[rng.integers(0, 3, num_images)]
    return images + noise(rng, num_images, shape, 0, 3) - 1


def smooth(rng, num_images, shape):
    """Few principal components, as photographs have."""
    C, H, W = shape
    waves = np.cos(np.outer(np.arange(4), np.linspace(0, np.pi, H * W))).reshape(4, 1, H, W)
    images = np.tensordot(rng.normal(size=(num_images, C, 4)), waves[:, 0], 1) * 40 + 128
    return np.clip(images, 0, 255).astype(np.uint8)


KINDS = [noise, few_levels, flat, identical, extremes, near_duplicates, smooth]
SHAPES = [(1, 1, 1), (1, 8, 8), (3, 8, 8), (1, 17, 19), (3, 16, 16), (3, 32, 32)]
