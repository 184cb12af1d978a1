"""The words of the verdict: what counts, what speaks against it, and what was chosen."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.images import smooth_images

from memaudit import scan
from memaudit.audit.choices import choices_of
from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmation import Probe
from memaudit.audit.confirmed_images import Confirmation
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.report.ci import junit_xml, markdown_summary
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import make_report
from memaudit.audit.report.words import without_links
from memaudit.audit.result import ScanResult
from memaudit.audit.statistics.gate import FloorCount, exact_decision, sequential_decision
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.statistics.one_sided import upper_end
from memaudit.audit.statistics.worst_class import WorstClass
from memaudit.audit.unchosen_seeds import are_consecutive
from memaudit.audit.verdict import conclude
from memaudit.audit.verdict_reasons import about_classes, undecided
from memaudit.data.images import ImageSet
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig
from memaudit.wording import percent

Make = Callable[..., ScanResult]


def again(
    result: ScanResult, confirmation: Confirmation | None = None, **changes: object
) -> ScanResult:
    """The result with another configuration, concluded again."""
    config = replace(result.config, **changes)  # type: ignore[arg-type]
    conclusion = conclude(
        result.findings,
        controls=result.controls,
        diagnostics=result.diagnostics,
        denoising=result.denoising,
        source=result.source,
        num_train=len(result.data),
        rule=config.rule,
        flips=False,
        exact=True,
        fail_on=config.fail_on,
        sampler_control=None,
        confirmation=confirmation,
        class_index=config.class_index,
        seeds_chosen=not are_consecutive(config.seeds),
        choices=choices_of(config, result.source, result.data),
    )
    return replace(result, config=config, conclusion=conclusion)


def everywhere(result: ScanResult) -> tuple[str, ...]:
    page = render_page(result, make_report(result))
    return page, junit_xml(result), markdown_summary(result).replace("\\", ""), result.summary()


def test_a_choice_is_named_wherever_the_verdict_is(make_result: Make):
    result = make_result(copies=0, others=60, sampled=True, fail_above=0.2)
    changed = again(
        result,
        seeds=(5, 3, *range(100, 158)),
        sampler=SamplerConfig(sigma_max=1.0),
        without=("authentic",),
    )
    for text in everywhere(changed):
        assert "seeds were chosen: 5,3,100-157" in text
        assert "sigma-max 1.0" in text and "without authentic" in text


@pytest.mark.parametrize(
    ("copies", "fast_seeds", "verdict"),
    [(0, None, "PASS"), (0, "30-59", "INCONCLUSIVE"), (60, "30-59", "FAIL")],
)
def test_images_of_a_faster_format_fail_but_do_not_pass(
    make_result: Make, copies: int, fast_seeds: str | None, verdict: str
):
    result = make_result(copies=copies, others=60 - copies, sampled=True, fail_above=0.2)
    probe = Probe(30, clopper_pearson(30, 30, 0.95), 0.1, 0.2, 0.3, 0.006, 0.1)
    found = again(result, Confirmation("fp16", probe, fast_seeds, 2, 0)).conclusion
    assert found.verdict == verdict
    if verdict == "INCONCLUSIVE":
        assert "sampled in fp16. Up to 0.60 %" in found.reasons[0].text
        assert found.headline == "INCONCLUSIVE: a PASS needs every image in fp32"
        assert found.advice == "Scan in fp32, which a gate does by itself."


def test_a_verdict_of_one_class_says_so(make_result: Make):
    for copies, others, verdict in ((0, 60, "PASS: at most"), (60, 0, "FAIL: more than")):
        result = make_result(copies=copies, others=others, sampled=True, fail_above=0.2)
        conclusion = again(result, class_index=3).conclusion
        assert conclusion.headline.startswith(verdict)
        assert "of what the model makes of class 3 are copies" in conclusion.headline
        assert "of what the model makes of class 3 are such copies" in conclusion.about


def test_seeds_that_begin_elsewhere_are_named_and_the_default_is_not(make_result: Make):
    result = make_result(copies=0, others=60, sampled=True)
    assert "seeds begin at 100" in " ".join(again(result).conclusion.choices)
    assert again(result, seeds=range(60)).conclusion.choices == ()


def test_data_that_was_not_confirmed_is_said_everywhere(make_result: Make):
    for text in everywhere(make_result(copies=0, others=60, sampled=True, fail_above=0.2)):
        assert "was not confirmed" in text


def test_evidence_takes_the_word_from_a_pass_but_not_the_verdict(
    make_result: Make, monkeypatch: pytest.MonkeyPatch
):
    result = make_result(copies=0, others=60, sampled=True, fail_above=0.2)
    assert result.verdict == "PASS" and not result.conclusion.is_contradicted
    monkeypatch.setattr(
        type(result.diagnostics), "evidence", lambda self, alpha: ("C_T z = -14", "AUC 0.9")
    )
    against = again(result)
    assert against.verdict == "PASS" and against.conclusion.is_contradicted
    for text in everywhere(against):
        assert "PASS, with evidence of memorization that the rule does not count" in text
        assert "C_T z = -14; AUC 0.9" in without_links(text)
    assert '<header class="contradicted">' in everywhere(against)[0]


@pytest.mark.parametrize("sequential", [False, True])
def test_no_ratio_fails_that_limit_and_floor_explain(sequential: bool):
    decide = sequential_decision if sequential else exact_decision
    floor = FloorCount("held-out images", 40, 1000)
    found = decide(40, 1000, limit=0.001, floor=floor)
    assert found.verdict == "INCONCLUSIVE" and found.is_explained
    assert found.fail_limit == pytest.approx(0.001 + 0.999 * 0.0541, abs=2e-4)
    assert decide(40, 1000, limit=0.001).verdict == "FAIL"
    assert decide(120, 1000, limit=0.001, floor=floor).verdict == "FAIL"
    assert decide(0, 9000, limit=0.001, floor=floor).verdict == "PASS"
    nothing = FloorCount("held-out images", 0, 0)
    unknown = decide(1000, 1000, limit=0.001, floor=nothing)
    assert unknown.verdict == "INCONCLUSIVE" and unknown.is_explained


@pytest.mark.parametrize("sequential", [False, True])
def test_a_floor_that_may_be_lower_than_the_count_explains_nothing(sequential: bool):
    """22 of 128 beside 0 of 40: more images would fail this, and it is not called explained."""
    decide = sequential_decision if sequential else exact_decision
    found = decide(22, 128, limit=0.01, floor=FloorCount("leave-one-out", 0, 40))
    if sequential:
        assert found.verdict == "INCONCLUSIVE" and not found.is_explained
        assert "limit and floor explain together, 9.7 % (the limit alone is 1.0 %)" in undecided(
            found
        )
    assert decide(44, 256, limit=0.01, floor=found.floor).verdict == "FAIL"
    assert undecided(decide(1, 64, limit=0.01)) == (
        "64 images do not decide whether more than 1.0 % are copies."
    )


def test_a_count_without_a_limit_says_so_if_the_floor_is_as_high():
    images = np.repeat(smooth_images(20, 8, seed=1), 10, axis=0).astype(int)
    noise = np.random.default_rng(0).integers(-6, 7, (400, 3, 8, 8))
    drawn = (np.concatenate([images, images]) + noise).clip(0, 255).astype(np.uint8)
    result = scan(drawn[:200:4], drawn[200:])
    assert result.ratios.copies.count == 50 and result.verdict is None
    headline = (
        "50 of 50 generated images count as copies, not shown to be more than the floor explains"
    )
    for text in everywhere(result):
        assert headline in text
    # A line that says of the same images that they leak would contradict the headline.
    for text in (repr(result), result.summary(), markdown_summary(result)):
        assert "images leak" not in text and "images that leak" not in text
    copied = scan(drawn[:50], smooth_images(100, 8, seed=3))
    assert copied.conclusion.headline == "0 of 50 generated images copy a training image"


def test_of_two_copies_beyond_the_floor_the_headline_says_copy(make_result: Make):
    result = make_result(copies=20, others=40)
    assert result.conclusion.headline == "20 of 60 generated images copy a training image"
    assert result.conclusion.reasons == ()


def test_one_copy_and_one_class_are_spoken_of_in_the_singular(make_result: Make):
    result = make_result(copies=1, others=60)
    assert "counts as a near-exact pixel copy of one of" in result.conclusion.about
    worst = WorstClass("FAIL", (2,), (), 2, 3, 9.0, 4.0, 1.0, 3.0)
    found = replace(result.diagnostics, worst_class=worst)
    [reason] = about_classes(found, "FAIL")
    assert reason.text == "1 class is above the limit (2)."


def test_a_part_is_named_also_where_the_checkpoint_says_that_it_is_all(make_result: Make):
    result = make_result(copies=0, others=60, sampled=True)
    part = replace(result.data, indices=np.arange(len(result.data)))
    said = "only 60 of the images in train were searched"
    assert said in choices_of(result.config, result.source, part)
    assert result.source.model is not None
    confirmed = replace(result.source, model=replace(result.source.model, trained_on_data=True))
    said += ", those that the checkpoint says it was trained on"
    assert said in choices_of(result.config, confirmed, part)


def test_what_was_searched_and_judged_is_a_choice(make_result: Make):
    result = make_result(copies=0, others=20)
    config = replace(
        result.config, index=IndexConfig(flips=True), fail_above=0.1, fail_on=("worst-class",)
    )
    given = ImageSet.from_array(result.generated)
    part = given.take(np.arange(5))
    said = choices_of(config, result.source, result.data, given=part)
    assert said == (
        "also fails on worst-class",
        "mirror images searched as well",
        "only a part of the generated images was judged: 5",
    )
    assert choices_of(result.config, result.source, result.data, given=given) == ()
    by_class = ScanConfig(seeds=range(2**32), class_frequencies="data")  # too many to list
    assert choices_of(by_class, result.source, result.data) == ("class frequencies of the data",)


def test_each_choice_has_its_words(make_result: Make):
    result = make_result(copies=0, others=20, sampled=True)
    config = ScanConfig(
        seeds=range(7, 27),
        class_index=3,
        min_samples=32,
        rule=Rule(threshold=Fraction(1, 4), duplicate_rms=4.0, confidence=0.9),
    )
    assert choices_of(config, result.source, result.data) == (
        "threshold 1/4 instead of 1/3",
        "duplicate radius 4 instead of 8 gray levels",
        "confidence 0.9 instead of 0.95",
        "seeds begin at 7",
        "one class only: 3",
        "first look of the gate after 32 images",
    )


def test_more_samples_are_not_advised_for_a_model_that_does_not_denoise():
    train = smooth_images(100, 8, seed=1)
    data = ImageSet.from_array(train)
    mean = float(train.mean() / 127.5 - 1)

    class Blurs(ClosedFormOptimum):
        def __call__(self, x, sigma, class_labels=None):  # type: ignore[no-untyped-def]
            return torch.full_like(x, mean)

    config = ScanConfig(seeds=range(64), fail_above=0.001, without=("optimality", "recall"))
    result = scan(Blurs(train), data, config=config)
    assert result.decision is not None and result.decision.verdict == "INCONCLUSIVE"
    assert [reason.kind for reason in result.conclusion.reasons] == ["denoising"]
    assert "does not denoise" in result.conclusion.headline and not result.conclusion.advice


def test_held_out_images_that_are_all_set_apart_are_not_called_missing():
    train = smooth_images(60, 8, seed=1)
    near = np.clip(train.astype(int) + 3, 0, 255).astype(np.uint8)
    told: list[str] = []
    result = scan(
        train[:20],
        train,
        holdout=near,
        config=ScanConfig(fail_above=0.01, without=("recall", "label_test")),
        tell=told.append,
    )
    expected = "each of the 60 held-out images lies within the duplicate radius"
    assert expected in result.conclusion.reasons[0].text and expected in told[0]


def test_no_summary_of_a_pass_gives_a_number_above_its_limit(make_result: Make):
    result = make_result(copies=0, others=700, sampled=True, fail_above=0.01, size=4)
    assert result.verdict == "PASS" and result.ratios.copies.high > 0.006
    shown = f"at most {percent(upper_end(0, 700, sequential=True))} %"
    assert f"Copies: 0 of 700, 0 % ({shown})" in result.summary()
    assert f"0 % [{shown}] (0 of 700)" in junit_xml(result)


def test_no_pass_where_the_held_out_images_are_copied():
    """Training and held-out images exchanged: nothing that is searched is copied."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (460, 3, 4, 4), np.uint8)
    train, holdout, fresh = images[:200], images[200:400], images[400:]
    copies = (holdout[:60].astype(int) + rng.integers(-6, 7, (60, 3, 4, 4))).clip(0, 255)
    generated = np.concatenate([copies.astype(np.uint8), fresh])
    options = ScanConfig(fail_above=0.05)
    result = scan(generated, train, holdout=holdout, config=options)
    assert result.decision is not None and result.decision.verdict == "PASS"
    assert result.verdict == "INCONCLUSIVE"
    assert [reason.kind for reason in result.conclusion.reasons] == ["exchanged"]
    for text in everywhere(result):
        assert "the held-out images seem to be what the model was trained on" in text
    assert "may have been exchanged" in result.conclusion.advice
    assert scan(generated, holdout, holdout=train, config=options).verdict == "FAIL"
    assert scan(fresh, train, holdout=holdout, config=options).verdict == "PASS"
