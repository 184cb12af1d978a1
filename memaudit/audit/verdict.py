"""The verdict, and what it is about: what was counted, and what speaks against it.

The gate decides on a count of near-exact copies (statistics/gate.py). Here stands what else a
verdict needs: a PASS must be the same at every threshold and radius, and evidence of memorization
that the count cannot see takes the word from it. `memaudit verify` draws the same conclusion again
from a report.
"""

from dataclasses import dataclass
from typing import Literal

from memaudit.audit.denoising.loss_test import DenoisingTest
from memaudit.audit.diagnostics.registry import Diagnostics
from memaudit.audit.memorization.controls import NEAR_PAIRS, Controls
from memaudit.audit.memorization.findings import Findings, Gate, decide
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.sensitivity import is_above_floor
from memaudit.audit.sampler_control import SamplerControl
from memaudit.audit.source import Source
from memaudit.audit.statistics.forecast import GateTest, advice
from memaudit.audit.statistics.gate import Decision
from memaudit.wording import counted, p_text, percent, some

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
ReasonKind = Literal[
    "undecided",
    "floor",
    "dense",
    "radius",
    "threshold",
    "denoising",
    "label test",
    "class",
    "seeds",
    "sampler",
    "published sampler",
]
WHOSE = {
    "held-out images": "images that the model never saw",
    "leave-one-out": "training images, each judged among the others",
}
"""The images of each control, in words."""
SEEDS_CHOSEN = (
    "The seeds were chosen: they do not follow one another, so the share counted is that of these "
    "images, and says nothing of all that the model makes."
)
MOST_TWINS = 0.5
"""Share of training images with a near other, above which a PASS needs held-out images."""
LEAST_HOLDOUT = 100
"""Held-out images that make up for it: beside as many, 40 of 400 generated images that are too near
stand out (Fisher's exact test)."""
NAMED_RULES = 3
"""Number of contradicting rules that a reason names."""


@dataclass(frozen=True)
class Reason:
    """Why the verdict is not the one that the count alone would give, or why there is none."""

    kind: ReasonKind
    text: str


@dataclass(frozen=True)
class Conclusion:
    """The verdict in words that can be quoted."""

    verdict: Verdict | None
    """None without a gate."""
    headline: str
    """One line; a PASS against which there is evidence says so here."""
    about: str
    """What was counted, and what the verdict says of it."""
    sampler: str
    """What the published sampler shows where another one was used; empty otherwise."""
    recall: str
    """Which copies the rule would have seen; empty where that was not measured."""
    reasons: tuple[Reason, ...]
    """Why there is no PASS, or no FAIL, if the count alone is not the reason."""
    evidence: tuple[str, ...]
    """Findings that speak for memorization although the rule may not count them."""
    not_tried: str
    """Kinds of copies that the rule is not made to see."""
    confirmed: str
    """Whether the training images given are those that the model was trained on."""
    choices: tuple[str, ...]
    """What was not left at its default."""
    advice: str
    """What would decide, or an empty text."""

    @property
    def is_contradicted(self) -> bool:
        """Whether there is evidence of memorization beside a verdict that is not FAIL."""
        return bool(self.evidence) and self.verdict != "FAIL"

    @property
    def sentences(self) -> tuple[str, ...]:
        """Everything but headline and choices, one statement each."""
        against = f"Evidence of memorization: {'; '.join(self.evidence)}." if self.evidence else ""
        given = (
            self.about,
            *(reason.text for reason in self.reasons),
            against,
            self.advice,
            self.sampler,
            self.recall,
            self.not_tried,
            self.confirmed,
        )
        return tuple(text for text in given if text)


