"""Reports that lie, with hashes that fit: what verification notices, and with what given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.forged_reports import change_rows, seal_again
from helpers.images import smooth_images
from helpers.tiny_networks import SMALLEST

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.findings import summarize_matches
from memaudit.audit.memorization.matches import Matches
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.report.folder import PAGE, REPORT, write_report
from memaudit.audit.report.pictures import Pictures
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.source import optimum_of
from memaudit.audit.verification.verify import Verification, verify_report
from memaudit.data import cache, sources
from memaudit.data.sources import open_images
from memaudit.errors import ConfigError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint, save_checkpoint
from memaudit.models.sampler_config import SamplerConfig

NUM_COPIES = 20
SAMPLER = SamplerConfig(num_steps=4)


def failed(found: Verification) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


def detail_of(found: Verification, name: str) -> str:
    return next(check.detail for check in found.checks if check.name == name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.npz, generated.npz with 20 copies among 60 images, holdout.npz and a checkpoint."""
    place = tmp_path_factory.mktemp("given")
    train = smooth_images(50, 8, seed=0)
    generated = np.concatenate([smooth_images(40, 8, seed=1), train[:NUM_COPIES]])
    for name, images in (
        ("train", train),
        ("generated", generated),
        ("holdout", smooth_images(40, 8, seed=2)),
    ):
        np.savez(place / f"{name}.npz", images=images)
    save_checkpoint(place / "model.safetensors", build_network(SMALLEST), SMALLEST)
    return place


@pytest.fixture(scope="module")
def given(place: Path) -> ScanResult:
    """A scan of the images."""
    return scan(
        open_images(place / "generated.npz"),
        open_images(place / "train.npz"),
        config=ScanConfig(fail_above=0.1, without=("recall",)),
    )


@pytest.fixture(scope="module")
def sampled(place: Path) -> ScanResult:
    """A scan of the checkpoint."""
    return scan(
        open_checkpoint(place / "model.safetensors"),
        open_images(place / "train.npz"),
        config=ScanConfig(
            seeds=range(40), sampler=SAMPLER, without=("recall", "optimality"), fail_above=0.5
        ),
    )


def forged_matches(
    result: ScanResult, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
) -> ScanResult:
    """A result whose rows have other neighbors, and whatever follows from them."""
    near = result.matches.neighbors
    arrays = change(
        {
            "index": near.index.copy(),
            "squared_distance": near.squared_distance.copy(),
            "index_distinct": near.index_distinct.copy(),
            "squared_distance_distinct": near.squared_distance_distinct.copy(),
        }
    )
    matches = Matches(replace(near, **arrays), result.matches.rule)
    findings = summarize_matches(
        matches,
        result.data.names,
        gate=None,
        floors=result.controls.floor,
        alone=result.controls.leave_one_out,
    )
    return replace(result, matches=matches, findings=findings)


# ------------------------------------------------------------------------------------------------
# As written


def test_what_was_not_forged_is_proven(place: Path, given: ScanResult, tmp_path: Path):
    write_report(given, tmp_path)
    alone = verify_report(tmp_path)
    assert failed(alone) == []
    needed = {need for each in alone.unproven for need in each.needs}
    assert needed == {"data", "source"}
    assert any("matches.csv was not searched again" in each.text for each in alone.unproven)
    found = verify_report(
        tmp_path, source=place / "generated.npz", data=place / "train.npz", policy=None
    )
    assert failed(found) == []
    assert "All 60 generated images were searched again: every row holds." in found.proven
    assert not any(each.needs for each in found.unproven)
    assert found.choices == given.conclusion.choices == ("without recall",)


def test_what_needs_the_held_out_images_is_computed_again(place: Path, tmp_path: Path):
    result = scan(
        open_images(place / "generated.npz"),
        open_images(place / "train.npz"),
        holdout=open_images(place / "holdout.npz"),
    )
    write_report(result, tmp_path)
    options: dict[str, Any] = {
        "source": place / "generated.npz",
        "data": place / "train.npz",
        "holdout": place / "holdout.npz",
    }
    found = verify_report(tmp_path, **options)
    assert failed(found) == []
    checked = {check.name for check in found.checks}
    assert {"floors", "p-values of the held-out images", "diagnostic label_test"} <= checked
    assert not any(each.needs for each in found.unproven)
    without = verify_report(tmp_path, source=options["source"], data=options["data"])
    assert failed(without) == []
    assert any(each.needs == ("holdout",) for each in without.unproven)
    unsearched = verify_report(tmp_path, holdout=options["holdout"])
    assert failed(unsearched) == []
    missing = {each.text: each.needs for each in unsearched.unproven}
    assert missing["The floor of the held-out images was not measured."] == ("data",)
    assert failed(verify_report(tmp_path, holdout=place / "train.npz")) == [
        f"holdout {place / 'train.npz'}"
    ]

    def forge(report: dict[str, Any]) -> None:
        report["diagnostics"]["label_test"]["p_any"] = 1.0

    seal_again(tmp_path, forge)
    assert "diagnostic label_test" in failed(verify_report(tmp_path, **options))


