"""The verdict, and what it is about: what was counted, and what speaks against it.

The gate decides on a count of near-exact copies (statistics/gate.py), from which a verdict differs
for the reasons in verdict_reasons.py. `memaudit verify` draws the same conclusion again from a
report.
"""

from dataclasses import dataclass

from memaudit.audit.confirmed_images import Confirmation
from memaudit.audit.denoising.loss_test import DenoisingTest
from memaudit.audit.diagnostics.groups import CopiedGroups, counted_groups
from memaudit.audit.diagnostics.registry import Diagnostics
from memaudit.audit.memorization.controls import Controls
from memaudit.audit.memorization.findings import Findings
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screened import Screening
from memaudit.audit.sampler_control import SamplerControl
from memaudit.audit.source import Source
from memaudit.audit.statistics.forecast import GateTest, advice
from memaudit.audit.statistics.gate import Decision
from memaudit.audit.verdict_reasons import (
    LEAST_HOLDOUT,
    SEEDS_CHOSEN,
    Reason,
    Verdict,
    about_classes,
    about_denoising,
    about_exchange,
    about_floor,
    about_groups,
    about_holdout,
    about_label_test,
    about_no_label_test,
    about_number_format,
    about_rules,
    about_sampler,
    about_screening,
    about_twins,
    explained,
    undecided,
)
from memaudit.wording import percent


@dataclass(frozen=True)
class Conclusion:
    """The verdict in words that can be quoted."""

    verdict: Verdict | None
    """None without a gate."""
    headline: str
    """One line; a PASS against which there is evidence says so here."""
    about: str
    """What was counted, and what the verdict says of it."""
    groups: str
    """How many groups of training images are copied, where groups count; else empty."""
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
    def is_explained_by_floor(self) -> bool:
        """Whether as many images are counted as would be without any copying."""
        return any(reason.kind in ("floor", "dense") for reason in self.reasons)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Everything but headline and choices, one statement each."""
        against = f"Evidence of memorization: {'; '.join(self.evidence)}." if self.evidence else ""
        given = (
            self.about,
            self.groups,
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
    match: tuple[str, ...] = (),
    fail_on: tuple[str, ...],
    seeds_chosen: bool,
    sampler_control: SamplerControl | None,
    screening: Screening | None = None,
    confirmation: Confirmation | None = None,
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
        match: the rules that count, where whole images alone do not.
        fail_on: findings that fail the gate besides the count.
        seeds_chosen: whether the images are of seeds that do not follow one another.
        sampler_control: what the published sampler shows, where a gate judges another one's images.
        screening: which seeds were sampled in full, where not all of them were.
        confirmation: which images were judged in a faster number format, where some may have been.
        class_index: the one class that was generated, or None for all.
        choices: what was not left at its default.
    """
    ratio, decision = findings.ratios.copies, findings.decision
    evidence = diagnostics.evidence(1 - ratio.confidence)
    verdict: Verdict | None = None if decision is None else decision.verdict
    reasons: list[Reason] = []
    if decision is None:
        reasons += explained(findings, controls)
        reasons += about_denoising(denoising)
    else:
        reasons += about_floor(decision, controls, diagnostics)
        untrusted = about_holdout(decision, controls, diagnostics)
        if untrusted:
            verdict, reasons = "INCONCLUSIVE", untrusted
        failing = []
        if "label_test" in fail_on:
            failing += about_label_test(decision, diagnostics)
        if "worst_class" in fail_on:
            failing += about_classes(diagnostics, "FAIL")
        failing += about_groups(diagnostics, controls, "FAIL")
        if verdict != "FAIL" and failing:
            verdict, reasons = "FAIL", [*failing, *reasons]
        elif verdict == "PASS":
            reasons += about_rules(findings, rule)
            reasons += about_twins(controls)
            reasons += about_exchange(diagnostics)
            if "label_test" in fail_on:
                reasons += about_no_label_test(diagnostics)
            if "worst_class" in fail_on:
                reasons += about_classes(diagnostics, "INCONCLUSIVE")
            reasons += about_groups(diagnostics, controls, "INCONCLUSIVE")
        if verdict != "FAIL":
            # Whatever was counted: more samples of such a model would show no more.
            reasons = [*about_denoising(denoising), *reasons]
        if verdict != "FAIL":
            reasons = [*about_sampler(sampler_control, decision), *reasons]
        if verdict != "FAIL" and screening is not None:
            reasons = [about_screening(screening), *reasons]
        if verdict == "PASS":
            reasons += about_number_format(confirmation)
        if seeds_chosen:
            verdict, reasons = "INCONCLUSIVE", [Reason("seeds", SEEDS_CHOSEN), *reasons]
        if verdict == "PASS" and reasons:
            verdict = "INCONCLUSIVE"
        if verdict == "INCONCLUSIVE" and not reasons:
            reasons.append(Reason("undecided", undecided(decision)))
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
            screening=screening,
        ),
        about=_about(
            verdict,
            findings,
            num_train=num_train,
            exact=exact,
            match=match,
            made=made,
            screening=screening,
        ),
        groups=_groups(diagnostics.groups, reasons),
        sampler="" if sampler_control is None else sampler_control.text,
        recall="" if diagnostics.recall is None else diagnostics.recall.sentence,
        reasons=tuple(reasons),
        evidence=evidence,
        not_tried=_not_tried(flips=flips, exact=exact, match=match),
        confirmed=_confirmed(source),
        choices=choices,
        advice=_advice(decision, verdict, reasons, controls),
    )


