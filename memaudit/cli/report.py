"""`memaudit report`: compare reports side by side, or write one as an annex."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from memaudit.errors import ConfigError
from memaudit.files import check_new

if TYPE_CHECKING:
    from rich.table import Table

    from memaudit.audit.report.comparison import Comparison
    from memaudit.experiments.emm.overview import FoundEMM

PAGES = (".html", ".htm")


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="DIR..."
)
@click.option(
    "--by",
    type=click.Choice(["images-seen", "size", "epochs", "name"]),
    help="Order by images seen in training, number of training images |D|, epochs, or name of the "
    "folder.  "
    "[default: whichever varies]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the comparison, or the annex, as an HTML page.  "
    "[default: an annex is annex-TEXT.html in DIR]",
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.option(
    "--annex",
    type=click.Choice(["edpb", "cnil", "nist"]),
    help="Write the one report in DIR as a page to hand in, in the order of EDPB Opinion 28/2024, "
    "of CNIL's sheet on the status of a model, or of the MEASURE function of NIST's AI RMF.",
)
@click.option(
    "--pdf",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also print the annex to PDF, with a Chromium of this machine.",
)
@click.option("--auditor", metavar="TEXT", help="Who ran the audit.  [default: a line to fill in]")
@click.option(
    "--authority",
    metavar="TEXT",
    help="On whose authority the audit was run.  [default: a line to fill in]",
)
@click.pass_context
def report(
    ctx: click.Context,
    paths: tuple[Path, ...],
    by: Literal["images-seen", "size", "epochs", "name"] | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    annex: Literal["edpb", "cnil", "nist"] | None,
    pdf: Path | None,
    auditor: str | None,
    authority: str | None,
) -> None:
    """Compare reports side by side, or write one as an annex for an authority.

    DIR is a folder that `memaudit scan --out` wrote, or one that contains several. The table shows
    the share of copies with its interval, the verdict if there is one, and the number of training
    images that leak. It shows images seen in training and |D| if they vary. Searches for EMM in DIR
    have a table of their own. The page of --out keeps sweeps apart, and can be filtered by name and
    verdict.
    Both show what reports state; memaudit verify checks one.

    With --annex, one report becomes a page to hand in: facts in the order of an official text, each
    with its place in the report, and lines to fill in and sign. It gives no legal advice. A report
    that was changed after it was written is refused.

    \b
    memaudit report scans/snapshot-*
    memaudit report sweep --by size --out sweep.html
    # a page for a data protection authority, on paper
    memaudit report report --annex edpb --pdf annex.pdf
    """
    if out is not None and out.suffix.lower() not in PAGES:
        raise ConfigError(
            f"{{out}} writes a web page, and browsers show {out} as text; name a file that ends in "
            ".html.",
            field="out",
        )
    if annex is not None:
        for name, given in (("by", by is not None), ("as_json", as_json)):
            if given:
                raise ConfigError(
                    f"{{{name}}} belongs to a comparison, and {{annex}} writes no other; leave one "
                    "out.",
                    field=(name, "annex"),
                )
        _write_annex(
            paths, annex, out, pdf, auditor=auditor, authority=authority, overwrite=overwrite
        )
        return
    for name in ("pdf", "auditor", "authority"):
        if ctx.params[name] is not None:
            raise ConfigError(
                f"{{{name}}} belongs to an annex; give {{annex}}, too, or leave {{{name}}} out.",
                field=(name, "annex"),
            )
    _compare(paths, by=by, out=out, overwrite=overwrite, as_json=as_json)


def _compare(
    paths: tuple[Path, ...],
    *,
    by: Literal["images-seen", "size", "epochs", "name"] | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compare reports and searches for EMM; there may be only one of the two kinds."""
    from memaudit.audit.report.comparison import compare_reports, comparison_dict
    from memaudit.audit.report.folder import REPORT
    from memaudit.cli.console import out as stdout
    from memaudit.cli.console import print_json, remark
    from memaudit.experiments.emm.overview import emms_dict, find_emms, write_overview

    found = find_emms(paths)
    audited = [
        path for path in paths if path.is_file() or any(path.rglob(REPORT)) or not find_emms([path])
    ]
    comparison = compare_reports(audited, by=by) if audited else None
    if out is not None:
        write_overview(comparison, found, out, overwrite=overwrite)
    if as_json:
        content = {} if comparison is None else comparison_dict(comparison)
        print_json({**content, "searches": emms_dict(found)})
    else:
        if comparison is not None:
            stdout.print(_table(comparison))
        if found:
            stdout.print(_emm_table(found))
    if comparison is not None:
        for difference in comparison.differences:
            remark(f"Warning: the reports differ in {difference}.")
    if out is not None:
        remark(f"Comparison: {out}")


def _write_annex(
    paths: tuple[Path, ...],
    annex: Literal["edpb", "cnil", "nist"],
    out: Path | None,
    pdf: Path | None,
    *,
    auditor: str | None,
    authority: str | None,
    overwrite: bool,
) -> None:
    from memaudit.audit.documents.annex import write_annex
    from memaudit.audit.documents.pdf import find_browser, print_pdf
    from memaudit.cli.console import remark

    if len(paths) != 1:
        raise ConfigError(f"An annex is of one report, and {len(paths)} were named. Name one.")
    if pdf is not None:
        check_new(pdf, overwrite=overwrite)
    page = write_annex(
        paths[0], annex, out=out, auditor=auditor, authority=authority, overwrite=overwrite
    )
    remark(f"Annex: {page}")
    if pdf is not None:
        print_pdf(page, pdf)
        remark(f"PDF: {pdf}")
    elif find_browser() is not None:
        remark("To print it: open it in a browser, or give --pdf FILE.")
    else:
        remark("To print it: open it in a browser, and print it to paper or PDF.")


def _table(comparison: "Comparison") -> "Table":
    from rich import box
    from rich.table import Table

    from memaudit.audit.report.comparison_page import copies_text
    from memaudit.audit.report.curve_page import with_interval

    reports = comparison.reports
    columns: dict[str, list[str]] = {
        "seen": ["" if r.images_seen is None else f"{r.images_seen:,}" for r in reports],
        "|D|": [f"{r.num_images:,}" for r in reports],
        "copies": [copies_text(r) for r in reports],
        "share": [with_interval(r.share) for r in reports],
        "verdict": [r.judged for r in reports],
        "leaks": [
            f"{r.num_leaking_images:,} of {r.num_images:,}"
            + (f", {r.num_leaking_groups}" if r.num_leaking_groups else "")
            for r in reports
        ],
    }
    for name in ("seen", "|D|"):
        if len(set(columns[name])) == 1:
            del columns[name]
    if not any(columns["verdict"]):
        del columns["verdict"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # On a narrow terminal cells break, and nothing is cut off.
    table.add_column("report", overflow="fold", min_width=8)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for name, *cells in zip(comparison.names, *columns.values(), strict=True):
        table.add_row(name, *cells)
    return table


def _emm_table(found: "dict[Path, FoundEMM]") -> "Table":
    from rich import box
    from rich.table import Table

    from memaudit.experiments.emm.overview import EMM_HEADER, emm_rows

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    first, *others = EMM_HEADER
    table.add_column(first, overflow="fold", min_width=8)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    for row in emm_rows(found):
        table.add_row(*row)
    return table
