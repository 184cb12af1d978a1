"""Compare reports side by side: the snapshots of a run, or the models of a sweep."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memaudit.audit.diagnostics.groups import counted_groups
from memaudit.audit.report.folder import reports_in
from memaudit.audit.report.schema import Report, plain, read_report
from memaudit.audit.report.words import say
from memaudit.audit.statistics.intervals import Estimate, Proportion
from memaudit.errors import ConfigError
from memaudit.wording import short, some

Factor = Literal["images-seen", "size", "epochs", "name"]
"""What distinguishes the reports: images seen in training, |D|, how often each training image was
shown, or the folder's name."""


@dataclass(frozen=True)
class ComparedReport:
    """The facts of one report that a comparison uses."""

    folder: Path
    source: str
    """Path of what was audited."""
    images_seen: int | None
    """Images that the model saw in training, with repetitions, or None if it does not say."""
    num_images: int
    """|D|, the number of training images."""
    ratio: Proportion
    """The share of copies among a random sample of what the model makes."""
    share: Estimate
    """The share of copies that headline and verdict are about: the estimate of a screened scan, or
    that of `ratio`."""
    num_screened: int | None
    """Seeds screened; None where all were sampled in full."""
    interval: str
    """How the interval of the ratio was made."""
    verdict: str | None
    caveats: tuple[str, ...]
    """What must be read with verdict and share, in a few words each."""
    num_leaking_images: int
    num_leaking_groups: str | None
    """Groups that are copied: `3 of 212 patients`; None where groups do not count."""
    rule: dict[str, str]
    """How images were judged: each criterion with its value in words."""

    @property
    def epochs(self) -> float | None:
        """How often the training showed each image, or None if it does not say."""
        return None if self.images_seen is None else self.images_seen / self.num_images

    @property
    def judged(self) -> str:
        """The verdict with its caveats: `PASS, with evidence of memorization`; empty for none."""
        return ", ".join((*([] if self.verdict is None else [self.verdict]), *self.caveats))


@dataclass(frozen=True)
class Comparison:
    """Reports, ordered by a factor."""

    by: Factor
    reports: tuple[ComparedReport, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The reports' folders, without the part that their paths share."""
        folders = [report.folder.absolute() for report in self.reports]
        shared = os.path.commonpath([folder.parent for folder in folders])
        return tuple(os.path.relpath(folder, shared) for folder in folders)

    @property
    def sweeps(self) -> tuple[str, ...]:
        """The sweep of each report: the first folder of its name. Reports of which each is in a
        folder of its own are one sweep, whose name is empty.
        """
        first = [Path(name).parts[0] for name in self.names]
        return tuple(first) if 1 < len(set(first)) < len(first) else ("",) * len(first)

    @property
    def differences(self) -> tuple[str, ...]:
        """Criteria that differ between the reports, so that their ratios cannot be compared.

        For example, `mirror images: not searched (a), searched (b, c)`.
        """
        found = []
        for rule in self.reports[0].rule:
            made_so: dict[str, list[str]] = {}
            for name, report in zip(self.names, self.reports, strict=True):
                made_so.setdefault(report.rule[rule], []).append(name)
            if len(made_so) > 1:
                values = (f"{value} ({some(names)})" for value, names in sorted(made_so.items()))
                found.append(f"{rule}: {', '.join(values)}")
        return tuple(found)


def compare_reports(paths: Sequence[Path], *, by: Factor | None = None) -> Comparison:
    """Read reports and order them.

    Args:
        paths: report.json files, or folders that contain some at any depth.
        by: what to order them by. None: |D| if it varies, otherwise the images seen if they vary,
            otherwise the name.

    Raises:
        DataError: there is no report, or one cannot be read or was changed.
        ConfigError: they are to be ordered by images seen, but a report does not say how many.
    """
    files = {file.resolve(): file for path in paths for file in reports_in(path)}
    reports = [_compared(file) for file in sorted(files.values())]
    by = by or _varying(reports)
    if by in ("images-seen", "epochs"):
        for report in reports:
            if report.images_seen is None:
                raise ConfigError(
                    f"{report.folder} does not say how many images its model has seen, as "
                    "checkpoints of `memaudit train` do; compare by size or by name instead."
                )
        reports.sort(key=lambda report: report.images_seen or 0)
    elif by == "size":
        reports.sort(key=lambda report: report.num_images)
    return Comparison(by, tuple(reports))


def _compared(file: Path) -> ComparedReport:
    """Read the facts that a comparison uses from a report.json."""
    report = read_report(file)
    model, groups = report.source.model, report.diagnostics.groups
    return ComparedReport(
        folder=file.parent,
        source=report.source.path,
        images_seen=None if model is None else model.images_seen,
        num_images=report.data.num_images,
        ratio=report.ratios.copies,
        share=_share(report),
        num_screened=None if report.screening is None else report.screening.num_seeds,
        interval=report.interval,
        verdict=report.verdict,
        caveats=tuple(_caveats(report)),
        num_leaking_images=report.num_leaking_images,
        num_leaking_groups=None if groups is None else counted_groups(groups),
        rule={
            "threshold": str(report.threshold_fraction),
            "duplicates within": f"{report.duplicate_rms:g} gray levels",
            "distances": report.space.unit,
            "second neighbors": "any image"
            if report.data.num_groups is None
            else f"of another {short(report.data.group_kind, 60)}",
            "mirror images": "searched" if report.search.flips else "not searched",
            "rules": ", ".join(report.search.match) or "pixels",
            "confidence": f"{100 * report.confidence:g} %",
            "seeds": "all sampled in full"
            if report.screening is None
            else "screened, and the share estimated",
        },
    )


def _share(report: Report) -> Estimate:
    if report.screening is not None:
        found = report.screening.copies
        return Estimate(found.value, found.low, found.high)
    ratio = report.ratios.copies
    return Estimate(ratio.ratio, ratio.low, ratio.high)


def _caveats(report: Report) -> Iterator[str]:
    if report.conclusion.is_contradicted:
        yield say("overview.contradicted")
    if any(reason.kind == "denoising" for reason in report.conclusion.reasons):
        yield say("overview.not_denoising")
    if report.screening is not None:
        yield say("overview.screened")
    if report.conclusion.is_explained_by_floor:
        yield say("overview.explained_by_floor")
    if report.source.warnings:
        yield say("overview.warned")


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison in values that strict JSON can hold."""
    content: dict[str, Any] = plain(
        {
            "by": comparison.by,
            "differences": comparison.differences,
            "reports": comparison.reports,
        }
    )
    return content


def _varying(reports: Sequence[ComparedReport]) -> Factor:
    if len({report.num_images for report in reports}) > 1:
        return "size"
    seen = {report.images_seen for report in reports}
    return "images-seen" if len(seen) > 1 and None not in seen else "name"
