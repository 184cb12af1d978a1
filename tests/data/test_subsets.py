"""Some of the images: a number, a class, equally many of each class."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import labels_of
from hypothesis import given
from hypothesis import strategies as st

from memaudit.data import sources
from memaudit.data.images import ImageSet
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.data.sources import open_images
from memaudit.data.subsets import open_selected, select_images
from memaudit.errors import ConfigError, DataError


def image_set(
    labels: list[int] | None = None,
    num_images: int = 12,
    class_names: tuple[str, ...] = ("cat", "dog", "fox"),
) -> ImageSet:
    """Images whose first pixel is their index."""
    pixels = np.zeros((num_images, 1, 2, 2), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(num_images)
    names = [f"{i}.png" for i in range(num_images)]
    if labels is None:
        return ImageSet(pixels, names, source="set")
    return ImageSet(pixels, names, np.array(labels, dtype=np.int64), class_names, "set")


def select(images: ImageSet, **options: Any) -> ImageSet:
    return select_images(images, Selection(**options))


@pytest.fixture
def labeled() -> ImageSet:
    return image_set([0, 1, 2, 2, 1, 0, 0, 0, 1, 2, 0, 1])  # 5 cats, 4 dogs, 3 foxes


def chosen(images: ImageSet) -> list[int]:
    """Indices of the images, checked against everything that travels with them."""
    indices: list[int] = images.images[:, 0, 0, 0].tolist()
    assert list(images.names) == [f"{i}.png" for i in indices]
    if images.indices is not None:
        assert images.indices.tolist() == indices
    return indices


def test_nothing_asked_for_is_everything(labeled: ImageSet) -> None:
    assert select(labeled) is labeled


def test_the_first_images(labeled: ImageSet) -> None:
    assert chosen(select(labeled, size=4)) == [0, 1, 2, 3]
    assert labels_of(select(labeled, size=4)) == [0, 1, 2, 2]


def test_random_images_are_those_of_edm(golden: Path) -> None:
    """EDM's `max_size` and `random_seed`; origin in golden/README.md."""
    for case in json.loads((golden / "training_numbers.json").read_text())["dataset_max_size"]:
        images = image_set(num_images=case["n"])
        part = select(
            images, size=case["max_size"], subset="random", subset_seed=case["random_seed"]
        )
        assert chosen(part) == case["indices"]


@given(st.integers(1, 12), st.integers(0, 2**40))
def test_random_images_are_distinct_and_in_order(size: int, seed: int) -> None:
    indices = chosen(select(image_set(), size=size, subset="random", subset_seed=seed))
    assert len(set(indices)) == size and indices == sorted(indices)
    assert indices == chosen(select(image_set(), size=size, subset="random", subset_seed=seed))


def test_another_seed_takes_other_images() -> None:
    parts = {
        tuple(chosen(select(image_set(), size=6, subset="random", subset_seed=s)))
        for s in range(20)
    }
    assert len(parts) > 15


@pytest.mark.parametrize("label", [1, "dog", [1], ["dog"], "1"])
def test_one_class_by_index_or_name(label: Any, labeled: ImageSet) -> None:
    part = select(labeled, label=label)
    assert chosen(part) == [1, 4, 8, 11]
    assert labels_of(part) == [1] * 4 and part.class_names == ("cat", "dog", "fox")


def test_a_class_named_by_a_number_comes_before_the_class_of_that_index() -> None:
    images = image_set([0, 1, 2] * 4, class_names=("10", "2", "cat"))
    assert chosen(select(images, label="2")) == [1, 4, 7, 10]
    assert chosen(select(images, label=2)) == chosen(select(images, label="cat"))
    assert chosen(select(images, label="0")) == chosen(select(images, label="10"))


def test_several_classes_stay_in_order(labeled: ImageSet) -> None:
    assert chosen(select(labeled, label=["fox", "dog"])) == [1, 2, 3, 4, 8, 9, 11]
    assert chosen(select(labeled, label=["fox", 1], size=3)) == [1, 2, 3]


def test_balanced_takes_the_first_of_each_class(labeled: ImageSet) -> None:
    """The paper's subsets: the first |D|/C of each class."""
    assert chosen(select(labeled, size=6, balanced=True)) == [0, 1, 2, 3, 4, 5]
    assert chosen(select(labeled, size=9, balanced=True)) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert chosen(select(labeled, size=4, balanced=True, label=["cat", "fox"])) == [0, 2, 3, 5]


