"""Why a verdict is not the one that the count alone would give.

A PASS must be the same at every threshold and radius, and of a model that denoises as it is run;
evidence of memorization that the count cannot see takes the word from it.
"""

from dataclasses import dataclass, replace
from typing import Literal

from memaudit.audit.confirmed_images import Confirmation
from memaudit.audit.denoising.loss_test import DenoisingTest
from memaudit.audit.diagnostics.groups import decision_text
from memaudit.audit.diagnostics.registry import Diagnostics
from memaudit.audit.memorization.controls import NEAR_PAIRS, Controls
from memaudit.audit.memorization.findings import Findings, Gate, decide
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screened import Screening
from memaudit.audit.memorization.sensitivity import is_above_floor, least_floor
from memaudit.audit.sampler_control import SamplerControl
from memaudit.audit.statistics.gate import Decision, FloorCount
from memaudit.audit.statistics.group_share import judge_groups
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
    "group",
    "seeds",
    "sampler",
    "published sampler",
    "exchanged",
    "screening",
    "number format",
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
EXCHANGED = 0.001
"""Chance, at most, that generated images seem to be nearer to held-out than to training images."""
NAMED_RULES = 3
"""Number of contradicting rules that a reason names."""


@dataclass(frozen=True)
class Reason:
    """Why the verdict is not the one that the count alone would give, or why there is none."""

    kind: ReasonKind
    text: str


def about_floor(decision: Decision, controls: Controls, diagnostics: Diagnostics) -> list[Reason]:
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
    whose = f"Of {floor.total:,} {WHOSE[floor.control]}"
    return [
        Reason(
            "floor",
            f"More than {limit} are counted as copies. {whose}, {floor.count:,} are "
            "counted by the same rule, and the ratio is not above what limit and floor explain "
            "together, "
            f"{percent(decision.fail_limit)} %."
            f"{_of_whole_images(decision)}{_which_rules(controls)}",
        )
    ]


def _of_whole_images(decision: Decision) -> str:
    """What whole images alone show, where further rules count as well."""
    test = decision.whole_images
    if test is None:
        return ""
    found = f" Whole images alone count {test.count:,}, which does not show more than"
    if not test.floor.total:
        return ""
    return f"{found} their own floor explains, {percent(test.fail_limit)} %."


def _which_rules(controls: Controls) -> str:
    """Which rules count images of the control, most first; empty where whole images alone count."""
    floor = controls.floor
    if floor is None or not floor.by_rule:
        return ""
    most = sorted(floor.by_rule, key=lambda each: -each.count)
    counts = ", ".join(f"{each.count:,} by {each.rule}" for each in most if each.count)
    return f" Of the control, {counts}: what a rule counts there, it counts without copying."


def about_holdout(decision: Decision, controls: Controls, diagnostics: Diagnostics) -> list[Reason]:
    """Why a FAIL over the floor of held-out images does not stand: they are of another kind."""
    baseline, alone = diagnostics.blind_baseline, controls.leave_one_out
    if decision.verdict != "FAIL" or controls.holdout is None:
        return []
    if baseline is None or not baseline.differs:
        return []
    if alone is not None:
        test = decision.whole_images
        whole = None if test is None else alone.whole_images
        again = decide(
            decision.count,
            decision.total,
            gate=Gate(decision.limit, decision.method == "sequential", alone.count, whole),
            confidence=decision.confidence,
            whole_images=None if test is None else test.count,
        )
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


def about_denoising(denoising: DenoisingTest | None) -> list[Reason]:
    """Why finding no copies says nothing about this model."""
    if denoising is None or denoising.allows_pass:
        return []
    preprocessing = denoising.preprocessing
    found = denoising.message if preprocessing.best is None else preprocessing.message
    if denoising.denoises and denoising.option_problem:
        found = denoising.option_problem
    return [Reason("denoising", found)]


def about_sampler(control: SamplerControl | None, decision: Decision) -> list[Reason]:
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


def about_classes(diagnostics: Diagnostics, otherwise: Verdict) -> list[Reason]:
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


def about_label_test(decision: Decision, diagnostics: Diagnostics) -> list[Reason]:
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


