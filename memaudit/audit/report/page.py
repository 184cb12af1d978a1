"""The page of a report: one HTML file that needs no network and no JavaScript.

Its words are in templates/words.en.toml, its parts in templates/report.html.j2 and, by section, in
templates/report/. Each diagnostic supplies its own words. The look is in templates/report.css.
"""

import shlex
from dataclasses import dataclass
from datetime import datetime

from memaudit.audit.diagnostics.section import Block
from memaudit.audit.neighbors.rules.registry import RULES
from memaudit.audit.report.blocks import RenderedBlock, rendered
from memaudit.audit.report.charts import count_ticks, histogram, share_rows
from memaudit.audit.report.ci import text_summary
from memaudit.audit.report.first_screen import first_screen
from memaudit.audit.report.html import (
    DEFINITIONS_MARK,
    LARGEST_PICTURE,
    render_template,
    with_definitions,
)
from memaudit.audit.report.pairs import (
    AMPLIFIED,
    SHEET_COPIES,
    SHOWN_LEAKS,
    contact_sheet,
    leak_row,
    pair,
    rows_to_show,
)
from memaudit.audit.report.pictures import Pictures
from memaudit.audit.report.schema import Report, plain
from memaudit.audit.report.words import say, without_links
from memaudit.audit.scanned import Scanned
from memaudit.audit.source import OPTIMUM
from memaudit.audit.statistics.gate import fixed_sample_size
from memaudit.audit.statistics.intervals import level_text
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import config_fields
from memaudit.wording import duration

BEFORE_DIAGNOSTICS = (
    "verdict",
    "measured",
    "screening",
    "ratios",
    "denoising",
    "controls",
    "pairs",
    "edge",
    "sheet",
    "leaks",
    "sensitivity",
)
"""Sections with their own templates, whose titles are in the file of words. The sections of
diagnostics follow; a diagnostic with one of these titles is shown in that section."""
EXPLAINED = ("sheet", "leaks", "groups-that-leak")
"""Sections with another title where the floor explains the count: nothing is said to leak."""
AFTER_DIAGNOSTICS = ("provenance", "limits", "definitions")
OPEN_PAIRS = 4
"""Cards of pairs that stand open; the others are folded away."""
OPEN_SHEET = 2
"""Rows of the contact sheet that stand open."""
OPEN_LEAKS = 4
"""Leaking training images that stand open."""
SHOWN_SECONDS = 0.005
"""Steps that took less, or were not asked for, are not listed."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    """Anchor."""
    title: str
    """Heading, and entry in the contents."""
    template: str | None
    """Name of a template in templates/report/, or None if the section has blocks only."""
    blocks: tuple[RenderedBlock, ...]
    """The blocks that diagnostics show there."""


def render_page(result: Scanned, report: Report) -> str:
    """Render report.html.

    Args:
        result: a scan's result, for the images and pairs.
        report: the report that the page belongs to, for the numbers and for what is to be shown.
    """
    shown = report.pictures
    decision = result.decision
    shares, shares_end = share_rows(result)
    closest, edge = rows_to_show(result.matches)
    first, sheet = first_screen(result), contact_sheet(result, shown)
    bins = histogram(result.sample, float(result.config.rule.threshold))
    by_seed = result.source.kind == "checkpoint"
    content = plain(report)
    from markupsafe import Markup

    page = render_template(
        "report.html.j2",
        report=content,
        first=first,
        best=None if first.best is None else pair(result, first.best, shown),
        second_heading=say("pairs.second"),
        sheet=sheet,
        sheet_copies=SHEET_COPIES,
        sheet_is_bounded=sum(len(row.copies) for row in sheet) < int(result.matches.is_copy.sum()),
        definitions_mark=Markup(DEFINITIONS_MARK),
        source=content["source"],
        data=content["data"],
        sampling=content["sampling"],
        class_draws=class_draws(result),
        sampler_text=result.config.sampler.text,
        prepared=str(result.data.preparation),
        num_leaks=report.num_leaking_images,
        rule=result.config.rule,
        space=result.space,
        findings=result.findings,
        denoising=result.denoising,
        few_searched=result.few_searched,
        kept_text=result.kept_text,
        confirmation_text=result.confirmation_text,
        conclusion=result.conclusion,
        shares=shares,
        level_text=level_text(result.ratios.copies.confidence),
        shares_end=shares_end,
        fail_above=result.config.fail_above,
        contradicting=any(row.contradicts for row in result.findings.sensitivity),
        is_explained=result.is_explained_by_floor,
        leave_one_out=result.controls.leave_one_out,
        further_rules=[rule for rule in RULES if rule.name in report.search.match],
        floors=[
            floor
            for floor in (result.controls.holdout, result.controls.leave_one_out)
            if floor is not None
        ],
        control_notes=result.controls.notes(result.config.rule.duplicate_rms),
        holdout=result.diagnostics.holdout,
        left_out=result.left_out,
        decision=decision,
        headline=result.ratios.copies,
        screening=result.screening,
        sections=sections(result, has_edge=len(edge) > 0, has_sheet=bool(sheet), shown=shown),
        by_seed=by_seed,
        generator="model" if by_seed else "generator",
        finished=datetime.fromisoformat(result.environment.finished),
        fixed_size=decision and fixed_sample_size(decision.limit, decision.confidence),
        closest=[pair(result, row, shown) for row in closest],
        edge=[pair(result, row, shown) for row in edge],
        amplified=AMPLIFIED,
        open_pairs=OPEN_PAIRS,
        open_sheet=OPEN_SHEET,
        open_leaks=OPEN_LEAKS,
        no_second=int((result.sample.nn2_distinct < 0).sum()),
        radii=result.matches.neighbors.radii,
        bins=bins,
        ticks=count_ticks(bins),
        leaks=[leak_row(result, leak, shown) for leak in result.leaks[:SHOWN_LEAKS]],
        regenerate=sample_command(result, "SEED"),
        timings=[
            (step.step, duration(step.seconds))
            for step in result.timings.steps
            if step.seconds >= SHOWN_SECONDS
        ]
        + [("total", duration(result.timings.total))],
        file_hashes=[(file.name, file.sha256) for file in report.files],
        packages=[(each.name, each.version) for each in result.environment.packages],
        shown=shown,
        reduced=shown == "full" and max(result.data.image_shape[1:]) > LARGEST_PICTURE,
    )
    return with_definitions(page)


def render_notebook(result: Scanned, num_pairs: int = 4) -> str:
    """Render a result for a notebook: the first screen, the ratios and the closest pairs."""
    closest, _ = rows_to_show(result.matches)
    first = first_screen(result)
    page = render_template(
        "notebook.html.j2",
        first=first,
        best=None if first.best is None else pair(result, first.best),
        second_heading=say("pairs.second"),
        conclusion=result.conclusion,
        verdict=result.verdict,
        summary=text_summary(result).splitlines(),
        ratios=[
            ("copies", result.ratios.copies),
            ("distinct", result.ratios.distinct),
            ("distinct, exact duplicates only", result.ratios.distinct_at_0),
            ("published rule", result.ratios.paper),
        ],
        pairs=[pair(result, row) for row in closest[1:num_pairs]],
    )
    return without_links(page)  # a notebook has no definitions to link to


def sections(
    result: Scanned, *, has_edge: bool, has_sheet: bool, shown: Pictures = "full"
) -> list[Section]:
    """The sections that have something to show, in order."""
    blocks: dict[str, list[Block]] = {}
    for _, diagnostic, found in result.diagnostics.results():
        section = diagnostic.section(found, result.page_context)
        blocks.setdefault(diagnostic.title, []).extend(section)
    has_template = {
        "verdict": result.decision is not None,
        "denoising": result.denoising is not None,
        "screening": result.screening is not None,
        "edge": has_edge,
        "sheet": has_sheet,
    }
    explained = EXPLAINED if result.is_explained_by_floor else ()

    def make(id: str, name: str, template: str | None) -> Section:
        title = say(f"sections.explained.{id}") if id in explained else name
        return Section(id, title, template, rendered(blocks.get(name, ()), shown, title))

    listed = [
        make(id, say(f"sections.{id}"), id)
        for id in BEFORE_DIAGNOSTICS
        if has_template.get(id, True)
    ]
    with_templates = {say(f"sections.{id}") for id in BEFORE_DIAGNOSTICS}
    others = [
        make(name.lower().replace(" ", "-"), name, None)
        for name, found in blocks.items()
        if found and name not in with_templates
    ]
    last = [make(id, say(f"sections.{id}"), id) for id in AFTER_DIAGNOSTICS]
    return [*listed, *others, *last]


def class_draws(result: Scanned) -> str | None:
    """How the classes of a model's images were drawn, or None if nothing was drawn."""
    config = result.config
    if result.source.model is None or result.class_index is None or config.class_index is not None:
        return None
    if config.class_frequencies == "data":
        return "as often as in the training images"
    return "all alike, whatever their frequency in the training images"


