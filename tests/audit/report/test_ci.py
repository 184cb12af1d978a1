"""What a CI page, a notebook and the page of a report say: nothing is kept from any of them."""

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from memaudit.audit.report.ci import junit_error, junit_xml, markdown_summary
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import make_report
from memaudit.audit.result import ScanResult
from memaudit.cli.scan_tables import render
from memaudit.wording import printable

Make = Callable[..., ScanResult]


def test_every_warning_is_told(make_result: Make):
    result = make_result(sampled=True)
    result = replace(result, source=replace(result.source, warnings=("One is odd.", "Two is.")))
    page = render_page(result, make_report(result))
    for text in (junit_xml(result), markdown_summary(result), result.summary(), page):
        assert "One is odd." in text
        assert "Two is." in text


def test_diagnostics_that_were_left_out_are_named(
    make_result: Make, capsys: pytest.CaptureFixture[str]
):
    result = make_result()
    left_out = replace(result.config, without=("noise_and_return", "authentic"))
    result = replace(result, config=left_out)
    render(result)
    page = render_page(result, make_report(result))
    summaries = junit_xml(result), markdown_summary(result), result.summary()
    for text in (*summaries, page, capsys.readouterr().out):
        assert "eft out on request" in text
        assert "noise-and-return, authentic" in text


def test_nothing_is_said_to_be_left_out_where_nothing_was(make_result: Make):
    result = make_result()
    assert "eft out" not in junit_xml(result) + result.summary()
    assert "Left out" not in render_page(result, make_report(result))


HOSTILE = "\x1b[2J\u202e]]>\udcff\x00\n## PASS: 0 of 9\n---\n~~~\n```\n|@octocat|#12|<b>{}.png"


def hostile(make_result: Make) -> ScanResult:
    """A scan that fails, and whose every name and path is hostile."""
    result = make_result(name=HOSTILE, fail_above=0.01)
    source = replace(result.source, path=HOSTILE, warnings=(HOSTILE, HOSTILE))
    data = replace(result.data, source=HOSTILE)
    return replace(result, source=source, data=data)


def test_names_leave_the_structure_of_a_summary_alone(make_result: Make):
    text = markdown_summary(hostile(make_result))
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    blocks = [token.type for token in tokens if token.nesting >= 0 and token.level == 0]
    assert blocks == ["heading_open", "table_open", "table_open", "paragraph_open"]
    assert tokens[1].content.startswith("memaudit: FAIL")
    children = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in children} <= {"text", "text_special", "code_inline"}
    assert not any("@" in child.content for child in children if child.type != "code_inline")
    assert text.count("@octocat") >= 10
    assert printable(text.replace("\n", "")) == text.replace("\n", "")


def test_a_checkpoint_that_states_much_does_not_fill_page_and_summaries(make_result: Make):
    result = make_result(sampled=True, fail_above=0.01)
    assert result.source.model is not None
    stated = {f"fact {i} {'k' * 10_000}": "v" * 10**6 for i in range(20)} | dict.fromkeys(
        map(str, range(100_000)), 1
    )
    model = replace(result.source.model, provenance=stated)
    source = replace(result.source, model=model, warnings=("w" * 10**6,))
    result = replace(result, source=source)
    assert len(junit_xml(result)) < 50_000 and len(markdown_summary(result)) < 50_000
    page = render_page(result, make_report(result))
    assert len(page) < 10**6 + len(render_page(make_result(), make_report(make_result())))
    assert "and 99,920 more" in page


def test_names_leave_the_structure_of_junit_alone(make_result: Make):
    text = junit_xml(hostile(make_result))
    suite = ElementTree.fromstring(text)
    assert [element.tag for element in suite.iter("failure")] == ["failure"]
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert printable(HOSTILE) in properties["source"]
    lines = (suite.find("testcase/failure").text or "").splitlines()
    assert len(lines) == len(properties) and [line for line in lines if "PASS:" in line[:9]] == []
    for one in (text, junit_error(HOSTILE)):
        shown = "".join(ElementTree.fromstring(one).itertext()).replace("\n", "")
        assert printable(shown) == shown and "\x1b" not in one and "\u202e" not in one
