"""Planted generators under a gate: verdict, count and floor are those that are known."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.sensitivity import NUM_ROWS, is_above_floor
from memaudit.audit.regeneration import catch_chance, differ, draw_rows
from memaudit.audit.report.ci import junit_xml, markdown_summary
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import make_report, read_report
from memaudit.audit.result import ScanResult
from memaudit.audit.sampler_control import SamplerControl
from memaudit.audit.scan import scan
from memaudit.audit.scan_state import STATE
from memaudit.audit.source import describe_source, optimum_of
from memaudit.audit.statistics.forecast import clean_stop
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.unchosen_seeds import seeds_from_nonce
from memaudit.audit.verdict_reasons import LEAST_HOLDOUT
from memaudit.audit.verification.verify import verify_report
from memaudit.data.images import ImageSet, uint8_to_float
from memaudit.data.preparation import Preparation
from memaudit.data.sources import open_images
from memaudit.errors import CheckpointError, ConfigError, DataError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.sampler_config import SamplerConfig

SHAPE = (3, 4, 4)


ONE_STEP = SamplerConfig(num_steps=1)
"""Straight from noise to what the denoiser answers."""


@dataclass
class Planted:
    """Turns a fixed share of noises into training images, and the others into new ones."""

    images: np.ndarray
    share: float
    img_channels: int = 3
    img_resolution: int = 4
    label_dim: int = 0
    sigma_min: float = 0.0
    sigma_max: float = float("inf")
    num_calls: int = 0
    calls_left: int = 10**9
    """Calls after which the process is said to die."""

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return torch.as_tensor(sigma)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        if self.num_calls >= self.calls_left:
            raise KeyboardInterrupt
        self.num_calls += 1
        return torch.stack([self._answer(row) for row in x])

    def _answer(self, x: Tensor) -> Tensor:
        noise = x.to(torch.float32).numpy().tobytes()
        rng = np.random.default_rng(np.frombuffer(noise, dtype=np.uint32))
        if rng.random() < self.share:
            y = self.images[rng.integers(len(self.images))]
        else:
            y = rng.integers(0, 256, SHAPE, dtype=np.uint8)
        return uint8_to_float(torch.from_numpy(y))


def planted(train: ImageSet, share: float, **options: int) -> Checkpoint:
    return Checkpoint(
        network=Planted(train.images, share, **options),  # type: ignore[arg-type]
        config={},
        provenance={},
        sha256="0" * 64,
        format="planted",
        path="planted",
    )


def image_set(num_images: int, seed: int, source: str = "train") -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (num_images, *SHAPE), dtype=np.uint8)
    return ImageSet(images, [f"{source}/{i:05d}.png" for i in range(num_images)], source=source)


def config(num_seeds: int = 6000, **options: Any) -> ScanConfig:
    execution = Execution(batch_size=options.pop("batch_size", 64))
    return ScanConfig(
        seeds=range(num_seeds),
        sampler=ONE_STEP,
        without=("optimality",),
        execution=execution,
        **options,
    )


TRAIN = image_set(200, seed=0)
TESTS = 1 + 8 * 3
"""Calls before sampling: one noise level of the sampler; three of the images and seven forms."""


@pytest.mark.parametrize(
    ("share", "limit", "verdict", "at_most"),
    [
        (1.0, 0.001, "FAIL", 64),
        (0.3, 0.001, "FAIL", 64),
        (0.0, 0.001, "PASS", 4000),
        (0.01, 0.2, "PASS", 200),
        (0.3, 0.1, "FAIL", 200),
    ],
)
def test_the_gate_decides_as_early_as_the_evidence_allows(
    share: float, limit: float, verdict: str, at_most: int
):
    result = scan(planted(TRAIN, share), TRAIN, config=config(fail_above=limit))
    assert result.decision is not None and result.decision.verdict == verdict
    assert len(result.generated) == result.decision.total <= at_most
    assert result.findings.interval == "mixture sequence"
    ratio = result.ratios.distinct
    assert ratio.low <= share <= ratio.high
    # Each side is tested alone: where the interval excludes the limit, so does the verdict.
    if not ratio.low <= limit <= ratio.high:
        assert (ratio.low > limit) == (verdict == "FAIL")


def test_a_ratio_at_the_limit_stays_inconclusive():
    result = scan(planted(TRAIN, 0.05), TRAIN, config=config(400, fail_above=0.05))
    assert result.decision is not None and result.decision.verdict == "INCONCLUSIVE"
    assert result.decision.total == 400


def test_a_gated_scan_does_not_depend_on_the_batch_size():
    counts = {
        len(scan(planted(TRAIN, 0.1), TRAIN, config=config(fail_above=0.01, batch_size=n)).keys)
        for n in (1, 7, 64, 200)
    }
    assert len(counts) == 1


def test_given_images_are_judged_at_their_full_number():
    generated = image_set(500, seed=1, source="generated")
    copied = np.concatenate([generated.images[:-20], TRAIN.images[:20]])
    given = ImageSet(copied, generated.names, source="generated")
    for limit, verdict in ((0.01, "FAIL"), (0.1, "PASS"), (0.04, "INCONCLUSIVE")):
        holdout = image_set(1000, seed=7, source="held out")
        result = scan(given, TRAIN, holdout=holdout, config=ScanConfig(fail_above=limit))
        assert result.decision is not None and result.decision.method == "exact"
        assert (result.decision.verdict, result.decision.total) == (verdict, 500)
        assert result.findings.interval == "Clopper-Pearson"


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.3])
def test_intervals_hold_the_planted_share(share: float):
    result = scan(planted(TRAIN, share), TRAIN, config=config(4000))
    assert result.ratios.distinct.low <= share <= result.ratios.distinct.high


def test_copies_of_duplicated_images_fail_the_gate():
    twice = ImageSet(np.concatenate([TRAIN.images] * 2), [*TRAIN.names] * 2, source="twice")
    result = scan(planted(TRAIN, 1.0), twice, config=config(50, fail_above=0.01))
    assert result.decision is not None and result.decision.verdict == "FAIL"
    assert result.ratios.paper.count == 0


def test_a_scan_cut_short_ends_in_the_report_of_an_uninterrupted_one(tmp_path: Path):
    options = config(700, batch_size=50)
    whole = scan(planted(TRAIN, 0.3), TRAIN, config=options)
    with pytest.raises(KeyboardInterrupt):
        scan(planted(TRAIN, 0.3, calls_left=6 + TESTS), TRAIN, config=options, folder=tmp_path)
    kept = len(list((tmp_path / STATE).glob("part-*")))
    assert kept == 6 * 64 // 50
    rest = planted(TRAIN, 0.3)
    resumed = scan(rest, TRAIN, config=options, folder=tmp_path)
    assert rest.network.num_calls == TESTS + -(-(700 - kept * 50) // 64)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(resumed.generated, whole.generated)
    assert resumed.findings == whole.findings
    write_report(resumed, tmp_path)
    assert not (tmp_path / STATE).exists()
    assert verify_report(tmp_path).passed


def test_an_undecided_scan_continued_ends_as_one_that_was_never_interrupted(tmp_path: Path):
    whole = scan(planted(TRAIN, 0.01), TRAIN, config=config(4000, fail_above=0.02))
    assert whole.verdict == "PASS"
    for num_seeds in (100, 301):
        part = scan(
            planted(TRAIN, 0.01),
            TRAIN,
            config=config(num_seeds, fail_above=0.02),
            folder=tmp_path,
        )
        assert part.verdict == "INCONCLUSIVE"
        write_report(part, tmp_path)
        assert verify_report(tmp_path).passed
    rest = planted(TRAIN, 0.01)
    continued = scan(rest, TRAIN, config=config(4000, fail_above=0.02), folder=tmp_path)
    assert continued.num_kept == 301
    tests = TESTS + 1 + 35  # the kept images, and the published sampler
    assert rest.network.num_calls - tests < whole.decision.total / 64  # type: ignore[attr-defined, union-attr]
    np.testing.assert_array_equal(continued.generated, whole.generated)
    assert continued.findings == whole.findings
    write_report(continued, tmp_path)
    sampling = read_report(tmp_path).sampling
    assert sampling is not None and sampling.num_kept == 301
    assert not (tmp_path / STATE).exists()


def test_progress_is_towards_the_likely_stop():
    said: list[tuple[int, int | None, str]] = []

    def progress(task: str, done: int, total: int | None, note: str = "") -> None:
        if task.startswith("Sampling"):
            said.append((done, total, note))

    scan(planted(TRAIN, 0.0), TRAIN, config=config(fail_above=0.01), progress=progress)
    stop = clean_stop(0.01)
    assert {total for done, total, _ in said if done < stop} == {stop}
    assert "if none is a copy" in said[0][2] and "likely to stop at about" in said[-1][2]
    said.clear()
    scan(planted(TRAIN, 0.05), TRAIN, config=config(200, fail_above=0.05), progress=progress)
    assert said[-1][1] == 200 and "not likely to decide within 200 images" in said[-1][2]
    assert all(done < total or done == 200 for done, total, _ in said if total is not None)


def test_another_scan_does_not_resume_from_the_images_of_this_one(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        scan(planted(TRAIN, 0.3, calls_left=TESTS), TRAIN, config=config(), folder=tmp_path)
    other = ScanConfig(seeds=(1, 2), sampler=SamplerConfig(num_steps=2), without=("optimality",))
    with pytest.raises(ConfigError, match="unfinished scan with another sampler"):
        scan(planted(TRAIN, 0.3), TRAIN, config=other, folder=tmp_path)
    assert (
        len(scan(planted(TRAIN, 0.3), TRAIN, config=other, folder=tmp_path, overwrite=True).keys)
        == 2
    )


def test_held_out_images_give_the_floor_and_the_excess_over_it():
    """Held-out images of which a tenth resembles a training image as a copy does."""
    near = TRAIN.images[:10] ^ 16
    fresh = image_set(90, seed=2).images
    holdout = ImageSet(np.concatenate([near, fresh]), [f"h{i}" for i in range(100)], source="held")
    result = scan(planted(TRAIN, 0.3), TRAIN, holdout=holdout, config=config(1000))
    control, copying = result.diagnostics.holdout, result.diagnostics.copying
    assert control is not None and control.excess is not None and copying is not None
    assert control.copies is not None
    assert (control.copies.count, control.copies.total) == (10, 100)
    r = result.ratios.distinct.ratio
    assert control.excess.value == pytest.approx((r - 0.1) / 0.9)
    assert control.excess.low < 0.2222 < control.excess.high
    assert copying.value < -3 * copying.spread


def test_held_out_images_in_the_training_set_are_refused_by_name():
    both = ImageSet(
        np.concatenate([image_set(5, seed=3).images, TRAIN.images[7:9]]),
        [f"held/{i}" for i in range(7)],
        source="held",
    )
    with pytest.raises(DataError, match=r"2 of the 7 .*held/5 = train/00007\.png, held/6 = "):
        scan(planted(TRAIN, 0.3), TRAIN, holdout=both, config=config(10))


def test_flat_images_neither_hide_nor_make_copies():
    """Generated images of one color, against a training set that holds two of the same."""
    flat = np.stack([np.full(SHAPE, value, dtype=np.uint8) for value in (0, 0, 200)])
    train = ImageSet(
        np.concatenate([TRAIN.images, flat]), [*TRAIN.names, "a", "b", "c"], source="train"
    )
    generated = ImageSet(
        np.stack([np.full(SHAPE, value, dtype=np.uint8) for value in (0, 100, 200)]),
        ["copied twice", "new", "copied"],
        source="generated",
    )
    matches = scan(generated, train).matches
    assert matches.memorized_distinct.tolist() == [True, False, True]
    assert matches.memorized_paper.tolist() == [False, False, True]


def test_the_return_test_and_membership_are_part_of_a_scan_when_asked_for(tmp_path: Path):
    train, held = image_set(60, seed=4), image_set(120, seed=5, source="held")
    options = ScanConfig(
        seeds=tuple(range(8)), without=("optimality",), also=("noise_and_return", "membership")
    )
    result = scan(optimum_of(train), train, holdout=held, config=options)
    returned, membership = result.diagnostics.noise_and_return, result.diagnostics.membership
    assert returned is not None and membership is not None
    assert returned.at_sigma[0].train.ratio == 1
    assert membership.tpr.ratio == 1 and membership.auc.value == 1
    write_report(result, tmp_path)
    report = read_report(tmp_path)
    assert report.diagnostics.membership == membership
    assert report.diagnostics.noise_and_return == returned


def test_membership_is_refused_before_sampling_where_controls_are_too_few():
    few = image_set(99, seed=5, source="held")
    options = ScanConfig(seeds=(0,), also=("membership",))
    with pytest.raises(ConfigError, match="none are given"):
        scan(planted(TRAIN, 0.3), TRAIN, config=options)
    with pytest.raises(ConfigError, match="at least 100 held-out.* held gives 99"):
        scan(planted(TRAIN, 0.3), TRAIN, holdout=few, config=options)


def test_further_tests_of_given_images_are_refused():
    with pytest.raises(ConfigError, match="images were given"):
        scan(TRAIN, TRAIN, config=ScanConfig(also=("noise_and_return",)))


def test_the_first_look_of_a_gate_can_be_chosen():
    sizes = {
        first: len(scan(planted(TRAIN, 1.0), TRAIN, config=config(500, **options)).keys)
        for first, options in (
            (1, {"fail_above": 0.001, "min_samples": 1}),
            (10, {"fail_above": 0.001, "min_samples": 10}),
            (64, {"fail_above": 0.001}),
        )
    }
    assert sizes[1] < 5 and sizes[10] == 10 and sizes[64] == 64


def test_a_checkpoint_of_other_training_images_is_warned_of():
    for stated, matches in (
        (TRAIN.fingerprint, True),
        ("f" * 64, False),
        (None, None),
    ):
        source = planted(TRAIN, 0.3)
        if stated is not None:
            source.provenance.update(
                data_fingerprint=stated, data_source="elsewhere", num_images=1000
            )
        described = scan(source, TRAIN, config=config(10)).source
        assert described.model is not None and described.model.trained_on_data is matches
        assert len(described.warnings) == (matches is False)
    other = planted(TRAIN, 0.3)
    other.provenance.update(data_fingerprint="f" * 64, data_source="elsewhere", num_images=1000)
    result = scan(other, TRAIN, config=config(10, fail_above=0.5))
    message = "not those that the checkpoint says it was trained on (1,000 images of elsewhere"
    for text in (junit_xml(result), render_page(result, make_report(result))):
        assert message in text


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (len(TRAIN), "Their number is the same: they may be the same images in another order"),
        (len(TRAIN) + 3, "They are 3 fewer."),
        (len(TRAIN) - 1, "They are 1 more."),
        ("many", "that of the training set. `memaudit dataset compare`"),
    ],
)
def test_the_warning_says_what_is_known_of_the_difference(number: object, said: str):
    source = planted(TRAIN, 0.3)
    source.provenance.update(data_fingerprint="f" * 64, data_source="a", num_images=number)
    (warning,) = scan(source, TRAIN, config=config(10)).source.warnings
    assert said in warning
    assert warning.endswith("`memaudit dataset compare` says what two sets have in common.")


@dataclass
class PlantedInOneClass(Planted):
    """Copies in the second of four classes only."""

    label_dim: int = 4

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        assert class_labels is not None
        share = self.share
        answers = []
        for row, label in zip(x, class_labels.argmax(1).tolist(), strict=True):
            self.share = share if label == 1 else 0.0
            answers.append(self._answer(row))
        self.share = share
        return torch.stack(answers)


LABELED = replace(TRAIN, labels=np.arange(len(TRAIN)) % 4)


def scan_by_class(share: float, *, batch_size: int = 64, **options: Any) -> ScanResult:
    model = replace(planted(TRAIN, share), network=PlantedInOneClass(TRAIN.images, share))  # type: ignore[arg-type]
    holdout = image_set(2000, seed=7, source="held out")
    settings = config(4000, fail_above=0.02, batch_size=batch_size, **options)
    settings = replace(settings, without=("optimality", "label_test", "blind_baseline", "recall"))
    return scan(model, LABELED, holdout=holdout, config=settings)


def test_sampling_continues_until_every_class_passes_by_itself():
    together = scan_by_class(0.0)
    assert together.diagnostics.worst_class is not None
    assert together.diagnostics.worst_class.verdict == "INCONCLUSIVE"
    each = [scan_by_class(0.0, fail_on=("worst-class",), batch_size=size) for size in (17, 64)]
    for result in each:
        assert result.decision is not None and result.decision.verdict == "PASS"
        assert result.diagnostics.worst_class is not None
        assert result.diagnostics.worst_class.verdict == "PASS"
        assert len(together.generated) < len(result.generated) < 4000
    assert len(each[0].generated) == len(each[1].generated)


def test_sampling_stops_as_soon_as_one_class_fails():
    result = scan_by_class(0.1, fail_on=("worst-class",))
    assert result.verdict == "FAIL" and len(result.generated) < 4000
    assert result.diagnostics.worst_class is not None
    assert result.diagnostics.worst_class.failing == (1,)


def test_some_kept_images_are_generated_again_under_a_gate(tmp_path: Path):
    for num_seeds, num_kept, num_regenerated in ((500, 0, 0), (800, 500, 64), (5000, 800, 64)):
        result = scan(
            planted(TRAIN, 0.01),
            TRAIN,
            config=config(num_seeds, fail_above=0.01),
            folder=tmp_path,
        )
        assert (result.num_kept, result.num_regenerated) == (num_kept, num_regenerated)
        write_report(result, tmp_path)
        assert verify_report(tmp_path).passed
    said = "64 of them, chosen at random, were generated again and came out the same. If 4.6 % or"
    for text in (result.summary(), markdown_summary(result), junit_xml(result)):
        assert said in text


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_forged_images_are_noticed_as_often_as_is_said(share: float, tmp_path: Path):
    """400 checks of 640 kept images, of which a share was replaced."""
    kept = list(generate_images(planted(TRAIN, 1.0).network, range(640), config=ONE_STEP))
    rng = np.random.default_rng(1)
    images = np.concatenate([batch.images for batch in kept])
    forged = rng.choice(640, round(share * 640), replace=False)
    images[forged] = rng.integers(0, 256, (len(forged), *SHAPE), np.uint8)
    again = np.concatenate([batch.images for batch in kept])
    noticed = [
        bool(differ(images[rows], again[rows]).any())
        for rows in (draw_rows(640, 64) for _ in range(400))
    ]
    assert np.mean(noticed) >= catch_chance(share, 64) - 0.03


def test_a_copy_cannot_be_hidden_within_what_counts_as_rounding():
    copy = TRAIN.images[:50]
    signs = np.random.default_rng(2).choice([-1, 1], copy.shape)
    nudged = np.clip(copy.astype(int) + signs, 0, 255).astype(np.uint8)
    assert not differ(nudged, copy).any()
    assert scan(nudged, TRAIN).ratios.copies.count == 50


def test_seeds_picked_by_hand_decide_nothing():
    """The seeds of a model that copies half the time, of which only the others are listed."""
    model = planted(TRAIN, 0.5)
    found = scan(model, TRAIN, config=config(400))
    seeds, copied = np.array(found.keys), found.matches.is_copy
    clean = seeds[~copied].tolist()
    options = replace(config(fail_above=0.2, min_samples=1), seeds=clean)
    result = scan(model, TRAIN, config=options)
    assert result.decision is not None and result.decision.verdict == "PASS"
    assert result.verdict == "INCONCLUSIVE"
    assert result.conclusion.headline == "INCONCLUSIVE: the seeds were chosen"
    copies = seeds[copied].tolist()
    result = scan(model, TRAIN, config=replace(options, seeds=copies, fail_above=0.6))
    assert result.verdict == "INCONCLUSIVE"
    backwards = replace(options, seeds=range(399, -1, -1))
    assert scan(model, TRAIN, config=backwards).verdict == "INCONCLUSIVE"


def test_a_nonce_draws_the_seeds_and_is_named(tmp_path: Path):
    model = planted(TRAIN, 0.0)
    options = replace(config(100, fail_above=0.01), nonce="auditor 7")
    first = scan(model, TRAIN, config=options, folder=tmp_path)
    write_report(first, tmp_path)
    assert verify_report(tmp_path).passed
    seeds = seeds_from_nonce("auditor 7", model.sha256, TRAIN.fingerprint, 1000)
    assert first.keys == tuple(seeds[:100]) and first.verdict == "INCONCLUSIVE"
    assert first.conclusion.choices[0] == "without optimality"
    assert "seeds drawn from the nonce 'auditor 7'" in first.conclusion.choices
    again = scan(model, TRAIN, config=replace(options, seeds=range(1000)), folder=tmp_path)
    assert again.verdict == "PASS" and again.num_kept == 100
    assert again.keys == tuple(seeds[: len(again.keys)])
    other = scan(planted(image_set(200, 5), 0.0), image_set(200, 5), config=options)
    assert other.keys[0] != first.keys[0]
    with pytest.raises(ConfigError, match="images were given"):
        scan(image_set(20, 1), TRAIN, config=options)
    for nonce in ("", "x" * 201, "a\x1b[2J"):
        with pytest.raises(ConfigError, match="printable"):
            replace(options, nonce=nonce)


def test_a_sampler_that_hides_copies_does_not_pass(tmp_path: Path):
    """One step of the optimum gives the mean of all images, 18 give copies."""
    data = image_set(8, seed=4)
    options = ScanConfig(
        seeds=range(200), sampler=ONE_STEP, fail_above=0.1, without=("optimality", "recall")
    )
    result = scan(optimum_of(data), data, config=options)
    assert result.decision is not None and result.decision.verdict == "PASS"
    assert result.sampler_control == SamplerControl(64, 64, 0, 64, 0)
    assert result.verdict == "INCONCLUSIVE"
    assert "shows fewer copies than the published one" in result.conclusion.headline
    write_report(result, tmp_path)
    assert verify_report(tmp_path).passed
    as_published = scan(optimum_of(data), data, config=replace(options, sampler=SamplerConfig()))
    assert as_published.sampler_control is None and as_published.verdict == "FAIL"


def test_a_lenient_or_strict_gate_compares_as_many_images(tmp_path: Path):
    """Two images pass a limit of 90 %; at 99.9999 % confidence, 10 copies of 64 are not many."""
    data = image_set(8, seed=4)
    options = ScanConfig(
        seeds=range(5),
        sampler=ONE_STEP,
        fail_above=0.9,
        min_samples=1,
        without=("optimality", "recall"),
    )
    result = scan(optimum_of(data), data, config=options)
    assert result.decision is not None and result.decision.verdict == "PASS"
    assert len(result.keys) < 5
    assert result.sampler_control == SamplerControl(64, 64, 0, 64, 0)
    assert result.verdict == "INCONCLUSIVE"
    write_report(result, tmp_path)
    assert verify_report(tmp_path).passed
    assert SamplerControl(64, 10, 0, 10, 0).forbids_pass(0.999999)


def test_a_published_sampler_that_cannot_be_run_does_not_pass(monkeypatch: pytest.MonkeyPatch):
    data = image_set(8, seed=4)

    def fail(*args: Any, **options: Any) -> Any:
        raise CheckpointError("pixels are not finite")

    monkeypatch.setattr("memaudit.audit.sampler_control.regenerate", fail)
    options = ScanConfig(
        seeds=range(200), sampler=ONE_STEP, fail_above=0.1, without=("optimality", "recall")
    )
    result = scan(optimum_of(data), data, config=options)
    assert result.verdict == "INCONCLUSIVE"
    assert "the published sampler cannot be run" in result.conclusion.headline
    assert "Leave the sampler at its defaults" in result.conclusion.advice


def test_a_changed_sampler_that_shows_the_same_passes_and_says_so(tmp_path: Path):
    result = scan(planted(TRAIN, 0.0), TRAIN, config=config(fail_above=0.05))
    assert result.sampler_control == SamplerControl(64, 0, 0, 0, 0)
    assert result.verdict == "PASS"
    assert "makes with the sampler as set are copies" in result.conclusion.headline
    assert "0 of the first 64 seeds give a copy" in result.summary()
    write_report(result, tmp_path)
    assert verify_report(tmp_path).passed
    forged = {"num_images": 64, "published": 0, "as_set": 3, "only_published": 0, "only_as_set": 0}
    for control in (None, forged):
        report = json.loads((tmp_path / "report.json").read_bytes())
        report["sampler_control"] = control
        (tmp_path / "report.json").write_text(json.dumps(report))
        assert any("published sampler" in check.detail for check in verify_report(tmp_path).checks)


def test_the_comparison_of_samplers_has_its_level():
    """Equal samplers, 10 % of copies each: at most 5 % of 2,000 comparisons speak for one."""
    rng = np.random.default_rng(0)
    copies = rng.random((2000, 2, 64)) < 0.1
    controls = [
        SamplerControl(64, int(a.sum()), int(b.sum()), int((a & ~b).sum()), int((b & ~a).sum()))
        for a, b in copies
    ]
    assert all(control.is_possible for control in controls)
    assert np.mean([control.p <= 0.05 for control in controls]) <= 0.05
    assert SamplerControl(64, 6, 0, 6, 0).p == pytest.approx(2**-6)
    assert SamplerControl(64, 0, 0, 0, 0).p == 1
    huge = SamplerControl(10**18, 10**17, 0, 10**17, 0)  # in a forged report
    assert not huge.is_possible and huge.p == 1


def test_both_ways_up_are_compared_with_the_checkpoints_fingerprint(tmp_path: Path):
    """One image has an orientation; the model was trained on it upright."""
    for i, image in enumerate(TRAIN.images[:6]):
        exif = Image.Exif()
        exif[0x0112] = 3 if i == 2 else 1
        picture = Image.fromarray(image.transpose(1, 2, 0))
        picture.save(tmp_path / f"{i}.png", exif=exif)
    stored = open_images(tmp_path)
    upright = open_images(tmp_path, Preparation(exif="apply"))
    assert stored.fingerprint != upright.fingerprint
    source = planted(TRAIN, 0.3)
    source.provenance.update(
        data_fingerprint=upright.fingerprint, data_source="photos", num_images=6
    )
    assert not any("are not those" in text for text in describe_source(source, upright).warnings)
    warnings = " ".join(describe_source(source, stored).warnings)
    assert "1 image has an EXIF orientation" in warnings
    assert (
        "They are if their EXIF orientation is treated as in training: turned upright" in warnings
    )
    source.provenance["data_fingerprint"] = "f" * 64
    assert "as in training" not in " ".join(describe_source(source, stored).warnings)


@pytest.mark.parametrize(("twins", "noise"), [((8.6, 16.6, 9), 13), ((9,), 13), ((17,), 17)])
def test_twins_planted_beside_the_training_images_buy_no_pass(twins: tuple[float], noise: int):
    """Three of four images are copies with noise; without the twins, they fail."""
    rng = np.random.default_rng(0)
    base = rng.integers(40, 216, (40, 3, 16, 16))

    def at(images: np.ndarray, levels: float) -> np.ndarray:
        return (images + levels * rng.choice([-1, 1], images.shape)).clip(0, 255).astype(np.uint8)

    train = np.concatenate([at(base, 0), *(at(base, levels) for levels in twins)])
    fresh = rng.integers(0, 256, (100, 3, 16, 16), np.uint8)
    generated = np.concatenate([at(np.concatenate([base] * 8), noise)[:300], fresh])
    options = ScanConfig(fail_above=0.05, without=("recall",))
    assert scan(generated, at(base, 0), config=options).verdict == "FAIL"
    result = scan(generated, train, config=options)
    assert result.verdict != "PASS"
    assert "radius" in {reason.kind for reason in result.conclusion.reasons}


def test_few_held_out_images_do_not_excuse_twins():
    """Ten images that were held out would see no twin either, and are quickly found."""
    rng = np.random.default_rng(0)
    base = rng.integers(40, 216, (40, 3, 16, 16)).astype(np.uint8)
    train = np.concatenate([base, base + 17])
    options = ScanConfig(fail_above=0.05, without=("recall",))
    generated = rng.integers(0, 256, (400, 3, 16, 16), np.uint8)
    for num_holdout, verdict in ((10, "INCONCLUSIVE"), (100, "PASS")):
        holdout = ImageSet.from_array(rng.integers(0, 256, (num_holdout, 3, 16, 16), np.uint8))
        result = scan(generated, train, holdout=holdout, config=options)
        assert result.verdict == verdict
    beside = clopper_pearson(0, LEAST_HOLDOUT)
    assert is_above_floor(clopper_pearson(40, 400), beside, num_tests=NUM_ROWS)


def test_a_label_test_that_is_to_judge_needs_held_out_images_before_sampling():
    options = config(100, fail_above=0.1, fail_on=("label_test",))
    with pytest.raises(ConfigError, match="fail_on names label_test, which needs a holdout"):
        scan(planted(TRAIN, 0.0, calls_left=0), TRAIN, config=options)


def test_classes_that_are_to_judge_need_a_model_with_classes_before_sampling():
    options = config(100, fail_above=0.1, fail_on=("worst_class",))
    with pytest.raises(ConfigError, match="worst_class, which needs a model with classes"):
        scan(planted(TRAIN, 0.0, calls_left=0), TRAIN, config=options)
