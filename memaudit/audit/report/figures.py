"""Figures of a scan for notebooks and papers, drawn with matplotlib (an optional dependency)."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memaudit.audit.report.pairs import rows_to_show
from memaudit.audit.report.schema import Report, read_report
from memaudit.audit.scanned import Scanned
from memaudit.errors import ConfigError, DataError
from memaudit.wording import printable, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COPY_COLOR, OTHER_COLOR = "#a5321b", "#6a7c8f"


def plot_pairs(result: Scanned, num_pairs: int = 8) -> "Figure":
    """The closest pairs: generated image, nearest and second nearest training image.

    Args:
        result: what a scan found.
        num_pairs: pairs to draw, one per column.
    """
    rows = rows_to_show(result.matches)[0][:num_pairs]
    figure, axes = _subplots(3, max(1, len(rows)), figsize=(1.3 * max(3, len(rows)), 4.4))
    matches, data = result.matches, result.data
    for column, row in enumerate(rows):
        nn1, nn2 = int(matches.nn1[row]), int(matches.nn2_distinct[row])
        pictures = [result.generated[row], data.images[nn1]]
        pictures += [data.images[nn2]] if nn2 >= 0 else []
        titles = [short(result.keys[row], 12), f"d1/d2 {matches.distance_ratio[row]:.2f}", ""]
        for axis, picture, title in zip(axes[:, column], pictures, titles, strict=False):
            axis.imshow(picture.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
            color = COPY_COLOR if matches.is_copy[row] else "black"
            # A name may hold a "$", which begins a formula.
            axis.set_title(printable(title), fontsize=8, color=color, parse_math=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, name in zip(axes[:, 0], ("generated", "nearest", "second"), strict=True):
        axis.set_ylabel(name, fontsize=8)
    return figure


def plot_ratios(result: Scanned) -> "Figure":
    """The histogram of the distance ratio, with the threshold below which an image is a copy."""
    figure, axes = _subplots(1, 1, figsize=(6.4, 3.2))
    axis, matches = axes[0, 0], result.matches
    copies = matches.is_copy
    groups = [matches.distance_ratio[copies], matches.distance_ratio[~copies]]
    axis.hist(
        groups,
        bins=np.linspace(0, 1, 31).tolist(),
        stacked=True,
        color=[COPY_COLOR, OTHER_COLOR],
        label=["copies", "not copies"],
    )
    threshold = result.config.rule.threshold
    axis.axvline(float(threshold), color="black", linestyle="dashed", linewidth=1)
    axis.set_xlabel("distance ratio: nearest / second nearest")
    axis.set_ylabel("generated images")
    axis.set_title(f"{result.ratios.copies} (threshold {threshold})", fontsize=9)
    axis.legend()
    return figure


def plot_sigmas(result: Scanned) -> "Figure":
    """Losses of the model and of the optimum at every noise level of the sampler.

    Raises:
        DataError: the scan did not compare the model with the optimum.
    """
    optimality = result.diagnostics.optimality
    if optimality is None:
        raise DataError(
            "This scan did not compare a model with the optimum: it had no model, left the "
            "comparison out, or lacked the labels for it."
        )
    figure, axes = _subplots(1, 1, figsize=(6.4, 3.6))
    axis = axes[0, 0]
    curves: list[tuple[str, str, list[Any]]] = [
        ("model, training images", "-", [at.train.model_loss for at in optimality.at_sigma]),
        ("optimum, training images", "--", [at.train.optimum_loss for at in optimality.at_sigma]),
    ]
    held = [at.holdout.model_loss for at in optimality.at_sigma if at.holdout is not None]
    if held:
        curves.append(("model, held-out images", ":", held))
    sigmas = [at.sigma for at in optimality.at_sigma]
    for name, style, losses in curves:
        values = [max(loss.value, 1e-7) for loss in losses]
        line = axis.plot(sigmas, values, style, label=name)[0]
        low, high = ([max(end, 1e-7) for end in ends] for ends in _ends(losses))
        axis.fill_between(sigmas, low, high, alpha=0.2, color=line.get_color())
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("noise level sigma")
    axis.set_ylabel("denoising loss per pixel value")
    axis.legend()
    return figure


def plot_snapshots(reports: Sequence[Report | str | Path]) -> "Figure":
    """The memorization ratio over the images seen in training.

    Args:
        reports: of snapshots of `memaudit train`, or the paths of their folders.

    Raises:
        DataError: a report that cannot be read, or one that does not say how many images its model
            has seen.
    """
    points = []
    for given in reports:
        report = given if isinstance(given, Report) else read_report(given)
        model = report.source.model
        seen = None if model is None else model.images_seen
        if seen is None:
            raise DataError(
                f"The report of {report.source.path} does not say how many images its model has "
                "seen, as checkpoints of `memaudit train` do."
            )
        points.append((seen, report.ratios.distinct))
    points.sort(key=lambda point: point[0])
    figure, axes = _subplots(1, 1, figsize=(6.4, 3.2))
    axis = axes[0, 0]
    seen_images, ratios = [seen for seen, _ in points], [ratio for _, ratio in points]
    errors = [
        [ratio.ratio - ratio.low for ratio in ratios],
        [ratio.high - ratio.ratio for ratio in ratios],
    ]
    values = [ratio.ratio for ratio in ratios]
    axis.errorbar(seen_images, values, yerr=errors, marker="o", capsize=3, color=COPY_COLOR)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("images seen in training")
    axis.set_ylabel("memorization ratio")
    return figure


def _ends(estimates: Sequence[Any]) -> tuple[list[float], list[float]]:
    return [estimate.low for estimate in estimates], [estimate.high for estimate in estimates]


@cache
def _figure_class() -> "type[Figure]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "Figures need matplotlib, which is not installed: pip install matplotlib."
        ) from error

    class NotebookFigure(Figure):
        """A figure that a notebook shows as it is, once, whether or not pyplot is in use."""

        def _repr_png_(self) -> bytes:
            png = io.BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    return NotebookFigure


def _subplots(
    num_rows: int, num_columns: int, figsize: tuple[float, float]
) -> "tuple[Figure, np.ndarray]":
    """A figure that no window shows, and its axes [rows, columns]."""
    figure = _figure_class()(figsize=figsize, layout="constrained")
    axes: np.ndarray[Any, np.dtype[np.object_]] = figure.subplots(
        num_rows, num_columns, squeeze=False
    )
    return figure, axes
