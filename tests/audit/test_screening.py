"""Screened scans: what is counted, estimated, kept and refused, beside scans of all seeds."""

import csv
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.forged_reports import seal_again
from torch import Tensor

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screened import drawn_positions, screening_key
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.report.ci import junit_xml, markdown_summary
from memaudit.audit.report.comparison import compare_reports
from memaudit.audit.report.folder import SCREENING, write_report
from memaudit.audit.report.schema import read_report
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.scan_state import STATE
from memaudit.audit.verification.policy import as_policy, check_policy
from memaudit.audit.verification.verify import verify_report
from memaudit.cli.main import cli
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.experiments.emm.search import estimate_emm_from_reports
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig

IMAGES = np.random.default_rng(0).integers(0, 256, (100, 3, 4, 4), np.uint8)
TRAIN = ImageSet(IMAGES[:30], [f"{i:02d}.png" for i in range(30)], source="train")
"""Three tenths of what the model makes."""
SEEDS = 300


class Model(ClosedFormOptimum):
    """The optimum of all 100 images: what it makes are copies of them, of TRAIN at times."""

    calls_left = 10**9

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        if self.calls_left <= 0:
            raise KeyboardInterrupt
        self.calls_left -= 1
        return super().__call__(x, sigma, class_labels)


def config(seeds: int = SEEDS, *, share: float = 0.2, **options: Any) -> ScanConfig:
    screening = options.pop("screening", ScreeningConfig(screen_share=share))
    return ScanConfig(seeds=range(seeds), screening=screening, without=("optimality",), **options)


@pytest.fixture(scope="module")
def whole() -> ScanResult:
    return scan(Model(IMAGES), TRAIN, config=config(screening=None))


@pytest.fixture(scope="module")
def screened() -> ScanResult:
    return scan(Model(IMAGES), TRAIN, config=config())


def test_images_are_those_of_the_full_sampler_alone(whole: ScanResult, screened: ScanResult):
    rows = np.array(screened.keys)
    np.testing.assert_array_equal(screened.generated, whole.generated[rows])
    np.testing.assert_array_equal(screened.matches.is_copy, whole.matches.is_copy[rows])
    assert rows.tolist() == sorted(rows) and len(rows) < SEEDS
    leaked = {leak.index for leak in screened.leaks}
    assert leaked <= {leak.index for leak in whole.leaks}


def test_the_estimate_holds_the_share_of_the_whole_scan(whole: ScanResult, screened: ScanResult):
    found = screened.screening
    assert found is not None
    copies = whole.ratios.copies
    assert found.copies.low <= copies.ratio <= found.copies.high
    assert found.copies.low < 0.3 < found.copies.high  # the truth
    assert 0.8 * copies.count < found.found <= copies.count
    # The candidates, the drawn and both are what is said of them.
    assert found.num_sampled == len(screened.keys)
    assert found.num_drawn == 60
    rows = screened.screened
    assert rows is not None
    is_candidate = rows.is_copy(screened.config.rule, found.below)
    assert (is_candidate | rows.is_drawn).all() and found.num_candidates == is_candidate.sum()
    agreement = found.agreement
    counts = (agreement.both, agreement.only_full, agreement.only_screened, agreement.neither)
    assert sum(counts) == found.num_sampled


def test_other_numbers_are_of_the_random_share(screened: ScanResult, whole: ScanResult):
    rows = screened.screened
    assert rows is not None
    drawn = np.array(screened.keys)[rows.is_drawn]
    assert screened.ratios.copies.count == whole.matches.is_copy[drawn].sum()
    assert screened.ratios.copies.total == len(drawn) == 60
    assert all(cell.ratio.total == 60 for cell in screened.findings.sensitivity)
    assert screened.conformal is None


