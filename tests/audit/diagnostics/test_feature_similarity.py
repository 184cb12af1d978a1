"""Similarities by features, against held-out images and published cuts."""

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit.audit.diagnostics.feature_similarity import DIAGNOSTIC, compare_similarities
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.scan import scan
from memaudit.data.images import ImageSet


def pooled(images: np.ndarray) -> np.ndarray:
    """Means over patches, around the middle gray."""
    B, C, H, W = images.shape
    x = images.reshape(B, C, H // 2, 2, W // 2, 2).mean((3, 5), dtype=np.float64) - 127.5
    return x.reshape(B, -1).astype(np.float32)


def named(images: np.ndarray, source: str) -> ImageSet:
    return ImageSet(images, [f"{source} {i}" for i in range(len(images))], source=source)


def by_hand(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The largest cosine with a training image, float64."""
    x, y = (pooled(part).astype(np.float64) for part in (images, train))
    x, y = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, y))
    return (x @ y.T).max(1)


def test_the_cut_is_the_99th_percentile_of_held_out_images():
    images = smooth_images(620, 8, seed=0)
    train, holdout, generated = images[:200], images[200:600].copy(), images[580:].copy()
    generated[:10] = train[:10] // 2 + 40  # less contrast, brighter: not near in pixels
    near = np.clip(train[:3].astype(int) + 2, 0, 255).astype(np.uint8)
    controls = named(np.concatenate([near, holdout]), "holdout")
    index = FeatureIndex(train, pooled)
    result = scan(named(generated, "given"), named(train, "data"), holdout=controls, index=index)
    found = result.diagnostics.feature_similarity
    assert found is not None and found.num_holdout == 400
    control, cosine = by_hand(holdout, train), by_hand(generated, train)
    assert found.cut.value == pytest.approx(np.sort(control)[395], abs=1e-6)
    assert found.cut.low < found.cut.value < found.cut.high <= 1
    assert found.above.count == (cosine > np.sort(control)[395] + 1e-6).sum()
    assert found.above_high <= found.above.count <= found.above_low
    assert found.median == pytest.approx(np.median(cosine), abs=1e-6)
    assert found.median_holdout == pytest.approx(np.median(control), abs=1e-6)
    assert found.published == ()
    page = result.page_context
    said = str(list(DIAGNOSTIC.section(found, page)))
    assert "Numbers do not transfer" in said and "cut is uncertain" not in said
    assert "the 99th percentile of 400 held-out images" in next(iter(DIAGNOSTIC.lines(found)))


def test_published_cuts_are_counted_beside_it():
    index = FeatureIndex(smooth_images(20, 8, seed=0), pooled)
    index.encoder = Published()
    S = 2 - 2 * np.array([0.8, 0.65, 0.6, 0.1])
    found = compare_similarities(S, 2 - 2 * np.array([0.55, 0.2]), index)
    counts = [(c.similarity, c.generated.count, c.holdout.count) for c in found.published]
    assert counts == [(0.5, 3, 1), (0.6, 3, 0), (0.7, 1, 0)]
    assert (found.cut.value, found.cut.high) == (pytest.approx(0.55), 1.0)
    assert (found.above.count, found.above_high) == (3, 0)
    _, said = DIAGNOSTIC.lines(found)
    assert "at 0.5, 3 of 4 generated and 1 of 2 held-out images; at 0.6, 3 of 4" in said


class Published:
    """A published encoder's name."""

    name = "sscd-224"
    is_program = False


def test_pixels_and_other_metrics_have_no_such_cut():
    images = smooth_images(60, 8, seed=0)
    data, holdout, given = (named(images[i::3], str(i)) for i in range(3))
    assert scan(given, data, holdout=holdout).diagnostics.feature_similarity is None
    index = FeatureIndex(data.images, pooled, metric="l2")
    found = scan(given, data, holdout=holdout, index=index).diagnostics.feature_similarity
    assert found is None
