"""What is written is what open_images reads back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.images import labels_of
from PIL import Image

from memaudit.data.sources import open_images
from memaudit.data.writers import SET_FORMS, NamedImage, check_writable, grid, write_images
from memaudit.errors import ConfigError

rng = np.random.default_rng(0)


def named_images(channels: int, labeled: bool) -> list[NamedImage]:
    pixels = rng.integers(0, 256, (12, channels, 8, 8), dtype=np.uint8)
    return [NamedImage(f"{i:06d}", p, i % 3 if labeled else None) for i, p in enumerate(pixels)]


@pytest.mark.parametrize("form", ["images.zip", "images.npz"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labeled", [True, False])
def test_images_survive_writing_and_reading(
    tmp_path: Path, form: str, channels: int, labeled: bool
) -> None:
    images = named_images(channels, labeled)
    write_images(tmp_path / form, iter(images))
    read = open_images(tmp_path / form)
    np.testing.assert_array_equal(read.images, [image.pixels for image in images])
    assert [Path(name).stem for name in read.names] == [image.name for image in images]
    if labeled:
        assert read.labels is not None
        assert labels_of(read) == [image.label for image in images]
    else:
        assert read.labels is None


def test_equal_images_give_equal_zips(tmp_path: Path) -> None:
    images = named_images(3, labeled=True)
    write_images(tmp_path / "a.zip", images)
    write_images(tmp_path / "b.zip", images)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_failure_midway_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[NamedImage]:
        yield named_images(3, labeled=False)[0]
        raise RuntimeError("out of images")

    with pytest.raises(RuntimeError, match="out of images"):
        write_images(tmp_path / "images.zip", broken())
    assert list(tmp_path.iterdir()) == []


def test_a_grid_lays_images_out_row_by_row(tmp_path: Path) -> None:
    images = rng.integers(0, 256, (5, 1, 2, 3), dtype=np.uint8)
    picture = np.asarray(grid(images, columns=2))
    assert picture.shape == (6, 6)
    np.testing.assert_array_equal(picture[:2, 3:], images[1, 0])
    np.testing.assert_array_equal(picture[4:, :3], images[4, 0])
    write_images(tmp_path / "grid.png", [NamedImage("0", image) for image in images])
    with Image.open(tmp_path / "grid.png") as written:
        assert written.size == (9, 4)


def test_outputs_that_would_overwrite_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="images.zip exists"):
        check_writable(tmp_path / "images.zip")
    with pytest.raises(ConfigError, match="is not empty"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new" / "images.zip")


def test_a_form_that_cannot_be_read_again_is_refused_for_a_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set\.png ends in \.png; a folder, \.zip or \.npz can"):
        check_writable(tmp_path / "set.png", SET_FORMS)
    check_writable(tmp_path / "set.png")


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.gif"):
        write_images(tmp_path / "images.gif", [])
    with pytest.raises(ConfigError, match=r"\.npz or \.png \(a grid\) can be written"):
        check_writable(tmp_path / "images.gif")
