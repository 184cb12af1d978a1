"""What a source holds is known before its pixels are read, and read in batches."""

import numpy as np
import pytest

from memaudit.data.fitting import fit_image
from memaudit.data.preparation import Preparation
from memaudit.data.readers import lazy_images
from memaudit.data.readers.lazy_images import array_contents, batch_rows
from memaudit.errors import DataError


def test_an_array_is_read_in_batches_in_its_order(
    pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_images, "BATCH_BYTES", 2 * pixels[0].nbytes)
    contents = array_contents(pixels, "set", list("abcdef"))
    batches = list(contents.batches())
    assert [len(batch) for batch in batches] == [2, 2, 2]
    np.testing.assert_array_equal(np.concatenate(batches), pixels)
    assert contents.num_bytes == pixels.nbytes


def test_a_batch_holds_at_least_one_image() -> None:
    assert batch_rows(10 * lazy_images.BATCH_BYTES) == 1


def test_contents_are_resized_when_they_are_read(pixels: np.ndarray) -> None:
    contents = array_contents(pixels, "set", list("abcdef"))
    assert contents.prepared(Preparation(resolution=8)) is contents
    small = contents.prepared(Preparation(resolution=4))
    assert small.shape == (6, 3, 4, 4) and small.array is None
    np.testing.assert_array_equal(
        np.concatenate(list(small.batches())),
        [fit_image(image, "", Preparation(resolution=4)) for image in pixels],
    )


def test_nothing_is_not_a_set() -> None:
    with pytest.raises(DataError, match="set holds no images"):
        array_contents(np.zeros((0, 3, 8, 8), np.uint8), "set", [])