def explained(findings: Findings, controls: Controls) -> list[Reason]:
    """Why a count without a limit does not show copying: the floor is as high."""
    ratio, floor = findings.ratios.copies, controls.floor
    if not ratio.count or floor is None or is_above_floor(ratio, floor.copies):
        return []
    too_few = "."
    if not floor.copies.count:
        enough = f"{least_floor(ratio):,}"
        too_few = f", and these are too few to tell: {enough} would do, if none is counted."
    return [
        Reason(
            "floor",
            f"That is not above the floor by more than chance: of {floor.copies.total:,} "
            f"{WHOSE[floor.control]}, {floor.copies.count:,} are counted by the same rule{too_few}",
        )
    ]


def about_no_label_test(diagnostics: Diagnostics) -> list[Reason]:
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


def about_exchange(diagnostics: Diagnostics) -> list[Reason]:
    """Why a PASS does not stand: generated images lie nearer to held-out than to training images.

    No labeling has as small a statistic as the true one, which happens by chance at most once in
    1 / `EXCHANGED` scans at each look.
    """
    test, baseline = diagnostics.label_test, diagnostics.blind_baseline
    if test is None:
        return []
    if baseline is not None and baseline.differs:
        return []
    nearer = [look for look in test.spaces[0].looks if look.p_below <= EXCHANGED]
    if not nearer:
        return []
    most = min(nearer, key=lambda look: look.share.value)
    return [
        Reason(
            "exchanged",
            f"About {percent(-most.share.value)} % of the generated images lie nearer to held-out "
            "than to training images, by more than chance (label test): the model seems to have "
            "been trained on the held-out images.",
        )
    ]


def about_rules(findings: Findings, rule: Rule) -> list[Reason]:
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


def about_twins(controls: Controls) -> list[Reason]:
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


def about_groups(
    diagnostics: Diagnostics, controls: Controls, verdict: Literal["FAIL", "INCONCLUSIVE"]
) -> list[Reason]:
    """Why a gate with a limit on the share of groups fails, or does not pass.

    Args:
        diagnostics: hold the verdict on the groups.
        controls: hold the floors.
        verdict: FAIL asks for what fails, INCONCLUSIVE for what is not shown to be below the limit.
    """
    found = diagnostics.groups
    decision = None if found is None else found.decision
    if found is None or decision is None:
        return []
    if verdict == "INCONCLUSIVE":
        passed = decision.verdict == "PASS"
        return [] if passed else [Reason("group", decision_text(decision, found.kind))]
    baseline, alone = diagnostics.blind_baseline, controls.leave_one_out
    if decision.verdict == "FAIL" and baseline is not None and baseline.differs:
        # Held-out images of another kind give no floor to trust, as for the count of images.
        again = judge_groups(
            decision.count,
            decision.total,
            num_images=decision.num_images,
            limit=decision.limit,
            confidence=decision.confidence,
            floor=FloorCount("leave-one-out", 0, 0) if alone is None else alone.count,
        )
        decision = replace(decision, verdict=again.verdict)
    failed = decision.verdict == "FAIL"
    return [Reason("group", decision_text(decision, found.kind))] if failed else []


def about_screening(screening: Screening) -> Reason:
    """Why a screened scan does not pass, and may not fail."""
    return Reason(
        "screening",
        f"Seeds were screened: {screening.num_sampled:,} of {screening.num_seeds:,} were sampled "
        f"in full, and copies found among them: {screening.found:,}. That is not enough for a "
        "FAIL, and a PASS needs every seed to be sampled in full.",
    )


def about_number_format(confirmation: Confirmation | None) -> list[Reason]:
    """Why a PASS does not stand: the probe may overlook copies.

    A network could be made so that a faster format hides its copies on a share of the seeds that
    the probe overlooks.
    """
    if confirmation is None or confirmation.probe is None or not confirmation.fast_seeds:
        return []
    return [
        Reason(
            "number format",
            f"Images were judged as sampled in {confirmation.precision}. Up to "
            f"{percent(confirmation.probe.share_unseen)} % of all images may be copies that only "
            "fp32 would show; a PASS needs every image in fp32.",
        )
    ]


def undecided(decision: Decision) -> str:
    """What the images judged leave open."""
    images, limit = f"{decision.total:,} images", f"{percent(decision.limit)} %"
    count, fail_limit = decision.may_fail_by
    if decision.limit * decision.total < fail_limit * decision.total < count:
        more = "more are copies" if count == decision.count else "more are copies by whole images"
        return (
            f"{images} do not decide whether {more} than limit and floor explain "
            f"together, {percent(fail_limit)} % (the limit alone is {limit})."
        )
    return f"{images} do not decide whether more than {limit} are copies."