def conclude(
    findings: Findings,
    *,
    controls: Controls,
    diagnostics: Diagnostics,
    denoising: DenoisingTest | None,
    source: Source,
    num_train: int,
    rule: Rule,
    flips: bool,
    exact: bool,
    fail_on: tuple[str, ...],
    seeds_chosen: bool,
    sampler_control: SamplerControl | None,
    class_index: int | None,
    choices: tuple[str, ...],
) -> Conclusion:
    """Draw the conclusion of a scan.

    Args:
        findings: ratios, and the gate's decision.
        controls: how often images are counted that cannot be copies.
        diagnostics: what stands beside the ratio.
        denoising: whether the model denoises the training images; None for given images.
        source: what was audited.
        num_train: N, the number of training images.
        rule: what counted as a copy.
        flips: whether mirror images were searched as well.
        exact: whether pixels were compared, not features.
        fail_on: findings that fail the gate besides the count.
        seeds_chosen: whether the images are of seeds that do not follow one another.
        sampler_control: what the published sampler shows, where a gate judges another one's images.
        class_index: the one class that was generated, or None for all.
        choices: what was not left at its default.
    """
    ratio, decision = findings.ratios.copies, findings.decision
    evidence = diagnostics.evidence(1 - ratio.confidence)
    verdict: Verdict | None = None if decision is None else decision.verdict
    reasons: list[Reason] = []
    if decision is None:
        reasons += _explained(findings, controls)
        reasons += _about_denoising(denoising)
    else:
        reasons += _about_floor(decision, controls, diagnostics)
        untrusted = _about_holdout(decision, controls, diagnostics)
        if untrusted:
            verdict, reasons = "INCONCLUSIVE", untrusted
        failing = []
        if "label_test" in fail_on:
            failing += _about_label_test(decision, diagnostics)
        if "worst_class" in fail_on:
            failing += _about_classes(diagnostics, "FAIL")
        if verdict != "FAIL" and failing:
            verdict, reasons = "FAIL", [*failing, *reasons]
        elif verdict == "PASS":
            reasons += _about_rules(findings, rule)
            reasons += _about_twins(controls)
            if "label_test" in fail_on:
                reasons += _about_no_label_test(diagnostics)
            if "worst_class" in fail_on:
                reasons += _about_classes(diagnostics, "INCONCLUSIVE")
        if verdict != "FAIL":
            # Whatever was counted: more samples of such a model would show no more.
            reasons = [*_about_denoising(denoising), *reasons]
        if verdict != "FAIL":
            reasons = [*_about_sampler(sampler_control, decision), *reasons]
        if seeds_chosen:
            verdict, reasons = "INCONCLUSIVE", [Reason("seeds", SEEDS_CHOSEN), *reasons]
        if verdict == "PASS" and reasons:
            verdict = "INCONCLUSIVE"
        if verdict == "INCONCLUSIVE" and not reasons:
            reasons.append(Reason("undecided", _undecided(decision)))
    made = f"what the {'model' if source.kind == 'checkpoint' else 'generator'} makes"
    if class_index is not None:
        made += f" of class {class_index}"
    if sampler_control is not None:
        made += " with the sampler as set"
    return Conclusion(
        verdict=verdict,
        headline=_headline(
            verdict,
            findings,
            reasons,
            has_evidence=bool(evidence),
            made=made,
        ),
        about=_about(verdict, findings, num_train=num_train, exact=exact, made=made),
        sampler="" if sampler_control is None else sampler_control.text,
        recall="" if diagnostics.recall is None else diagnostics.recall.sentence,
        reasons=tuple(reasons),
        evidence=evidence,
        not_tried=_not_tried(flips=flips, exact=exact),
        confirmed=_confirmed(source),
        choices=choices,
        advice=_advice(decision, verdict, reasons, controls),
    )


def _about_floor(decision: Decision, controls: Controls, diagnostics: Diagnostics) -> list[Reason]:
    """Why a ratio above the limit does not fail."""
    if not decision.is_explained:
        return []
    limit = f"{percent(decision.limit)} %"
    if controls.is_dense:
        test = diagnostics.label_test
        found = "" if test is None else f" ({p_text(test.p)})"
        return [
            Reason(
                "dense",
                "Training images and held-out images lie within the duplicate radius of other "
                "training images by themselves, so this rule cannot tell a copy from a new image "
                f"here; only the label test can{found}.",
            )
        ]
    floor = decision.floor
    if floor is None or not floor.total:
        return [
            Reason("floor", f"More than {limit} are counted as copies, but {controls.missing}.")
        ]
    return [
        Reason(
            "floor",
            f"More than {limit} are counted as copies, but so are {floor.count:,} of "
            f"{floor.total:,} {WHOSE[floor.control]}: the ratio is not above what limit and floor "
            f"explain together, {percent(decision.fail_limit)} %.",
        )
    ]