@pytest.mark.parametrize(
    ("data", "limit", "verdict"),
    [(slice(0, 30), 0.1, "FAIL"), (slice(0, 30), 0.9, "INCONCLUSIVE")],
)
def test_a_gate_fails_or_does_not_decide(data: slice, limit: float, verdict: str, tmp_path: Path):
    train = ImageSet(IMAGES[data], [f"{i:02d}.png" for i in range(30)], source="train")
    held = ImageSet(IMAGES[60:], [f"{i:02d}.png" for i in range(40)], source="held")
    found = scan(Model(IMAGES), train, holdout=held, config=config(fail_above=limit))
    assert found.verdict == verdict
    assert found.decision is not None and found.screening is not None
    assert (found.decision.count, found.decision.total) == (found.screening.found, SEEDS)
    assert found.decision.evidence_below == 0
    if verdict == "INCONCLUSIVE":
        assert found.conclusion.reasons[0].kind == "screening"
        assert found.conclusion.headline.startswith("INCONCLUSIVE: seeds were screened")
        assert 'errors="1"' in junit_xml(found)
        assert "Scan without screening" in found.conclusion.advice
    write_report(found, tmp_path)
    assert not (tmp_path / STATE).exists()  # more seeds would be another random share
    assert verify_report(tmp_path).passed


def test_nothing_found_never_passes():
    train = ImageSet(255 - IMAGES[:30], [f"{i:02d}.png" for i in range(30)], source="train")
    plain = scan(Model(IMAGES), train, config=config(fail_above=0.2, screening=None))
    found = scan(Model(IMAGES), train, config=config(fail_above=0.2))
    assert found.decision is not None and found.decision.verdict == "INCONCLUSIVE"
    assert plain.decision is not None and plain.decision.verdict == "PASS"
    assert found.verdict == "INCONCLUSIVE"
    assert found.screening is not None and found.screening.copies.high > 0.03


def test_a_report_says_so_and_is_verified(screened: ScanResult, tmp_path: Path):
    page = write_report(screened, tmp_path).read_text(encoding="utf-8")
    report = read_report(tmp_path)
    assert report.screening == screened.screening
    assert "an estimated" in report.conclusion.headline.lower()
    assert "drawn at random" in page and "screening.csv" in page
    for text in (screened.summary(), markdown_summary(screened)):
        assert "estimated" in text and "drawn at random" in text
    checked = verify_report(tmp_path)
    assert [each for each in checked.checks if not each.passed] == []
    assert any("candidates" in each.text for each in checked.unproven)


def test_a_policy_takes_no_screened_report_for_a_whole_one(screened: ScanResult, tmp_path: Path):
    write_report(screened, tmp_path)
    report = read_report(tmp_path)
    refused = {each.name for each in check_policy(as_policy({"gate": {"limit": 0.1}}), report)
               if not each.passed}  # fmt: skip
    assert "policy sampling.screened" in refused
    agreed = as_policy({"gate": {"limit": 0.1}, "sampling": {"screened": True}})
    refused = {each.name for each in check_policy(agreed, report) if not each.passed}
    assert "policy sampling.screened" not in refused and "policy sampling.seeds" not in refused


@pytest.mark.parametrize("column", ["drawn", "candidate", "screened_squared_distance1", "seed"])
def test_a_forged_table_is_noticed(screened: ScanResult, tmp_path: Path, column: str):
    """Also where the forger makes new hashes."""
    write_report(screened, tmp_path)
    path = tmp_path / SCREENING
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    at = rows[0].index(column)
    rows[1][at] = {"0": "1", "1": "0"}.get(rows[1][at], str(10**7))
    path.write_text("\n".join(map(",".join, rows)) + "\n", encoding="utf-8")
    seal_again(tmp_path)
    assert not verify_report(tmp_path).passed


def test_the_key_and_the_candidates_cannot_be_chosen_afterwards(
    screened: ScanResult, tmp_path: Path
):
    found = screened.screening
    assert found is not None
    other = replace(screened, screening=replace(found, key="0" * 32))
    write_report(other, tmp_path)
    failed = [each for each in verify_report(tmp_path).checks if not each.passed]
    assert any("the key does not draw" in each.detail for each in failed)


@pytest.mark.parametrize(
    "calls", [*(pytest.param(calls, marks=pytest.mark.slow) for calls in (40, 105)), 160]
)
def test_a_killed_scan_resumes_with_the_same_draw(tmp_path: Path, calls: int):
    model = Model(IMAGES)
    model.calls_left = calls  # in the screening, at its end, and while sampling in full
    with pytest.raises(KeyboardInterrupt):
        scan(model, TRAIN, config=config(), folder=tmp_path)
    key = (tmp_path / STATE / "screening-key").read_text()
    with pytest.raises(ConfigError, match="unfinished scan with another screening"):
        scan(Model(IMAGES), TRAIN, config=config(share=0.1), folder=tmp_path)
    with pytest.raises(ConfigError, match="unfinished scan with another screening"):
        scan(Model(IMAGES), TRAIN, config=config(screening=None), folder=tmp_path)
    resumed = scan(Model(IMAGES), TRAIN, config=config(), folder=tmp_path)
    assert resumed.screening is not None and resumed.screening.key == key
    parts = sorted((tmp_path / STATE).glob("screened-*.npz"))
    assert parts
    if calls == 160:
        assert resumed.num_kept > 0
    # A damaged part is made again, and a draw is not.
    parts[0].write_bytes(b"PK")
    again = scan(Model(IMAGES), TRAIN, config=config(), folder=tmp_path)
    assert again.screening == resumed.screening


