"""SVHN's files, as torchvision downloads them, are the splits of their folder."""

from pathlib import Path

import numpy as np
import pytest
from helpers.images import labels_of
from scipy.io import savemat

from memaudit.data.layout import Layout
from memaudit.data.sources import open_images
from memaudit.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)


@pytest.fixture
def svhn(tmp_path: Path) -> Path:
    """A folder with three training and two test images."""
    for split, images, labels in (("train", PIXELS[:3], [1, 10, 3]), ("test", PIXELS[3:], [4, 5])):
        content = {"X": images.transpose(2, 3, 1, 0), "y": np.array(labels, np.uint8)[:, None]}
        savemat(tmp_path / f"{split}_32x32.mat", content, do_compression=True)
    return tmp_path


def test_the_folder_of_svhn_is_divided_into_its_files(svhn: Path) -> None:
    images = open_images(svhn)
    np.testing.assert_array_equal(images.images, PIXELS[:3])
    assert labels_of(images) == [1, 0, 3] and images.source == str(svhn)
    assert (images.split, images.other_splits) == ("train", ("test",))
    images = open_images(svhn, layout=Layout(split="test"))
    np.testing.assert_array_equal(images.images, PIXELS[3:])
    assert (images.split, images.other_splits) == ("test", ("train",))


@pytest.mark.parametrize(("split", "message"), [("all", "files of their own"), ("val", "no split")])
def test_a_split_without_a_file_is_refused(split: str, message: str, svhn: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_images(svhn, layout=Layout(split=split))
