"""The page of reproduced recipes, with the paper's curves and ours."""

from collections.abc import Sequence
from pathlib import Path

from memaudit.audit.diagnostics.section import Stroke
from memaudit.audit.report.charts import RatioChart, Sample, Series, ratio_chart
from memaudit.audit.report.curve_page import Section, render_curves
from memaudit.data.set_recipe import DrawRule
from memaudit.errors import DataError
from memaudit.experiments.paper.recipes import DEVIATIONS, FactorLevel, Recipe, find_recipe
from memaudit.experiments.paper.reproduce import RESULTS, RecipeResult, find_trends, read_results
from memaudit.experiments.replicates import INTERVALS, describe_ratios, pool
from memaudit.experiments.snapshots import HIGHEST
from memaudit.files import atomic_write
from memaudit.wording import duration, percent

PAGE = "reproduce.html"
STROKES: tuple[Stroke, ...] = ("solid", "dashed", "dotted")
NOT_COMPARABLE = (
    "Laptop scale: a small network, small images, few of them and a short training. This is not "
    "the paper's setting, so its ratios cannot be compared with published ones; only trends can: "
    "which of two values memorizes more."
)


def write_results_page(folder: Path) -> Path:
    """Write reproduce.html beside the results in a folder.

    Returns:
        Path of the page.

    Raises:
        DataError: the folder holds no results.
    """
    results = read_results(folder)
    if not results:
        raise DataError(
            f"{folder} holds no {RESULTS} with results; `memaudit reproduce NAME --out` makes them."
        )
    groups: dict[tuple[str, bool, DrawRule], list[RecipeResult]] = {}
    for result in results:
        groups.setdefault((result.recipe, result.is_laptop, result.rule), []).append(result)
    sections = [
        section
        for (name, _, _), group in groups.items()
        for section in _make_sections(find_recipe(name), group)
    ]
    text = render_curves(
        title="Recipes of “On Memorization in Diffusion Models”, published and measured",
        lead=(
            f"{sum(len(result.highest) for result in results)} trainings, each judged by the "
            f"highest ratio among its snapshots. {HIGHEST}"
        ),
        sections=sections,
        intervals=INTERVALS,
    )
    with atomic_write(folder / PAGE) as file:
        file.write(text.encode())
    return folder / PAGE


def _make_sections(recipe: Recipe, results: Sequence[RecipeResult]) -> list[Section]:
    """Make the sections of one recipe at one scale and by one rule."""
    is_laptop, rule = results[0].is_laptop, results[0].rule
    notes = tuple(text for text in (f"Varied: {recipe.factor}.", recipe.note) if text)
    if is_laptop:
        notes += (NOT_COMPARABLE, *map(str, find_trends(results)))
    else:
        notes += (explain_verdict(results), "What still differs from the published runs:")
        notes += DEVIATIONS[rule]
    rows = [_make_row(result) for result in results]
    section = Section(
        title=(
            recipe.name
            + (", at laptop scale" if is_laptop else "")
            + (", as the text describes it" if rule == "described" else "")
        ),
        text=notes,
        chart=_draw_chart(recipe, results, with_published=not is_laptop),
        header=tuple(rows[0]),
        rows=tuple(tuple(row.values()) for row in rows),
    )
    return [section, *_make_published_section(recipe)] if is_laptop else [section]


def _make_row(result: RecipeResult) -> dict[str, str]:
    """Write a result by column; at laptop scale without what only the paper's setting has."""
    row = {"value": result.value, "|D|": f"{result.size:,}"}
    if not result.is_laptop:
        row["published"] = "–" if result.published is None else f"{percent(result.published)} %"
    row["measured"] = describe_ratios(result.highest)
    another = result.another
    row["another training"] = f"{percent(another.low)} to {percent(another.high)} %"
    row["last snapshot"] = f"{percent(pool(result.last).ratio)} %"
    row["trainings"] = str(len(result.highest))
    if not result.is_laptop:
        row["z"] = "–" if result.deviation is None else f"{result.deviation:.1f}"
        row["verdict"] = result.verdict
    row["epochs"] = f"{result.epochs:,g}"
    row["trained in"] = result.products
    trained = result.images_seen * len(result.highest)
    row["images/s"] = f"{trained / max(result.training_seconds, 1e-9):,.0f}"
    row["time"] = duration(result.training_seconds + result.scan_seconds)
    return row