def test_balanced_and_random(labeled: ImageSet) -> None:
    part = select(labeled, size=9, subset="random", subset_seed=3, balanced=True)
    assert np.bincount(labels_of(part)).tolist() == [3, 3, 3]
    assert chosen(part) == sorted(chosen(part))
    assert chosen(part) != chosen(select(labeled, size=9, balanced=True))


def test_a_part_of_a_part_still_knows_the_source(labeled: ImageSet) -> None:
    assert chosen(select(select(labeled, label="cat"), size=3)) == [0, 5, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 13}, "13 images of set are asked for; there are 12"),
        ({"size": 4, "label": "fox"}, "4 images of fox are asked for; there are 3"),
        ({"size": 12, "balanced": True}, "4 images of fox are asked for; there are 3"),
        ({"size": 8, "balanced": True}, "8 images cannot be divided equally among the 3 class"),
        ({"label": "cow"}, "set has no class 'cow'; its classes are cat, dog, fox"),
        ({"label": 3}, "set has no class 3; its classes are cat, dog, fox"),
        ({"label": -1}, "set has no class -1"),
    ],
)
def test_what_is_not_there_is_refused(
    options: dict[str, Any], message: str, labeled: ImageSet
) -> None:
    with pytest.raises(DataError, match=message):
        select(labeled, **options)


@pytest.mark.parametrize("options", [{"label": 0}, {"size": 2, "balanced": True}])
def test_choosing_by_class_needs_labels(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="set has no labels to choose by; put its images in one"):
        select(image_set(), **options)


def test_a_class_without_a_name_is_called_by_its_number() -> None:
    images = image_set([0, 0, 2] * 4, class_names=())
    with pytest.raises(DataError, match="1 images of class 1 are asked for; there are 0"):
        select(images, size=3, balanced=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "last"}, "subset is 'last'; one of first, random is needed"),
        ({"size": 0}, "size is 0; at least 1 is needed"),
        ({"balanced": True}, "balanced divides a number of images equally .*; give size too"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(
    options: dict[str, Any], message: str, labeled: ImageSet
) -> None:
    with pytest.raises(ConfigError, match=message):
        select(labeled, **options)


def test_a_source_is_opened_at_the_resolution_of_the_preparation(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    np.savez(tmp_path / "set.npz", images=pixels, labels=[0, 1, 1, 0, 1, 0])
    images = open_selected(
        tmp_path / "set.npz", Selection(size=2, label=(1,)), Preparation(resolution=4)
    )
    assert images.images.shape == (2, 3, 4, 4)
    assert images.indices is not None and images.indices.tolist() == [1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"size": 3},
        {"size": 4, "balanced": True},
        {"label": "class 1"},
        {"label": "class 1", "size": 2, "subset": "random"},
    ],
)
@pytest.mark.parametrize("kept_from", [0, 10**9])
def test_a_selection_is_the_same_whether_it_is_made_before_or_after_decoding(
    folder: Path, options: dict[str, Any], kept_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAPPED_FROM", kept_from)
    selection, preparation = Selection(**options), Preparation(resolution=4)
    (folder / "class 0" / "0.txt").write_text("a caption")
    expected = select_images(open_images(folder, preparation, cache_dir=False), selection)
    for _ in range(2):
        images = open_selected(folder, selection, preparation)
        assert isinstance(images.images, np.memmap) == (kept_from == 0)
        for what in ("fingerprint", "names", "captions", "class_names", "source", "preparation"):
            assert getattr(images, what) == getattr(expected, what)
        assert labels_of(images) == labels_of(expected)
        assert images.indices is not None and expected.indices is not None
        assert images.indices.tolist() == expected.indices.tolist()


def test_only_the_images_that_are_taken_are_decoded(folder: Path) -> None:
    (folder / "class 1" / "5.png").write_bytes(b"junk")
    assert len(open_selected(folder, Selection(label="class 0"))) == 3
    with pytest.raises(DataError, match="5.png cannot be decoded"):
        open_selected(folder, Selection(label="class 1"))