def _about_holdout(
    decision: Decision, controls: Controls, diagnostics: Diagnostics
) -> list[Reason]:
    """Why a FAIL over the floor of held-out images does not stand: they are of another kind."""
    baseline, alone = diagnostics.blind_baseline, controls.leave_one_out
    if decision.verdict != "FAIL" or controls.holdout is None:
        return []
    if baseline is None or not baseline.differs:
        return []
    if alone is not None:
        gate = Gate(decision.limit, decision.method == "sequential", alone.count)
        again = decide(decision.count, decision.total, gate=gate, confidence=decision.confidence)
        if again.verdict == "FAIL":
            return []
    return [
        Reason(
            "floor",
            "More images are counted as copies than limit and held-out floor explain, but training "
            "and held-out images differ by themselves (a classifier that never saw the model tells "
            "them apart), so that floor is not to be trusted; by leave-one-out, the ratio is not "
            "above what limit and floor explain.",
        )
    ]


def _about_denoising(denoising: DenoisingTest | None) -> list[Reason]:
    """Why finding no copies says nothing about this model."""
    if denoising is None or denoising.allows_pass:
        return []
    preprocessing = denoising.preprocessing
    found = denoising.message if preprocessing.best is None else preprocessing.message
    if denoising.denoises and denoising.option_problem:
        found = denoising.option_problem
    return [Reason("denoising", found)]


def _about_sampler(control: SamplerControl | None, decision: Decision) -> list[Reason]:
    """Why a PASS does not stand with this sampler: the published one shows more copies."""
    if control is None or not control.forbids_pass(decision.confidence):
        return []
    if not control.num_images:
        return [
            Reason(
                "published sampler",
                "The sampler was changed, and the published one cannot be run on this model: "
                "whether it shows more copies is not known.",
            )
        ]
    return [
        Reason(
            "sampler",
            "The sampler was changed, and shows fewer copies of the same seeds than the published "
            f"one does, by more than chance ({p_text(control.p)}).",
        )
    ]


def _about_classes(diagnostics: Diagnostics, otherwise: Verdict) -> list[Reason]:
    """What the worst class says, where every class has to pass by itself."""
    worst = diagnostics.worst_class
    if otherwise == "FAIL":
        if worst is None or worst.verdict != "FAIL":
            return []
        which = some([str(index) for index in worst.failing])
        above = counted(len(worst.failing), "class is", "classes are")
        return [Reason("class", f"{above} above the limit ({which}).")]
    if worst is None:
        return [Reason("class", "The worst class was to be judged, but there are no classes.")]
    if worst.verdict == "PASS":
        return []
    return [
        Reason(
            "class",
            f"{len(worst.undecided):,} of {worst.num_classes:,} classes had too few images to be "
            "shown below the limit by themselves.",
        )
    ]


def _about_label_test(decision: Decision, diagnostics: Diagnostics) -> list[Reason]:
    """Why the label test fails a model, if it does and may be interpreted."""
    test, baseline = diagnostics.label_test, diagnostics.blind_baseline
    if test is None or test.p > 1 - decision.confidence or test.share <= decision.limit:
        return []
    if baseline is not None and baseline.differs:
        return []
    return [
        Reason(
            "label test",
            f"The generated images lie nearer to training images than to images that the model "
            f"never saw, by more than chance (label test {p_text(test.p)}): about "
            f"{percent(test.share)} % of them are too near.",
        )
    ]


def _explained(findings: Findings, controls: Controls) -> list[Reason]:
    """Why a count without a limit does not show copying: the floor is as high."""
    ratio, floor = findings.ratios.copies, controls.floor
    if not ratio.count or floor is None or is_above_floor(ratio, floor.copies):
        return []
    return [
        Reason(
            "floor",
            f"That is not above the floor by more than chance: {floor.copies.count:,} of "
            f"{floor.copies.total:,} {WHOSE[floor.control]} are counted as well.",
        )
    ]