def explain_verdict(results: Sequence[RecipeResult]) -> str:
    """Say by what the verdicts were reached."""
    single = sorted({f"{r.spread:.2g}" for r in results if len(r.highest) == 1})
    text = (
        "The published ratio is that of a single training. Trainings of one setup differ: the "
        "logits ln(p/(1 − p)) of their ratios p have a standard deviation τ. A verdict asks "
        "whether another training may have the published ratio: z is the difference of the "
        "logits, in standard deviations that include τ, the generated images and a reading error "
        "of one percentage point."
    )
    others = sorted({result.products for result in results} - {"fp32"})
    if others:
        text += (
            f" Trained in {' and in '.join(others)}, which is faster; the paper's runs had fp32."
        )
    if single:
        text += (
            f" One training does not show τ, so {' and '.join(single)} is assumed, which was "
            "measured with small networks; three trainings would show it."
        )
    return text


def _make_published_section(recipe: Recipe) -> list[Section]:
    """Show what the paper found, beside results at laptop scale; empty if no ratio is known."""
    levels = [level for level in recipe.levels if level.published]
    if not levels:
        return []
    sizes = sorted({size for level in levels for size in level.published})
    return [
        Section(
            title=f"{recipe.name}, as published",
            text=("Read off the paper’s figures, good to about a percentage point.",),
            chart=_draw_chart(recipe, [], with_published=True),
            header=("value", *(f"|D| = {size:,}" for size in sizes)),
            rows=tuple(
                (
                    level.value,
                    *(
                        f"{level.published[size]:g} %" if size in level.published else ""
                        for size in sizes
                    ),
                )
                for level in levels
            ),
        )
    ]


def _draw_chart(
    recipe: Recipe, results: Sequence[RecipeResult], *, with_published: bool
) -> RatioChart | None:
    """Draw ratios over |D| with a curve per value if there are few, else over the values with a
    curve per size."""
    measured_values = {result.value for result in results}
    levels = [
        level
        for level in recipe.levels
        if level.value in measured_values or (not results and level.published)
    ]
    sizes = sorted({result.size for result in results})
    if not results:
        sizes = sorted({size for level in levels for size in level.published})
    if len(levels) <= len(STROKES) and len(sizes) > 1:
        series = [
            one
            for level, stroke in zip(levels, STROKES, strict=False)
            for one in _draw_over_sizes(level, stroke, results, with_published)
        ]
        return ratio_chart(series, x_label="training images |D|")
    series = [
        one
        for i, size in enumerate(sizes)
        for one in _draw_over_values(
            levels, size, STROKES[i % len(STROKES)], results, with_published
        )
    ]
    return ratio_chart(
        series,
        x_label=recipe.factor,
        x_names=[s.value for s in levels],
        connected=recipe.is_ordered,
    )


def _draw_over_sizes(
    level: FactorLevel, stroke: Stroke, results: Sequence[RecipeResult], with_published: bool
) -> list[Series]:
    measured = tuple(
        _draw_sample(result.size, result) for result in results if result.value == level.value
    )
    published = tuple(Sample(size, ratio / 100) for size, ratio in level.published.items())
    return _make_series(level.value, stroke, measured, published if with_published else ())


def _draw_over_values(
    levels: Sequence[FactorLevel],
    size: int,
    stroke: Stroke,
    results: Sequence[RecipeResult],
    with_published: bool,
) -> list[Series]:
    places = {level.value: float(i) for i, level in enumerate(levels)}
    measured = tuple(
        _draw_sample(places[result.value], result) for result in results if result.size == size
    )
    published = tuple(
        Sample(places[level.value], level.published[size] / 100)
        for level in levels
        if size in level.published
    )
    return _make_series(f"|D| = {size:,}", stroke, measured, published if with_published else ())


def _draw_sample(x: float, result: RecipeResult) -> Sample:
    """Draw the mean ratio and where another training's is expected."""
    return Sample(x, result.another.value, result.another.low, result.another.high)


def _make_series(
    name: str, stroke: Stroke, measured: tuple[Sample, ...], published: tuple[Sample, ...]
) -> list[Series]:
    """Make the measured and the published curve of one name, unless they are empty."""
    curves = []
    if measured:
        curves.append(Series(f"{name}, measured", measured, stroke))
    if published:
        curves.append(Series(f"{name}, published", published, stroke, is_published=True))
    return curves
