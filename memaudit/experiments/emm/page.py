"""The files of an EMM search: emm.json, and a page with the curve and where it crosses 1 − ε."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memaudit.audit.report.charts import Sample, Series, ratio_chart
from memaudit.audit.report.curve_page import Section, render_curves, with_interval
from memaudit.experiments.emm.estimate import EMMEstimate
from memaudit.experiments.emm.search import EMMResult, EMMSetup
from memaudit.experiments.training_presets import describe_config
from memaudit.files import atomic_write
from memaudit.training.schedule import format_epochs

SCHEMA = "memaudit.emm/1"
RESULT = "emm.json"
PAGE = "emm.html"


def write_emm(result: EMMResult, out: Path, *, setup: EMMSetup | None = None) -> Path:
    """Write emm.json and emm.html.

    Args:
        result: at least one point.
        out: folder to write into, created if missing.
        setup: what was measured; None if the scans come from elsewhere.

    Returns:
        Path of emm.html.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(emm_dict(result, setup), indent=2, allow_nan=False) + "\n"
    for name, text in ((PAGE, render_emm(result, setup)), (RESULT, content)):
        with atomic_write(out / name) as file:
            file.write(text.encode())
    return out / PAGE


def emm_dict(result: EMMResult, setup: EMMSetup | None = None) -> dict[str, Any]:
    """Return the content of emm.json; arguments as in `write_emm`."""
    described = None
    if setup is not None:
        described = {
            "data": {"path": setup.images.source, "fingerprint": setup.images.fingerprint},
            "image_shape": list(setup.images.image_shape),
            "balanced": setup.config.balanced,
            "subset_seed": setup.config.subset_seed,
            "num_samples": setup.runs.num_samples,
            "sizes": asdict(setup.sizes),
            "training": setup.training.as_dict(),
        }
    return {
        "schema": SCHEMA,
        **asdict(result.estimate),
        "points": [asdict(point) for point in result.points],
        "runs": [asdict(run) for run in result.runs],
        "setup": described,
    }


def render_emm(result: EMMResult, setup: EMMSetup | None) -> str:
    """Render emm.html; arguments as in `write_emm`."""
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
    header, rows = _make_table(result)
    return render_curves(
        title=_state_answer(estimate),
        lead=_explain_answer(estimate),
        sections=[
            Section(
                title="Ratio against the number of training images",
                text=(_describe_setup(setup),),
                chart=chart,
                header=header,
                rows=rows,
            )
        ],
    )


def _make_table(result: EMMResult) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Make header and rows; only the search's own runs tell how long they trained."""
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


def _state_answer(estimate: EMMEstimate) -> str:
    if estimate.emm is None:
        return "The effective model memorization is not determined"
    return f"The setup memorizes {estimate.emm:,.0f} training images"


def _explain_answer(estimate: EMMEstimate) -> str:
    if estimate.low is None or estimate.high is None:
        return estimate.reason
    return (
        "With up to this many training images, at least "
        f"{100 * (1 - estimate.epsilon):g} % of what its models generate are copies "
        f"({100 * estimate.confidence:g} % interval {estimate.low:,.0f} to "
        f"{estimate.high:,.0f}). At {estimate.bracket.low:,} images the ratio is decided to be "
        f"above that, at {estimate.bracket.high:,} below."
    )


def _describe_setup(setup: EMMSetup | None) -> str:
    if setup is None:
        return (
            "Measured by existing scans; those of models trained on equally many images are taken "
            "for snapshots of one run."
        )
    _, H, W = setup.images.image_shape
    drawn = "equally many of each class" if setup.config.balanced else "at random"
    return (
        f"Training sets are drawn {drawn} from {setup.images.source} at {H}x{W}; a smaller one is "
        f"part of every larger one. Each training: {describe_config(setup.training)}. "
        f"{setup.runs.num_samples:,} images are generated from each snapshot. "
        "One network is trained at each size, so the interval does not cover the randomness of "
        "training."
    )
