"""The files of an EMM search: emm.json, and a page with the curve and where it crosses."""

import json
from pathlib import Path

from memaudit.audit.report.curve_chart import Sample, Series, ratio_chart
from memaudit.audit.report.curve_page import Section, render_curves, with_interval
from memaudit.experiments.emm.estimate import EMMEstimate
from memaudit.experiments.emm.search import RESULT, EMMResult, EMMSetup, result_dict
from memaudit.experiments.training_presets import describe_config
from memaudit.files import atomic_write
from memaudit.training.schedule import format_epochs

PAGE = "emm.html"


def write_emm(result: EMMResult, out: Path, *, setup: EMMSetup | None = None) -> Path:
    """Write emm.json and emm.html into a folder, made where it is missing.

    Returns:
        Path of emm.html.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(result_dict(result, setup), indent=2, allow_nan=False) + "\n"
    for name, text in ((PAGE, render_emm(result, setup)), (RESULT, content)):
        with atomic_write(out / name) as file:
            file.write(text.encode())
    return out / PAGE


def render_emm(result: EMMResult, setup: EMMSetup | None) -> str:
    """The text of emm.html.

    Args:
        result: at least one point.
        setup: what was measured; None where the scans come from elsewhere.
    """
    estimate, points = result.estimate, result.points
    band = None
    if estimate.low is not None and estimate.high is not None:
        band = (estimate.low, estimate.high)
    chart = ratio_chart(
        [
            Series(
                "highest ratio among the snapshots",
                tuple(Sample.measured(point.num_images, point.highest) for point in points),
            ),
            Series(
                "last snapshot",
                tuple(Sample(point.num_images, point.last.ratio) for point in points),
                stroke="dotted",
            ),
        ],
        x_label="training images |D|",
        level=(1 - estimate.epsilon, f"1 − ε = {100 * (1 - estimate.epsilon):g} %"),
        band=band,
    )
    header, rows = _table(result)
    return render_curves(
        title=_answer(estimate),
        lead=_explanation(estimate),
        sections=[
            Section(
                title="Ratio against the number of training images",
                text=(_described(setup),),
                chart=chart,
                header=header,
                rows=rows,
            )
        ],
    )


def _table(result: EMMResult) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Header and rows; how long a training was is known of the search's own runs."""
    header = ("|D|", "copies", "highest ratio", "last snapshot")
    rows = tuple(
        (
            f"{point.num_images:,}",
            f"{point.highest.count:,} of {point.highest.total:,}",
            with_interval(point.highest),
            with_interval(point.last),
        )
        for point in result.points
    )
    if not result.runs:
        return header, rows
    lengths = (
        (f"{run.images_seen:,}", format_epochs(run.images_seen / run.num_images))
        for run in result.runs
    )
    return (
        (*header, "images seen", "epochs"),
        tuple(row + length for row, length in zip(rows, lengths, strict=True)),
    )


def _answer(estimate: EMMEstimate) -> str:
    if estimate.emm is None:
        return "The effective model memorization is not determined"
    return f"The set-up memorizes {estimate.emm:,.0f} training images"


def _explanation(estimate: EMMEstimate) -> str:
    if estimate.low is None or estimate.high is None:
        return estimate.reason
    return (
        f"Up to so many, at least {100 * (1 - estimate.epsilon):g} % of what its models generate "
        f"are copies ({100 * estimate.confidence:g} % interval {estimate.low:,.0f} to "
        f"{estimate.high:,.0f}). At {estimate.bracket.low:,} images the ratio is decided to be "
        f"above that, at {estimate.bracket.high:,} below."
    )


def _described(setup: EMMSetup | None) -> str:
    if setup is None:
        return (
            "Measured by scans that were made before; those of models trained on equally many "
            "images are taken for snapshots of one run."
        )
    _, H, W = setup.images.image_shape
    drawn = "equally many of each class" if setup.balanced else "at random"
    return (
        f"Training sets are drawn {drawn} from {setup.images.source} at {H}x{W}; a smaller one is "
        f"part of every larger one. Each training: {describe_config(setup.config)}. "
        f"{setup.num_samples:,} images are generated from each snapshot. "
        "One network is trained at each size, so the interval does not hold the chance of training."
    )
