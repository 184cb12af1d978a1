"""The recall of the rule, where it is known which copies a rule can see."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics import recall
from memaudit.audit.diagnostics.recall import Recall, recall_of_rule
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.build import build_index
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.report.folder import write_report
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.data import transformed_copies
from memaudit.data.images import ImageSet
from memaudit.data.transformed_copies import transformations


def draw(num_images: int, *, shape=(3, 16, 16), seed=0) -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (num_images, *shape), dtype=np.uint8)
    return image_set(images)


def image_set(images: np.ndarray) -> ImageSet:
    return ImageSet(images, [f"[{i}]" for i in range(len(images))])


def measure(data: ImageSet, rule: Rule | None = None, **options) -> dict[str, tuple[int, int]]:
    found = recall_of_rule(NeighborIndex(data.images, **options), data, rule)
    return {each.key: (each.seen.count, each.seen.total) for each in found.planted}


def test_among_random_images_distances_say_which_copies_are_seen():
    """Random bytes lie about 104 levels apart, so what moves an image by less than 35 is seen."""
    found = measure(draw(150))
    seen = {key for key, (count, total) in found.items() if (count, total) == (100, 100)}
    moved_little = {"noise-4", "noise-8", "noise-16", "noise-24", "brighter", "contrast"}
    assert seen == {"exact", "blend-20", *moved_little}  # 0.2 · 104 = 21 levels
    for key in ("shift-1", "shift-2", "crop", "mirror", "half", "blend-50", "gray"):
        assert found[key] == (0, 100), key


@pytest.mark.parametrize("flips", [False, True])
def test_mirrored_copies_are_seen_with_flips(flips: bool):
    assert measure(draw(60), flips=flips)["mirror"] == (60 if flips else 0, 60)


@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 2, 2), (1, 8, 8), (3, 3, 7)])
@pytest.mark.parametrize("num_images", [2, 30])
def test_it_runs_at_any_size(shape: tuple[int, int, int], num_images: int):
    found = measure(draw(num_images, shape=shape))
    assert found["exact"] == (num_images, num_images)
    assert set(found) <= {each.key for each in transformations(shape)}


def test_copies_that_equal_their_original_are_left_out():
    """A flat image mirrored, shifted or turned gray is the image itself."""
    flat = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    found = measure(image_set(np.broadcast_to(flat, (5, 3, 8, 8)).copy()))
    assert found["exact"] == (5, 5)
    assert found["noise-4"] == (5, 5)
    # 20 levels to the original and 30 to the next, but 70 for the brightest.
    assert found["brighter"] == (1, 5)
    unchanged = {"shift-1", "shift-2", "crop", "mirror", "gray", "contrast"}
    assert not unchanged & set(found)


def test_a_duplicate_of_the_original_counts_as_the_original():
    """The nearest of equal images is the first, whichever of them was copied."""
    once = draw(40)
    twice = image_set(np.concatenate([once.images, once.images]))
    assert measure(twice)["exact"] == (80, 80)
    assert measure(twice, Rule(duplicate_rms=0))["noise-8"] == (80, 80)


def test_what_the_rule_cannot_see_is_not_seen():
    same = image_set(np.repeat(draw(1).images, 30, axis=0))
    assert measure(same)["exact"] == (30, 30)  # all distances are 0: duplicates themselves
    strict = measure(draw(60), Rule(threshold=Fraction(1, 20), duplicate_rms=0))
    assert strict["noise-4"][0] == 60 and strict["noise-8"][0] == 0  # 104 / 20 = 5.2 levels


def test_it_agrees_with_a_slow_version():
    """Every distance, one copy after the other, on images that are somewhat alike."""
    rng = np.random.default_rng(3)
    base = rng.integers(60, 190, (12, 1, 3, 3))
    images = np.repeat(base, 4, axis=0).repeat(3, axis=2).repeat(3, axis=3)
    data = image_set((images + rng.integers(-40, 41, images.shape)).astype(np.uint8))
    rule = Rule(duplicate_rms=8)
    rng = np.random.default_rng(int(data.fingerprint[:16], 16))
    chosen = rng.choice(48, 48, replace=False)
    other = rng.integers(47, size=48)
    other += other >= chosen
    y = data.images.astype(np.int64)

    def is_seen(x: np.ndarray, i: int) -> bool:
        S = ((y - x) ** 2).sum((1, 2, 3))
        first = S.argmin()
        apart = ((y - y[first]) ** 2).sum((1, 2, 3)) > 8**2 * y[0].size
        original = ((y[first] - y[i]) ** 2).sum() <= 8**2 * y[0].size
        near = S[first] <= 8**2 * y[0].size
        return bool((near or 9 * S[first] < S[apart].min()) and original)

    expected = {}
    for kind in transformations(data.image_shape):
        copies = kind.apply(data.images[chosen], data.images[other], rng)
        pairs = [(x, i) for x, i in zip(copies, chosen, strict=True)]
        if kind.key != "exact":
            pairs = [(x, i) for x, i in pairs if not np.array_equal(x, data.images[i])]
        expected[kind.key] = (sum(is_seen(x.astype(int), i) for x, i in pairs), len(pairs))
    found = measure(data, rule)
    assert found == expected
    assert any(0 < count < total for count, total in found.values())


def test_the_same_images_get_the_same_copies_and_large_ones_fewer(monkeypatch: pytest.MonkeyPatch):
    data = draw(30, shape=(3, 8, 8))
    index = NeighborIndex(data.images)
    found = recall_of_rule(index, data)
    renamed = replace(data, names=[f"other {i}" for i in range(30)], source="elsewhere")
    assert recall_of_rule(index, renamed) == found
    assert recall_of_rule(index, data, num_originals=7).num_originals == 7
    monkeypatch.setattr(transformed_copies, "COPIED_VALUES", 15 * 3 * 8 * 8)
    assert recall_of_rule(index, data).num_originals == 15
    monkeypatch.setattr(transformed_copies, "COPIED_VALUES", 1)
    assert recall_of_rule(index, data).num_originals == transformed_copies.FEWEST_ORIGINALS


def test_the_sentence_names_what_is_seen_and_what_is_missed():
    data = draw(150)
    sentence = recall_of_rule(NeighborIndex(data.images), data).sentence
    assert sentence.startswith(
        "The rule would have seen 100 of 100 exact copies, 100 with noise of 8 levels and "
    )
    assert sentence.endswith(
        " saved as JPEG of quality 75, but only 0 shifted by 1 pixel, 0 cropped to 14×14 and "
        "enlarged, 0 mirrored and 0 half replaced."
    )
    flat = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 16).reshape(5, 1, 4, 4)
    everything = recall_of_rule(NeighborIndex(flat), image_set(flat)).sentence
    assert everything.startswith("The rule would have seen 5 of 5 exact copies and ")


def test_every_scan_measures_it_and_shows_it(make_result: Callable[..., ScanResult], tmp_path):
    result = make_result()
    found = result.diagnostics.recall
    assert isinstance(found, Recall) and found.num_originals == 60
    assert recall.DIAGNOSTIC.evidence(found, 0.05) == ()
    page = write_report(result, tmp_path).read_text()
    assert found.sentence in page and "What the rule sees" in page
    stored = json.loads((tmp_path / "report.json").read_text())["diagnostics"]["recall"]
    assert stored["planted"][0]["key"] == "exact"
    assert stored["planted"][0]["seen"]["count"] == 60
    without = scan(result.generated, result.data, config=ScanConfig(without=("recall",)))
    assert without.diagnostics.recall is None


def test_features_are_judged_as_features(feature_result: ScanResult):
    """The encoder returns the pixels: cosine distances ignore brightness, as pixels do not."""
    found = feature_result.diagnostics.recall
    assert found is not None and found.num_originals == recall.NUM_ENCODED
    by_key = {each.key: each.seen for each in found.planted}
    assert by_key["exact"].count == by_key["exact"].total == recall.NUM_ENCODED


def test_a_copy_that_is_half_of_another_image_may_name_either():
    rng = np.random.default_rng(5)
    data = ImageSet.from_array(rng.integers(0, 256, (60, 3, 16, 16), dtype=np.uint8))
    index = build_index(data, IndexConfig(match=("pixels", "tiles")))
    found = recall_of_rule(index, data)
    assert found.sentence.startswith("The rules would have seen ")
    by_key = {each.key: each for each in found.planted}
    assert by_key["half"].seen.ratio == 1
