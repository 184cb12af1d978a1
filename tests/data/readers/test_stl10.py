"""STL-10's binary files."""

from pathlib import Path

import numpy as np
import pytest
from helpers.images import labels_of

from memaudit.data.layout import Layout
from memaudit.data.sources import open_images
from memaudit.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 96, 96), np.uint8)


@pytest.fixture
def stl10(tmp_path: Path) -> Path:
    """The folder that torchvision downloads STL-10 into."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for split, images in (("train", PIXELS[:3]), ("test", PIXELS[3:4]), ("unlabeled", PIXELS[4:])):
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
    (folder / "train_y.bin").write_bytes(bytes([2, 1, 10]))
    (folder / "test_y.bin").write_bytes(bytes([3]))
    names = "airplane bird car cat deer dog horse monkey ship truck".split()
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    (folder / "fold_indices.txt").write_text("0\n")
    return tmp_path


def test_the_root_means_the_training_images(stl10: Path) -> None:
    for path in (stl10, stl10 / "stl10_binary"):
        images = open_images(path)
        np.testing.assert_array_equal(images.images, PIXELS[:3])
        assert labels_of(images) == [1, 0, 9] and images.class_names[9] == "truck"
        assert (images.split, images.other_splits) == ("train", ("test", "unlabeled"))
        assert images.names[2] == "train_X.bin[2]" and images.source == str(path)


def test_other_splits_are_chosen(stl10: Path) -> None:
    images = open_images(stl10, layout=Layout(split="unlabeled"))
    np.testing.assert_array_equal(images.images, PIXELS[4:])
    assert images.labels is None
    assert labels_of(open_images(stl10, layout=Layout(split="test"))) == [2]
    with pytest.raises(DataError, match="of which some have no labels; choose one"):
        open_images(stl10, layout=Layout(split="all"))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train_X.bin", b"", "has 0 bytes, which are not images of 27,648 each"),
        ("train_X.bin", bytes(27_649), "has 27,649 bytes, which are not images"),
        ("train_y.bin", bytes([1, 2]), "holds 3 images but 2 labels"),
        ("train_y.bin", bytes([1, 2, 0]), "holds the label -1"),
        ("train_y.bin", bytes(9), "it has 9 bytes; at most 3 make sense"),
        ("class_names.txt", bytes(2 << 20), "it has 2,097,152 bytes"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    name: str, data: bytes, message: str, stl10: Path
) -> None:
    (stl10 / "stl10_binary" / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        open_images(stl10)
