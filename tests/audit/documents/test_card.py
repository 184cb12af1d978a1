"""The card of an audit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from memaudit.audit.documents.card import audit_card
from memaudit.audit.report.folder import write_report
from memaudit.audit.result import ScanResult
from memaudit.errors import DataError

Make = Callable[..., ScanResult]


def test_it_says_what_was_audited_and_names_no_training_image(make_result: Make, tmp_path: Path):
    result = make_result(fail_above=0.5)
    write_report(result, tmp_path)
    card = audit_card(tmp_path)
    assert f"**{result.conclusion.headline}**" in card.replace("\\", "")
    assert "20 of 60, 33.3 %" in card
    assert result.data.fingerprint in card
    assert result.environment.finished[:10] in card
    assert "does not mean that nothing was memorized" in card
    assert not any(name in card for name in result.data.names)
    assert str(tmp_path) not in card


def test_after_a_verdict_it_has_the_end_of_the_interval_that_the_verdict_rests_on(
    make_result: Make, tmp_path: Path
):
    write_report(make_result(0, 60, fail_above=0.2), tmp_path)
    card = audit_card(tmp_path)
    assert "**PASS" in card
    assert "(at most 4.9 % at 95 % confidence)" in card


def test_a_name_cannot_leave_the_card(make_result: Make, tmp_path: Path):
    result = make_result(sampled=True)
    hostile = "a`b|c](http://x)\n```\n<script>.safetensors"
    write_report(replace(result, source=replace(result.source, path=hostile)), tmp_path)
    card = audit_card(tmp_path)
    lines = card.splitlines()
    (fence,) = [i for i, line in enumerate(lines) if line.strip("`") == "sh"]
    command = lines[fence + 1 : lines.index(lines[fence][:-2], fence)]
    assert all(line.endswith("\\") for line in command[:-1]) and "--out report" in command[-1]
    (audited,) = [line for line in lines[:fence] if "<script>" in line]
    assert audited.count("`") == 4  # two names in code, which nothing interprets
    assert sum(line.startswith("| Audited") for line in lines) == 1


def test_a_changed_report_has_no_card(make_result: Make, tmp_path: Path):
    write_report(make_result(), tmp_path)
    report = tmp_path / "report.json"
    report.write_text(report.read_text().replace('"count": 20', '"count": 0', 1))
    with pytest.raises(DataError, match="fails"):
        audit_card(tmp_path)
