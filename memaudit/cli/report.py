"""`memaudit report`: compare reports side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from rich.table import Table

    from memaudit.audit.report.comparison import Comparison


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="DIR..."
)
@click.option(
    "--by",
    type=click.Choice(["images-seen", "size", "name"]),
    help="Order by images seen in training, number of training images |D|, or name of the folder.  "
    "[default: whichever varies]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the comparison as an HTML page.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def report(
    paths: tuple[Path, ...],
    by: Literal["images-seen", "size", "name"] | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compare reports side by side: snapshots of a run, models of a sweep.

    DIR is a folder that `memaudit scan --out` wrote, or one that contains several. The table shows
    the share of copies with its interval and the number of training images that leak. It shows
    images seen in training, |D| and the verdict if they vary.

    \b
    memaudit report scans/snapshot-*
    memaudit report sweep --by size --out sweep.html
    """
    from memaudit.audit.report.comparison import compare_reports, comparison_dict
    from memaudit.audit.report.comparison_page import write_comparison
    from memaudit.cli.console import out as stdout
    from memaudit.cli.console import print_json, remark

    comparison = compare_reports(paths, by=by)
    if out is not None:
        write_comparison(comparison, out, overwrite=overwrite)
    if as_json:
        print_json(comparison_dict(comparison))
    else:
        stdout.print(_table(comparison))
    for difference in comparison.differences:
        remark(f"Warning: the reports differ in {difference}.")
    if out is not None:
        remark(f"Comparison: {out}")


def _table(comparison: "Comparison") -> "Table":
    from rich import box
    from rich.table import Table

    from memaudit.audit.report.curve_page import with_interval

    reports = comparison.reports
    columns: dict[str, list[str]] = {
        "seen": ["" if r.images_seen is None else f"{r.images_seen:,}" for r in reports],
        "|D|": [f"{r.num_images:,}" for r in reports],
        "copies": [f"{r.ratio.count:,} / {r.ratio.total:,}" for r in reports],
        "share": [with_interval(r.ratio) for r in reports],
        "verdict": [r.verdict or "" for r in reports],
        "leaks": [
            f"{r.num_leaking_images:,} of {r.num_images:,}"
            + (f", {r.num_leaking_groups}" if r.num_leaking_groups else "")
            for r in reports
        ],
    }
    for name in ("seen", "|D|", "verdict"):
        if len(set(columns[name])) == 1:
            del columns[name]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("report", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for name, *cells in zip(comparison.names, *columns.values(), strict=True):
        table.add_row(name, *cells)
    return table