def _about_no_label_test(diagnostics: Diagnostics) -> list[Reason]:
    """Why a PASS does not stand although the label test, asked to judge, does not fail it."""
    baseline = diagnostics.blind_baseline
    if diagnostics.label_test is None:
        found = "there are no held-out images, or none without a near-duplicate in the training set"
    elif baseline is not None and baseline.differs:
        found = (
            "training and held-out images differ by themselves (a classifier that never saw the "
            "model tells them apart)"
        )
    else:
        return []
    return [Reason("label test", f"The label test was to judge as well, but {found}.")]


def _about_rules(findings: Findings, rule: Rule) -> list[Reason]:
    """Why a PASS by the count does not stand: another rule sees more copies than the limit."""
    against = [row for row in findings.sensitivity if row.contradicts]
    if not against:
        return []
    at_other_radius = any(row.threshold in (None, rule.threshold) for row in against)
    most = sorted(against, key=lambda row: -row.ratio.count)[:NAMED_RULES]
    shares = [f"{percent(row.ratio.ratio)} % by {row.rule}" for row in most]
    kind: ReasonKind = "radius" if at_other_radius else "threshold"
    return [
        Reason(
            kind,
            f"The count depends on the {kind}: it is above "
            "the limit, by more than a control may excuse, by "
            f"{len(against)} of the {len(findings.sensitivity)} rules in the table of thresholds "
            f"and radii ({'; '.join(shares)}).",
        )
    ]


def _about_twins(controls: Controls) -> list[Reason]:
    """Why a PASS does not stand among training images most of which have a twin.

    A copy with noise lies about as far from the image as from its twin, so that its distance ratio
    is that of a new image, and leave-one-out excuses whatever is near. Only held-out images tell.
    """
    near, holdout = controls.near_pairs, controls.holdout
    if near is None or near.low <= MOST_TWINS:
        return []
    if holdout is not None and holdout.copies.total >= LEAST_HOLDOUT:
        return []
    low, high = NEAR_PAIRS
    return [
        Reason(
            "radius",
            f"{percent(near.ratio)} % of the training images have their nearest other between "
            f"{low:g} and {high:g} gray levels away. An image that copies one of these with some "
            "noise is as near to the other, and this count does not see it; without "
            f"{LEAST_HOLDOUT} held-out images nothing else does.",
        )
    ]


def _undecided(decision: Decision) -> str:
    return (
        f"{decision.total:,} images do not decide whether more than {percent(decision.limit)} % "
        "are copies."
    )


def _headline(
    verdict: Verdict | None,
    findings: Findings,
    reasons: list[Reason],
    *,
    has_evidence: bool,
    made: str,
) -> str:
    ratio, decision = findings.ratios.copies, findings.decision
    beside = "with evidence of memorization that the rule does not count"
    if decision is None:
        found = (
            f"{ratio.count:,} of {ratio.total:,} generated images "
            f"{'copies' if ratio.count == 1 else 'copy'} a training image"
        )
        kinds = {reason.kind for reason in reasons}
        if "floor" in kinds:
            counts = "counts as a copy" if ratio.count == 1 else "count as copies"
            found = (
                f"{ratio.count:,} of {ratio.total:,} generated images {counts}, no more than the "
                "floor explains"
            )
        if "denoising" in kinds:
            found += ", but the model does not denoise these images as it is run"
        return f"{found}, {beside}" if has_evidence else found
    limit = f"{percent(decision.limit)} %"
    if verdict == "PASS":
        if has_evidence:
            return f"PASS, {beside}"
        return f"PASS: at most {limit} of {made} are copies"
    if verdict == "FAIL" and reasons and reasons[0].kind == "label test":
        return "FAIL: the generated images lie nearer to training images than chance allows"
    if verdict == "FAIL" and reasons and reasons[0].kind == "class":
        return f"FAIL: more than {limit} of the images of at least one class are copies"
    if verdict == "FAIL":
        return f"FAIL: more than {limit} of {made} are copies"
    why = {
        "undecided": f"whether more than {limit} are copies was not decided",
        "floor": "the floor explains the copies counted",
        "dense": "the rule cannot tell copies from new images in this data",
        "radius": "the count depends on the radius",
        "threshold": "the count depends on the threshold",
        "denoising": "the model does not denoise these images as it is run",
        "label test": "the label test, which was to judge as well, could not",
        "class": "not every class is shown to be below the limit",
        "seeds": "the seeds were chosen",
        "sampler": "the sampler as set shows fewer copies than the published one",
        "published sampler": "the published sampler cannot be run, to compare the copies",
    }[reasons[0].kind]
    text = f"INCONCLUSIVE: {why}"
    return f"{text}; there is evidence of memorization" if has_evidence else text


