"""The words of pages: one file, which has every sentence and every definition that is used."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from memaudit.audit.report import words
from memaudit.audit.report.first_screen import first_screen
from memaudit.audit.report.words import (
    link_terms,
    links_once,
    say,
    say_html,
    sentences,
    terms,
    terms_used,
    without_links,
)
from memaudit.audit.result import ScanResult

ROOM = Path(words.__file__).parent
USED = re.compile(r"""(?:say|say_html|say_text|sentence|Sentence)\(\s*"([a-z_.]+)\"""")


def test_a_sentence_is_filled_and_its_marks_are_text_or_html():
    assert say("numbers.images", count=1) == "1 image"
    assert say("numbers.interval", low=0.0, high=0.0092) == "0 to 0.92 %"
    share = {"interval": "<b>1 %</b>"}
    assert "are copies of a training image (interval: <b>" in say("evidence.copies", **share)
    html = say_html("evidence.copies", **share)
    assert '<a class="term" href="#word-copy">copies</a>' in html
    assert "&lt;b&gt;1&nbsp;%&lt;/b&gt;" in html
    assert "<strong>a copy</strong>" in say_html(
        "first.copy_caption", generated="\u202ea", training="**b** `c` [d](#e)"
    )


def test_what_a_sentence_is_filled_with_holds_no_marks_and_no_hidden_characters():
    html = say_html("pairs.at", distance="\u202e{x}", name="**b** [d](#copy) <i>")
    assert html == "\\u202e{x}: **b** [d](#copy) &lt;i&gt;"


def test_terms_are_linked_once_and_the_longest_first():
    html = link_terms("The distance ratio, the distance ratios & the held-out images: 5 %")
    assert html.count("<a ") == 2
    assert 'href="#word-distance-ratio">distance ratio</a>, the distance ratios &amp;' in html
    assert 'href="#word-held-out">held-out images</a>' in html
    assert without_links(html).endswith("held-out images: 5&nbsp;%")
    assert link_terms("a copyist, uncopied, <copy>") == (
        'a copyist, uncopied, &lt;<a class="term" href="#word-copy">copy</a>&gt;'
    )


def test_every_link_leads_to_a_definition():
    linked = {id for _, text in sentences() for id in re.findall(r"\]\(#([a-z0-9_-]+)\)", text)}
    assert linked and linked <= terms().keys()
    page = "".join(f'<a class="term" href="#word-{id}">' for id in terms())
    assert {term.id for term in terms_used(page)} == terms().keys()
    assert terms_used("") == ()


def test_every_sentence_that_code_and_templates_name_is_in_the_file():
    keys = {re.sub(r"\.(one|other)$", "", key) for key, _ in sentences()}
    used = {
        key
        for file in [*ROOM.rglob("*.py"), *ROOM.rglob("*.j2"), *ROOM.parents[1].glob("cli/*.py")]
        for key in USED.findall(file.read_text())
    }
    assert len(used) > 40
    assert {key for key in used if not key.endswith(".")} <= keys


def test_a_section_links_a_term_once():
    term = '<a class="term" href="#word-{}">{}</a>'
    one, two = term.format("copy", "copy"), term.format("leak", "leaks")
    page = f"{one} {one}<section id='a'>{one}{two}{one}</section><section id='b'>{two}</section>"
    once = f"{one} copy<section id='a'>{one}{two}copy</section><section id='b'>{two}</section>"
    assert links_once(page) == once


def test_a_name_of_a_file_is_no_term():
    assert str(link_terms("leaks.csv has each copy. It leaks.")).count("<a ") == 2
    assert "<a " not in str(link_terms("leaks.csv"))


def test_a_page_defines_the_terms_that_it_links_to(whole_result: ScanResult):
    from memaudit.audit.report.page import render_page
    from memaudit.audit.report.schema import make_report

    page = render_page(whole_result, make_report(whole_result))
    linked = set(re.findall(r'href="#(word-[a-z0-9_-]+)"', page))
    defined = re.findall(r'<div id="(word-[a-z0-9_-]+)">', page)
    assert len(defined) == len(set(defined)) > 20
    assert linked <= set(defined)


def test_the_definitions_are_those_of_the_glossary():
    glossary = Path(__file__).parents[3] / "docs" / "glossary.md"
    if not glossary.exists():
        pytest.skip("there is no docs/glossary.md")
    titles = re.findall(r"^### (.+)$", glossary.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w-]+", "-", title.lower()).strip("-") for title in titles}
    assert set(terms()) - anchors <= {"epochs", "loss"}


def test_no_words_are_left_in_templates():
    """Text, attributes that are read, and texts in expressions. The annex has a file of its own."""
    found = []
    for file in sorted((ROOM / "templates").rglob("*.j2")):
        if file.name == "annex.html.j2":
            continue
        source = re.sub(r"\{#.*?#\}|<style>.*?</style>", "", file.read_text(), flags=re.DOTALL)
        jinja = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
        texts = re.findall(r'"([^"]*)"', " ".join(jinja.findall(source)))
        found += [text for text in texts if re.search(r"[a-z]{2,} +[a-z]{2,}", text, re.IGNORECASE)]
        plain = jinja.sub("", source)
        found += re.findall(r'(?:aria-label|alt|title)="([^"]*[A-Za-z]{2,}[^"]*)"', plain)
        shown = re.sub(r"&\w+;", "", re.sub(r"<[^>]*>", " ", plain))
        found += re.findall(r"[A-Za-z]{2,}[A-Za-z ]*", shown)
    assert found == ["mixture sequence"]  # a value of report.json


def test_every_sentence_of_the_file_is_used_somewhere():
    code = "".join(
        file.read_text()
        for file in [*ROOM.rglob("*.py"), *ROOM.rglob("*.j2"), *ROOM.parents[1].rglob("*.py")]
    )
    keys = {re.sub(r"\.(one|other)$", "", key) for key, _ in sentences()}
    made = ("sections.", "next.", "evidence.", "pairs.", "first.", "overview.emm_", "terms.")
    unused = {key for key in keys if f'"{key}"' not in code and not key.startswith(made)}
    assert unused == set()


def test_an_undecided_scan_without_advice_is_not_told_to_choose_a_limit(
    make_result: Callable[..., ScanResult], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("memaudit.audit.verdict._advice", lambda *_: "")
    screen = first_screen(make_result(0, 20, fail_above=0.01))
    assert screen.headline.startswith("INCONCLUSIVE")
    assert screen.next_text.startswith("Do not take this for a PASS")


def test_where_the_floor_explains_the_count_it_is_said_what_would_tell(
    make_result: Callable[..., ScanResult],
):
    result = make_result(1, 40)
    assert result.is_explained_by_floor
    assert "Held-out images (--holdout), which the model" in first_screen(result).next_text
    assert "these are too few to tell: 779 would do" in first_screen(result).about
    controls = replace(result.controls, holdout=result.controls.leave_one_out)
    given = replace(result, controls=controls)
    assert "More held-out images (--holdout), or" in first_screen(given).next_text
