"""The rules for partial copies against all distances, in the plainest words."""

from fractions import Fraction

import numpy as np
import pytest
from helpers.all_distances import KINDS, all_distances
from helpers.images import smooth_images
from hypothesis import given, settings
from hypothesis import strategies as st

from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.rules.exclusions import images_apart
from memaudit.audit.neighbors.rules.registry import RULES
from memaudit.audit.neighbors.rules.rule import Criteria
from memaudit.audit.neighbors.rules.shift import largest_shift
from memaudit.audit.neighbors.rules.tiles import SMALLEST_TILE, tile_edges
from memaudit.audit.neighbors.rules.tone import without_tone
from memaudit.progress import silent

RADII = (0.0, 4.0, 8.0, 16.0)
RULE = {rule.name: rule for rule in RULES}


def opened(name, index):
    return RULE[name].open(index, IndexConfig(), silent)


def judged(rule, index, queries, criteria, left_out=None):
    radii = tuple(sorted({*RADII, criteria.duplicate_rms}))
    if left_out is None:
        near = index.distinct_nearest(queries, duplicate_rms=radii)
        return rule.judge(queries, images_apart(index, near, criteria), criteria)
    near = index.leave_one_out(left_out, duplicate_rms=radii)
    kept = left_out[near.judged]
    apart = images_apart(index, near, criteria, left_out=kept)
    return rule.judge(index.images[kept], apart, criteria, left_out=kept), kept


def decided(S, index, criteria, *, limit=-1, position=None):
    """(copied image, S) of one query by the distances to all training images, or None."""
    images, groups = index.images, index.groups
    allowed = np.ones(len(images), bool)
    if position is not None:
        allowed = all_distances(images[[position]], images, flips=index.flips)[0] > 0
        if groups is not None:
            allowed &= groups != groups[position]
    order = [i for i in np.argsort(S, kind="stable") if allowed[i]]
    if not order:
        return None
    first = order[0]
    if S[first] <= limit:
        return first, S[first]
    apart = all_distances(images[[first]], images, flips=index.flips)[0]
    distinct = apart > Fraction(criteria.duplicate_rms) ** 2 * images[0].size
    seconds = distinct if groups is None else distinct & (groups != groups[first])
    if not seconds.any():
        seconds = distinct
    rest = [i for i in order if seconds[i]]
    p, q = criteria.threshold.as_integer_ratio()
    if seconds.any() and (not rest or q * q * int(S[first]) < p * p * int(S[rest[0]])):
        return first, S[first]
    return None


def slowly(name, index, queries, criteria, positions=None):
    """index, S and the number of values of every query, from all distances."""
    images, flips = index.images, index.flips
    H, W = images.shape[2:]
    radius = Fraction(criteria.duplicate_rms) ** 2
    places = [None] * len(queries) if positions is None else positions
    found = []
    if name == "tiles":
        for query, position in zip(queries, places, strict=True):
            best = (-1, -1, 0)
            for grid in (2, 3):
                if min(H, W) < grid * SMALLEST_TILE:
                    continue
                votes = {}
                rows, columns = tile_edges(H, grid), tile_edges(W, grid)
                for i in range(grid):
                    for j in range(grid):
                        cut = np.s_[..., rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
                        S = all_distances(query[None][cut], images[cut])[0]
                        if flips:
                            mirrored = query[None, ..., ::-1][cut]
                            S = np.minimum(S, all_distances(mirrored, images[cut])[0])
                        copy = decided(S, index, criteria, position=position)
                        if copy is not None:
                            votes.setdefault(int(copy[0]), []).append((copy[1], S, cut))
                some = {image: list_ for image, list_ in votes.items() if len(list_) > 1}
                if some:
                    image = min(some, key=lambda each: (-len(some[each]), each))
                    values = sum(images[:1][cut].size for _, _, cut in some[image])
                    if values > best[2]:
                        best = (image, sum(int(S) for S, _, _ in some[image]), values)
            found.append(best)
        return np.array(found)
    limit = -1
    if name == "tone":
        S = all_distances(without_tone(queries), without_tone(images), flips=flips)
        values = images[0].size
    elif name == "flips":
        S, values = all_distances(queries, images, flips=True), images[0].size
        limit = radius * values
    else:
        up, side = largest_shift(H), largest_shift(W)
        inner = np.s_[..., up : H - up, side : W - side]
        orientations = [queries, queries[..., ::-1]] if flips else [queries]
        S = np.minimum.reduce(
            [
                all_distances(x[inner], images[..., y : y + H - 2 * up, z : z + W - 2 * side])
                for x in orientations
                for y in range(2 * up + 1)
                for z in range(2 * side + 1)
            ]
        )
        values = images[:1][inner].size
        limit = radius * values
    for row, position in zip(S, places, strict=True):
        copy = decided(row, index, criteria, limit=limit, position=position)
        found.append((-1, -1, 0) if copy is None else (*copy, values))
    return np.array(found)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.index, expected[:, 0])
    np.testing.assert_array_equal(found.squared_distance, expected[:, 1])
    np.testing.assert_array_equal(found.num_values, expected[:, 2])
    assert [bool(text) for text in found.where] == (found.index >= 0).tolist()


def altered(images, rng):
    """Copies of each kind: parts, other tones, shifted, mirrored, with noise; and fresh images."""
    others = images[rng.permutation(len(images))]
    half, toned = images.copy(), (images * 0.7 + 30).astype(np.uint8)
    half[..., images.shape[3] // 2 :] = others[..., images.shape[3] // 2 :]
    noisy = (images + rng.normal(0, 6, images.shape)).clip(0, 255).astype(np.uint8)
    moved = np.roll(images, (1, -1), (2, 3))
    made = [images, half, toned, noisy, moved, images[..., ::-1].copy()]
    picked = [each[rng.integers(len(images), size=3)] for each in made]
    return np.concatenate([*picked, smooth_images(3, images.shape[2], 99)[:, : images.shape[1]]])


@pytest.mark.parametrize("name", ["tiles", "tone", "shift", "flips"])
@pytest.mark.parametrize("grouped", [False, True])
@settings(max_examples=2, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from([None, *KINDS]),
    flips=st.booleans(),
    radius=st.sampled_from([0.0, 8.0, 60.0]),
    threshold=st.sampled_from([Fraction(1, 3), Fraction(1, 2), Fraction(9, 10)]),
)
def test_rules_decide_as_all_distances_do(name, grouped, seed, kind, flips, radius, threshold):
    rng = np.random.default_rng(seed)
    shape = (1, 12, 12)
    images = smooth_images(24, 12, seed)[:, :1] if kind is None else kind(rng, 24, shape)
    images = np.ascontiguousarray(images)
    groups = rng.integers(0, 6, len(images)) if grouped else None
    index = NeighborIndex(images, flips=flips, groups=groups)
    rule, criteria = opened(name, index), Criteria(threshold, radius)
    if rule is None:
        assert name == "flips" and flips
        return
    queries = altered(images, rng)
    assert_same(judged(rule, index, queries, criteria), slowly(name, index, queries, criteria))
    found, kept = judged(rule, index, None, criteria, left_out=np.arange(len(images)))
    if len(kept):
        assert_same(found, slowly(name, index, images[kept], criteria, positions=kept))
