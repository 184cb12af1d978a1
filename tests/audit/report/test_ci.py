"""What a CI page, a notebook and the page of a report say: nothing is kept from any of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from memaudit.audit.report.ci import junit_xml, markdown_summary
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import make_report
from memaudit.audit.result import ScanResult
from memaudit.cli.scan_tables import render

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
