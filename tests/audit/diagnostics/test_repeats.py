"""Repeats in a scan: memorization or mode collapse."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import make_report
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.verification.verify import verify_report

TRAIN = smooth_images(40, 8, seed=0)
FRESH = smooth_images(20, 8, seed=1)


@pytest.fixture(scope="module")
def both() -> ScanResult:
    """Four copies of a training image, three images that repeat another picture, and others."""
    generated = np.concatenate([np.repeat(TRAIN[:1], 4, 0), np.repeat(FRESH[:1], 3, 0), FRESH[1:]])
    return scan(generated, TRAIN)


def said(result: ScanResult) -> str:
    return next(line for line in result.summary().splitlines() if "near-equal" in line)


def test_copies_are_told_from_mode_collapse(both: ScanResult):
    found = both.diagnostics.repeats
    assert found is not None
    assert (found.repeats.count.num_repeated, found.num_copies) == (7, 4)
    assert (found.train.num_images, found.train.num_repeated) == (40, 0)
    assert said(both) == (
        "7 of 26 generated images are near-equal to another one, in 2 groups of up to 4: 4 copy a "
        "training image, and 3 copy none: a mode collapse, or copies of images "
        "that were not given. Of 40 training images, none is."
    )


def test_duplicates_among_the_training_images_explain_repeats():
    twice = np.concatenate([TRAIN, TRAIN[:5]])
    result = scan(np.repeat(TRAIN[:2], 2, 0), twice)
    assert said(result) == (
        "4 of 4 generated images are near-equal to another one, in 2 groups of up to 2, and all of "
        "them copy a training image. Of 45 training images, 10 are."
    )


def test_repeats_of_pictures_that_are_in_no_training_image_are_a_mode_collapse():
    result = scan(np.repeat(FRESH[:2], 2, 0), TRAIN)
    assert "copies a training image: a mode collapse, or copies of images that" in said(result)


def test_a_scan_without_repeats_says_nothing_of_them():
    result = scan(FRESH, TRAIN)
    assert "near-equal" not in result.summary()
    assert result.diagnostics.repeats is not None


def test_the_page_shows_the_groups_with_counterexamples(both: ScanResult):
    class Alts(HTMLParser):
        alts: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "img":
                self.alts.append(dict(attrs)["alt"] or "")

    page = Alts()
    page.feed(render_page(both, make_report(both)))
    shown = [alt for alt in page.alts if "group" in alt or "least alike" in alt]
    assert shown[:3] == [
        "Generated image array[0], first of the group",
        "Generated image array[2], in the group",
        "Generated image array[3], in the group",
    ]
    assert shown[3] == "Generated image array[1], least alike: 0.00"
    assert sum("not in the group: " in alt for alt in shown) == 2


def test_verify_computes_the_repeats_of_given_images_again(both: ScanResult, tmp_path: Path):
    np.save(tmp_path / "train.npy", TRAIN)
    np.save(tmp_path / "generated.npy", both.generated)
    result = scan(tmp_path / "generated.npy", tmp_path / "train.npy")
    write_report(result, tmp_path / "report")
    found = verify_report(
        tmp_path / "report", source=tmp_path / "generated.npy", data=tmp_path / "train.npy"
    )
    assert found.passed
    assert any(check.name == "diagnostic repeats" for check in found.checks)


def test_repeats_of_a_screened_scan_are_those_of_the_seeds_drawn(screened_result: ScanResult):
    found = screened_result.diagnostics.repeats
    assert found is not None
    assert found.repeats.count.num_images == len(screened_result.sample)
    page = screened_result.page_context
    assert len(page.keys) == len(page.generated) == found.repeats.count.num_images


def test_repeats_can_be_left_out():
    result = scan(FRESH, TRAIN, config=ScanConfig(without=("repeats",)))
    assert result.diagnostics.repeats is None
