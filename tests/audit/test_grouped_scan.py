"""Scans of patients: second neighbors of another one, leaks and limits counted in patients."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.label_test import label_test
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.report.ci import markdown_summary
from memaudit.audit.report.comparison import compare_reports
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import make_report, read_report
from memaudit.audit.report.tables import csv_rows
from memaudit.audit.scan import scan
from memaudit.audit.selftest import selftest
from memaudit.audit.source import optimum_of
from memaudit.audit.verification.policy import as_policy, check_policy
from memaudit.audit.verification.verify import verify_report
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError

PATIENTS, SLICES, HELD_OUT = 40, 5, 60
LEVELS = 16
rng = np.random.default_rng(0)
subjects = np.kron(rng.integers(0, 256, (PATIENTS + HELD_OUT, 1, 8, 8)), np.ones((2, 2)))


def slices(of: np.ndarray) -> np.ndarray:
    """New slices of subjects, each 16 gray levels from every other one of the same subject."""
    images = subjects[of] + rng.normal(0, LEVELS / 2**0.5, (len(of), 1, 16, 16))
    return np.clip(images, 0, 255).round().astype(np.uint8)


def patients(first: int, number: int, num_slices: int) -> ImageSet:
    of = np.repeat(np.arange(first, first + number), num_slices)
    images = slices(of)
    names = [f"p{i:03d}/{j}.png" for j, i in enumerate(of)]
    whole = ImageSet(images, names, source="scans")
    return whole.grouped([f"p{i:03d}" for i in of], groups_from=r"^(p\d+)/", kind="patient")


TRAIN = patients(0, PATIENTS, SLICES)
HOLDOUT = patients(PATIENTS, HELD_OUT, 3)
NEW = np.kron(rng.integers(0, 256, (200, 1, 8, 8)), np.ones((2, 2))).astype(np.uint8)
"""Images of nobody."""


def generated(*copied: int, num_images: int = 100) -> np.ndarray:
    """New slices of these patients, and images of nobody."""
    return np.concatenate([slices(np.array(copied, int)), NEW[: num_images - len(copied)]])


def without_groups(images: ImageSet) -> ImageSet:
    return replace(images, groups_from=None)


def gated(limit_of_groups: float | None = 0.1, limit: float = 0.5) -> ScanConfig:
    return ScanConfig(fail_above=limit, fail_above_groups=limit_of_groups)


@pytest.fixture(scope="module")
def result():
    """Three patients among six images of 100."""
    return scan(generated(3, 3, 3, 17, 17, 31), TRAIN, holdout=HOLDOUT, config=gated())


def test_new_slices_of_known_patients_are_copies_with_groups_only(result):
    plain = scan(generated(3, 3, 3, 17, 17, 31), without_groups(TRAIN))
    assert (plain.ratios.copies.count, len(plain.leaks)) == (0, 0)
    assert plain.diagnostics.groups is None
    assert result.matches.is_copy.tolist() == [True] * 6 + [False] * 94
    found = result.diagnostics.groups
    assert (found.kind, found.num_copied, found.num_groups) == ("patient", 3, PATIENTS)
    assert [(g.name, g.hits) for g in found.most_copied] == [("p003", 3), ("p017", 2), ("p031", 1)]
    assert found.share.count == 3 and found.share.low < 3 / PATIENTS < found.share.high
    assert (found.richness.num_hits, found.richness.num_once) == (6, 1)
    assert "Images of 3 of 40 patients are copied." in result.conclusion.sentences
    assert "second neighbors of another patient" in "; ".join(result.conclusion.choices)


def test_controls_are_one_image_of_each_patient(result):
    """Images of one patient are not independent of each other: patients are what is counted."""
    controls, found = result.controls, result.diagnostics
    assert controls.num_holdout == controls.holdout.copies.total == HELD_OUT
    assert controls.leave_one_out.copies.total == PATIENTS
    assert found.label_test.num_pairs == min(PATIENTS, HELD_OUT)
    assert found.blind_baseline.num_train == PATIENTS
    assert result.conformal.p_value.min() == 1 / (HELD_OUT + 1)


@pytest.mark.parametrize(
    ("copied", "config", "verdict"),
    [
        ((), gated(0.1), "PASS"),
        (tuple(range(30)), gated(0.1), "FAIL"),  # 30 of 100 images are within the limit of 50 %
        ((3, 4, 5), gated(0.1), "INCONCLUSIVE"),
        pytest.param((3,) * 30, gated(0.2), "PASS", marks=pytest.mark.slow),  # one patient
        pytest.param((3,) * 90, gated(0.2), "FAIL", marks=pytest.mark.slow),  # by all images
    ],
)
def test_a_limit_on_the_share_of_patients(copied, config, verdict):
    made = generated(*copied)
    found = scan(made, TRAIN, holdout=HOLDOUT, config=config)
    assert found.verdict == verdict
    conclusion = found.conclusion
    if verdict == "INCONCLUSIVE":
        assert "share of groups that are copied is not shown" in conclusion.headline
        assert "more images copy more groups" in conclusion.advice
    if len(copied) == 30 and verdict == "FAIL":
        assert "more of the groups of training images are copied" in conclusion.headline
        assert conclusion.reasons[0].text.startswith("By patient: FAIL. 30 of 40 patients copied")


@pytest.mark.slow
def test_many_patients_fail_by_their_limit_and_a_control_only():
    made = generated(*range(30))
    assert scan(made, TRAIN, holdout=HOLDOUT, config=gated(None)).verdict != "FAIL"
    assert scan(made, TRAIN, holdout=HOLDOUT, config=gated(0.95)).verdict != "FAIL"


@pytest.mark.slow
def test_groups_of_other_kinds_of_held_out_images_are_no_floor_to_fail_by():
    """Where a classifier that never saw the model tells the sets apart, leave-one-out counts."""
    dark = replace(HOLDOUT, images=HOLDOUT.images // 4)
    one = replace(TRAIN, groups=["p000" if g < "p001" else g for g in TRAIN.groups])
    found = scan(generated(*range(30)), one, holdout=dark, config=gated(0.1))
    assert found.diagnostics.blind_baseline.differs
    assert found.verdict == "FAIL"  # 40 patients left out, none of them counted
    few = replace(found.controls, leave_one_out=None)
    from memaudit.audit.verdict_reasons import about_groups

    assert about_groups(found.diagnostics, few, "FAIL") == []


def test_a_patient_on_both_sides_is_refused_by_name():
    shared = HOLDOUT.grouped(["p003", *HOLDOUT.groups[1:-1], "p005"], kind="patient")
    message = "2 of the 180 held-out images .* of 2 patients .*, too: 'p003', 'p005'"
    with pytest.raises(DataError, match=message):
        scan(generated(), TRAIN, holdout=shared)
    with pytest.raises(DataError, match="p003"):
        selftest(TRAIN, holdout=shared)


@pytest.mark.parametrize(
    ("data", "holdout", "config", "message"),
    [
        (TRAIN, without_groups(HOLDOUT), ScanConfig(), "held-out images in scans have none"),
        (TRAIN.grouped(["a"] * 200), None, ScanConfig(), "are of one group"),
        (without_groups(TRAIN), None, gated(), "training images have none"),
    ],
)
def test_groups_that_tell_nothing_apart_are_refused(data, holdout, config, message):
    with pytest.raises((DataError, ConfigError), match=message):
        scan(generated(), data, holdout=holdout, config=config)


def test_an_index_has_the_groups_of_the_training_images():
    groups = TRAIN.group_numbers
    index = NeighborIndex(TRAIN.images, groups=groups)
    assert scan(generated(3), TRAIN, index=index).ratios.copies.count == 1
    for other, data in (
        (None, TRAIN),
        (groups[::-1].copy(), TRAIN),
        (groups, without_groups(TRAIN)),
    ):
        index = NeighborIndex(TRAIN.images, groups=other)
        with pytest.raises(ConfigError, match="without the groups"):
            scan(generated(), data, index=index)


def test_limits_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="adds to a gate"):
        ScanConfig(fail_above_groups=0.1)
    with pytest.raises(ConfigError, match="the groups counted"):
        ScanConfig(fail_above=0.1, fail_above_groups=0.1, without=("groups",))


def test_tables_page_and_summary_name_the_groups(result, tmp_path):
    write_report(result, tmp_path)
    rows = _rows(tmp_path / "matches.csv")
    numbers = TRAIN.group_numbers
    for row, nn1, second in zip(rows, result.matches.nn1, result.matches.nn2_distinct, strict=True):
        assert (int(row["nn1_group"]), int(row["nn2_distinct_group"])) == (
            numbers[nn1],
            numbers[second],
        )
        assert row["nn1_group"] != row["nn2_distinct_group"]
    leaks = _rows(tmp_path / "leaks.csv")
    assert {row["group"] for row in leaks} == {"p003", "p017", "p031"}
    assert all(row["name"].startswith(row["group"]) for row in leaks)
    page = (tmp_path / "report.html").read_text()
    for words in ("Images of 3 of 40 patients are copied", "its unit is the patient", "p017"):
        assert words in page
    report = read_report(tmp_path)
    assert report.data.num_groups == PATIENTS and report.data.groups_from == r"^(p\d+)/"
    assert "3 of 40 patients" in markdown_summary(result)
    compared = compare_reports([tmp_path])
    assert compared.reports[0].num_leaking_groups == "3 of 40 patients"
    assert compared.reports[0].rule["second neighbors"] == "of another patient"


def _rows(file: Path) -> list[dict[str, str]]:
    header, *rows = csv_rows(file.read_text())
    return [dict(zip(header, row, strict=True)) for row in rows]


# ------------------------------------------------------------------------------------------------
# Verification


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> dict[str, Path]:
    """Training, held-out and generated images as files."""
    folder = tmp_path_factory.mktemp("stored")
    found = {}
    for name, images in (("train", TRAIN), ("holdout", HOLDOUT)):
        found[name] = folder / f"{name}.npz"
        np.savez(found[name], images=images.images, names=np.array(images.names))
    found["source"] = folder / "generated.npy"
    np.save(found["source"], generated(3, 3, 17))
    return found


@pytest.fixture(scope="module")
def written(stored, tmp_path_factory) -> Path:
    from memaudit.data.layout import Layout
    from memaudit.data.sources import open_images

    layout = Layout(groups_from=r"^(p\d+)/")
    data = open_images(stored["train"], layout=layout)
    holdout = open_images(stored["holdout"], layout=layout)
    folder = tmp_path_factory.mktemp("report")
    write_report(scan(open_images(stored["source"]), data, holdout=holdout, config=gated()), folder)
    return folder


def failed(folder: Path, **options) -> list[str]:
    return [check.name for check in verify_report(folder, **options).checks if not check.passed]


def test_everything_about_groups_is_verified(written, stored):
    given = {"source": stored["source"], "data": stored["train"], "holdout": stored["holdout"]}
    assert failed(written) == []
    assert failed(written, **given, groups_from=r"^(p\d+)/") == []
    with pytest.raises(ConfigError, match=r"groups come from '\^\(p"):  # which is not run
        verify_report(written, **given)
    wrong = failed(written, data=stored["train"], groups_from=r"^(p\d\d)")
    assert "facts of the training images" in wrong
    assert "groups in matches.csv" in wrong and "groups in leaks.csv" in wrong


def test_groups_are_verified_where_further_rules_name_other_images(tmp_path):
    """The nearest of a mirrored image, as it is, is of any patient."""
    mirrored = TRAIN.images[::SLICES, ..., ::-1]
    config = ScanConfig(
        index=IndexConfig(match=("flips",)),
        without=("recall", "label_test", "blind_baseline", "copying"),
    )
    found = scan(np.concatenate([mirrored, NEW]), TRAIN, holdout=HOLDOUT, config=config)
    assert found.diagnostics.groups.num_copied == PATIENTS
    assert len({leak.group for leak in found.leaks}) == PATIENTS
    assert not np.array_equal(found.matches.nn1, found.matches.copied)
    write_report(found, tmp_path)
    assert failed(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "check"),
    [
        ("leaks.csv", ",p017\n", ",p003\n", "groups"),  # three patients become two
        ("leaks.csv", ",p017\n", ",p018\n", "columns of leaks.csv"),
    ],
)
def test_renamed_groups_are_noticed(written, tmp_path, name, old, new, check):
    for file in written.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    found = failed(tmp_path)
    assert name in found
    if check == "groups":
        assert check in found


@pytest.mark.slow
def test_a_second_neighbor_of_the_same_group_is_noticed(stored, tmp_path):
    """Whoever hides copies by second neighbors of the same patient is found out by the images."""
    from memaudit.data.layout import Layout
    from memaudit.data.sources import open_images

    data = open_images(stored["train"], layout=Layout(groups_from=r"^(p\d+)/"))
    config = ScanConfig(range(20), without=("optimality",))
    result = scan(optimum_of(data), data, config=config)
    plain = scan(optimum_of(data), without_groups(data), config=config)
    forged = replace(result, matches=plain.matches)
    write_report(forged, tmp_path)
    given = {"data": stored["train"], "groups_from": r"^(p\d+)/"}
    assert "neighbors and distances" in failed(tmp_path, **given)
    write_report(result, tmp_path)
    assert failed(tmp_path, **given) == []


def test_a_policy_names_groups_and_their_limit(result):
    report = make_report(result)

    def violated(**tables) -> list[str]:
        gate = {
            "limit": 0.5,
            "verdicts": ["PASS", "FAIL", "INCONCLUSIVE"],
            **tables.pop("gate", {}),
        }
        policy = as_policy({"gate": gate, **tables})
        return [each.name for each in check_policy(policy, report) if not each.passed]

    assert violated() == ["policy data.groups_from"]
    agreed = {"data": {"groups_from": r"^(p\d+)/"}}
    assert violated(**agreed, gate={"limit_groups": "10%"}) == []
    assert violated(**agreed, gate={"limit_groups": 0.05}) == ["policy gate.limit_groups"]
    with pytest.raises(ConfigError, match=r"gate.limit_groups"):
        violated(gate={"limit_groups": 2})


# ------------------------------------------------------------------------------------------------
# Models


@pytest.mark.slow
def test_a_limit_on_groups_judges_a_fixed_number_of_images(tmp_path):
    """More images copy more groups, so sampling does not stop when the count is certain."""
    config = replace(gated(0.9, limit=0.001), seeds=range(16), without=("optimality",))
    result = scan(optimum_of(TRAIN), TRAIN, config=config, folder=tmp_path)
    assert len(result.keys) == 16
    assert result.decision.method == "exact" and result.findings.interval == "Clopper-Pearson"
    assert result.diagnostics.groups.decision.num_images == 16
    write_report(result, tmp_path)
    assert failed(tmp_path) == []
    assert "16 images that were sampled" in render_page(result, make_report(result))
    early = scan(optimum_of(TRAIN), TRAIN, config=replace(config, fail_above_groups=None))
    assert len(early.keys) < 16 or early.decision.method == "sequential"
    assert early.diagnostics.groups.share is None  # its number of images was not fixed


def test_scans_with_groups_are_continued_with_the_same_groups_only(tmp_path):
    from memaudit.audit.scan import _gate_identity

    config = gated()
    one = _gate_identity(config, TRAIN, HOLDOUT)
    assert one != _gate_identity(config, without_groups(TRAIN), HOLDOUT)
    assert one != _gate_identity(gated(0.2), TRAIN, HOLDOUT)
    json.dumps(one)


@pytest.mark.slow
def test_the_selftest_passes_with_groups():
    found = selftest(TRAIN, holdout=HOLDOUT, config=ScanConfig(seeds=range(40)))
    assert found.passed


@pytest.mark.slow
def test_the_label_test_keeps_its_size_among_patients():
    """With one image of each patient; with all of them, chance alone is evidence far too often."""
    low = {True: 0, False: 0}
    for seed in range(200):
        draw = np.random.default_rng(seed)
        of = np.repeat(np.arange(60), 8)
        centers, noise = draw.normal(128, 25, (60, 1, 4, 4)), draw.normal(0, 6, (480, 1, 4, 4))
        images = np.clip(centers[of] + noise, 0, 255).round().astype(np.uint8)
        made = np.clip(draw.normal(128, 26, (150, 1, 4, 4)), 0, 255).round().astype(np.uint8)
        sides = [
            ImageSet(images[which], [f"{i}" for i in range(240)]).grouped(
                [f"p{i}" for i in of[which]]
            )
            for which in (of < 30, of >= 30)
        ]
        for one_each in low:
            train, holdout = (each.one_per_group() if one_each else each for each in sides)
            test = label_test(train.images, holdout.images, made, duplicate_rms=1.0)
            low[one_each] += test.p <= 0.05
    assert low[True] <= 18  # 5 % of 200: P(X > 18) = 0.005
    assert low[False] > 40


def test_groups_of_one_image_each_are_doubted():
    """A pattern that finds the image's number instead of the patient's hides their copies."""
    alone = replace(TRAIN, groups=list(TRAIN.names))
    config = ScanConfig(without=("label-test",))
    said = "No two training images are of one patient"
    assert any(said in w for w in scan(generated(1), alone, config=config).source.warnings)
    assert not any(said in w for w in scan(generated(1), TRAIN, config=config).source.warnings)
