"""The page, in a real browser where there is one."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memaudit.audit.pages import short
from memaudit.audit.report import report_dict, write_report
from memaudit.audit.report_chart import HEIGHT, WIDTH, charts
from memaudit.audit.report_page import (
    count_ticks,
    duration,
    histogram,
    render_page,
    rows_to_show,
)
from memaudit.audit.scan import ScanConfig, ScanResult, scan
from memaudit.audit.source import optimum_of
from memaudit.data.images import ImageSet

Make = Callable[..., ScanResult]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def page_of(result: ScanResult) -> str:
    return render_page(result, report_dict(result) | {"files": {}})


def test_the_headline_is_count_share_and_interval(make_result: Make):
    text = page_of(make_result())
    assert "20 of 60 generated images copy a training image" in text
    assert "33&nbsp;%" in text or "33.3&nbsp;%" in text


def test_no_copies_is_an_upper_limit_and_pairs_are_shown_all_the_same(make_result: Make):
    text = page_of(make_result(copies=0, others=30))
    assert "None of 30 generated images copies a training image" in text
    assert re.search(r"At most\s+1[12](\.\d)?&nbsp;%", text)
    assert "Closest pairs; none is a copy" in text
    assert text.count('class="pictures"') == 30


def test_the_bins_part_copies_from_others_and_miss_none(make_result: Make):
    matches = make_result().matches
    bins = histogram(matches, 1 / 3)
    assert sum(bin.copies for bin in bins) == 20 and sum(bin.others for bin in bins) == 40
    assert min(abs(bin.low - 1 / 3) for bin in bins) < 1e-9
    assert bins[0].low == 0 and bins[-1].high == 1


def test_beyond_the_closest_pairs_both_sides_of_the_threshold_are_shown(make_result: Make):
    matches = make_result(copies=60, others=20).matches
    closest, edge = rows_to_show(matches)
    assert len(closest) == 48 and len(edge) == 12
    assert not set(closest) & set(edge)
    np.testing.assert_array_equal(matches.memorized_distinct[edge], [True] * 6 + [False] * 6)


def test_a_pair_without_a_second_neighbour_says_so(make_result: Make):
    result = make_result(copies=1, others=0)
    none = np.full((len(result.matches.radii), 1), -1)
    matches = replace(result.matches, index_distinct=none, squared_distance_distinct=none)
    text = page_of(replace(result, matches=matches))
    assert "none: every training image is a duplicate of the nearest" in text
    assert "Second nearest training image" not in text


def test_a_sampled_page_shows_what_redoes_it(make_result: Make):
    text = page_of(make_result(copies=3, others=5, sampled=True))
    assert "<span>Seed 100</span>" in text
    assert '<th scope="row">Seeds</th><td>100-107</td>' in text
    assert '<th scope="row">sigma_max</th><td>inf</td>' in text


def test_hostile_names_are_text_and_nothing_else(make_result: Make):
    text = page_of(make_result(name="<script>alert({})</script>\u202e\udcff"))
    assert "<script" not in text
    assert "&lt;script&gt;alert(0)&lt;/script&gt;\\u202e\\udcff" in text
    text.encode()


def test_the_page_asks_nothing_of_the_network(make_result: Make):
    text = page_of(make_result())
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/png|\#)""", text)
    assert "default-src 'none'" in text


def test_headings_are_in_order_and_every_picture_has_words(make_result: Make):
    class Outline(HTMLParser):
        levels: list[int] = []
        bare: list[Any] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if re.fullmatch("h[1-6]", tag):
                self.levels.append(int(tag[1]))
            if tag == "img" and not dict(attrs).get("alt"):
                self.bare.append(attrs)

    outline = Outline()
    outline.feed(page_of(make_result()))
    assert outline.levels[0] == 1 and outline.levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(outline.levels, outline.levels[1:], strict=False))
    assert outline.bare == []


def test_the_curves_against_the_optimum_are_drawn_and_told_in_numbers():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    train, held = (
        ImageSet(part, [str(i) for i in range(20)], source=name)
        for part, name in ((images[:20], "train"), (images[20:], "holdout"))
    )
    result = scan(optimum_of(train), train, holdout=held, config=ScanConfig(seeds=tuple(range(12))))
    text = page_of(result)
    assert "for 12 of 12 seeds" in text
    losses, distances, gap = charts(result.optimality)
    assert [len(chart.lines) for chart in (losses, distances, gap)] == [3, 3, 1]
    for line in losses.lines:
        points = [tuple(map(float, point.split(","))) for point in line.points.split()]
        assert len(points) == 18
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    # The optimum's own MemGap is 1: a third of the way down an axis from 2 to -1.
    heights = {point.split(",")[1] for point in gap.lines[0].points.split()}
    assert heights == {f"{HEIGHT / 3:.1f}"}


def test_durations_and_axes_are_round():
    assert duration(0.4213) == "0.42 s"
    assert duration(200) == "3 min 20 s"
    assert duration(7500) == "2 h 5 min"
    assert count_ticks(0)[0] == 0
    for largest in (1, 7, 99, 100, 101, 9999):
        ticks = count_ticks(largest)
        assert 3 <= len(ticks) <= 7 and ticks[-1] >= largest
    assert len(short("a" * 500)) <= 100


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"there is no browser here: none of {', '.join(BROWSERS)}")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it_without_scripts_network_or_overflow(
    browser: Any, make_result: Make, tmp_path: Path, width: int
):
    page_path = write_report(make_result(name="a-folder-with-a-long-name/" * 6 + "{}"), tmp_path)
    context = browser.new_context(
        viewport={"width": width, "height": 900}, java_script_enabled=False, offline=True
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto(page_path.as_uri())
    assert page.locator(".pairs li").count() > 20
    assert page.locator(".pairs li").first.is_visible()
    box = page.locator("main").bounding_box()
    assert box["width"] <= width
    pictures = page.locator(".pairs li").first.locator("img")
    for i in range(pictures.count()):
        shown = pictures.nth(i).bounding_box()
        assert shown["x"] >= 0 and shown["x"] + shown["width"] <= width
    assert problems == []
    context.close()


def test_the_page_does_not_scroll_sideways_on_a_phone(
    browser: Any, make_result: Make, tmp_path: Path
):
    result = make_result(name="no_place_to_break" * 20 + "{}")
    result = replace(result, keys=tuple(f"{'neither_here' * 20}{key}" for key in result.keys))
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(write_report(result, tmp_path).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


def test_it_prints(browser: Any, make_result: Make, tmp_path: Path):
    page = browser.new_page()
    page.goto(write_report(make_result(), tmp_path).as_uri())
    assert page.pdf(format="A4")[:4] == b"%PDF"
    page.close()