def _headline(
    verdict: Verdict | None,
    findings: Findings,
    reasons: list[Reason],
    *,
    has_evidence: bool,
    made: str,
    screening: Screening | None,
) -> str:
    ratio, decision = findings.ratios.copies, findings.decision
    beside = "with evidence of memorization that the rule does not count"
    if decision is None:
        found = (
            f"{ratio.count:,} of {ratio.total:,} generated images "
            f"{'copies' if ratio.count == 1 else 'copy'} a training image"
        )
        kinds = {reason.kind for reason in reasons}
        if screening is not None:
            found = f"{screening.share_text} of generated images copy a training image"
            found = found[0].upper() + found[1:]
            if "floor" in kinds:
                found += ", not shown to be more than the floor explains"
        elif "floor" in kinds:
            counts = "counts as a copy" if ratio.count == 1 else "count as copies"
            found = (
                f"{ratio.count:,} of {ratio.total:,} generated images {counts}, not shown to be "
                "more than the floor explains"
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
    if verdict == "FAIL" and reasons and reasons[0].kind == "group":
        return "FAIL: more of the groups of training images are copied than the limit allows"
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
        "group": "the share of groups that are copied is not shown to be below its limit",
        "seeds": "the seeds were chosen",
        "sampler": "the sampler as set shows fewer copies than the published one",
        "published sampler": "the published sampler cannot be run, to compare the copies",
        "exchanged": "the held-out images seem to be what the model was trained on",
        "screening": "seeds were screened, and too few copies found to fail",
        "number format": "a PASS needs every image in fp32",
    }[reasons[0].kind]
    text = f"INCONCLUSIVE: {why}"
    return f"{text}; there is evidence of memorization" if has_evidence else text


def _about(
    verdict: Verdict | None,
    findings: Findings,
    *,
    num_train: int,
    exact: bool,
    match: tuple[str, ...],
    made: str,
    screening: Screening | None,
) -> str:
    """What was counted, with the interval that belongs to the verdict."""
    ratio, decision = findings.ratios.copies, findings.decision
    kinds = ("a copy by the encoder’s features", "copies by the encoder’s features")
    if exact:
        kinds = ("a near-exact pixel copy", "near-exact pixel copies")
    if match:
        rules = f"by one or more of {', '.join(match)}"
        kinds = (f"a copy ({rules})", f"copies ({rules})")
    level = f"{100 * ratio.confidence:g} %"
    count = ratio.count if screening is None else screening.found
    verb, kind = ("counts", kinds[0]) if count == 1 else ("count", kinds[1])
    found = (
        f"{ratio.count:,} of {ratio.total:,} generated images {verb} as {kind} of one of the "
        f"{num_train:,} training images given"
    )
    if screening is not None:
        found = (
            f"{screening.sentence} By these, {screening.share_text} of {made} are copies; "
            f"{screening.found:,} {verb} as {kind} of one of the {num_train:,} training images "
            "given"
        )
    if decision is None or decision.verdict != verdict or verdict == "INCONCLUSIVE":
        return f"{found}."
    limit = f"{percent(decision.limit)} %"
    test = decision.whole_images
    if decision.fails_by_whole_images and test is not None:
        verb, kind = ("is", "a near-exact pixel copy")
        if test.count != 1:
            verb, kind = "are", "near-exact pixel copies"
        return (
            f"{found}. {test.count:,} of these {verb} {kind} of a whole image, which shows with "
            f"{level} confidence that more than {limit} of {made} are such copies, even without "
            "the share that would be counted if nothing were copied (the floor)."
        )
    if decision.verdict == "PASS":
        shown = f"at most {limit} of {made} are such copies"
    else:
        shown = (
            f"more than {limit} of {made} are such copies, even without the share "
            "that would be counted if nothing were copied (the floor)"
        )
    return f"{found}, which shows with {level} confidence that {shown}."


def _groups(found: CopiedGroups | None, reasons: list[Reason]) -> str:
    """Say how many groups are copied, or counted where the count cannot tell."""
    if found is None:
        return ""
    explained = any(reason.kind in ("floor", "dense") for reason in reasons)
    happens = "nearest to an image that was counted" if explained else "copied"
    return f"Images of {counted_groups(found)} are {happens}."


def _not_tried(*, flips: bool, exact: bool, match: tuple[str, ...]) -> str:
    if not exact:
        return "The rule is not made to see copies that the encoder does not recognize."
    if match:
        changed = [
            *([] if "shift" in match else ["shifted"]),
            *([] if flips or "flips" in match else ["mirrored"]),
            *("turned", "scaled", "cropped"),
            *(["changed in hue"] if "tone" in match else ["brightened", "recolored"]),
        ]
        part = "" if "tiles" in match else ", or of a part of an image"
        return (
            f"The rules are not made to see copies that are {', '.join(changed)} or blended, or "
            f"changed in two ways at once{part}."
        )
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
    if kinds == {"screening"}:
        return "Scan without screening: it takes the full sampler for every seed to decide."
    if kinds == {"number format"}:
        return "Scan in fp32, which a gate does by itself."
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
    if "exchanged" in kinds:
        return (
            "Find out which images the model was trained on: training and held-out images may have "
            "been exchanged."
        )
    if kinds == {"class"}:
        return "Give more samples: every class has to be shown below the limit by itself."
    if kinds == {"group"}:
        return (
            "Agree on a limit and a number of images that decide before sampling others: more "
            "images copy more groups."
        )
    if kinds == {"undecided"}:
        is_sequential = decision.method == "sequential"
        count, fail_limit = decision.may_fail_by
        found = advice(count, decision.total, GateTest.of(decision), sequential=is_sequential)
        if count > fail_limit * decision.total and not controls.num_holdout:
            found += " Held-out images, which the model never saw, may show a lower floor."
        return found
    return ""