def test_a_sampled_report_is_generated_again(place: Path, sampled: ScanResult, tmp_path: Path):
    write_report(sampled, tmp_path)
    model, data = place / "model.safetensors", place / "train.npz"
    found = verify_report(tmp_path, source=model, data=data, spot_check=8)
    assert failed(found) == []
    assert {"spot check", "denoising test", "search"} & {check.name for check in found.checks}
    assert any("1 − (1 − f)^8" in sentence for sentence in found.proven)
    every = verify_report(tmp_path, source=model, data=data, spot_check=1000)
    assert f"All {len(sampled.keys)} images were generated again and searched." in every.proven
    unchecked = verify_report(tmp_path, source=model, data=data)
    assert any(each.needs == ("spot_check",) for each in unchecked.unproven)


def test_the_published_sampler_is_tried_again(place: Path, tmp_path: Path):
    """What lets a PASS by another sampler stand, or not."""
    config = ScanConfig(
        seeds=range(20), sampler=SAMPLER, fail_above=0.5, without=("recall", "optimality")
    )
    result = scan(
        optimum_of(open_images(place / "train.npz")),
        open_images(place / "train.npz"),
        config=config,
    )
    control = result.sampler_control
    assert control is not None and control.published > 4
    options: dict[str, Any] = {
        "source": Path("optimum"),
        "data": place / "train.npz",
        "spot_check": 1,
    }
    write_report(result, tmp_path)
    assert failed(verify_report(tmp_path, **options)) == []
    fewer = replace(
        control,
        published=control.published - 4,
        only_published=max(0, control.only_published - 4),
        only_as_set=control.only_as_set + max(0, 4 - control.only_published),
    )
    write_report(replace(result, sampler_control=fewer), tmp_path)
    assert "published sampler" in failed(verify_report(tmp_path, **options))


def test_what_a_checkpoint_says_of_itself_is_read_again(place: Path, tmp_path: Path):
    """It says that it was trained on other images, and a forged report that it was on these."""
    model = tmp_path / "other.safetensors"
    stated = {"data_fingerprint": "0" * 64, "training_config": {"augment": 0.1}}
    save_checkpoint(model, build_network(SMALLEST), SMALLEST, provenance=stated)
    data = open_images(place / "train.npz")
    config = ScanConfig(seeds=range(8), sampler=SAMPLER, without=("recall", "optimality"))
    options: dict[str, Any] = {"source": model, "data": place / "train.npz", "spot_check": 1}
    result = scan(open_checkpoint(model), data, config=config)
    write_report(result, tmp_path)
    assert failed(verify_report(tmp_path, **options)) == []
    facts = result.source.model
    assert facts is not None and len(result.source.warnings) > 2
    confirmed = replace(facts, trained_on_data=True)
    fewer = tuple(each for each in result.source.warnings if "are not those" not in each)
    none_changed = tuple(each for each in result.source.warnings if "scaled" not in each)
    for source, wrong in (
        (replace(result.source, model=confirmed), "what it says of itself"),
        (replace(result.source, warnings=fewer), "of other training images is missing"),
        (replace(result.source, warnings=none_changed), "a warning is missing"),
    ):
        write_report(replace(result, source=source), tmp_path)
        found = verify_report(tmp_path, **options)
        assert wrong in detail_of(found, "facts of the checkpoint")
    kept = replace(result, config=replace(config, without=("recall",)))
    write_report(kept, tmp_path)
    found = verify_report(tmp_path, **options)
    assert "comparison with the optimum" in detail_of(found, "facts of the checkpoint")


