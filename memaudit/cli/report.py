"""`memaudit report`: reports side by side."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from rich.table import Table

    from memaudit.experiments.comparison import Comparison


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option(
    "--by",
    type=click.Choice(["images-seen", "size", "name"]),
    help="Order: training images the model has seen, their number |D|, or the folder's name.  "
    "[default: whichever varies]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the comparison as a page, FILE.html.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE where it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def report(
    paths: tuple[Path, ...],
    by: Literal["images-seen", "size", "name"] | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Hold several reports side by side: snapshots of a run, models of a sweep.

    DIR is what `memaudit scan --out` wrote, or a folder with several such. Shown are the share of
    copies with its interval, the verdict and the number of training images that leak.

    \b
    memaudit report scans/snapshot-*
    memaudit report sweep --by size --out sweep.html
    """
    from memaudit.cli.console import out as stdout
    from memaudit.cli.console import remark
    from memaudit.experiments.comparison import compare_reports, comparison_dict
    from memaudit.experiments.comparison_page import write_comparison

    comparison = compare_reports(paths, by=by)
    if out is not None:
        write_comparison(comparison, out, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(comparison_dict(comparison), indent=2, allow_nan=False))
    else:
        stdout.print(_table(comparison))
    for difference in comparison.differences:
        remark(f"Warning: the reports are not made alike in {difference}.")
    if out is not None:
        remark(f"Comparison: {out}")


def _table(comparison: "Comparison") -> "Table":
    from rich import box
    from rich.table import Table

    from memaudit.cli.wording import interval, percent, printable

    seen = any(report.images_seen is not None for report in comparison.reports)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("report", overflow="fold")
    for name in ("images seen",) * seen + ("|D|", "copies", "share", "interval"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    table.add_column("leaking images", justify="right")
    for report in comparison.reports:
        numbers = [f"{report.num_images:,}", f"{report.ratio.count:,} / {report.ratio.total:,}"]
        if seen:
            numbers.insert(0, "" if report.images_seen is None else f"{report.images_seen:,}")
        table.add_row(
            printable(str(report.folder)),
            *numbers,
            percent(report.ratio.ratio),
            interval(report.ratio),
            report.verdict or "",
            f"{report.num_leaking_images:,}",
        )
    return table
