"""The pages of checks, repeats and duplicates in a browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit.audit.image_check.check import check_images
from memaudit.audit.image_check.self_repeats import check_repeats
from memaudit.audit.neighbors.duplicates import find_duplicates
from memaudit.audit.report.check_page import OPEN_IMAGES, write_check
from memaudit.audit.report.duplicates_page import OPEN_GROUPS, write_duplicates
from memaudit.audit.report.repeats_page import write_repeats
from memaudit.data.images import ImageSet

NUM_ASKED = OPEN_IMAGES + 2


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A page of each kind that is long enough to be folded."""
    folder = tmp_path_factory.mktemp("pages")
    train = ImageSet(smooth_images(30, 8, seed=0), [f"train/{i}.png" for i in range(30)])
    asked = ImageSet(
        np.concatenate([train.images[:3], smooth_images(NUM_ASKED - 3, 8, seed=1)]),
        [f"a-name-without-a-place-to-break-it-{i}.png" for i in range(NUM_ASKED)],
    )
    generated = np.concatenate([train.images[:3]] * 5 + [smooth_images(20, 8, seed=2)])
    holdout = smooth_images(60, 8, seed=3)
    twice = np.repeat(smooth_images(OPEN_GROUPS + 2, 8, seed=4), 2, axis=0)
    doubled = ImageSet(twice, [f"{i}.png" for i in range(len(twice))])
    return [
        write_check(check_images(generated, asked, data=train, holdout=holdout), folder / "check"),
        write_repeats(check_repeats(generated, holdout=holdout), folder / "repeats"),
        write_duplicates(find_duplicates(doubled), doubled, folder / "duplicates"),
    ]


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
def test_they_fit_and_have_no_barriers(
    browser: Any,
    barriers: Callable[[Any], list[Any]],
    pages: list[Path],
    width: int,
    scheme: str,
):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    for path in pages:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert barriers(page) == []
    page.close()


def test_links_lead_to_what_is_seen_and_paper_shows_all(browser: Any, pages: list[Path]):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    for path in pages:
        page.goto(path.as_uri())
        assert page.locator("details").count() >= 1
        for link in page.locator('a[href^="#"]').all():
            target = page.locator(str(link.get_attribute("href")))
            assert target.is_visible()
        page.emulate_media(media="print")
        shown = page.evaluate(
            """() => [...document.querySelectorAll('img, td')].every(
                each => each.checkVisibility({contentVisibilityProperty: true}))"""
        )
        assert shown
        page.emulate_media(media="screen")
    page.close()
