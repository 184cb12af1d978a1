"""`memaudit card`, and the command that a card holds."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from memaudit.audit.documents.command import DATA, HOLDOUT

Run = Callable[..., Result]

OPTIONS = (
    pytest.param(
        "--seeds 5-24 --steps 6 --threshold 1/4 --flips --match tone --size 30 "
        "--without optimality",
        marks=pytest.mark.slow,
    ),
    "--samples 40 --nonce tender-7 --fail-above 0.5 --min-samples 10 --without optimality,recall",
    pytest.param(
        "--samples 30 --nonce x --screen --screen-share 0.3 --duplicate-rms 6 --without optimality",
        marks=pytest.mark.slow,
    ),
)


@pytest.mark.parametrize("options", OPTIONS)
def test_its_command_repeats_the_scan(
    options: str, run: Run, checkpoint: Path, make_npz: Callable[..., Path], tmp_path: Path
):
    train, held_out = make_npz(40), tmp_path / "holdout.npz"
    np.savez(held_out, images=255 - np.load(train)["images"][:20])

    def scan(words: list[str], out: str) -> dict[str, object]:
        done = run(*words, "--out", tmp_path / out)
        assert done.exit_code in (0, 1, 3), done.stderr
        report: dict[str, object] = json.loads((tmp_path / out / "report.json").read_bytes())
        for varying in ("timings", "environment", "files", "sha256"):
            del report[varying]
        return report

    words = ["scan", str(checkpoint), "--data", str(train), "--holdout", str(held_out)]
    first = scan([*words, *options.split(), "--device", "cpu"], "first")
    card = run("card", tmp_path / "first")
    assert card.exit_code == 0, card.stderr
    lines = card.stdout.replace("\\\n", " ").splitlines()
    (line,) = [line for line in lines if line.startswith("memaudit scan")]
    wrapped = [each for each in card.stdout.splitlines() if not each.startswith(("|", "**"))]
    assert all(len(each) <= 100 for each in wrapped)
    stands_for = {DATA: str(train), HOLDOUT: str(held_out), checkpoint.name: str(checkpoint)}
    again = [stands_for.get(word, word) for word in shlex.split(line)[1:]]
    assert again[-2:] == ["--out", "report"]
    assert scan(again[:-2], "second") == first


def test_it_is_written_to_a_file_and_asks_before_it_replaces(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
):
    images = make_npz(10)
    run("scan", images, "--data", images, "--out", tmp_path / "report")
    printed = run("card", tmp_path / "report")
    assert printed.stdout.startswith("Memorization audit\n---")
    out = tmp_path / "CARD.md"
    assert run("card", tmp_path / "report", "--out", out).exit_code == 0
    assert out.read_text() == printed.stdout
    again = run("card", tmp_path / "report", "--out", out)
    assert again.exit_code == 2 and "--overwrite" in again.stderr


def test_a_folder_without_a_report_has_no_card(run: Run, tmp_path: Path):
    result = run("card", tmp_path)
    assert result.exit_code == 2 and "no report" in result.stderr.lower()


def test_an_annex_is_written_beside_the_report(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
):
    images = make_npz(10)
    run("scan", images, "--data", images, "--out", tmp_path / "report")
    result = run("report", tmp_path / "report", "--annex", "edpb", "--auditor", "A Lab")
    assert result.exit_code == 0, result.stderr
    assert "A Lab" in (tmp_path / "report" / "annex-edpb.html").read_text()
    assert "print" in result.stderr
    assert run("verify", tmp_path / "report").exit_code == 0
    for words in (("--auditor", "A Lab"), ("--pdf", tmp_path / "a.pdf")):
        alone = run("report", tmp_path / "report", *words)
        assert alone.exit_code == 2 and "--annex" in alone.stderr
    two = run("report", tmp_path / "report", tmp_path, "--annex", "edpb")
    assert two.exit_code == 2 and "one report" in two.stderr
