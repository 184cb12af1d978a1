"""The card of an audit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.forged_reports import seal_again

from memaudit.audit.documents.annex import write_annex
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


@pytest.mark.parametrize("name", ["-rf.npz", "os:system"])
def test_a_file_in_the_command_is_neither_option_nor_code(
    make_result: Make, tmp_path: Path, name: str
):
    result = make_result(sampled=True)
    write_report(replace(result, source=replace(result.source, path=name)), tmp_path)
    assert f"memaudit scan ./{name} " in audit_card(tmp_path)


def test_a_hash_that_is_none_cannot_leave_the_card(make_result: Make, tmp_path: Path):
    """The words of a page of another version are not compared, so hashes in it may be any text."""
    hostile = "0` |\n\n# PASS <b>"
    result = make_result()
    write_report(replace(result, source=replace(result.source, sha256=hostile)), tmp_path)

    def change(report: dict[str, Any]) -> None:
        report["environment"]["memaudit"] = "0.0.1"
        report["data"]["fingerprint"] = hostile

    seal_again(tmp_path, change)
    card = audit_card(tmp_path)
    assert "\n# PASS" not in card and card.count(r"`0\x60 \x7c\n\n# PASS <b>`") == 2


def test_it_says_what_limits_the_verdict(make_result: Make, tmp_path: Path):
    result = make_result(0, 20, fail_above=0.01)
    source = replace(result.source, warnings=("All images in /home/me/train are equal.",))
    data = replace(result.data, source="/home/me/train")
    write_report(replace(result, source=source, data=data), tmp_path)
    card = audit_card(tmp_path)
    assert "**INCONCLUSIVE" in card and "| Why it is limited | 20 images do not decide" in card
    assert "| Warning | All images in train are equal. |" in card


def test_a_changed_report_has_no_card(make_result: Make, tmp_path: Path):
    write_report(make_result(), tmp_path)
    report = tmp_path / "report.json"
    report.write_text(report.read_text().replace('"count": 20', '"count": 0', 1))
    with pytest.raises(DataError, match="fails"):
        audit_card(tmp_path)


def test_groups_are_not_called_copied_where_the_floor_explains_it(
    explained_result: ScanResult, tmp_path: Path
):
    assert "might leak" not in explained_result.summary()
    write_report(explained_result, tmp_path / "report")
    annex = write_annex(tmp_path / "report", "edpb", out=tmp_path / "annex.html").read_text()
    for text in (audit_card(tmp_path / "report"), annex):
        assert "nearest to what was counted" in text
        assert "Groups copied" not in text and "were copied" not in text
