"""Scans that count copies by further rules: their finds, their reports, and what verify sees."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.images import smooth_images
from rich.console import Console

import memaudit
from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.matches import Matches
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.neighbors.build import build_index
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.neighbors.rules.registry import RULES
from memaudit.audit.neighbors.rules.rule import Searched
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.schema import read_report
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.verification.policy import as_policy, check_policy
from memaudit.audit.verification.verify import verify_report
from memaudit.cli.main import cli
from memaudit.cli.scan_tables import _by_rule
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError

SLOW = ("recall", "label_test", "blind_baseline", "copying")
ALL = ScanConfig(index=IndexConfig(match=("all",)), without=SLOW)
KINDS = ("pixels", "tiles", "tone", "shift", "flips")


@pytest.fixture(scope="module")
def textured() -> np.ndarray:
    """Images with detail everywhere, so that every tile can be recognized: uint8 [N, 3, 16, 16]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (260, 3, 8, 8)).repeat(2, 2).repeat(2, 3)
    return (coarse + rng.integers(-20, 21, (260, 3, 16, 16))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def planted(textured: np.ndarray) -> np.ndarray:
    """Four copies of each kind, in the order of KINDS, and 20 new images."""
    train, others = textured[:120], textured[200:]
    half = train[4:8].copy()
    half[..., 8:] = others[:4, ..., 8:]
    toned = (train[8:12] * 0.6 + 40).astype(np.uint8)
    moved = np.roll(train[12:16], (1, -2), (2, 3))
    moved[:, :, :1], moved[..., -2:] = 0, 0
    return np.concatenate([train[:4], half, toned, moved, train[16:20, ..., ::-1], others[4:24]])


@pytest.fixture(scope="module")
def result(textured: np.ndarray, planted: np.ndarray) -> ScanResult:
    return scan(planted, textured[:120], holdout=textured[120:180], config=ALL)


def test_each_rule_finds_its_copies_and_no_new_image(result: ScanResult):
    by_rule = result.matches.by_rule
    for number, kind in enumerate(KINDS):
        assert by_rule[kind][4 * number : 4 * number + 4].all(), kind
        assert not by_rule[kind][20:].any()
    assert np.flatnonzero(result.matches.is_copy).tolist() == list(range(20))
    assert result.ratios.copies.count == 20
    assert result.ratios.copies.count >= max(row.copies.count for row in result.ratios.by_rule)
    assert [row.rule for row in result.ratios.by_rule] == list(KINDS)
    assert sorted(leak.index for leak in result.leaks) == list(range(20))
    np.testing.assert_array_equal(result.matches.copied[:20], np.arange(20))


def test_the_floors_count_by_every_rule(result: ScanResult):
    for floor in (result.controls.leave_one_out, result.controls.holdout):
        assert floor is not None
        assert [each.rule for each in floor.by_rule] == list(KINDS)
        assert floor.copies.count == 0


def test_where_a_copy_was_found_is_told(result: ScanResult):
    where = {each.rule: each.where for each in result.matches.finds}
    assert where["tiles"][4] == "tiles 1 and 3 of 2×2"
    assert where["tone"][8].startswith("gain 0.60, offset +")
    assert where["shift"][12] == "2 px left, 1 px down"
    assert where["flips"][16] == "mirrored"


@pytest.fixture(scope="module")
def folder(
    result: ScanResult,
    textured: np.ndarray,
    planted: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A report, and the images that it is about."""
    folder = tmp_path_factory.mktemp("matched")
    arrays = {"train": textured[:120], "holdout": textured[120:180], "generated": planted}
    for name, images in arrays.items():
        np.savez(folder / f"{name}.npz", images=images.transpose(0, 2, 3, 1))
    again = memaudit.scan(
        folder / "generated.npz",
        folder / "train.npz",
        holdout=folder / "holdout.npz",
        config=ALL,
    )
    np.testing.assert_array_equal(again.matches.is_copy, result.matches.is_copy)
    write_report(again, folder / "report")
    return folder


def test_a_report_is_verified_with_its_images(folder: Path):
    found = verify_report(
        folder / "report",
        source=folder / "generated.npz",
        data=folder / "train.npz",
        holdout=folder / "holdout.npz",
    )
    assert [check for check in found.checks if not check.passed] == []
    assert read_report(folder / "report").search.match == KINDS


def test_the_tables_and_the_page_say_which_rule_and_where(folder: Path):
    rows, leaks = (
        list(csv.DictReader((folder / "report" / name).read_text(encoding="utf-8").splitlines()))
        for name in ("matches.csv", "leaks.csv")
    )
    assert rows[4]["tiles_index"] == "4" and rows[4]["tiles_where"] == "tiles 1 and 3 of 2×2"
    assert rows[4]["copy"] == "1" and rows[20]["tiles_index"] == "-1"
    assert {row["rule"] for row in leaks} == set(KINDS)
    page = (folder / "report/report.html").read_text(encoding="utf-8")
    assert "tiles 1 and 3 of 2×2" in page
    assert 'class="framed"' in page and "width:50.00%" in page
    assert "one of these rules calls so: pixels, tiles, tone, shift, flips." in page
    assert "changed in hue" in page and "recolored" not in page and "pixel by pixel" not in page


def test_the_plain_rule_alone_writes_what_it_always_did(
    textured: np.ndarray, planted: np.ndarray, tmp_path: Path, result: ScanResult
):
    plain = scan(planted, textured[:120], holdout=textured[120:180])
    write_report(plain, tmp_path)
    header = (tmp_path / "matches.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "tiles" not in header and "rule" not in header
    assert plain.matches.finds == () and plain.ratios.by_rule == ()
    np.testing.assert_array_equal(plain.matches.is_copy, result.matches.is_pixel_copy)
    assert plain.ratios.distinct == result.ratios.distinct


def test_rules_never_make_a_scan_pass(textured: np.ndarray, planted: np.ndarray):
    gated = replace(ALL, fail_above=0.2)
    train, holdout = textured[:120], textured[120:180]
    both = [
        scan(planted, train, holdout=holdout, config=config)
        for config in (replace(gated, index=IndexConfig()), gated)
    ]
    assert [each.verdict for each in both] == ["INCONCLUSIVE", "FAIL"]
    decision = both[1].decision
    assert decision is not None and decision.whole_images is not None
    assert decision.whole_images.count == both[0].ratios.copies.count
    assert both[1].controls.whole_images_in_gate == both[0].controls.in_gate
    clean = scan(planted[20:], train, holdout=holdout, config=replace(gated, fail_above=0.3))
    assert clean.decision is not None and clean.decision.count == 0


def icons(number: int, seed: int, *, of: int) -> np.ndarray:
    """Images with random lower halves, whose upper ones are among `of`: uint8 [N, 1, 16, 16]."""
    shared = np.random.default_rng(99).integers(0, 256, (of, 1, 16, 16))
    rng = np.random.default_rng(seed)
    images = shared[rng.permutation(of)[:number]]
    images[:, :, 8:, :] = rng.integers(0, 256, (number, 1, 8, 16))
    return images.astype(np.uint8)


@pytest.mark.slow
def test_parts_that_images_share_do_not_excuse_whole_copies(tmp_path: Path):
    train, holdout = icons(60, 0, of=60), icons(100, 1, of=150)
    copier = np.concatenate([train[:20], icons(20, 2, of=150)])
    config = ScanConfig(index=IndexConfig(match=("tiles",)), without=SLOW, fail_above=0.1)
    plain = replace(config, index=IndexConfig())
    assert scan(copier, train, holdout=holdout, config=plain).verdict == "FAIL"
    found = scan(copier, train, holdout=holdout, config=config)
    assert found.controls.floor is not None and found.controls.floor.copies.ratio > 0.3
    assert found.verdict == "FAIL"
    assert found.decision is not None and found.decision.fails_by_whole_images
    assert "20 of these are near-exact pixel copies of a whole image" in found.conclusion.about
    write_report(found, tmp_path)
    assert verify_report(tmp_path).passed
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (shown,) = re.findall(r'<tr class="headline"><th scope="row">(More than [^<]*)', page)
    assert "copies of whole images" in shown
    clean = scan(icons(60, 3, of=150), train, holdout=holdout, config=config)
    assert clean.verdict == "INCONCLUSIVE"
    assert "Whole images alone count 0" in " ".join(each.text for each in clean.conclusion.reasons)


def test_data_of_moved_copies_fails_nobody():
    """A third of all images, held out or new, are others moved by a pixel: as frames are."""
    rng = np.random.default_rng(5)
    scenes = rng.integers(0, 256, (60, 1, 20, 20)).astype(np.uint8)

    def frames(number: int) -> np.ndarray:
        x, y = rng.integers(1, 4, (2, number))
        of = rng.integers(0, 60, number)
        places = zip(of, x, y, strict=True)
        cut = np.stack([scenes[i, :, a : a + 16, b : b + 16] for i, a, b in places])
        return (cut + rng.integers(-2, 3, cut.shape)).clip(0, 255).astype(np.uint8)

    train, holdout = frames(80), frames(80)
    config = ScanConfig(index=IndexConfig(match=("shift",)), without=SLOW, fail_above=0.1)
    found = scan(frames(80), train, holdout=holdout, config=config)
    assert found.controls.is_dense
    assert found.verdict != "FAIL"


def test_planted_held_out_copies_are_no_control(textured: np.ndarray):
    train = textured[:120]
    sold = np.roll(train[:20], (0, 1), (2, 3))
    config = ScanConfig(index=IndexConfig(match=("shift",)), without=SLOW)
    holdout = np.concatenate([textured[120:160], sold])
    found = scan(textured[180:200], train, holdout=holdout, config=config).controls
    assert found.num_set_apart == 20
    assert found.holdout is not None and found.holdout.copies.total == 40


@pytest.mark.parametrize("at", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_forged_find_is_noticed(folder: Path, tmp_path: Path, at: int):
    """The whole folder is forged, hashes and all, to hide what tiles found of an image."""
    report = folder / "report"
    arrays = {name: folder / f"{name}.npz" for name in ("generated", "train", "holdout")}
    found = memaudit.scan(
        arrays["generated"], arrays["train"], holdout=arrays["holdout"], config=ALL
    )
    tiles = found.matches.finds[0]
    hidden = replace(
        tiles,
        index=np.where(np.arange(len(tiles)) == 4 + at, -1, tiles.index),
        squared_distance=np.where(np.arange(len(tiles)) == 4 + at, -1, tiles.squared_distance),
        num_values=np.where(np.arange(len(tiles)) == 4 + at, 0, tiles.num_values),
        where=tuple("" if i == 4 + at else text for i, text in enumerate(tiles.where)),
    )
    finds = (hidden, *found.matches.finds[1:])
    matches = Matches(found.matches.neighbors, found.matches.rule, finds)
    write_report(replace(found, matches=matches), tmp_path)
    assert read_report(report).search.match == KINDS
    checks = verify_report(
        tmp_path, source=arrays["generated"], data=arrays["train"], holdout=arrays["holdout"]
    ).checks
    assert "search" in [check.name for check in checks if not check.passed]


SEARCHED = Searched((3, 16, 16), flips=False)


@pytest.mark.parametrize(
    ("name", "where", "num_values"),
    [
        ("tiles", "tiles 1 and 9 of 2×2", 384),
        ("tiles", "tiles 3 and 1 of 2×2", 384),
        ("tiles", "tiles 1 and 1 of 2×2", 384),
        ("tiles", "tiles 1 and 3 of 2×2", 385),
        ("tiles", "tiles 1 and 3 of 2×2, mirrored", 384),
        ("tiles", "tiles 1 and 3 of 2×3", 384),
        ("tone", "gain nan, offset +40", 768),
        ("tone", "gain 0.60, offset +40, mirrored", 768),
        ("tone", "gain 0.60, offset +40", 1),
        ("shift", "3 px left, 1 px down", 432),
        ("shift", "2 px left, 3 px down", 432),
        ("shift", "2 px left, 1 px down, mirrored", 432),
        ("shift", "2 px left, 1 px down", 768),
        ("flips", "upside down", 768),
        ("flips", "mirrored", 767),
        ("features", "tiles 1 and 3 of 2×2", 1),
        ("features", "as a whole", 768),
    ],
)
def test_each_rule_knows_what_it_cannot_have_found(name: str, where: str, num_values: int):
    (rule,) = (rule for rule in RULES if rule.name == name)
    assert not rule.can_be(where, num_values, SEARCHED)


def test_each_rule_knows_its_finds(result: ScanResult):
    for found in result.matches.finds:
        (rule,) = (rule for rule in RULES if rule.name == found.rule)
        rows = np.flatnonzero(found.is_copy)
        assert len(rows)
        for row in rows.tolist():
            assert rule.can_be(found.where[row], int(found.num_values[row]), SEARCHED)


def test_a_place_that_cannot_be_is_noticed_without_the_images(result: ScanResult, tmp_path: Path):
    tiles = result.matches.finds[0]
    where = tuple(text.replace("1 and 3", "3 and 1") for text in tiles.where)
    finds = (replace(tiles, where=where), *result.matches.finds[1:])
    matches = Matches(result.matches.neighbors, result.matches.rule, finds)
    write_report(result, tmp_path / "honest")
    assert verify_report(tmp_path / "honest").passed
    write_report(replace(result, matches=matches), tmp_path / "forged")
    wrong = [check.name for check in verify_report(tmp_path / "forged").checks if not check.passed]
    assert "rows of matches.csv" in wrong


def test_a_policy_names_the_rules(folder: Path):
    report = read_report(folder / "report")
    content = {"gate": {"limit": 0.5}, "rule": {"match": ["pixels"]}}

    def wrong(rules: list[str]) -> str:
        policy = as_policy({**content, "rule": {"match": rules}})
        (clause,) = [c for c in check_policy(policy, report) if c.name == "policy rule.match"]
        return "" if clause.passed else clause.detail

    counted = "copies by pixels; tiles; tone; shift; flips, not by "
    assert wrong(["pixels"]) == counted + "pixels"
    assert wrong(["tiles"]) == counted + "pixels; tiles"
    assert not wrong(list(KINDS))
    with pytest.raises(ConfigError, match="tilse"):
        as_policy({**content, "rule": {"match": ["tilse"]}})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: IndexConfig(match=("tilse",)), "names 'tilse'; choose among pixels, tiles"),
        (lambda: IndexConfig(match=("features",)), "say of which encoder"),
        (lambda: IndexConfig(match=("tiles",), shard_index=True), "leave it out"),
        (lambda: IndexConfig(match=("tiles",), features="encoder.pt"), "does not count features"),
        (
            lambda: ScanConfig(index=IndexConfig(match=("tone",)), screening=ScreeningConfig()),
            "Leave one of them out",
        ),
    ],
)
def test_what_cannot_be_is_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        config()


def test_lists_are_read_in_any_order_and_once():
    assert IndexConfig(match=("tone, tiles", "tiles")).match == ("pixels", "tiles", "tone")
    assert IndexConfig(match=("pixels",)) == IndexConfig()
    assert IndexConfig(match=("all",), flips=True).match == ("pixels", "tiles", "tone", "shift")


def test_images_that_are_too_small_are_refused():
    tiny = ImageSet(smooth_images(5, 4, seed=0), [""] * 5)
    with pytest.raises(ConfigError, match="at least 8×8 pixels; these have 4×4"):
        build_index(tiny, IndexConfig(match=("tiles",)))


def test_what_each_rule_counts_fits_a_terminal(result: ScanResult):
    """In 80 columns, no number is broken and no word is cut."""
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(_by_rule(result))
    shown = console.export_text()
    assert "…" not in shown
    for row in result.ratios.by_rule:
        (line,) = (line for line in shown.splitlines() if line.split()[:1] == [row.rule])
        assert f" {row.copies.count} " in line and line.count(" / ") == 2
        assert re.search(r"\d to [\d.]+ %", line)


def test_the_command_counts_by_a_list(folder: Path):
    arguments = ["scan", str(folder / "generated.npz"), "--data", str(folder / "train.npz")]
    arguments += [word for name in SLOW for word in ("--without", name.replace("_", "-"))]
    found = CliRunner().invoke(cli, [*arguments, "--match", "tiles,flips"])
    assert found.exit_code == 0, found.output
    assert "copies by pixels, tiles, flips counted" in " ".join(found.output.split())