def test_a_nonce_draws_what_anybody_can_draw_again(tmp_path: Path):
    one = scan(Model(IMAGES), TRAIN, config=config(60, nonce="release 7"))
    two = scan(Model(IMAGES), TRAIN, config=config(60, nonce="release 7"))
    assert one.screening is not None and one.screening == two.screening
    assert one.screening.key == screening_key("release 7", one.source.sha256, TRAIN.fingerprint)
    state = tmp_path / "state"
    scan(Model(IMAGES), TRAIN, config=config(60, nonce="release 7"), folder=state)
    (state / STATE / "screening-key").write_text("0" * 32)
    kept = scan(Model(IMAGES), TRAIN, config=config(60, nonce="release 7"), folder=state)
    assert kept.num_kept and kept.screening == one.screening
    write_report(one, tmp_path / "report")
    assert verify_report(tmp_path / "report").passed
    assert screening_key(None, None, "") != screening_key(None, None, "")


def test_draws_are_uniform_and_nobody_s_choice():
    counts = np.zeros(200)
    for number in range(500):
        counts[drawn_positions(f"{number:032x}", range(200), 20)] += 1
    expected = 500 * 20 / 200
    chi2 = ((counts - expected) ** 2 / (expected * 0.9)).sum()
    assert 120 < chi2 < 290  # 200 degrees of freedom, all but 1e-4
    assert drawn_positions("ab", [5, 3, 9], 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": SamplerConfig(sampler="own")}, "is own"),
        ({"sampler": SamplerConfig(solver="euler")}, "ablations"),
        ({"sampler": SamplerConfig(solver="multistep")}, "ablations"),
        ({"sampler": SamplerConfig(discretization="vp")}, "ablations"),
        ({"sampler": SamplerConfig(S_churn=40)}, "adds noise"),
        ({"rule": Rule(threshold=Fraction(9, 10))}, "would not be"),
    ],
)
def test_what_another_solver_does_not_find_is_refused(options: dict[str, Any], message: str):
    with pytest.raises((ConfigError, ValueError), match=message):
        config(**options)


def test_a_screened_report_is_not_taken_for_one_of_all_seeds(whole, screened, tmp_path: Path):
    for name, result in (("whole", whole), ("screened", screened)):
        write_report(result, tmp_path / name)
    told = compare_reports([tmp_path]).differences
    assert [each.split(":")[0] for each in told] == ["seeds"] and "screened, and" in told[0]
    with pytest.raises(DataError, match="report of a screened scan"):
        estimate_emm_from_reports([tmp_path / "screened"])


def test_given_images_are_not_screened():
    with pytest.raises(ConfigError, match="screen.* is for models"):
        scan(IMAGES, TRAIN, config=config())


def test_the_command_prints_both_samplers(tmp_path: Path):
    np.savez(tmp_path / "train.npz", images=IMAGES[:30])
    words = ["scan", "optimum", "--data", str(tmp_path / "train.npz"), "--samples", "60"]
    words += ["--without", "optimality"]
    done = CliRunner().invoke(cli, [*words, "--screen", "--screen-share", "20%"])
    assert done.exit_code == 0, done.output
    for text in ("An estimated 100 %", "Both samplers", "screened d1/d2", "drawn at random"):
        assert text in " ".join(done.stdout.split())
    asked = CliRunner().invoke(cli, [*words, "--screen", "--fail-above", "0.1", "--json"])
    report = json.loads(asked.stdout)
    assert report["verdict"] == "FAIL" and asked.exit_code == 1
    wrong = CliRunner().invoke(cli, [*words, "--screen-steps", "8"])
    assert wrong.exit_code != 0