def sample_command(result: Scanned, seed: int | str) -> str | None:
    """The `memaudit sample` command that generates the image of a seed, quoted for a shell.

    Args:
        result: a scan's result.
        seed: a number, or a word that stands for one.

    Returns:
        The command, or None if there is none: for given images, for a model that is not a file, and
        for the optimum, whose command would have to say which training images to use.
    """
    source, config = result.source, result.config
    if source.model is None or source.path == OPTIMUM or source.model.format == "Python object":
        return None
    words = ["memaudit", "sample", source.path, "--seeds", str(seed)]
    if source.model.arch is not None:
        words += ["--arch", source.model.arch]
    if config.class_index is not None:
        words += ["--class", str(config.class_index)]
    elif config.class_frequencies == "data" and result.class_index is not None:
        classes = dict(zip(result.keys, result.class_index.tolist(), strict=True))
        words += ["--class", str(classes.get(seed, "CLASS"))]
    usual = SamplerConfig()
    for name, field in config_fields(SamplerConfig).items():
        value = getattr(config.sampler, name)
        if value not in (getattr(usual, name), None):
            words += [field.flag, str(value)]
    if config.execution.device != "cpu":  # on a GPU the last bits depend on it
        words += ["--batch-size", str(config.execution.batch_size)]
    confirmation = result.confirmation
    if confirmation is not None and confirmation.is_fast(seed):
        words += ["--precision", confirmation.precision]
    words += ["--device", config.execution.device, "--out", f"seed-{seed}.png"]
    return shlex.join(words)