def _about(
    verdict: Verdict | None, findings: Findings, *, num_train: int, exact: bool, made: str
) -> str:
    """What was counted, with the interval that belongs to the verdict."""
    ratio, decision = findings.ratios.copies, findings.decision
    kinds = ("a copy by the encoder’s features", "copies by the encoder’s features")
    if exact:
        kinds = ("a near-exact pixel copy", "near-exact pixel copies")
    level = f"{100 * ratio.confidence:g} %"
    verb, kind = ("counts", kinds[0]) if ratio.count == 1 else ("count", kinds[1])
    found = (
        f"{ratio.count:,} of {ratio.total:,} generated images {verb} as {kind} of one of the "
        f"{num_train:,} training images given"
    )
    if decision is None or decision.verdict != verdict or verdict == "INCONCLUSIVE":
        return f"{found}."
    limit = f"{percent(decision.limit)} %"
    if decision.verdict == "PASS":
        shown = f"at most {limit} of {made} are such copies"
    else:
        shown = (
            f"more than {limit} of {made} are such copies, even without the share "
            "that would be counted if nothing were copied (the floor)"
        )
    return f"{found}, which shows with {level} confidence that {shown}."


def _not_tried(*, flips: bool, exact: bool) -> str:
    if not exact:
        return "The rule is not made to see copies that the encoder does not recognize."
    mirrored = "" if flips else "mirrored, "
    return (
        f"The rule is not made to see copies that are shifted, {mirrored}cropped, recolored or "
        "blended, or of a part of an image."
    )


def _confirmed(source: Source) -> str:
    if source.model is None:
        return (
            "That these images come from one model, and that it was trained on the images given, "
            "was not confirmed."
        )
    trained = source.model.trained_on_data
    if trained is None:
        return (
            "That the model was trained on the images given was not confirmed: the checkpoint does "
            "not say."
        )
    if trained:
        return "The checkpoint says that it was trained on exactly the images given."
    return "The checkpoint says that it was trained on other images than those given."


def _advice(
    decision: Decision | None, verdict: Verdict | None, reasons: list[Reason], controls: Controls
) -> str:
    if decision is None or verdict != "INCONCLUSIVE":
        return ""
    kinds = {reason.kind for reason in reasons}
    if "seeds" in kinds:
        return "Give seeds that follow one another, or let a nonce draw them."
    if "published sampler" in kinds:
        return "Leave the sampler at its defaults, to see what is wrong with the model."
    if "sampler" in kinds:
        return "Leave the sampler at its defaults, or give it more steps."
    if kinds & {"floor", "dense"} and not controls.num_holdout:
        return "Give held-out images, which the model never saw: they can tell a floor from copies."
    if "floor" in kinds:
        return "Look at the pairs. More held-out images make the floor, and so the gate, sharper."
    if kinds & {"radius", "threshold"} and controls.num_holdout < LEAST_HOLDOUT:
        return (
            "Look at the pairs, and at near-duplicates among the training images. Give held-out "
            "images, which the model never saw."
        )
    if kinds & {"radius", "threshold"}:
        return "Look at the pairs, and at near-duplicates among the training images."
    if kinds == {"class"}:
        return "Give more samples: every class has to be shown below the limit by itself."
    if kinds == {"undecided"}:
        is_sequential = decision.method == "sequential"
        text = advice(
            decision.count, decision.total, GateTest.of(decision), sequential=is_sequential
        )
        return f"{text} Give more samples." if is_sequential else text
    return ""
