"""Images stored as one array: .npy and .npz."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import Encode, labels_of

from memaudit.data.preparation import Preparation
from memaudit.data.sources import open_images
from memaudit.errors import DataError


def layouts(pixels: np.ndarray) -> list[np.ndarray]:
    """The same images in each layout."""
    if pixels.shape[1] == 1:
        return [pixels, pixels.transpose(0, 2, 3, 1), pixels[:, 0]]
    return [pixels, pixels.transpose(0, 2, 3, 1)]


@pytest.mark.parametrize("kind", ["gray_pixels", "pixels"])
def test_every_layout_gives_the_same_images(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pixels = request.getfixturevalue(kind)
    for array in layouts(pixels):
        np.save(tmp_path / "set.npy", array)
        np.savez(tmp_path / "set.npz", images=array)
        np.savez_compressed(tmp_path / "packed.npz", images=array)
        for name in ("set.npy", "set.npz", "packed.npz"):
            images = open_images(tmp_path / name)
            np.testing.assert_array_equal(images.images, pixels)
            assert images.labels is None
            assert list(images.names) == [f"{name}[{i}]" for i in range(6)]


def test_npz_keeps_labels_and_names(tmp_path: Path, pixels: np.ndarray) -> None:
    names, labels = [f"seed {i}" for i in range(6)], np.array([2, 0, 1, 1, 0, 2], np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=labels, names=names)
    images = open_images(tmp_path / "set.npz")
    assert labels_of(images) == [2, 0, 1, 1, 0, 2]
    assert images.labels is not None and images.labels.dtype == np.int64
    assert list(images.names) == names


def test_npz_without_names_of_arrays_is_images_and_labels(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    np.savez(tmp_path / "set.npz", pixels, np.arange(6))
    images = open_images(tmp_path / "set.npz")
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == [0, 1, 2, 3, 4, 5]


def test_content_decides_and_not_the_suffix(tmp_path: Path, pixels: np.ndarray) -> None:
    with (tmp_path / "images.dat").open("wb") as file:
        np.savez(file, images=pixels)
    np.testing.assert_array_equal(open_images(tmp_path / "images.dat").images, pixels)


def test_npy_is_mapped_where_it_lies(tmp_path: Path, pixels: np.ndarray, cache_dir: Path) -> None:
    np.save(tmp_path / "set.npy", pixels)
    assert isinstance(open_images(tmp_path / "set.npy").images, np.memmap)
    assert not cache_dir.exists()


def test_images_are_read_only_wherever_they_are(tmp_path: Path, pixels: np.ndarray) -> None:
    np.save(tmp_path / "set.npy", pixels)
    np.savez(tmp_path / "set.npz", images=pixels)
    for name in ("set.npy", "set.npz"):
        with pytest.raises(ValueError, match="read-only"):
            open_images(tmp_path / name).images[0] = 0


@pytest.mark.parametrize("channels", [1, 3])
def test_resolution_resizes_arrays_like_files(
    channels: int, tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    (tmp_path / "set").mkdir()
    for i, image in enumerate(pixels[:, :channels]):
        (tmp_path / "set" / f"{i}.png").write_bytes(encode(image))
    np.save(tmp_path / "set.npy", pixels[:, :channels])
    array, files = (
        open_images(tmp_path / name, Preparation(resolution=5)) for name in ("set.npy", "set")
    )
    assert array.images.shape == (6, channels, 5, 5)
    np.testing.assert_array_equal(array.images, files.images)


def test_a_resolution_that_is_there_changes_nothing(tmp_path: Path, pixels: np.ndarray) -> None:
    np.save(tmp_path / "set.npy", pixels)
    assert isinstance(
        open_images(tmp_path / "set.npy", Preparation(resolution=8)).images, np.memmap
    )


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 3, 8, 3), np.uint8), r"uint8 \[4, 3, 8, 3\], which could be \[N, C, H, W\]"),
        (np.zeros((4, 1, 8, 1), np.uint8), r"or \[N, H, W, C\] with images of 1 channels"),
        (np.zeros((4, 4, 8, 8), np.uint8), r"or \[N, H, W, C\] with 1 channel"),
        (
            np.zeros((8, 8, 3), np.uint8),
            r"set.npy is uint8 \[8, 8, 3\], which could be 8 gray images",
        ),
        (np.zeros((4, 192), np.uint8), r"is uint8 \[4, 192\]"),
        (
            np.zeros((4, 3, 8, 8), np.float32),
            "holds float32 numbers from 0 to 0, and images have bytes",
        ),
        (np.zeros((0, 3, 8, 8), np.uint8), "holds (uint8 .*, )?no images"),
        (np.zeros((4, 3, 8, 5), np.uint8), "8×5 pixels .* cannot become 4×4"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", array)
    np.savez(tmp_path / "set.npz", images=array)
    for name in ("set.npy", "set.npz"):
        with pytest.raises(DataError, match=message.replace("set.npy", "set.np.")):
            open_images(tmp_path / name, Preparation(resolution=4))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(5, int), "holds 6 images but 5 labels"),
        (np.zeros(6), r"labels of .*set.npz are float64 \[6\]; one integer per image is needed"),
        (np.zeros((6, 10), int), r"are int64 \[6, 10\]; one integer per image is needed, \[6\]"),
        (np.arange(6) - 1, "holds the label -1; labels count from 0"),
    ],
)
def test_labels_that_do_not_match_are_refused(
    labels: Any, message: str, tmp_path: Path, pixels: np.ndarray
) -> None:
    np.savez(tmp_path / "set.npz", images=pixels, labels=labels)
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "set.npz")


def test_names_that_do_not_match_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    np.savez(tmp_path / "set.npz", images=pixels, names=["a", "b"])
    with pytest.raises(DataError, match="has 6 images but 2 names"):
        open_images(tmp_path / "set.npz")


def test_npz_without_images_lists_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", first=np.zeros(3), second=np.zeros(3))
    with pytest.raises(DataError, match="holds 'first', 'second'; an array called `images` is"):
        open_images(tmp_path / "set.npz")


class Hostile:
    """Unpickled, it would leave a folder behind."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.folder),)


def test_arrays_of_objects_are_refused_unopened(tmp_path: Path) -> None:
    array = np.array([Hostile(tmp_path / "executed")] * 2, dtype=object)
    np.save(tmp_path / "set.npy", array, allow_pickle=True)
    np.savez(tmp_path / "set.npz", images=array, allow_pickle=True)
    for name in ("set.npy", "set.npz"):
        with pytest.raises(DataError, match="holds Python objects, which are not read"):
            open_images(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("length", [8, 60, 300])
def test_an_array_cut_short_is_refused(length: int, tmp_path: Path, pixels: np.ndarray) -> None:
    np.save(tmp_path / "set.npy", pixels)
    np.savez(tmp_path / "set.npz", images=pixels)
    for name in ("set.npy", "set.npz"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:length])
        with pytest.raises(DataError, match="set.np[yz] is not a"):
            open_images(tmp_path / name)


@pytest.mark.parametrize(
    "data",
    [b"", b"nothing of the kind" * 100, b"\x1f\x8b\x08\x00", gzip.compress(b"text", mtime=0)],
)
def test_a_file_of_another_kind_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "set.bin").write_bytes(data)
    with pytest.raises(DataError, match="set.bin has none of the forms that images are read from"):
        open_images(tmp_path / "set.bin")