def test_the_optimum_is_generated_again(place: Path, tmp_path: Path):
    data = open_images(place / "train.npz")
    config = ScanConfig(seeds=range(12), sampler=SAMPLER, without=("recall", "optimality"))
    write_report(scan(optimum_of(data), data, config=config), tmp_path)
    found = verify_report(tmp_path, source=Path("optimum"), data=place / "train.npz", spot_check=12)
    assert failed(found) == []
    with pytest.raises(ConfigError, match="give them with"):
        verify_report(tmp_path, source=Path("optimum"))


def test_a_spot_check_needs_checkpoint_and_data(given: ScanResult, place: Path, tmp_path: Path):
    write_report(given, tmp_path)
    with pytest.raises(ConfigError, match="give the checkpoint"):
        verify_report(tmp_path, spot_check=4)
    made = place / "generated.npz"
    with pytest.raises(ConfigError, match="all of which are searched again") as refused:
        verify_report(tmp_path, source=made, data=place / "train.npz", spot_check=4)
    assert refused.value.fields == ("spot_check",)


# ------------------------------------------------------------------------------------------------
# Forged rows


def test_rows_that_were_dropped_are_missed(place: Path, given: ScanResult, tmp_path: Path):
    images = open_images(place / "generated.npz")
    kept = images.take(np.arange(len(images) - NUM_COPIES))
    forged = scan(kept, given.data, config=given.config)
    assert forged.verdict != given.verdict == "FAIL"
    forged = replace(
        forged,
        source=given.source,
        conclusion=replace(forged.conclusion, choices=given.conclusion.choices),
    )
    write_report(forged, tmp_path)
    assert failed(verify_report(tmp_path)) == []
    found = verify_report(tmp_path, source=place / "generated.npz")
    assert failed(found) == ["rows of the source"]
    # The fingerprint of a part does not hide it either: the choice must be named.
    part = replace(forged, source=replace(forged.source, sha256=kept.fingerprint))
    write_report(part, tmp_path)
    assert failed(verify_report(tmp_path, source=place / "generated.npz")) == ["part of the source"]


def test_the_first_images_of_a_source_may_be_judged_if_that_is_said(
    place: Path, given: ScanResult, tmp_path: Path
):
    part = open_images(place / "generated.npz").take(np.arange(30))
    write_report(scan(part, given.data, config=given.config), tmp_path)
    found = verify_report(tmp_path, source=place / "generated.npz", data=place / "train.npz")
    assert failed(found) == []


def test_the_same_row_many_times_is_noticed(place: Path, given: ScanResult, tmp_path: Path):
    one = open_images(place / "generated.npz").take(np.zeros(60, dtype=np.int64))
    forged = scan(one, given.data, config=given.config)
    write_report(replace(forged, source=given.source), tmp_path)
    found = verify_report(tmp_path)
    assert "occurs more than once" in detail_of(found, "rows of matches.csv")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("nn1", "1000000000", "training image that is not among the 50"),
        ("nn2", "-1", "training image that is not among the 50"),
        ("nn2_distinct", "50", "training image that is not among the 50"),
        ("squared_distance1", "99999999", "not in order"),
        ("squared_distance2_distinct", "0", "not in order"),
    ],
)
def test_neighbors_that_cannot_be_are_noticed(
    given: ScanResult, tmp_path: Path, column: str, value: str, says: str
):
    write_report(given, tmp_path)
    change_rows(tmp_path, lambda rows: rows[3].update({column: value}))
    assert says in detail_of(verify_report(tmp_path), "rows of matches.csv")


def test_an_image_is_not_its_own_second_neighbor(given: ScanResult, tmp_path: Path):
    write_report(given, tmp_path)
    change_rows(tmp_path, lambda rows: rows[3].update(nn2=rows[3]["nn1"]))
    assert "as the second as well" in detail_of(verify_report(tmp_path), "rows of matches.csv")


