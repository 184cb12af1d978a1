"""Pages without images, and with blurred ones: nothing of an image can be got out of them."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from memaudit.audit.neighbors.duplicates import find_duplicates
from memaudit.audit.report.duplicates_page import duplicates_page
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.html import embed
from memaudit.audit.report.pictures import Pictures, shows_no_more
from memaudit.audit.report.schema import read_report
from memaudit.audit.result import ScanResult
from memaudit.audit.verification.verify import verify_report
from memaudit.data.images import ImageSet

Make = Callable[..., ScanResult]


def pictures_of(page: str) -> list[np.ndarray]:
    """The pixels of every picture in a page."""
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in found]


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


@pytest.mark.parametrize("pictures", ["none", "blurred"])
def test_a_report_says_what_it_shows_and_verifies(
    make_result: Make, tmp_path: Path, pictures: Pictures
):
    whole = write_report(make_result(), tmp_path / "full").read_text()
    page = write_report(make_result(), tmp_path, pictures=pictures).read_text()
    assert read_report(tmp_path).pictures == pictures
    assert read_report(tmp_path / "full").pictures == "full"
    assert verify_report(tmp_path).passed
    assert ("left out" if pictures == "none" else "blurred") + " on request" in page
    assert "This page holds training and generated images" in whole
    for shown in ("train/000.png", "generated/000.png", "20 of 60 generated images", "<svg"):
        assert shown in page


def test_a_page_without_images_has_none_and_asks_for_none(whole_result: ScanResult, tmp_path: Path):
    whole = write_report(whole_result, tmp_path / "full").read_text()
    page = write_report(whole_result, tmp_path, pictures="none").read_text()
    assert len(pictures_of(whole)) > 20 and "img-src" in whole
    assert not re.search(r"<img|data:|base64|img-src|url\(|amplified", page)
    # The numbers and the names are the same.
    tables = re.compile(r'<td class="number">.*?</td>')
    assert tables.findall(page) == tables.findall(whole)
    assert set(re.findall(r"\b0/\d{5}\.png", whole)) == set(re.findall(r"\b0/\d{5}\.png", page))


def test_a_blurred_page_holds_nothing_but_the_colors_of_few_areas(
    whole_result: ScanResult, tmp_path: Path
):
    page = write_report(whole_result, tmp_path, pictures="blurred").read_text()
    whole = write_report(whole_result, tmp_path / "full").read_text()
    found = pictures_of(page)
    assert len(found) == len(pictures_of(whole)) > 20
    for pixels in found:  # of images at 8x8: 2 by 2 areas
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) <= 4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 8), (28, 28), (100, 300)])
@pytest.mark.parametrize("channels", [1, 3])
def test_blurring_is_a_reduction_of_the_pixels(height: int, width: int, channels: int):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (channels, height, width), np.uint8)
    whole, blurred = embed(image, "a"), embed(image, "a", "blurred")
    assert whole is not None and blurred is not None and embed(image, "a", "none") is None
    assert (blurred.width, blurred.height) == (whole.width, whole.height)
    pixels = pictures_of(blurred.uri)[0].reshape(whole.height, whole.width, channels)
    areas = max(1, min(4, height // 4)), max(1, min(4, width // 4))
    assert len(np.unique(pixels.reshape(-1, channels), axis=0)) <= areas[0] * areas[1]
    # Two images with the same means of areas are blurred to the same bytes.
    if height % areas[0] == 0 and width % areas[1] == 0:
        flipped = image.reshape(channels, areas[0], -1, areas[1], width // areas[1])[:, :, ::-1]
        other = np.ascontiguousarray(flipped[..., ::-1]).reshape(image.shape)
        assert embed(other, "a", "blurred") == blurred


@pytest.mark.parametrize("pictures", ["full", "none", "blurred"])
def test_a_page_of_duplicates_shows_what_was_asked_for(pictures: Pictures):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 3, 8, 8), np.uint8)[[0, 0, 1, 2, 3, 1]]
    images = ImageSet(pixels, [f"{i}.png" for i in range(6)], source="set.zip")
    page = duplicates_page(find_duplicates(images), images, pictures)
    colors = [len(np.unique(one.reshape(-1, 3), axis=0)) for one in pictures_of(page)]
    assert len(colors) == (0 if pictures == "none" else 4)
    assert ("<img" in page) == ("img-src" in page) == (pictures != "none")
    assert all((count <= 4) == (pictures == "blurred") for count in colors)
    assert "4 images (66.7&nbsp;%) have a duplicate" in " ".join(page.split())
    assert ("This page holds training images:" in text_of(page)) == (pictures == "full")
    assert ("on request" in page) == (pictures != "full")


def test_a_page_that_shows_less_does_for_one_that_may_show_more():
    order: list[Pictures] = ["none", "blurred", "full"]
    for i, pictures in enumerate(order):
        assert [shows_no_more(pictures, asked) for asked in order] == [i <= j for j in range(3)]


@pytest.mark.parametrize("pictures", ["none", "blurred"])
def test_a_browser_shows_it_whole(
    browser: Any,
    barriers: Callable[[Any], list[Any]],
    whole_result: ScanResult,
    tmp_path: Path,
    pictures: Pictures,
):
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(write_report(whole_result, tmp_path, pictures=pictures).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert barriers(page) == []
    assert (page.locator("img").count() > 0) == (pictures == "blurred")
    page.close()
