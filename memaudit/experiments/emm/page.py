"""The files of an EMM search: emm.json, and a page with the curve and where it crosses 1 − ε."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memaudit.audit.report.charts import Sample, Series, ratio_chart
from memaudit.audit.report.curve_page import Section, render_curves
from memaudit.audit.report.words import say
from memaudit.experiments.emm.estimate import EMMEstimate
from memaudit.experiments.emm.search import EMMResult, EMMSetup
from memaudit.experiments.replicates import INTERVALS, describe_ratios, pool
from memaudit.experiments.snapshots import HIGHEST
from memaudit.experiments.training_presets import describe_config
from memaudit.files import atomic_write
from memaudit.training.schedule import format_epochs
from memaudit.wording import percent

SCHEMA = "memaudit.emm/2"
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
            "replicates": setup.config.replicates,
            "num_samples": setup.runs.num_samples,
            "sizes": asdict(setup.sizes),
            "training": setup.training.as_dict(),
        }
    return {
        "schema": SCHEMA,
        **asdict(result.estimate),
        "points": [
            {
                **asdict(point),
                "pooled": asdict(point.pooled),
                "mean": None if point.mean is None else asdict(point.mean),
            }
            for point in result.points
        ],
        "runs": [asdict(run) for run in result.runs],
        "setup": described,
    }


def render_emm(result: EMMResult, setup: EMMSetup | None) -> str:
    """Render emm.html; arguments as in `write_emm`."""
    estimate, points = result.estimate, result.points
    band = None
    if estimate.low is not None and estimate.high is not None:
        band = (estimate.low, estimate.high)
    name = "highest ratio among the snapshots"
    means = [(point.num_images, point.mean or point.pooled) for point in points]
    chart = ratio_chart(
        [
            Series(
                name if estimate.replicates < 2 else f"{name}, mean of the trainings",
                tuple(
                    Sample(size, point.pooled.ratio, mean.low, mean.high)
                    for (size, mean), point in zip(means, points, strict=True)
                ),
            ),
            Series(
                "last snapshot",
                tuple(Sample(point.num_images, pool(point.last).ratio) for point in points),
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
        intervals=INTERVALS,
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
    header = ["|D|", "copies", "highest ratio", "last snapshot"]
    lengths = {run.num_images: run.images_seen for run in result.runs}
    if result.estimate.replicates > 1:
        header.append("of each training")
    if lengths:
        header += ["images seen", "epochs"]
    rows = []
    for point in result.points:
        row = [
            f"{point.num_images:,}",
            f"{point.pooled.count:,} of {point.pooled.total:,}",
            describe_ratios(point.highest),
            f"{percent(pool(point.last).ratio)} %",
        ]
        if result.estimate.replicates > 1:
            row.append(", ".join(percent(ratio.ratio) for ratio in point.highest))
        if lengths:
            seen = lengths[point.num_images]
            row += [f"{seen:,}", format_epochs(seen / point.num_images)]
        rows.append(tuple(row))
    return tuple(header), tuple(rows)


def _state_answer(estimate: EMMEstimate) -> str:
    if estimate.emm is None:
        return "The effective model memorization is not determined"
    return f"EMM is {estimate.emm:,.0f}: so many training images the setup learns by heart"


def _explain_answer(estimate: EMMEstimate) -> str:
    if estimate.emm is None:
        return estimate.reason
    return (
        "With up to this many training images, at least "
        f"{100 * (1 - estimate.epsilon):g} % of what its models generate are copies. That is a "
        "size of training set, not a number of images that leak from a model. "
        f"{describe_interval(estimate)} At {estimate.bracket.low:,} images the mean ratio of these "
        f"trainings is decided to be above that, at {estimate.bracket.high:,} below."
    )


def describe_interval(estimate: EMMEstimate) -> str:
    """Say between which numbers EMM lies, or with one training per size that nothing says so.

    Args:
        estimate: with `emm`.
    """
    level = f"{100 * estimate.confidence:g} %"
    sampling = rounded_outwards(estimate.sampling_low, estimate.sampling_high)
    if estimate.low is None or estimate.high is None:
        return (
            "There is no interval for EMM, because one training per size does not show how much "
            "another choice of images and another training change the ratio. For the "
            f"trainings that were run, the generated images leave {sampling} open."
        )
    return (
        f"{level} interval {rounded_outwards(estimate.low, estimate.high)}, from "
        f"{estimate.replicates} trainings per size with other images and seeds (by the "
        f"generated images of these trainings alone: {sampling})."
    )


def rounded_outwards(low: float | None, high: float | None) -> str:
    """An interval of numbers of images, no narrower than it is."""
    if low is None or high is None:
        return "–"
    return say("overview.emm_interval", low=math.floor(low), high=math.ceil(high))


def _describe_setup(setup: EMMSetup | None) -> str:
    if setup is None:
        return (
            "Measured by existing scans; those of models trained on equally many images from the "
            "same seed are taken for snapshots of one training. "
        ) + HIGHEST
    _, H, W = setup.images.image_shape
    drawn = "equally many of each class" if setup.config.balanced else "at random"
    number = setup.config.replicates
    if number == 1:
        trained = "One network is trained at each size."
    else:
        trained = (
            f"{number} networks are trained at each size, each on another choice of images and "
            "from another seed."
        )
    return (
        f"Training sets are drawn {drawn} from {setup.images.source} at {H}x{W}; a smaller one is "
        f"part of every larger one. {trained} Each training: {describe_config(setup.training)}. "
        f"{setup.runs.num_samples:,} images are generated from each snapshot. {HIGHEST}"
    )
