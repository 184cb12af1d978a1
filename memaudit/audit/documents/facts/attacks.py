"""The attacks that were run, with budget and result, and those that were not, with why."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from memaudit.audit.diagnostics.registry import DIAGNOSTICS
from memaudit.audit.documents.facts.fact import PROVENANCE, Fact
from memaudit.audit.report.schema import Report
from memaudit.wording import counted, duration, short


@dataclass(frozen=True)
class _Attack:
    """An attack that a scan may run: a diagnostic, and how much of it was done."""

    name: str
    diagnostic: str
    budget: Callable[[Any], str]


_ATTACKS = (
    _Attack(
        "Membership inference from the model’s loss",
        "membership",
        lambda found: (
            f"{found.num_train:,} training and {found.num_holdout:,} held-out images scored"
        ),
    ),
    _Attack(
        "Generated images nearer to training than to held-out images (label test); it tells no "
        "single image’s membership",
        "label_test",
        lambda found: (
            f"{found.num_samples:,} generated images among {found.num_pairs:,} training and as "
            f"many held-out images, {found.num_labelings:,} labelings"
        ),
    ),
    _Attack(
        "Return to training images from noised ones, which the attacker needs (noise and return)",
        "noise_and_return",
        lambda found: (
            f"{counted(len(found.at_sigma), 'noise level', 'noise levels')}, "
            f"{found.at_sigma[0].train.total if found.at_sigma else 0:,} training images at each, "
            f"{counted(found.num_noises, 'noise', 'noises')} per image"
        ),
    ),
    _Attack(
        "Distances to training images, of generated and of held-out images (C_T)",
        "copying",
        lambda found: f"{counted(len(found.cells), 'region', 'regions')} of the training images",
    ),
    _Attack(
        "Loss of training and held-out images (MemGap), and comparison with the closed-form "
        "optimum, which can only copy",
        "optimality",
        lambda found: (
            f"{found.num_train:,} training images and {found.num_trajectories:,} generated ones"
        ),
    ),
)
NOT_IN_A_SCAN = (
    (
        "Chosen training images (is this image given back?)",
        "Not part of a scan; memaudit check answers it in a report of its own.",
    ),
    (
        "Model inversion and reconstruction by optimizing over inputs or weights",
        "memaudit does not run it.",
    ),
    (
        "Attribute and property inference",
        "memaudit does not run it.",
    ),
    (
        "Extraction by text prompts aimed at one image",
        "memaudit does not run it: images are generated from seeds and classes.",
    ),
    (
        "Exfiltration or extraction of the model itself",
        "Outside the audit: it concerns the system that serves the model.",
    ),
)
"""Attacks that no report of a scan covers, and why."""


def attacks(report: Report) -> Iterator[Fact]:
    """The attacks that were run, each with its budget and result."""
    yield Fact("Attacks run: budget and result", "", is_heading=True)
    budget = _sampling_budget(report)
    about = report.conclusion.about
    yield Fact(
        "Regurgitation: generate images, and search each among the training images",
        f"{budget} {about}",
        "sampling.seeds" if report.sampling is not None else "ratios.copies.total",
        "measured",
    )
    for attack in _ATTACKS:
        found = getattr(report.diagnostics, attack.diagnostic)
        if found is None:
            continue
        diagnostic = DIAGNOSTICS[attack.diagnostic]
        said = [line for line in diagnostic.lines(found) if isinstance(line, str)]
        yield Fact(
            attack.name,
            f"{attack.budget(found)}. {' '.join(said)}",
            f"diagnostics.{attack.diagnostic}",
            diagnostic.title.lower().replace(" ", "-"),
        )


def _sampling_budget(report: Report) -> str:
    sampling, total = report.sampling, report.ratios.copies.total
    if sampling is None:
        return f"{counted(total, 'image', 'images')} that were given."
    steps = sampling.sampler.num_steps
    of_steps = "" if steps is None else f" of {steps} steps"
    if report.screening is not None:
        screening = report.screening
        return (
            f"{screening.num_seeds:,} seeds screened, {screening.num_sampled:,} sampled in "
            f"full{of_steps} (seeds {short(screening.seeds, 60)})."
        )
    most = ""
    if sampling.most_seeds != total:
        most = f" of at most {sampling.most_seeds:,}, where the verdict was certain"
    sampling_time = next(
        (step.seconds for step in report.timings.steps if step.step == "sampling"), None
    )
    took = "" if sampling_time is None else f", {duration(sampling_time)} of sampling"
    return (
        f"{counted(total, 'image', 'images')}{most}, sampler{of_steps}, seeds "
        f"{short(sampling.seeds, 60)}{took}."
    )


def not_run(report: Report) -> Iterator[Fact]:
    """Those that were not, each with the reason."""
    yield Fact("Attacks not run, and why", "", is_heading=True)
    for attack in _ATTACKS:
        if getattr(report.diagnostics, attack.diagnostic) is None:
            yield Fact(
                attack.name,
                f"{_why_not(report, attack.diagnostic)}.",
                "without" if attack.diagnostic in report.without else "",
                PROVENANCE,
            )
    yield from (Fact(name, why) for name, why in NOT_IN_A_SCAN)


def _why_not(report: Report, name: str) -> str:
    """Why a diagnostic has no result, as a clause."""
    diagnostic = DIAGNOSTICS[name]
    if name in report.without:
        return "Left out on request"
    if "model" in diagnostic.requires and report.source.kind == "images":
        return "The model was not given, only images"
    if "holdout" in diagnostic.requires and not report.controls.num_holdout:
        return "No held-out images were given"
    if diagnostic.by_request:
        return f"Not asked for: it runs only with --also {name.replace('_', '-')}"
    return "It was not possible with these settings or images"
