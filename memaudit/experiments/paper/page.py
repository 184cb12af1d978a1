"""The page of reproduced recipes: the paper's curves and ours."""

from collections.abc import Sequence
from pathlib import Path

from memaudit.audit.report.curve_chart import Chart, Sample, Series, Stroke, ratio_chart
from memaudit.audit.report.curve_page import Section, render_curves, with_interval
from memaudit.errors import DataError
from memaudit.experiments.paper.recipes import Recipe, Setting, find_recipe
from memaudit.experiments.paper.reproduce import RESULTS, Measured, directions, read_results
from memaudit.files import atomic_write
from memaudit.wording import duration, percent

PAGE = "reproduce.html"
STROKES: tuple[Stroke, ...] = ("solid", "dashed", "dotted")
NOT_COMPARABLE = (
    "Laptop scale: a small network, small images, few of them and a short training. This is not "
    "the paper's setting, so its ratios cannot be compared with published ones; only the direction "
    "can, which of two values memorizes more."
)


def write_page(folder: Path) -> Path:
    """Write reproduce.html beside the results of a folder.

    Returns:
        Its path.

    Raises:
        DataError: no results.
    """
    results = read_results(folder)
    if not results:
        raise DataError(
            f"{folder} holds no {RESULTS} with results; `memaudit reproduce NAME --out` makes them."
        )
    groups = dict.fromkeys((result.recipe, result.is_laptop) for result in results)
    sections = [
        section
        for name, is_laptop in groups
        for section in _sections(
            find_recipe(name),
            [r for r in results if (r.recipe, r.is_laptop) == (name, is_laptop)],
        )
    ]
    text = render_curves(
        title="Recipes of “On Memorization in Diffusion Models”, published and measured",
        lead=f"{len(results)} trainings, each judged by the highest ratio among its snapshots.",
        sections=sections,
    )
    with atomic_write(folder / PAGE) as file:
        file.write(text.encode())
    return folder / PAGE


def _sections(recipe: Recipe, results: Sequence[Measured]) -> list[Section]:
    """Of one recipe at one scale."""
    notes = tuple(text for text in (f"Varied: {recipe.factor}.", recipe.note) if text)
    if not results[0].is_laptop:
        return [
            Section(
                title=recipe.name,
                text=notes,
                chart=_chart(recipe, results, with_published=True),
                header=(
                    "value",
                    "|D|",
                    "published",
                    "measured",
                    "last snapshot",
                    "verdict",
                    "epochs",
                    "time",
                ),
                rows=tuple(_row(result) for result in results),
            )
        ]
    found = directions(results)
    return [
        Section(
            title=f"{recipe.name}, at laptop scale",
            text=(
                *notes,
                NOT_COMPARABLE,
                *(
                    f"|D| = {direction.first.size:,}: {direction.second.value} against "
                    f"{direction.first.value}: {direction.outcome}."
                    for direction in found
                ),
            ),
            chart=_chart(recipe, results, with_published=False),
            header=("value", "|D|", "measured", "last snapshot", "epochs", "time"),
            rows=tuple(
                tuple(cell for i, cell in enumerate(_row(result)) if i not in (2, 5))
                for result in results
            ),
        ),
        *_published_section(recipe),
    ]


def _row(result: Measured) -> tuple[str, ...]:
    return (
        result.value,
        f"{result.size:,}",
        "–" if result.published is None else f"{percent(result.published)} %",
        with_interval(result.highest),
        with_interval(result.last),
        result.verdict,
        f"{result.epochs:,g}",
        duration(result.training_seconds + result.scan_seconds),
    )


def _published_section(recipe: Recipe) -> list[Section]:
    """What the paper shows, beside results at laptop scale; nothing where no ratio is known."""
    settings = [setting for setting in recipe.settings if setting.published]
    if not settings:
        return []
    sizes = sorted({size for setting in settings for size in setting.published})
    return [
        Section(
            title=f"{recipe.name}, as published",
            text=("Read off the paper’s figures, good to about a point.",),
            chart=_chart(recipe, [], with_published=True),
            header=("value", *(f"|D| = {size:,}" for size in sizes)),
            rows=tuple(
                (
                    setting.value,
                    *(
                        f"{setting.published[size]:g} %" if size in setting.published else ""
                        for size in sizes
                    ),
                )
                for setting in settings
            ),
        )
    ]


def _chart(recipe: Recipe, results: Sequence[Measured], *, with_published: bool) -> Chart | None:
    """Ratios over |D| with a curve a value where these are few, else over the values with a curve
    a size."""
    measured_values = {result.value for result in results}
    settings = [
        setting
        for setting in recipe.settings
        if setting.value in measured_values or (not results and setting.published)
    ]
    sizes = sorted({result.size for result in results})
    if not results:
        sizes = sorted({size for setting in settings for size in setting.published})
    if len(settings) <= len(STROKES) and len(sizes) > 1:
        series = [
            one
            for setting, stroke in zip(settings, STROKES, strict=False)
            for one in _over_sizes(setting, stroke, results, with_published)
        ]
        return ratio_chart(series, x_label="training images |D|")
    series = [
        one
        for i, size in enumerate(sizes)
        for one in _over_values(settings, size, STROKES[i % len(STROKES)], results, with_published)
    ]
    return ratio_chart(
        series,
        x_label=recipe.factor,
        x_names=[s.value for s in settings],
        connected=recipe.has_scale,
    )


def _over_sizes(
    setting: Setting, stroke: Stroke, results: Sequence[Measured], with_published: bool
) -> list[Series]:
    measured = tuple(
        Sample.measured(result.size, result.highest)
        for result in results
        if result.value == setting.value
    )
    published = tuple(Sample(size, ratio / 100) for size, ratio in setting.published.items())
    return _series(setting.value, stroke, measured, published if with_published else ())


def _over_values(
    settings: Sequence[Setting],
    size: int,
    stroke: Stroke,
    results: Sequence[Measured],
    with_published: bool,
) -> list[Series]:
    places = {setting.value: float(i) for i, setting in enumerate(settings)}
    measured = tuple(
        Sample.measured(places[result.value], result.highest)
        for result in results
        if result.size == size
    )
    published = tuple(
        Sample(places[setting.value], setting.published[size] / 100)
        for setting in settings
        if size in setting.published
    )
    return _series(f"|D| = {size:,}", stroke, measured, published if with_published else ())


def _series(
    name: str, stroke: Stroke, measured: tuple[Sample, ...], published: tuple[Sample, ...]
) -> list[Series]:
    """A measured and a published curve of one name, as far as there are any."""
    curves = []
    if measured:
        curves.append(Series(f"{name}, measured", measured, stroke))
    if published:
        curves.append(Series(f"{name}, published", published, stroke, is_published=True))
    return curves
