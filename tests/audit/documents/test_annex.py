"""The annex: facts of the report, each with its place, and nothing passed over."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from memaudit.audit.documents import pdf
from memaudit.audit.documents.annex import LIMITS, write_annex
from memaudit.audit.documents.texts import TEXTS
from memaudit.audit.report.folder import PAGE, REPORT, write_report
from memaudit.audit.result import ScanResult
from memaudit.audit.verification.verify import verify_report
from memaudit.errors import ConfigError, DataError

Make = Callable[..., ScanResult]


@pytest.fixture(scope="module")
def whole(whole_result: ScanResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_report(whole_result, folder)
    return folder


@pytest.fixture(scope="module")
def given(make_result: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    write_report(make_result(), folder)
    return folder


def written(folder: Path, text: Any, out: Path, **options: Any) -> str:
    return write_annex(folder, text, out=out / "annex.html", **options).read_text()


def words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ").split())


@pytest.mark.parametrize("text", TEXTS)
def test_every_field_named_is_in_the_report_and_every_link_leads_into_its_page(
    whole: Path, text: Any
):
    page = write_annex(whole, text).read_text()
    report = json.loads((whole / REPORT).read_bytes())
    links = re.findall(r'<td class="where"><a href="([^"]+)">([^<]+)</a>', page)
    assert len(links) > 20
    anchors = set(re.findall(r'id="([^"]+)"', (whole / PAGE).read_text()))
    for href, field in links:
        value: Any = report
        for name in field.split("."):
            value = value[int(name)] if isinstance(value, list) else value[name]
        target, _, anchor = href.partition("#")
        assert target == PAGE and anchor in anchors, field


@pytest.mark.parametrize("text", TEXTS)
def test_it_follows_the_parts_of_the_text_and_says_what_every_annex_must(
    whole: Path, text: Any, tmp_path: Path
):
    page = written(whole, text, tmp_path)
    said = words(page)
    titles = [part.title for part in TEXTS[text].parts]
    assert re.findall(r"<h2>\d\. ([^<]+)</h2>", page) == titles
    assert said.index(TEXTS[text].name) < said.index(titles[0])
    for must in (
        "Attacks run: budget and result",
        "Attacks not run, and why",
        "Coincidence rate, held-out images",
        "Share of copies not excluded",
        "Training data confirmed",
        "Groups (groups)",
        "On whose authority",
        "Name, role and signature",
        LIMITS,
    ):
        assert must in said, must


def test_its_numbers_are_those_of_the_report(whole: Path, whole_result: ScanResult, tmp_path: Path):
    said = words(written(whole, "edpb", tmp_path))
    ratio = whole_result.ratios.copies
    assert f"{ratio.count:,} of {ratio.total:,}" in said
    assert whole_result.conclusion.headline in said
    assert verify_report(whole).sha256 in said
    assert f"{len(whole_result.leaks)} of {len(whole_result.data)}" in said


def test_who_ran_it_is_given_or_a_line_to_fill_in(given: Path, tmp_path: Path):
    page = written(given, "cnil", tmp_path)
    lines = page.count('aria-label="to be filled in"')
    named = written(
        given, "cnil", tmp_path, auditor="A <b>Lab</b>", authority="the board", overwrite=True
    )
    assert named.count('aria-label="to be filled in"') == lines - 2
    assert "A &lt;b&gt;Lab&lt;/b&gt;" in named and "the board" in named


def test_an_audit_without_model_limit_and_holdout_says_so_first(given: Path, tmp_path: Path):
    said = words(written(given, "nist", tmp_path))
    before = said[: said.index("1. What was measured")]
    assert "no limit (no gate)" in before
    assert "No held-out images were given" in before
    assert "was not confirmed" in before
    assert "Verified against itself only" in before
    assert "The model was not given, only images" in said


def test_a_screened_audit_says_so_first(screened_result: ScanResult, tmp_path: Path):
    write_report(screened_result, tmp_path)
    said = words(written(tmp_path, "edpb", tmp_path))
    before = said[: said.index("1. The model")]
    assert "Screened: 20 seeds were screened" in before
    assert "left out on request: optimality" in before
    assert "an estimated" in said


def test_a_changed_report_has_no_annex(given: Path, tmp_path: Path):
    for name in (path.name for path in given.iterdir() if path.is_file()):
        (tmp_path / name).write_bytes((given / name).read_bytes())
    with (tmp_path / "matches.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"fails .*matches\.csv"):
        write_annex(tmp_path, "edpb")
    assert not (tmp_path / "annex-edpb.html").exists()


def test_it_leaves_the_report_as_it_was_and_asks_before_it_replaces(given: Path):
    out = write_annex(given, "edpb", overwrite=True)
    assert out == given / "annex-edpb.html"
    assert verify_report(given).passed
    with pytest.raises(ConfigError, match="exists"):
        write_annex(given, "edpb")
    with pytest.raises(ConfigError, match="not a folder"):
        write_annex(given, "edpb", out=given / "missing" / "annex.html")


def test_without_a_browser_the_message_says_how_to_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"No Chromium.*Ctrl\+P"):
        pdf.print_pdf(tmp_path / "annex.html", tmp_path / "annex.pdf")


def test_a_browser_that_prints_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: "/bin/true")
    with pytest.raises(ConfigError, match="did not print"):
        pdf.print_pdf(tmp_path / "annex.html", tmp_path / "annex.pdf")


@pytest.mark.slow
def test_a_browser_prints_it(given: Path, tmp_path: Path):
    if pdf.find_browser() is None:
        pytest.skip("no Chromium is installed")
    page = write_annex(given, "edpb", out=tmp_path / "annex.html")
    pdf.print_pdf(page, tmp_path / "annex.pdf")
    content = (tmp_path / "annex.pdf").read_bytes()
    assert content.startswith(b"%PDF") and len(content) > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_it_is_two_sheets_of_paper(whole: Path, text: Any, tmp_path: Path):
    if pdf.find_browser() is None:
        pytest.skip("no Chromium is installed")
    pdf.print_pdf(write_annex(whole, text, out=tmp_path / "annex.html"), tmp_path / "annex.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "annex.pdf").read_bytes())) <= 2
