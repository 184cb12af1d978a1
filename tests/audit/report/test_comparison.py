"""Reports side by side: what is read, in which order, and how it is shown."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.forged_reports import seal_again

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.report.charts import RATIO_HEIGHT
from memaudit.audit.report.comparison import compare_reports, comparison_dict
from memaudit.audit.report.comparison_page import render_comparison, write_comparison
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.words import without_links
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.source import ModelFacts
from memaudit.cli.main import cli
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.wording import percent

MakeReport = Callable[..., Path]


def images(num_images: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_images, 1, 4, 4), dtype=np.uint8)


@pytest.fixture
def make_report(tmp_path: Path) -> MakeReport:
    """A report on 20 images, `copies` of them copies, of a model that has seen that many images."""

    def make(
        name: str,
        copies: int,
        *,
        size: int = 30,
        images_seen: int | None = None,
        fail_above: float | None = None,
        **rule: Any,
    ) -> Path:
        train = ImageSet(images(size, 0), list(map(str, range(size))), source="train")
        pixels = np.concatenate([train.images[:copies], images(20 - copies, 1)])
        generated = ImageSet(pixels, list(map(str, range(20))), source="generated")
        config = ScanConfig(fail_above=fail_above, rule=Rule(**rule))
        result: ScanResult = scan(generated, train, config=config)
        if images_seen is not None:
            provenance = {"images_seen": images_seen, "num_images": size}
            model = ModelFacts("native", None, {}, provenance, None)
            result = replace(result, source=replace(result.source, model=model))
        write_report(result, tmp_path / name)
        return tmp_path / name

    return make


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, args)])


def test_a_report_is_read_as_it_was_written(make_report: MakeReport):
    folder = make_report("a", 14, images_seen=5000, fail_above=0.1)
    (found,) = compare_reports([folder / "report.json"]).reports
    written = json.loads((folder / "report.json").read_text())
    assert found.folder == folder and found.source == "generated"
    assert (found.images_seen, found.num_images, found.num_leaking_images) == (5000, 30, 14)
    assert (found.ratio.count, found.ratio.total) == (14, 20)
    assert found.ratio.low == written["ratios"]["copies"]["low"]
    assert found.verdict == found.judged == "FAIL" and found.interval == "Clopper-Pearson"


def test_a_verdict_is_shown_with_what_speaks_against_it(make_report: MakeReport, tmp_path: Path):
    def change(report: dict[str, Any]) -> None:
        report["conclusion"]["evidence"] = ["the label test"]
        report["conclusion"]["reasons"] = [{"kind": "denoising", "text": "It does not."}]
        report["source"]["warnings"] = ["Only 0 and 255."]

    folder = make_report("a", 0, fail_above=0.9)
    one = run(folder)
    assert "PASS" in one.stdout and "with" not in one.stdout
    seal_again(folder, change)
    caveats = "PASS, with evidence of memorization, does not denoise, with warnings"
    (found,) = compare_reports([folder]).reports
    assert found.judged == caveats
    text = render_comparison(compare_reports([folder]), tmp_path / "page.html")
    assert f'data-verdict="{caveats}"' in text and f">{caveats}</td>" in text
    narrow = CliRunner(env={"COLUMNS": "44"}).invoke(cli, ["report", str(folder)])
    shown = "".join(narrow.stdout.split())
    assert "…" not in shown and "memorization" in shown.replace("\n", "")
    alone = run(make_report("b", 20, fail_above=0.001))
    assert "FAIL" in alone.stdout
    contradiction = run(folder, "--annex", "edpb", "--json")
    assert contradiction.exit_code == 2 and "--json belongs to a comparison" in contradiction.stderr


def test_the_share_is_that_of_the_verdict(tmp_path: Path):
    """A copy by another rule, or a near-duplicate of a training image, is a copy here as well."""
    rng = np.random.default_rng(0)
    train = rng.integers(40, 216, (20, 1, 16, 16), dtype=np.uint8)
    shifted = np.roll(train[:10], 1, axis=3)
    config = ScanConfig(index=IndexConfig(match=("shift",)), fail_above=0.01)
    result = scan(shifted, train, config=config)
    write_report(result, tmp_path)
    (found,) = compare_reports([tmp_path]).reports
    assert found.verdict == "FAIL" and found.ratio == result.ratios.copies
    assert found.ratio.count > result.ratios.distinct.count


def test_a_screened_scan_is_compared_by_the_estimate(screened_result: ScanResult, tmp_path: Path):
    write_report(screened_result, tmp_path / "a")
    assert screened_result.screening is not None
    estimate = screened_result.screening.copies
    comparison = compare_reports([tmp_path])
    (found,) = comparison.reports
    assert (found.share.value, found.share.low, found.share.high) == (
        estimate.value,
        estimate.low,
        estimate.high,
    )
    assert found.share.low != found.ratio.low  # that of the seeds that chance drew
    page = without_links(render_comparison(comparison, tmp_path / "page.html"))
    assert f"{percent(estimate.low)} to {percent(estimate.high)})" in page
    assert "estimated, 20 screened" in page and "The share of a screened scan is the" in page
    assert f"{percent(estimate.low)} to" in " ".join(run(tmp_path).stdout.split())


def test_a_count_that_the_floor_explains_says_so(explained_result: ScanResult, tmp_path: Path):
    write_report(explained_result, tmp_path)
    (found,) = compare_reports([tmp_path]).reports
    assert "no more than the floor explains" in found.judged


def test_what_varies_orders_the_reports(make_report: MakeReport, tmp_path: Path):
    make_report("c", 1, images_seen=100)
    make_report("b", 5, images_seen=20_000)
    make_report("a", 3, images_seen=3000)
    comparison = compare_reports([tmp_path])
    assert comparison.by == "images-seen"
    assert [report.ratio.count for report in comparison.reports] == [1, 3, 5]

    make_report("d", 9, size=25, images_seen=3000)
    comparison = compare_reports([tmp_path])
    assert comparison.by == "size"
    assert comparison.reports[0].num_images == 25
    by_name = compare_reports([tmp_path], by="name")
    assert [report.folder.name for report in by_name.reports] == ["a", "b", "c", "d"]


def test_a_report_named_twice_counts_once(make_report: MakeReport, tmp_path: Path):
    folder = make_report("a", 1)
    comparison = compare_reports([folder, tmp_path, folder / "report.json", folder / ".." / "a"])
    assert len(comparison.reports) == 1 and comparison.by == "name"


def test_reports_that_are_not_made_alike_are_told(make_report: MakeReport):
    comparison = compare_reports(
        [make_report("a", 2), make_report("b", 2, duplicate_rms=4.0, confidence=0.9)]
    )
    assert comparison.differences == (
        "duplicates within: 4 gray levels (b), 8 gray levels (a)",
        "confidence: 90 % (b), 95 % (a)",
    )
    text = without_links(render_comparison(comparison, Path("page.html")))
    assert "cannot be compared: duplicates within: 4 gray levels (b), 8 gray levels (a);" in text
    assert "Clopper-Pearson at 90&nbsp;% and Clopper-Pearson at 95&nbsp;%" in text


def test_of_many_reports_that_are_alike_the_first_are_named(make_report: MakeReport):
    alike = [make_report(name, 0) for name in "bcdef"]
    comparison = compare_reports([make_report("a", 0, confidence=0.9), *alike])
    assert comparison.differences == ("confidence: 90 % (a), 95 % (b, c, d and 2 more)",)


@pytest.mark.parametrize("stated", [10**400, -1, True, 1e300, "9", None, [1]])
def test_a_number_of_images_that_no_training_has_seen_is_not_believed(stated: object):
    facts = ModelFacts("native", None, {}, {"images_seen": stated}, None)
    assert facts.images_seen is None
    assert replace(facts, provenance={"images_seen": 5000}).images_seen == 5000


def test_no_line_joins_reports_that_have_nothing_but_names(make_report: MakeReport):
    folders = [make_report("a", 1, images_seen=10), make_report("b", 2, images_seen=20)]
    joined = render_comparison(compare_reports(folders), Path("page.html"))
    apart = render_comparison(compare_reports(folders, by="name"), Path("page.html"))
    assert "<polyline" in joined and "<polyline" not in apart
    for text in (joined, apart):
        assert text.count('<line class="interval"') == text.count("<title>copies among") == 2
        assert ">2 of 30</td>" in text


def test_what_is_no_report_is_refused(make_report: MakeReport, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no report.json"):
        compare_reports([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="does not say how many images"):
        compare_reports([make_report("a", 1)], by="images-seen")

    path = make_report("b", 1) / "report.json"
    text = path.read_text()
    path.write_text(text.replace('"count": 1,', '"count": 0,', 1))
    with pytest.raises(DataError, match="was changed after it was written"):
        compare_reports([path])
    path.write_text(text.replace("memaudit.report/2", "memaudit.report/9"))
    with pytest.raises(DataError, match="memaudit.report/9', and this version of memaudit reads"):
        compare_reports([path])
    for broken in ("", "[1]", "{}", "\udcff"):
        path.write_bytes(broken.encode(errors="surrogateescape"))
        with pytest.raises(DataError, match="is not a readable memaudit report"):
            compare_reports([path])


def test_the_page_leads_to_the_reports_and_needs_no_network(
    make_report: MakeReport, tmp_path: Path
):
    comparison = compare_reports([make_report("a #1", 0), make_report("b", 2)])
    (tmp_path / "pages").mkdir()
    page = tmp_path / "pages" / "page.html"
    write_comparison(comparison, page)
    text = page.read_text()
    assert '<a href="../a%20%231/report.html">' in text and '<a href="../b/report.html">' in text
    assert "From 0 % to 10.0 % of the generated images are copies" in text
    assert "default-src 'none'" in text and "src=" not in text.replace("default-src", "")
    with pytest.raises(ConfigError, match="exists; name another file"):
        write_comparison(comparison, page)
    write_comparison(comparison, page, overwrite=True)
    with pytest.raises(ConfigError, match="is not a folder"):
        write_comparison(comparison, tmp_path / "none" / "page.html")
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_the_axis_fits_the_ratios(make_report: MakeReport):
    comparison = compare_reports([make_report("a", 1, images_seen=10)], by="images-seen")
    assert comparison.reports[0].ratio.high == pytest.approx(0.249, abs=1e-3)
    text = render_comparison(comparison, Path("page.html"))
    for tick in ("0 %", "10 %", "50 %"):
        assert f'text-anchor="end">{tick}</text>' in text
    assert 'text-anchor="end">100 %' not in text
    # 1 of 20 on an axis up to 50 %.
    assert f'cy="{RATIO_HEIGHT * 0.9}"' in text


def test_the_command_shows_a_table_and_writes_a_page(make_report: MakeReport, tmp_path: Path):
    folders = [make_report("late", 6, images_seen=900), make_report("early", 1, images_seen=90)]
    page = tmp_path / "page.html"
    result = run(*folders, "--out", page)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.index("1 of 20") < result.stdout.index("6 of 20")
    assert page.is_file() and "page.html" in result.stderr
    again = run(*folders, "--out", page)
    assert again.exit_code == 2 and "--overwrite" in again.stderr

    content = json.loads(run(*folders, "--json").stdout)
    assert content == {**comparison_dict(compare_reports(folders)), "searches": []}
    assert content["by"] == "images-seen"
    assert [entry["images_seen"] for entry in content["reports"]] == [90, 900]
    assert content["reports"][1]["ratio"]["ratio"] == 0.3


def test_the_command_warns_of_different_rules(make_report: MakeReport):
    result = run(make_report("a", 1), make_report("b", 1, confidence=0.9))
    assert result.exit_code == 0
    assert "the reports differ in confidence: 90 % (b), 95 % (a)" in result.stderr
    assert run().exit_code == 2


def test_names_are_what_the_paths_do_not_share(make_report: MakeReport, tmp_path: Path):
    folders = [make_report("run a/scan", 0), make_report("run b/scan", 1)]
    comparison = compare_reports(folders)
    assert comparison.names == ("run a/scan", "run b/scan")
    assert compare_reports(folders[:1]).names == ("scan",)
    assert ">run b/scan</a>" in render_comparison(comparison, tmp_path / "page.html")


def test_snapshots_of_a_sweep_get_a_chart_each(make_report: MakeReport, tmp_path: Path):
    for size in (30, 40):
        for images_seen in (100, 200):
            make_report(f"{size}/{images_seen}", 3, size=size, images_seen=images_seen)
    by_size = render_comparison(compare_reports([tmp_path]), tmp_path / "page.html")
    assert by_size.count("<svg class") == 4 and by_size.count("<polyline") == 2 + 2 + 2
    assert "by training images |D|, 100 images seen in training" in by_size
    assert "images seen in training, logarithmic axis</text>" in by_size
    assert "epochs, logarithmic axis</text>" in by_size
    by_seen = compare_reports([tmp_path], by="images-seen")
    text = render_comparison(by_seen, tmp_path / "page.html")
    first = text[text.index('<svg class="plot') :].split("</svg>")[0]
    assert first.count("<polyline") == 2 and ">30</span>" in text and ">40</span>" in text
    assert text.count("<a href=") == 4


def test_two_sweeps_are_two_curves(make_report: MakeReport, tmp_path: Path):
    for sweep, copies in (("cosine", 3), ("linear", 9)):
        for size in (30, 40, 60):
            make_report(f"{sweep}/{size}", copies, size=size, images_seen=6000)
    comparison = compare_reports([tmp_path], by="epochs")
    assert set(comparison.sweeps) == {"cosine", "linear"}
    assert sorted({report.epochs for report in comparison.reports}) == [100, 150, 200]
    text = render_comparison(comparison, tmp_path / "page.html")
    first = text[text.index("<svg class") :].split("</svg>")[0]
    assert first.count("<polyline") == 2
    assert 'class="curve solid"' in first and 'class="curve dashed"' in first
    assert ">cosine</span>" in text and ">linear</span>" in text
    assert ">150</td>" in text and "Sweeps are not joined." in text


def test_reports_are_filtered_by_name_and_verdict_without_a_network(
    browser: Any, make_report: MakeReport, tmp_path: Path
):
    for name, copies in (("early/a", 0), ("early/b", 9), ("late/b", 9)):
        make_report(name, copies, images_seen=90, fail_above=0.3)
    write_comparison(compare_reports([tmp_path], by="name"), tmp_path / "page.html")
    context = browser.new_context(offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    rows, marks = page.locator("tbody tr:visible"), page.locator("svg g[data-name]:visible")
    assert rows.count() == marks.count() == 3
    page.get_by_label("Show names with").fill("B early")
    assert rows.count() == marks.count() == 1 and "early/b" in rows.first.inner_text()
    page.get_by_label("Show names with").fill("")
    page.get_by_label("Verdict").select_option("INCONCLUSIVE")
    shown = page.locator("output").inner_text()
    assert shown == f"{rows.count()} / 3" and rows.count() in (1, 2, 3)
    assert problems == []
    context.close()
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto((tmp_path / "page.html").as_uri())
    assert plain.locator("tbody tr:visible").count() == 3
    assert not plain.locator("#filters").is_visible()
    plain.context.close()


def test_the_page_shows_the_emm_of_searches(make_report: MakeReport, tmp_path: Path):
    make_report("a", 1)
    emm = {
        **{"schema": "memaudit.emm/2", "epsilon": 0.1, "emm": 8.6, "replicates": 3},
        **{"low": 5.4, "high": 12.2, "confidence": 0.95, "reason": "", "points": []},
    }
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "emm.json").write_text(json.dumps(emm))
    result = run(tmp_path, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.stderr
    text = without_links((tmp_path / "page.html").read_text())
    assert "9 (5 to 13)" in text and "5 to 13 (95 %)" in text
    assert "not a number of images that leak" in text
    alone = run(tmp_path / "search", "--out", tmp_path / "alone.html")
    assert alone.exit_code == 0 and "5 to 13 (95 %)" in alone.stdout
    assert "9 (5 to 13)" in without_links((tmp_path / "alone.html").read_text())
    (found,) = json.loads(run(tmp_path / "search", "--json").stdout)["searches"]
    assert found["emm"] == 8.6
    together = run(tmp_path / "a", tmp_path / "search", "--json")
    content = json.loads(together.stdout)
    assert len(content["reports"]) == len(content["searches"]) == 1
    wrong = ({"emm": -1}, {"low": 13}, {"low": None}, {"epsilon": 1e308}, {"replicates": 10**999})
    for broken in ('{"schema": 1}', *(json.dumps({**emm, **each}) for each in wrong), "[" * 9000):
        (tmp_path / "search" / "emm.json").write_text(broken)
        result = run(tmp_path, "--out", tmp_path / "page.html", "--overwrite")
        assert result.exit_code == 2 and "is not a readable emm.json" in result.stderr


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
def test_a_browser_shows_the_page_to_everybody(
    browser: Any,
    barriers: Callable[[Any], list[Any]],
    misplaced_words: Callable[[Any], list[str]],
    make_report: MakeReport,
    tmp_path: Path,
    width: int,
    scheme: str,
):
    name = "a-folder-whose-name-has-no-place-to-break-it-and-goes-on-and-on-{}"
    for i in range(8):
        make_report(name.format(i), i)
    write_comparison(compare_reports([tmp_path]), tmp_path / "page.html")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert misplaced_words(page) == []
    assert barriers(page) == []
    page.locator("th a").first.click()
    assert "generated images" in page.locator("h1").inner_text()
    page.close()
