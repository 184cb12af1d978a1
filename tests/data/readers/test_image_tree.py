"""What the folders of a set mean: splits, classes, buckets, repeats."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from helpers.images import Encode, labels_of, write_files
from hypothesis import given, settings
from hypothesis import strategies as st

from memaudit.data.doubts import doubts_about
from memaudit.data.images import ImageSet
from memaudit.data.layout import Layout
from memaudit.data.readers.image_tree import find_images, folder_classes
from memaudit.data.sources import open_images
from memaudit.errors import DataError

Make = Callable[..., Path]

both = pytest.mark.parametrize("form", ["set", "set.zip"])


@pytest.fixture
def make(tmp_path: Path, pixels: np.ndarray, encode: Encode) -> Make:
    """Writes a folder or a zip of images, each a different one, with other files beside them."""

    def make(form: str, names: Iterable[str], others: dict[str, bytes] | None = None) -> Path:
        rng = np.random.default_rng(0)
        shape = pixels.shape[1:]
        files = {name: encode(rng.integers(0, 256, shape, np.uint8)) for name in names}
        files |= others or {}
        return write_files(tmp_path / form, files)

    return make


def opened(path: Path, **choices: str) -> ImageSet:
    return open_images(path, layout=Layout(**choices), cache_dir=False)


# ------------------------------------------------------------------------------------------------
# Splits

DIVIDED = ["train/cat/0.png", "train/dog/1.png", "val/cat/2.png", "test/dog/3.png"]


@both
def test_train_is_taken_of_a_divided_set_and_said(form: str, make: Make) -> None:
    images = opened(make(form, DIVIDED))
    assert list(images.names) == DIVIDED[:2]
    assert images.class_names == ("cat", "dog") and labels_of(images) == [0, 1]
    assert (images.split, images.other_splits) == ("train", ("test", "val"))
    (said,) = doubts_about(images)
    assert "is divided into test, train and val: only the 2 images of train were taken" in said
    assert "Those of test can serve as held-out images" in said


@both
@pytest.mark.parametrize("wanted", ["val", "test"])
def test_a_split_that_is_asked_for_is_taken_without_a_word(
    form: str, wanted: str, make: Make
) -> None:
    images = opened(make(form, DIVIDED), split=wanted)
    assert all(name.startswith(f"{wanted}/") for name in images.names) and len(images) == 1
    assert images.split == wanted and not doubts_about(images)


@both
def test_all_splits_are_taken_together_only_if_asked_for(form: str, make: Make) -> None:
    images = opened(make(form, DIVIDED), split="all")
    assert len(images) == 4 and images.split == "all" and images.other_splits == ()
    assert images.class_names == ("cat", "dog")
    assert dict(zip(images.names, labels_of(images), strict=True))["test/dog/3.png"] == 1


@pytest.mark.parametrize(
    ("names", "split", "taken"),
    [
        (["train/0.png"], "train", 1),
        (["a/b/training/0.png", "a/b/testing/1.png"], "training", 1),
        (["train2017/0.jpg", "val2017/1.jpg"], "train2017", 1),
        (["imagenette2/train/n01/0.png", "imagenette2/val/n01/1.png"], "train", 1),
        (["test/0.png"], "test", 1),
        (["Train/0.png", "Valid/1.png"], "Train", 1),
        # Folders beside two splits are splits, too.
        (["train/0.png", "test/1.png", "extra/2.png"], "train", 1),
        # A class called train is not a split.
        (["train/0.png", "bus/1.png", "car/2.png"], None, 3),
    ],
)
def test_splits_are_known_by_their_names(
    names: list[str], split: str | None, taken: int, make: Make
) -> None:
    images = opened(make("set.zip", names))
    assert (images.split, len(images)) == (split, taken)


def test_images_beside_the_splits_are_counted(make: Make) -> None:
    images = opened(make("set", ["0.png", "train/1.png", "test/2.png"]))
    assert list(images.names) == ["train/1.png"]
    assert "1 image in" in doubts_about(images)[1] and "lie in no split" in doubts_about(images)[1]


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (["val/0.png", "test/1.png"], None, "divided into test and val, none .* called train"),
        (["train/0.png", "test/1.png"], "dev", "has no split dev; it is divided into test and"),
        (["Train/0.png", "training/1.png"], None, "has Train and training, which both mean train"),
        (["a/0.png", "b/1.png"], "train", "is not divided into splits .* there is no 'train'"),
    ],
)
def test_a_split_that_is_not_clear_is_refused(
    names: list[str], wanted: str | None, message: str, make: Make
) -> None:
    with pytest.raises(DataError, match=message) as refused:
        open_images(make("set", names), layout=Layout(split=wanted))
    assert "--split" in refused.value.worded({"split": "--split"})


def test_forms_without_splits_refuse_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros([3, 3, 8, 8], np.uint8))
    with pytest.raises(DataError, match="is not divided into splits; leave split out"):
        opened(tmp_path / "a.npy", split="test")
    with pytest.raises(DataError, match="has no folders to take labels from"):
        opened(tmp_path / "a.npy", labels_from="folder")
    assert opened(tmp_path / "a.npy", labels_from="none").labels is None
    np.savez(tmp_path / "a.npz", images=np.zeros([3, 3, 8, 8], np.uint8), labels=[0, 1, 2])
    with pytest.raises(DataError, match="has no folders to take labels from"):
        opened(tmp_path / "a.npz", labels_from="folder")


def test_splits_have_cache_entries_of_their_own(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memaudit.data.sources.MAPPED_FROM", 0)
    path = make("set", ["train/0.png", "test/1.png"], {"train/0.txt": b"a cat"})
    for _ in range(2):
        for split in ("train", "test"):
            images = open_images(path, layout=Layout(split=split), cache_dir=tmp_path / "cache")
            assert isinstance(images.images, np.memmap) and images.split == split
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 2


def test_files_of_other_splits_are_not_counted(make: Make) -> None:
    others = {"train/a.xyz": b"", "test/b.xyz": b"", "c.xyz": b""}
    assert opened(make("set", ["train/0.png", "test/1.png"], others)).unread == {".xyz": 2}


@both
def test_each_split_may_have_labels_of_its_own(form: str, make: Make) -> None:
    others = {
        f"{split}/dataset.json": json.dumps({"labels": [["0.png", label]]}).encode()
        for split, label in (("train", 3), ("test", 5))
    }
    path = make(form, ["train/0.png", "test/0.png"], others)
    assert labels_of(opened(path)) == [3] and labels_of(opened(path, split="test")) == [5]


def test_a_set_with_labels_of_all_images_is_one_set(make: Make) -> None:
    labels = {"dataset.json": b'{"labels": [["train/0.png", 1], ["test/0.png", 0]]}'}
    path = make("set.zip", ["train/0.png", "test/0.png"], labels)
    images = opened(path)
    assert labels_of(images) == [0, 1] and images.split is None
    assert labels_of(opened(path, split="train")) == [1]


# ------------------------------------------------------------------------------------------------
# Classes, and what is none


@both
@pytest.mark.parametrize(
    ("names", "deep"),
    [
        (["0.png", "cat/1.png"], "0 to 1"),
        (["a/b/0.png", "c/0.png"], "1 to 2"),
        (["a/b/0.png", "a/c/0.png", "d/e/0.png"], "2"),
        (["x/0.png", "x/y/0.png", "x/y/z/0.png"], "1 to 3"),
    ],
)
def test_folders_without_a_meaning_give_no_labels(
    form: str, names: list[str], deep: str, make: Make
) -> None:
    images = opened(make(form, names))
    assert images.labels is None and list(images.names) == sorted(names)
    (said,) = doubts_about(images)
    assert f"are not classes: images lie {deep} folders deep" in said


@pytest.mark.parametrize("outer", ["", "set/", "a/b/c/"])
def test_outer_folders_say_nothing(outer: str, make: Make) -> None:
    images = opened(make("set.zip", [f"{outer}{name}" for name in ("cat/0.png", "dog/1.png")]))
    assert images.class_names == ("cat", "dog") and images.names[0] == f"{outer}cat/0.png"


FFHQ = [f"{i // 1000 * 1000:05d}/{i:05d}.png" for i in (0, 1, 2, 1000, 1001, 3000, 3001)]


@both
@pytest.mark.parametrize(
    "names",
    [
        FFHQ,
        [f"{i // 3:05d}/img{i:08d}.png" for i in range(9)],
        [f"{i // 2}/{i}.png" for i in range(30)],
    ],
)
def test_buckets_of_numbers_are_not_classes(form: str, names: list[str], make: Make) -> None:
    images = opened(make(form, names))
    assert images.labels is None and len(images) == len(names)
    assert "their names are numbers, and the files in them are numbered" in doubts_about(images)[0]


@pytest.mark.parametrize(
    "names",
    [
        [f"{i // 3}/{i}.png" for i in range(9)],  # three digits, in order
        [f"{i % 3}/{i}.png" for i in range(9)],  # MNIST's digits in the order of the set
        [f"{i:03d}/{j}.png" for i in range(4) for j in range(2)],  # numbered anew in each
        [f"{i:03d}/photo-{'ab'[j]}.png" for i in range(4) for j in range(2)],
    ],
)
def test_numbered_classes_stay_classes(names: list[str], make: Make) -> None:
    assert opened(make("set.zip", names)).num_classes >= 3


def test_backslashes_in_a_zip_are_folders(make: Make) -> None:
    images = opened(make("set.zip", [r"pets\cat\0.png", r"pets\dog\1.png"]))
    assert list(images.names) == ["pets/cat/0.png", "pets/dog/1.png"]
    assert images.class_names == ("cat", "dog")


def test_backslashes_do_not_hide_a_name_twice(make: Make) -> None:
    with pytest.raises(DataError, match="two files with the same name, 'a/0.png'"):
        opened(make("set.zip", [r"a\0.png", "a/0.png"]))


def test_folders_are_classes_on_request(make: Make) -> None:
    images = opened(make("set.zip", FFHQ), labels_from="folder")
    assert images.class_names == ("00000", "01000", "03000") and not doubts_about(images)
    images = opened(make("deep.zip", ["a/b/0.png", "a/c/0.png", "d/0.png"]), labels_from="folder")
    assert images.class_names == ("a/b", "a/c", "d")
    with pytest.raises(DataError, match="'0.png' lies in no folder of its own class"):
        opened(make("beside.zip", ["0.png", "cat/1.png"]), labels_from="folder")


# ------------------------------------------------------------------------------------------------
# Repeats


@both
def test_repeats_are_kept_beside_images_that_are_there_once(form: str, make: Make) -> None:
    names = ["10_sks dog/0.png", "10_sks dog/1.png", "1_dog/2.png"]
    images = opened(make(form, names))
    assert images.repeats is not None and len(images) == 3
    assert dict(zip(images.names, images.repeats.tolist(), strict=True)) == dict(
        zip(names, [10, 10, 1], strict=True)
    )
    assert images.class_names == ("dog", "sks dog")
    assert "10_sks dog: 10 times" in doubts_about(images)[0]
    assert images.take(np.array([2, 0])).repeats.tolist() == [1, 10]


@both
def test_images_for_regularization_are_told(form: str, make: Make) -> None:
    images = opened(make(form, ["img/10_sks dog/0.png", "img/5_cat/1.png", "reg/1_dog/2.png"]))
    assert len(images) == 3 and images.repeats is None
    (note,) = doubts_about(images)
    assert "kohya's folders of repeats below 'img', 'reg'" in note and "give 'img' alone" in note


@pytest.mark.parametrize("folders", [["1_cat", "2_dog"], ["10_cat", "dog"], ["01_cat", "07_dog"]])
def test_numbered_or_named_classes_are_not_repeats(folders: list[str], make: Make) -> None:
    images = opened(make("set.zip", [f"{folder}/0.png" for folder in folders]))
    assert images.repeats is None and images.class_names == tuple(sorted(folders))


@pytest.mark.parametrize(
    ("start", "num_images", "num_classes"), [("07", 20, 10), ("18", 6, 2), ("19", 6, 0)]
)
def test_cases_that_were_refused(
    start: str, num_images: int, num_classes: int, real_cases: Path
) -> None:
    """Roots, zips and buckets as they were met."""
    images = opened(next(real_cases.glob(f"{start}_*")))
    assert (len(images), images.num_classes) == (num_images, num_classes)


PARTS = st.sampled_from(
    ["train", "Val", "test2017", "cat", "0", "1", "00000", "01000", "10_a", "2_b", "7", "..", ""]
)
NAME = st.tuples(st.lists(PARTS, max_size=3), st.sampled_from(["0", "1", "00001", "01000", "a_7"]))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(NAME, min_size=1, max_size=12, unique_by=str), st.sampled_from([None, "all", "val"])
)
def test_any_names_give_a_part_of_them_or_a_message(
    found: list[tuple[list[str], str]], split: str | None
) -> None:
    names = [f"{'/'.join([*parts, stem])}.png" for parts, stem in found]
    names = list(dict.fromkeys(names))
    try:
        tree = find_images("set", names, Layout(split=split), is_one_set=False)
        classes = folder_classes("set", tree)
    except DataError as error:
        assert str(error) and split != "all"
        return
    assert tree.names == sorted(set(tree.names)) and set(tree.names) <= set(names) and tree.names
    assert (len(tree.names) == len(names)) or tree.split not in (None, "all")
    assert len(tree.names) == len(names) or tree.other_splits or tree.notes
    for values in (classes.labels, classes.repeats, classes.texts):
        assert values is None or len(values) == len(tree.names)
    if classes.labels is not None:
        assert 0 <= classes.labels.min() and classes.labels.max() < len(classes.class_names)


def test_class_folders_are_those_of_torchvision(make: Make) -> None:
    from torchvision.datasets import ImageFolder

    path = make("set", ["dog/b.png", "dog/a.png", "cat/c.png", "Zebra/d.png", "10/e.png"])
    images, theirs = opened(path), ImageFolder(path)
    assert list(images.class_names) == theirs.classes
    assert [str(path / name) for name in images.names] == [name for name, _ in theirs.samples]
    assert labels_of(images) == [label for _, label in theirs.samples]
    for ours, (picture, _) in zip(images.images, theirs, strict=True):
        np.testing.assert_array_equal(ours.transpose(1, 2, 0), np.asarray(picture))
