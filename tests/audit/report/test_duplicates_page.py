"""The page and the table of duplicates."""

import csv
import io
import re

import numpy as np
import pytest

from memaudit.audit.neighbors.duplicates import find_duplicates
from memaudit.audit.report.duplicates_page import (
    SHOWN_GROUPS,
    SHOWN_IMAGES,
    duplicates_csv,
    duplicates_page,
    largest_groups,
    write_duplicates,
)
from memaudit.data.images import ImageSet


def image_set(values: list[int], name: str = "{}.png") -> ImageSet:
    """Flat images of 3x4x4 with these gray levels."""
    pixels = np.repeat(np.array(values, np.uint8), 48).reshape(-1, 3, 4, 4)
    return ImageSet(pixels, [name.format(i) for i in range(len(values))], source="set.zip")


def test_the_table_has_a_row_for_every_image_with_a_duplicate():
    images = image_set([90, 50, 10, 50, 93])
    rows = list(csv.reader(io.StringIO(duplicates_csv(find_duplicates(images), images))))
    assert rows == [
        ["group", "index", "name", "squared_distance", "rms", "exact"],
        ["1", "0", "0.png", "0", "0.0", "0"],
        ["1", "4", "4.png", "432", "3.0", "0"],
        ["2", "1", "1.png", "0", "0.0", "0"],
        ["2", "3", "3.png", "0", "0.0", "1"],
    ]


def test_the_page_counts_and_shows_every_group():
    images = image_set([90, 50, 10, 50, 93, 130])
    page = duplicates_page(find_duplicates(images), images)
    assert "<h1>2 groups of duplicates among 6 images</h1>" in page
    assert "4 images (66.7&nbsp;%) have a duplicate. 4 images remain" in " ".join(page.split())
    assert page.count("<img") == 4
    assert "all equal" in page and "3.00<br>4.png" in page
    assert images.fingerprint in page


def test_a_page_without_duplicates_says_so():
    images = image_set([0, 50, 100])
    page = duplicates_page(find_duplicates(images), images)
    assert "<h1>No duplicates among 3 images</h1>" in page
    assert "No two images are within 8 gray levels" in page
    assert "<img" not in page and 'class="pairs"' not in page


def test_the_largest_groups_come_first_then_the_closest():
    images = image_set([0, 8, 100, 101, 200, 203, 203, 150, 150])
    numbers = [number for number, _ in largest_groups(find_duplicates(images))]
    assert numbers == [3, 4, 2, 1]


def test_a_crowd_is_shown_in_part():
    images = image_set([7] * 200)
    page = duplicates_page(find_duplicates(images), images)
    assert page.count("<img") == SHOWN_IMAGES
    assert f"and {200 - SHOWN_IMAGES} more" in page


def test_of_many_groups_the_largest_are_shown():
    rng = np.random.default_rng(0)
    pixels = np.repeat(rng.integers(0, 256, (SHOWN_GROUPS + 20, 1, 4, 4), np.uint8), 2, axis=0)
    images = ImageSet(pixels, [str(i) for i in range(len(pixels))])
    page = duplicates_page(find_duplicates(images, duplicate_rms=0), images)
    assert page.count("<h3>") == SHOWN_GROUPS
    assert f"The {SHOWN_GROUPS} largest are shown" in page


def test_hostile_names_are_text_and_nothing_else(tmp_path):
    images = image_set([7, 7], name="<script>alert({})</script>\u202e\udcff")
    page = write_duplicates(find_duplicates(images), images, tmp_path / "new").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/png|\#)""", page)
    assert "\\udcff" in (tmp_path / "new" / "duplicates.csv").read_text()


@pytest.mark.parametrize("flips", [False, True])
def test_the_page_says_whether_mirror_images_count(flips: bool):
    images = image_set([7, 7])
    page = duplicates_page(find_duplicates(images, flips=flips), images)
    assert ("with one of them mirrored" in page) == flips
