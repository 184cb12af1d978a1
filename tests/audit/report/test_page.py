"""The page, in a real browser if there is one."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.registry import DIAGNOSTICS
from memaudit.audit.diagnostics.section import LineChart
from memaudit.audit.report.charts import (
    HEIGHT,
    WIDTH,
    Bin,
    count_ticks,
    draw_line_chart,
    histogram,
    share_rows,
)
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.page import (
    OPEN_LEAKS,
    OPEN_PAIRS,
    OPEN_SHEET,
    render_page,
    sample_command,
)
from memaudit.audit.report.pairs import (
    CLOSEST_PAIRS,
    EDGE_PAIRS,
    SHEET_COPIES,
    SHEET_PICTURES,
    SHOWN_LEAKS,
    contact_sheet,
    rows_to_show,
)
from memaudit.audit.report.schema import make_report
from memaudit.audit.report.words import without_links
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.source import optimum_of
from memaudit.cli.main import cli
from memaudit.data.images import ImageSet
from memaudit.data.writers import to_picture
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint, save_checkpoint
from memaudit.models.sampler_config import SamplerConfig
from memaudit.wording import duration, exponential, short

Make = Callable[..., ScanResult]


def page_of(result: ScanResult) -> str:
    """The page, without the links from terms to their definitions."""
    return without_links(render_page(result, make_report(result)))


def random_images(num_images: int, size: int, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_images, 3, size, size), dtype=np.uint8)
    names = [f"{seed}/{i:05d}.png" for i in range(num_images)]
    return ImageSet(images, names, source=f"set {seed}")


def test_the_contact_sheet_is_bounded(make_result: Make, monkeypatch: pytest.MonkeyPatch):
    result = make_result(60, 0)
    first, rows = result.leaks[0], tuple(range(60))
    leaks = [replace(first, rows=rows, hits=60) for _ in range(60)]
    monkeypatch.setattr(ScanResult, "leaks", property(lambda _: leaks))
    monkeypatch.setattr("memaudit.audit.report.pairs.embed", lambda *_: None)
    for last in range(1, SHEET_COPIES + 1):  # whatever is left for the last row
        leaks[8] = replace(first, rows=rows[:last], hits=last)
        shown = contact_sheet(result)
        assert sum(1 + len(row.copies) for row in shown) <= SHEET_PICTURES


def test_the_headline_is_count_share_and_interval(make_result: Make):
    text = page_of(make_result())
    assert "20 of 60 generated images copy a training image" in text
    assert "33&nbsp;%" in text or "33.3&nbsp;%" in text


def test_no_copies_is_an_upper_limit_and_pairs_are_shown_all_the_same(make_result: Make):
    text = page_of(make_result(copies=0, others=30))
    assert "<h1>0 of 30 generated images copy a training image</h1>" in text
    assert re.search(r"0&nbsp;% \(0 to 1[12](\.\d)?&nbsp;%\)", text)
    assert "None of them is a copy." in text
    assert text.count('class="pictures"') == 1 + CLOSEST_PAIRS


@pytest.mark.parametrize(
    ("copies", "others", "sampled", "heading", "reason"),
    [
        (20, 40, True, "FAIL: more than 1.0", "the evidence was enough"),
        (0, 800, True, "PASS: at most 1.0", "the evidence was enough"),
        (1, 60, True, "INCONCLUSIVE: whether more than 1.0", "More held-out images bring"),
        (20, 40, False, "FAIL: more than 1.0", "All 60 images that were given were judged"),
        (0, 400, False, "PASS: at most 1.0", "All 400 images that were given were judged"),
    ],
)
def test_a_verdict_comes_first_with_its_reason_and_evidence(
    make_result: Make, copies: int, others: int, sampled: bool, heading: str, reason: str
):
    text = page_of(
        make_result(copies=copies, others=others, sampled=sampled, fail_above=0.01, size=4)
    )
    assert f"<h1>{heading}" in text
    lead = text[text.index('<p class="lead">') :].split("</p>")[0]
    assert ("with 95&nbsp;% confidence" in lead) == (not heading.startswith("INCONCLUSIVE"))
    assert reason in text
    assert ("needed 299 without" if sampled else "at least 299 images without") in text
    assert ("≥ 20" if sampled else "≤ 0.05") in text
    assert ("≥ 40" if sampled else "≤ 0.025") in text


def test_contents_and_headings_are_the_same_in_the_same_order(whole_result: ScanResult):
    text = page_of(whole_result)
    contents = re.findall(r'<li><a href="#([\w-]+)">([^<]+)</a></li>', text)
    headings = re.findall(r'<h2 id="([\w-]+)-title">([^<]+)</h2>', text)
    assert contents == headings
    assert len(contents) == len(set(contents)) == 20


def test_a_section_without_anything_to_show_is_absent(make_result: Make):
    text = page_of(make_result(copies=10))
    for absent in (
        "verdict",
        "edge",
        "classes",
        "noise-and-return",
        "membership",
        "against-the-optimum",
    ):
        assert f'id="{absent}"' not in text
        assert f'href="#{absent}"' not in text


def test_held_out_images_give_floor_and_excess(whole_result: ScanResult, make_result: Make):
    text = page_of(whole_result)
    assert "taken of 100 held-out images" in text
    assert "Excess over the floor" in text and "C_T" in text
    assert "was measured on held-out images" in text
    text = page_of(make_result())
    assert "was not measured here" in text and "AuthPct" in text


def test_how_many_more_leak_stands_before_the_table_of_those_that_do(whole_result: ScanResult):
    text = page_of(whole_result)
    section = text[text.index('<section id="leaks"') :]
    section = section[: section.index("</section>")]
    order = ["are the nearest neighbor of a copy", "More samples may reveal more", "<table"]
    assert sorted(map(section.index, order)) == [section.index(part) for part in order]


def test_no_line_ends_before_a_percent_sign(whole_result: ScanResult):
    words = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page_of(whole_result), flags=re.DOTALL)
    sections = words[words.index("Each class is compared") :]
    sections = sections[: sections.index("The same in numbers")]
    assert re.findall(r".{20}\d %", sections) == [] and sections.count("&nbsp;%") > 20
    assert "\\xa0" not in words


def test_the_title_breaks_before_no_percent_sign_and_answers_are_apart(make_result: Make):
    text = page_of(make_result(fail_above=0.5))
    title = text[text.index("<h1>") : text.index("</h1>")]
    assert "&nbsp;%" in title and " %" not in title
    assert "</strong>The" not in text


def test_an_axis_of_shares_ends_at_all_of_them(make_result: Make):
    assert share_rows(make_result(fail_above=0.99))[1] <= 1


def test_a_hostile_name_in_a_block_is_text_and_nothing_else(whole_result: ScanResult):
    holdout = replace(whole_result.diagnostics.holdout, path="<script>50 %</script>\u202e")
    diagnostics = replace(whole_result.diagnostics, holdout=holdout)
    text = page_of(replace(whole_result, diagnostics=diagnostics))
    assert "<script" not in text
    assert "&lt;script&gt;50&nbsp;%&lt;/script&gt;\\u202e" in text


def test_attractors_are_told_from_the_leaks_of_free_sampling(whole_result: ScanResult):
    attractors = whole_result.diagnostics.noise_and_return.attractors
    leaking = {leak.index for leak in whole_result.leaks}
    unseen = sum(attractor.index not in leaking for attractor in attractors[:24])
    text = page_of(whole_result)
    assert text.count("not among the leaks above") == unseen > 0
    assert f"24 of {len(attractors)}" in text
    assert "39 training images were returned to from more noise than any held-out image" in text
    assert "than on 100 held-out ones" in text and "does not show copies" in text


def test_features_are_neither_exact_nor_gray_levels(feature_result: ScanResult):
    text = page_of(feature_result)
    assert "they are not exact, and they are not gray levels" in text
    assert "whose features are close to" in text
    assert "Distance in gray levels" not in text and "root-mean-square" not in text


def test_the_sensitivity_table_has_the_headline_once(make_result: Make):
    text = page_of(make_result())
    table = text[text.index('<table class="grid">') :]
    table = table[: table.index("</table>")]
    assert table.count('<th scope="row">') == 6
    assert table.count("<td") == 24
    assert re.findall(r'chosen">([^<]+)', table) == ["33.3&nbsp;%"]


def test_the_seed_of_a_copy_generates_it_again(tmp_path: Path):
    network = {
        "class_name": "EDMPrecond",
        "img_resolution": 8,
        "img_channels": 3,
        "label_dim": 3,
        "model_type": "SongUNet",
        "model_channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
    }
    path = tmp_path / "a model.safetensors"
    save_checkpoint(path, build_network(network), network)
    sampler = SamplerConfig(
        num_steps=3, sigma_min=0.01, sigma_max=50, S_churn=2, S_max=40, solver="euler"
    )
    config = ScanConfig(seeds=(7, 8, 9), sampler=sampler, class_index=2, without=("optimality",))
    result = scan(open_checkpoint(path), random_images(10, 8), config=config)
    command = sample_command(result, "SEED")
    assert command is not None
    words = shlex.split(command.replace("SEED", "8"))
    assert words[0] == "memaudit"
    words[words.index("--out") + 1] = str(tmp_path / "8.png")
    ran = CliRunner().invoke(cli, words[1:])
    assert ran.exit_code == 0, ran.output
    again = np.asarray(Image.open(tmp_path / "8.png"))
    np.testing.assert_array_equal(again, np.asarray(to_picture(result.generated[1])))


def test_the_command_is_shown_for_checkpoints_only(make_result: Make):
    assert "memaudit sample model.safetensors --seeds SEED --device cpu" in page_of(
        make_result(sampled=True)
    )
    assert "memaudit sample" not in page_of(make_result())


def test_duplicates_in_the_training_set_stand_beside_the_leak():
    train = random_images(6, 8)
    train.images[4] = train.images[1]
    generated = ImageSet(train.images[[1, 2]], ["a", "b"], source="generated")
    result = scan(generated, train)
    assert result.duplicates == {1: (4,), 2: ()}
    assert "duplicate in the training set: 0/00004.png" in page_of(result)


def test_the_bins_part_copies_from_others_and_miss_none(make_result: Make):
    matches = make_result().matches
    bins = histogram(matches, 1 / 3)
    assert sum(bin.copies for bin in bins) == 20 and sum(bin.others for bin in bins) == 40
    assert min(abs(bin.low - 1 / 3) for bin in bins) < 1e-9
    assert bins[0].low == 0 and bins[-1].high == 1


def test_beyond_the_closest_pairs_both_sides_of_the_threshold_are_shown(make_result: Make):
    matches = make_result(copies=60, others=20).matches
    closest, edge = rows_to_show(matches)
    assert len(closest) == CLOSEST_PAIRS and len(edge) == 2 * EDGE_PAIRS
    assert not set(closest) & set(edge)
    np.testing.assert_array_equal(
        matches.memorized_distinct[edge], [True] * EDGE_PAIRS + [False] * EDGE_PAIRS
    )


def test_a_pair_without_a_second_neighbor_says_so(make_result: Make):
    result = make_result(copies=1, others=0)
    near = result.matches.neighbors
    none = np.full((len(near.radii), 1), -1)
    near = replace(near, index_distinct=none, squared_distance_distinct=none)
    matches = replace(result.matches, neighbors=near)
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


def test_headings_are_in_order_and_every_picture_has_words(whole_result: ScanResult):
    class Outline(HTMLParser):
        levels: list[int] = []
        bare: list[Any] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if re.fullmatch("h[1-6]", tag):
                self.levels.append(int(tag[1]))
            if tag == "img" and not dict(attrs).get("alt"):
                self.bare.append(attrs)

    outline = Outline()
    outline.feed(page_of(whole_result))
    assert outline.levels[0] == 1 and outline.levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(outline.levels, outline.levels[1:], strict=False))
    assert outline.bare == []


def test_the_curves_against_the_optimum_are_drawn_and_told_in_numbers():
    images = random_images(40, 8).images
    train, held = (
        ImageSet(part, [str(i) for i in range(20)], source=name)
        for part, name in ((images[:20], "train"), (images[20:], "holdout"))
    )
    result = scan(optimum_of(train), train, holdout=held, config=ScanConfig(seeds=tuple(range(12))))
    text = page_of(result)
    assert "for 12 of 12 seeds" in text
    shown = DIAGNOSTICS["optimality"].section(result.diagnostics.optimality, result.page_context)
    losses, distances, gap = (
        draw_line_chart(block) for block in shown if isinstance(block, LineChart)
    )
    assert [len(chart.curves) for chart in (losses, distances, gap)] == [3, 3, 1]
    for chart in (losses, distances, gap):
        assert f"{chart.title}, by noise level" in text
        for curve in chart.curves:
            assert f'points="{curve.points}"' in text and f'points="{curve.band}"' in text
    for curve in losses.curves:
        points = [tuple(map(float, point.split(","))) for point in curve.points.split()]
        assert len(points) == 18
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    # The optimum's own MemGap is 1: a third of the way down an axis from 2 to -1.
    heights = {point.split(",")[1] for point in gap.curves[0].points.split()}
    assert heights == {f"{HEIGHT / 3:.1f}"}


def test_numbers_are_short_and_axes_round():
    assert duration(0.4213) == "0.42 s"
    assert duration(200) == "3 min 20 s"
    assert duration(7500) == "2 h 5 min"
    assert duration(1_385_728_241) == "16,000 days"
    assert exponential(np.log(20)) == "20" and exponential(-3.0) == "0.0498"
    assert exponential(1000.0) == "10^434" and exponential(-1000.0) == "10^-434"
    assert count_ticks([Bin(0, 1, 0, 0)])[0] == 0
    for largest in (1, 7, 99, 100, 101, 9999):
        ticks = count_ticks([Bin(0, 1, largest, 0)])
        assert 3 <= len(ticks) <= 7 and ticks[-1] >= largest
    assert len(short("a" * 500)) <= 100


@pytest.mark.parametrize("size", [32, 64])
def test_a_page_of_ten_thousand_images_stays_below_10_mb(size: int):
    """Noise, which no picture format makes smaller; two of three images are copies."""
    train = random_images(150, size)
    some = random_images(150, size, seed=1)
    few = np.concatenate([train.images, train.images, some.images])
    rows = np.arange(10_000) % len(few)
    generated = ImageSet(few, [str(i) for i in range(len(few))], source="generated")
    small = scan(generated, train)
    matches = replace(small.matches, neighbors=small.matches.neighbors[rows])
    result = replace(
        small,
        generated=few[rows],
        keys=tuple(f"generated/{i:05d}.png" for i in range(len(rows))),
        matches=matches,
    )
    assert len(page_of(result).encode()) < 10e6


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
    browser: Any, make_result: Make, whole_result: ScanResult, tmp_path: Path
):
    unbreakable = make_result(name="no_place_to_break" * 20 + "{}", sampled=True, fail_above=0.01)
    page = browser.new_page(viewport={"width": 400, "height": 900})
    for result in (unbreakable, whole_result):
        page.goto(write_report(result, tmp_path).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        for table in page.locator("section > table").all():
            table_box, section_box = table.bounding_box(), table.locator("..").bounding_box()
            assert table_box["x"] + table_box["width"] <= section_box["x"] + section_box["width"]
    page.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (400, 850)])
def test_the_first_screen_has_verdict_best_pair_and_evidence(
    browser: Any, make_result: Make, tmp_path: Path, width: int, height: int
):
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(write_report(make_result(fail_above=0.01), tmp_path).as_uri())
    shown = ["h1", ".best img >> nth=0", ".best img >> nth=1", ".lead", ".evidence li >> nth=2"]
    for part in shown if width < 500 else [*shown, ".next"]:
        box = page.locator(part).bounding_box()
        assert 0 <= box["y"] and box["y"] + box["height"] <= height, part
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#verdict")
    page.close()


def test_headings_and_text_share_an_edge_on_a_wide_screen(
    browser: Any, make_result: Make, tmp_path: Path
):
    page = browser.new_page(viewport={"width": 1900, "height": 900})
    page.goto(write_report(make_result(), tmp_path).as_uri())
    parts = page.locator("header > *, nav ul, main > section, footer p").all()
    assert len({part.bounding_box()["x"] for part in parts}) == 1
    page.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_the_words_of_a_chart_stay_inside_and_apart(
    browser: Any,
    misplaced_words: Callable[[Any], list[str]],
    whole_result: ScanResult,
    tmp_path: Path,
    width: int,
):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(write_report(whole_result, tmp_path).as_uri())
    assert page.locator("svg.plot").count() >= 3
    assert misplaced_words(page) == []
    page.close()


@pytest.mark.parametrize(
    ("width", "scheme"), [(400, "light"), (1280, "dark"), (1280, "light"), (400, "dark")]
)
def test_axe_finds_nothing_serious(
    browser: Any,
    barriers: Callable[[Any], list[Any]],
    whole_result: ScanResult,
    make_result: Make,
    tmp_path: Path,
    width: int,
    scheme: str,
):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    for result in (whole_result, make_result()):
        page.goto(write_report(result, tmp_path).as_uri())
        if result is whole_result:
            page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        assert barriers(page) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
    page.close()


VISIBLE = """element => [...element.children].slice(1).every(
    child => child.checkVisibility({contentVisibilityAuto: true, contentVisibilityProperty: true})
        && child.getBoundingClientRect().height > 0)"""
"""Whether what a fold holds is to be seen."""


def test_a_fold_opens_by_a_key(browser: Any, whole_result: ScanResult, tmp_path: Path):
    page = browser.new_page()
    page.goto(write_report(whole_result, tmp_path).as_uri())
    folds = page.locator("details").all()
    assert len(folds) > 8 and not any(fold.evaluate(VISIBLE) for fold in folds)
    for fold in folds:
        fold.locator("summary").first.press("Enter")
    assert all(fold.evaluate(VISIBLE) for fold in folds)
    page.close()


def test_no_link_leads_into_a_fold(whole_result: ScanResult):
    """Not every browser opens one for a link."""
    page = render_page(whole_result, make_report(whole_result))
    folded = "".join(re.findall(r"<details.*?</details>", page, re.DOTALL))
    targets = set(re.findall(r'href="#([^"]+)"', page))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and targets <= set(ids)
    assert len(folded) > 10_000
    assert not targets & set(re.findall(r' id="([^"]+)"', folded))


def test_what_is_long_begins_open_and_is_folded_from_there(make_result: Make):
    result = make_result(60, 0)
    text = page_of(result)
    open_text = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
    for part, number, whole in (
        ('class="judged"', OPEN_PAIRS, CLOSEST_PAIRS + EDGE_PAIRS),
        ("1 copy</span>", OPEN_SHEET, 60),
        ('<div class="both">', OPEN_LEAKS, SHOWN_LEAKS),
    ):
        assert open_text.count(part) == number
        assert text.count(part) == whole
    assert f"The other {CLOSEST_PAIRS - OPEN_PAIRS} cards" in text


def test_what_forbids_a_pass_is_not_folded_away(make_result: Make, monkeypatch: pytest.MonkeyPatch):
    result = make_result(sampled=True)
    assert "<details open>" not in page_of(result)
    monkeypatch.setattr(type(result.denoising), "allows_pass", property(lambda _: False))
    text = page_of(result)
    section = text[text.index('<section id="denoising"') :].split("</section>")[0]
    assert section.count("<details open>") == 1


def test_nothing_is_said_to_leak_that_the_floor_explains(
    explained_result: ScanResult, make_result: Make
):
    text = page_of(explained_result)
    titles = re.findall(r"<h2 id=[^>]*>([^<]+)</h2>", text)
    assert not any("leak" in title or "copies" in title.lower()[:10] for title in titles)
    assert "Training images nearest to what is counted" in titles
    assert "Groups nearest to what is counted" in titles
    assert 'id="leaks"' in text and 'id="groups-that-leak"' in text
    section = text[text.index('<section id="leaks"') :].split("</section>")[0]
    assert "not more than chance explains" in section and "copied" not in section
    assert "The closest pair, <strong>counted as a copy</strong>" in text
    assert "Training images that leak</h2>" in page_of(make_result())


def test_it_prints_and_what_is_folded_away_opens(
    browser: Any, whole_result: ScanResult, tmp_path: Path
):
    page = browser.new_page()
    page.goto(write_report(whole_result, tmp_path).as_uri())
    page.emulate_media(media="print")
    folds = page.locator("details").all()
    assert folds and all(fold.evaluate(VISIBLE) for fold in folds)
    assert not any(each.is_visible() for each in page.locator(".unprinted").all())
    assert not page.locator("nav").is_visible()
    for section in page.locator("main > section").all():
        assert section.is_visible()
    # On an A4 page less its margins no table is cut off.
    page.set_viewport_size({"width": 680, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= 680
    assert page.pdf(format="A4")[:4] == b"%PDF"
    page.close()


def test_the_command_names_the_architecture_of_bare_weights(make_result: Make):
    result = make_result(sampled=True)
    model = replace(result.source.model, arch="cifar10-ddpmpp-edm")
    source = replace(result.source, model=model)
    assert "--arch cifar10-ddpmpp-edm" in str(sample_command(replace(result, source=source), 100))
    assert "--arch" not in str(sample_command(result, 100))