def push_away(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Let nothing be a copy: every distance is that of far-away images."""
    far = 3 * 64 * 60**2
    for name in ("squared_distance", "squared_distance_distinct"):
        arrays[name][arrays[name] >= 0] += far
    return arrays


def test_forged_distances_need_the_images_to_be_noticed(
    place: Path, given: ScanResult, tmp_path: Path
):
    """A report alone cannot show them, and says so."""
    without_gate = scan(
        open_images(place / "generated.npz"),
        given.data,
        config=replace(given.config, fail_above=None),
    )
    forged = forged_matches(without_gate, push_away)
    assert forged.ratios.copies.count == 0 < without_gate.ratios.copies.count
    write_report(forged, tmp_path)
    alone = verify_report(tmp_path)
    assert any("not searched again" in each.text for each in alone.unproven)
    found = verify_report(tmp_path, source=place / "generated.npz", data=place / "train.npz")
    assert "gives other neighbors or distances for 60 of 60" in detail_of(found, "search")


def test_training_images_alone_show_distances_that_cannot_be(
    place: Path, given: ScanResult, tmp_path: Path
):
    write_report(given, tmp_path)

    def nearer(rows: list[dict[str, str]]) -> None:
        # At distance 0 of one image, the second is exactly as far as the two are apart.
        for row in rows[:40]:
            row["squared_distance1"] = "0"

    change_rows(tmp_path, nearer)
    found = verify_report(tmp_path, data=place / "train.npz")
    assert "cannot be" in detail_of(found, "neighbors and distances")


def test_forged_rows_of_a_model_are_found_by_spot_checks(
    place: Path, sampled: ScanResult, tmp_path: Path
):
    rng = np.random.default_rng(0)

    def forge(share: float) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
        def change(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            rows = rng.random(len(sampled.keys)) < share
            arrays["squared_distance"][rows] *= 2
            arrays["squared_distance_distinct"][:, rows] *= 2
            return arrays

        return change

    options = {"source": place / "model.safetensors", "data": place / "train.npz"}
    for share, rows in ((1.0, 3), (0.3, 64)):
        write_report(forged_matches(sampled, forge(share)), tmp_path)
        found = verify_report(tmp_path, **options, spot_check=rows)  # type: ignore[arg-type]
        assert "are not those of their rows" in detail_of(found, "spot check")


def test_seeds_are_those_of_the_report(sampled: ScanResult, tmp_path: Path):
    write_report(sampled, tmp_path)
    for seeds in ("0-39,77", "1-64", "0-100000000000", "5,0-63"):
        seal_again(tmp_path, lambda report, seeds=seeds: report["sampling"].update(seeds=seeds))
        assert "not those of sampling.seeds" in detail_of(
            verify_report(tmp_path), "rows of matches.csv"
        )


def test_a_gate_that_stopped_too_late_or_too_early_is_noticed(sampled: ScanResult, tmp_path: Path):
    write_report(sampled, tmp_path)
    most = len(sampled.keys)
    for change in ({"most_seeds": most + 100}, {"min_samples": 1}, {"most_seeds": most - 1}):
        write_report(sampled, tmp_path)
        seal_again(tmp_path, lambda report, change=change: report["sampling"].update(change))
        assert not verify_report(tmp_path).passed


def test_kinds_must_fit(given: ScanResult, sampled: ScanResult, tmp_path: Path):
    write_report(given, tmp_path)
    seal_again(tmp_path, lambda report: report["source"].update(kind="checkpoint"))
    assert "sampling is missing" in detail_of(verify_report(tmp_path), "kind of source")
    write_report(sampled, tmp_path)
    seal_again(tmp_path, lambda report: report.update(sampling=None))
    assert "sampling is missing" in detail_of(verify_report(tmp_path), "kind of source")
    write_report(sampled, tmp_path)
    seal_again(tmp_path, lambda report: report.update(denoising=None))
    assert "denoising is missing" in detail_of(verify_report(tmp_path), "kind of source")
    seal_again(tmp_path, lambda report: report.update(sampling=None))
    seal_again(tmp_path, lambda report: report["source"].update(kind="images", model=None))
    assert "seeds in matches.csv is there" in detail_of(verify_report(tmp_path), "kind of source")


# ------------------------------------------------------------------------------------------------
# Forged words


def test_a_page_that_says_something_else_is_noticed(given: ScanResult, tmp_path: Path):
    write_report(given, tmp_path)
    page = (tmp_path / PAGE).read_text()
    for old, new in (
        ("<h1>FAIL", "<h1>PASS"),
        ("<title>Memorization audit: FAIL", "<title>Memorization audit: PASS"),
        ("</main>", "<p>Approved.</p></main>"),
        (">copy<", ">not a copy<"),
        ("Nearest</a></dt>", "Nearest</a> <b>none</b></dt>"),
        ("<img src", '<img style="position: fixed" src'),
        ('alt="Nearest', 'alt="Distant'),
    ):
        assert old in page
        (tmp_path / PAGE).write_text(page.replace(old, new, 1))
        seal_again(tmp_path)
        assert failed(verify_report(tmp_path)) == ["words of report.html"]


@pytest.mark.parametrize("pictures", ["none", "blurred"])
def test_pages_without_pictures_are_compared_as_well(
    given: ScanResult, tmp_path: Path, pictures: Pictures
):
    write_report(given, tmp_path, pictures=pictures)
    assert failed(verify_report(tmp_path)) == []
    page = (tmp_path / PAGE).read_text()
    (tmp_path / PAGE).write_text(page.replace("</h1>", '</h1><img src="data:x">', 1))
    seal_again(tmp_path)
    assert failed(verify_report(tmp_path)) == ["words of report.html"]


@pytest.mark.parametrize("flips", [False, True])
def test_mirrored_copies_are_searched_as_the_report_says(place: Path, tmp_path: Path, flips: bool):
    config = ScanConfig(index=IndexConfig(flips=flips), without=("recall",))
    result = scan(
        open_images(place / "generated.npz"), open_images(place / "train.npz"), config=config
    )
    write_report(result, tmp_path)
    options = {"source": place / "generated.npz", "data": place / "train.npz"}
    assert failed(verify_report(tmp_path, **options)) == []
    assert failed(verify_report(tmp_path, data=options["data"])) == []


def test_a_page_of_another_version_is_compared_by_its_headline(given: ScanResult, tmp_path: Path):
    environment = replace(given.environment, memaudit="0.0.1")
    write_report(replace(given, environment=environment), tmp_path)
    found = verify_report(tmp_path)
    assert failed(found) == []
    assert any("Only title and headline" in each.text for each in found.unproven)
    page = (tmp_path / PAGE).read_text()
    (tmp_path / PAGE).write_text(page.replace("<h1>FAIL", "<h1>PASS", 1))
    seal_again(tmp_path)
    assert failed(verify_report(tmp_path)) == ["words of report.html"]


def test_a_hidden_choice_is_noticed(place: Path, tmp_path: Path):
    config = ScanConfig(seeds=range(7, 20), sampler=SamplerConfig(num_steps=3, S_churn=2.0))
    data = open_images(place / "train.npz")
    write_report(scan(open_checkpoint(place / "model.safetensors"), data, config=config), tmp_path)
    assert failed(verify_report(tmp_path)) == []
    for hidden in ("steps 3", "S_churn 2.0", "seeds begin at 7"):

        def hide(report: dict[str, Any], hidden: str = hidden) -> None:
            report["conclusion"]["choices"].remove(hidden)

        seal_again(tmp_path, hide)
        assert f"{hidden} is not among them" in detail_of(verify_report(tmp_path), "choices")


def test_names_of_leaks_are_those_of_the_training_images(
    place: Path, given: ScanResult, tmp_path: Path
):
    names = [f"other-{i}.png" for i in range(50)]
    data = replace(given.data, names=names)
    forged = forged_matches(replace(given, data=data), lambda arrays: arrays)
    findings = replace(forged.findings, decision=given.findings.decision)
    write_report(replace(forged, findings=findings), tmp_path)
    assert "names in leaks.csv" in failed(verify_report(tmp_path, data=place / "train.npz"))


def test_a_forged_floor_is_measured_again(place: Path, given: ScanResult, tmp_path: Path):
    floor = given.controls.leave_one_out
    assert floor is not None
    cells = tuple(replace(cell, count=cell.count + 1) for cell in floor.cells)
    controls = replace(given.controls, leave_one_out=replace(floor, cells=cells))
    write_report(replace(given, controls=controls), tmp_path)
    found = verify_report(tmp_path, data=place / "train.npz")
    assert "leave-one-out floor" in failed(found)


def test_nothing_is_read_from_a_cache(
    place: Path, sampled: ScanResult, given: ScanResult, tmp_path: Path, monkeypatch: Any
):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a cache was used")

    monkeypatch.setattr(cache.CacheEntry, "load", refuse)
    monkeypatch.setattr(cache.CacheEntry, "store", refuse)
    monkeypatch.setattr(sources, "MAPPED_FROM", 0)
    write_report(sampled, tmp_path / "a")
    options = {"data": place / "train.npz"}
    found = verify_report(
        tmp_path / "a", source=place / "model.safetensors", spot_check=2, **options
    )
    assert failed(found) == []
    write_report(given, tmp_path / "b")
    found = verify_report(tmp_path / "b", source=place / "generated.npz", **options)
    assert failed(found) == []


def test_the_report_is_where_it_was(given: ScanResult, tmp_path: Path):
    """Verification writes nothing."""
    write_report(given, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    verify_report(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert REPORT in before
