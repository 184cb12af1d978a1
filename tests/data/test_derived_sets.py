"""Label schemes, mixtures and repetitions: the same on every machine."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from helpers.images import labels_of
from hypothesis import given
from hypothesis import strategies as st

from memaudit.data.derived_sets import build_set, label_images, mix_images, repeat_images
from memaudit.data.images import ImageSet
from memaudit.data.selection import Selection, Subset
from memaudit.data.set_recipe import DrawRule, LabelScheme, SetRecipe
from memaudit.data.subsets import select_images
from memaudit.errors import DataError


def image_set(
    first: int = 0, num_images: int = 12, source: str = "set", **options: Any
) -> ImageSet:
    """Images whose first pixel is `first` plus their index."""
    pixels = np.zeros((num_images, 1, 2, 2), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(first, first + num_images)
    return ImageSet(pixels, [f"{i}.png" for i in range(num_images)], source=source, **options)


def first_pixels(images: ImageSet) -> list[int]:
    return [int(pixel) for pixel in images.images[:, 0, 0, 0]]


def labeled() -> ImageSet:
    return image_set(labels=np.array([0, 1, 2] * 4), class_names=("cat", "dog", "fox"))


def test_a_label_scheme_changes_labels_only() -> None:
    schemes: list[tuple[LabelScheme, int | None]]
    schemes = [("true", None), ("none", None), ("random", 5), ("unique", None)]
    for scheme, num_classes in schemes:
        images = label_images(labeled(), scheme, num_classes=num_classes)
        assert images.fingerprint == labeled().fingerprint
        assert images.names == labeled().names and images.source == "set"


def test_true_labels_stay_and_none_go() -> None:
    assert labels_of(label_images(labeled(), "true")) == [0, 1, 2] * 4
    assert label_images(labeled(), "true").class_names == ("cat", "dog", "fox")
    assert label_images(labeled(), "none").labels is None
    assert label_images(labeled(), "none").num_classes == 0


def test_unique_labels_make_every_image_a_class() -> None:
    images = label_images(image_set(), "unique")
    assert labels_of(images) == list(range(12)) and images.num_classes == 12


def test_random_labels_are_the_same_on_every_machine() -> None:
    drawn = labels_of(label_images(image_set(), "random", num_classes=10))
    # random.seed(1024), then randint(0, 9) for each image, as in the paper's runs
    assert drawn == [0, 7, 6, 5, 8, 1, 7, 8, 5, 5, 6, 1]
    other = labels_of(label_images(image_set(), "random", num_classes=10, seed=1025))
    assert other == [3, 0, 0, 3, 5, 3, 3, 6, 5, 7, 5, 2]
    described = label_images(image_set(), "random", num_classes=10, rule="described", seed=0)
    assert labels_of(described) == [5, 0, 3, 3, 7, 9, 3, 5, 2, 4, 7, 6]


def test_random_labels_are_uniform() -> None:
    images = label_images(image_set(num_images=200), "random", num_classes=4, seed=5)
    counts = np.bincount(labels_of(images), minlength=4)
    assert ((counts - 50) ** 2 / 50).sum() < 16.3  # chi-squared, 3 degrees of freedom, p = 0.001


def test_a_mixture_takes_its_share_of_the_second() -> None:
    sources = image_set(), image_set(100, source="other")
    mixture = mix_images(*sources, share=0.2, size=10, rule="described", seed=3)
    pixels = first_pixels(mixture)
    assert sum(pixel >= 100 for pixel in pixels) == 2 and len(set(pixels)) == 10
    names = [f"set/{p}.png" if p < 100 else f"other/{p - 100}.png" for p in pixels]
    assert mixture.names == names
    assert mixture.labels is None and mixture.source == "set and other"


def test_a_published_mixture_has_the_first_images_of_each_source() -> None:
    mixture = mix_images(image_set(), image_set(100), share=0.5, size=5)
    assert first_pixels(mixture) == [0, 1, 100, 101, 102]
    # 10·(1 − 0.8) is 1.9999999999999996.
    assert first_pixels(mix_images(image_set(), image_set(100), share=0.8, size=10))[:2] == [0, 100]


@pytest.mark.parametrize(("share", "source"), [(0, "set"), (1, "other")])
@pytest.mark.parametrize(("rule", "subset"), [("published", "first"), ("described", "random")])
def test_a_share_of_none_or_all_is_a_part_of_one_source(
    share: float, source: str, rule: DrawRule, subset: Subset
) -> None:
    sources = {"set": labeled(), "other": image_set(100, source="other")}
    mixture = mix_images(*sources.values(), share=share, size=5, rule=rule, seed=7)
    part = select_images(sources[source], Selection(size=5, subset=subset, subset_seed=7))
    assert mixture.fingerprint == part.fingerprint
    assert mixture.labels is None and mixture.class_names == ()


@given(st.floats(0, 1), st.integers(1, 12), st.integers(0, 2**40))
def test_a_mixture_has_its_size_and_no_image_twice(share: float, size: int, seed: int) -> None:
    for rule, num_second in (
        ("described", round(share * size)),
        ("published", size - int(size * (1 - share))),
    ):
        mixture = mix_images(
            image_set(), image_set(100), share=share, size=size, rule=rule, seed=seed
        )
        pixels = first_pixels(mixture)
        assert len(set(pixels)) == size
        assert sum(pixel >= 100 for pixel in pixels) == num_second


def test_repeated_images_keep_the_name_of_their_file() -> None:
    images = repeat_images(select_images(labeled(), Selection(label=("dog",))), 3)
    assert first_pixels(images) == [i for i in (1, 4, 7, 10) for _ in range(3)]
    assert images.names == [f"{i}.png" for i in first_pixels(images)]
    assert labels_of(images) == [1] * 12
    assert images.indices is not None and images.indices.tolist() == first_pixels(images)


def test_sets_are_equal_by_fingerprint_on_every_machine() -> None:
    """Stored here once; a change means that published sets can no longer be made."""
    rng = np.random.RandomState(0)
    first, second = (
        ImageSet(pixels, [str(i) for i in range(40)], np.arange(40) % 4)
        for pixels in rng.randint(256, size=(2, 40, 3, 4, 4), dtype=np.uint8)
    )
    made = {
        "balanced": select_images(first, Selection(size=20, balanced=True)),
        "random": select_images(first, Selection(size=20, subset="random", subset_seed=5)),
        "mixture": mix_images(first, second, share=0.3, size=30, rule="described", seed=5),
        "repeated": repeat_images(select_images(first, Selection(size=10)), 4),
    }
    assert {name: images.fingerprint[:16] for name, images in made.items()} == {
        "balanced": "34f77e6dc0ca2c88",
        "random": "74d132dd30dcc107",
        "mixture": "51dde35ffbe02108",
        "repeated": "c569d66ff7fed21b",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "real"}, "scheme must be 'true', 'none', 'random' or 'unique', got 'real'"),
        ({"scheme": "random"}, "random labels need num_classes, at least 1; got None"),
        ({"scheme": "random", "num_classes": 0}, "at least 1; got 0"),
        ({"scheme": "unique", "num_classes": 5}, "unique labels determine it themselves"),
    ],
)
def test_a_scheme_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_images(image_set(), **options)


def test_true_labels_cannot_be_made_up() -> None:
    with pytest.raises(DataError, match="set has no labels; put its images in one folder"):
        label_images(image_set(), "true")


@pytest.mark.parametrize(
    ("share", "size", "message"),
    [(1.01, 4, "share must be 0 … 1"), (-0.1, 4, "got -0.1"), (0.5, 0, "size must be at least 1")],
)
def test_a_mixture_out_of_range_is_refused(share: float, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix_images(image_set(), image_set(), share=share, size=size)


def test_a_source_that_is_too_small_is_named() -> None:
    with pytest.raises(DataError, match="15 images of other are asked for; there are 12"):
        mix_images(image_set(), image_set(source="other"), share=0.75, size=20)


def test_images_of_two_shapes_cannot_be_mixed() -> None:
    other = ImageSet(np.zeros((3, 3, 4, 4), np.uint8), ["a", "b", "c"], source="other")
    with pytest.raises(DataError, match=r"set are \[1, 2, 2\], those of other \[3, 4, 4\]"):
        mix_images(image_set(), other, share=0.5, size=4)


def test_zero_repetitions_are_refused() -> None:
    with pytest.raises(ValueError, match="times must be at least 1, got 0"):
        repeat_images(image_set(), 0)


def test_a_recipe_is_followed_in_order() -> None:
    recipe = SetRecipe(Selection(size=2, label=("dog",)), repeat=2, labels="unique")
    built = build_set(recipe, labeled())
    assert first_pixels(built) == [1, 1, 4, 4] and labels_of(built) == [0, 1, 2, 3]
    second = image_set(100, source="other")
    dogs = select_images(labeled(), Selection(label=("dog",)))
    for rule in get_args(DrawRule):
        selection = Selection(size=6, label=("dog",), subset_seed=3)
        recipe = SetRecipe(selection, mix=Path("other"), share=0.5, repeat=2, rule=rule)
        mixture = mix_images(dogs, second, share=0.5, size=6, rule=rule, seed=3)
        built = build_set(recipe, labeled(), second)
        assert built.fingerprint == repeat_images(mixture, 2).fingerprint
    with pytest.raises(ValueError, match="a second source and a share in the recipe go together"):
        build_set(recipe, labeled())
