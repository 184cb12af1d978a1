"""MNIST's idx files."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.images import labels_of

from memaudit.data.layout import Layout
from memaudit.data.sources import open_images
from memaudit.errors import DataError

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def digits(tmp_path: Path, gray_pixels: np.ndarray) -> Path:
    """A folder as MNIST is published: training and test images with labels, packed."""
    arrays = {
        IMAGES: gray_pixels[:, 0],
        LABELS: np.arange(6, dtype=np.uint8) % 4,
        "t10k-images-idx3-ubyte": gray_pixels[:2, 0],
        "t10k-labels-idx1-ubyte": np.array([3, 2], np.uint8),
    }
    for name, array in arrays.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


def unpack(folder: Path) -> None:
    for packed in folder.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_means_its_training_images(
    packed: bool, digits: Path, gray_pixels: np.ndarray
) -> None:
    if not packed:
        unpack(digits)
    images = open_images(digits)
    np.testing.assert_array_equal(images.images, gray_pixels)
    assert labels_of(images) == [0, 1, 2, 3, 0, 1]
    assert images.names[5] == IMAGES + (".gz" if packed else "") + "[5]"
    assert images.source == str(digits)


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_of_images_finds_its_labels(
    packed: bool, digits: Path, gray_pixels: np.ndarray
) -> None:
    if not packed:
        unpack(digits)
    name = "t10k-images-idx3-ubyte" + (".gz" if packed else "")
    images = open_images(digits / name)
    np.testing.assert_array_equal(images.images, gray_pixels[:2])
    assert labels_of(images) == [3, 2]


@pytest.mark.parametrize("root", ["raw", "MNIST/raw", "FashionMNIST/raw"])
def test_a_root_of_torchvision_is_divided_into_train_and_test(
    root: str, digits: Path, gray_pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("root")
    (path / root).parent.mkdir(exist_ok=True)
    (path / root).symlink_to(digits)
    images = open_images(path)
    np.testing.assert_array_equal(images.images, gray_pixels)
    assert (images.split, images.other_splits) == ("train", ("test",))
    images = open_images(path, layout=Layout(split="test"))
    np.testing.assert_array_equal(images.images, gray_pixels[:2])
    assert labels_of(images) == [3, 2] and images.other_splits == ("train",)
    with pytest.raises(DataError, match="in files of their own; choose one"):
        open_images(path, layout=Layout(split="all"))
    with pytest.raises(DataError, match="has no split val; it is divided into"):
        open_images(path, layout=Layout(split="val"))


def test_a_root_with_two_sets_names_both(digits: Path) -> None:
    for name in ("MNIST", "KMNIST"):
        (digits / name / "raw").mkdir(parents=True)
        (digits / name / "raw" / IMAGES).write_bytes(b"")
    with pytest.raises(DataError, match="several sets, MNIST/raw and KMNIST/raw; give the folder"):
        open_images(digits)


def test_labels_may_be_packed_otherwise_than_the_images(digits: Path) -> None:
    (digits / IMAGES).write_bytes(gzip.decompress((digits / f"{IMAGES}.gz").read_bytes()))
    assert labels_of(open_images(digits / IMAGES)) == [0, 1, 2, 3, 0, 1]


def test_images_without_a_labels_file_have_none(digits: Path) -> None:
    (digits / f"{LABELS}.gz").unlink()
    assert open_images(digits).labels is None


def test_mnist_test_images(shared_data: Path) -> None:
    images = open_images(shared_data / "mnist-t10k-images-idx3-ubyte.gz")
    assert images.images.shape == (10_000, 1, 28, 28)
    assert labels_of(images)[:10] == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(labels_of(images)).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip


def test_several_sets_without_a_training_set_are_refused(digits: Path) -> None:
    (digits / f"{IMAGES}.gz").rename(digits / "extra-images-idx3-ubyte.gz")
    message = "several sets of images .extra-images-idx3-ubyte, t10k-images-idx3-ubyte.; name one"
    with pytest.raises(DataError, match=message):
        open_images(digits)


def test_the_labels_file_is_not_taken_for_images(digits: Path) -> None:
    with pytest.raises(DataError, match=r"labels-idx1-ubyte.gz holds an array \[6\]; images are"):
        open_images(digits / f"{LABELS}.gz")


def test_labels_of_another_number_are_refused(digits: Path) -> None:
    (digits / f"{LABELS}.gz").write_bytes(gzip.compress(idx(np.zeros(5, np.uint8))))
    with pytest.raises(DataError, match="holds 6 images but 5 labels"):
        open_images(digits)


@pytest.mark.parametrize("length", [2, 7, 100, -1])
@pytest.mark.parametrize("packed", [True, False])
def test_a_file_cut_short_is_named(packed: bool, length: int, digits: Path) -> None:
    data = gzip.decompress((digits / f"{IMAGES}.gz").read_bytes())[:length]
    (digits / f"{IMAGES}.gz").write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataError, match=f"{IMAGES}.gz (is|cannot be unpacked|announces)"):
        open_images(digits)


def test_a_gzip_cut_short_is_named(digits: Path) -> None:
    data = (digits / f"{IMAGES}.gz").read_bytes()
    (digits / f"{IMAGES}.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=f"{IMAGES}.gz cannot be unpacked: .*Fetch it again"):
        open_images(digits)


def test_an_announced_size_beyond_the_file_allocates_nothing(digits: Path) -> None:
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**31] * 3)
    (digits / f"{IMAGES}.gz").write_bytes(header + bytes(100))
    with pytest.raises(DataError, match="announces .* and holds fewer"):
        open_images(digits)
