"""`memaudit dataset risk`: which images of a training set would leak first."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.audit.memorization.rule import Rule
from memaudit.cli.options import (
    choose_device,
    config_options,
    device_option,
    from_options,
)
from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.wording import counted, short

if TYPE_CHECKING:
    from memaudit.audit.neighbors.exposure import Exposure
    from memaudit.data.images import ImageSet

SHOWN = 10
"""Images listed in the terminal; the table has all."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
@config_options(Layout)
@config_options(Preparation)
@config_options(Rule, "duplicate_rms")
@click.option("--flips", is_flag=True, help="Take mirror images for duplicates, too.")
@device_option
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole list as CSV."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole list as JSON.")
def risk(
    path: Path,
    flips: bool,
    device: str,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """List the images of a training set in the order in which they would leak.

    Duplicates are taken together. First come images that a training shows most often, among equals
    those that are farthest from all others. No model is needed; after a scan, `--also exposure`
    compares the order with the leaks that were found.

    \b
    memaudit dataset risk cifar10.zip --out risk.csv
    memaudit scan model.safetensors --data cifar10.zip --also exposure
    """
    from memaudit.audit.neighbors.exposure import rank_exposure
    from memaudit.audit.report.exposure_table import exposure_csv, exposure_rows
    from memaudit.audit.report.folder import encoded
    from memaudit.cli.console import print_json, progress_bars, remark, warn_about
    from memaudit.cli.forecast import say_search_time
    from memaudit.cli.long_work import finish
    from memaudit.data.sources import open_images
    from memaudit.data.writers import check_writable
    from memaudit.files import atomic_write

    layout = from_options(Layout, options)
    preparation = from_options(Preparation, options)
    duplicate_rms = from_options(Rule, options).duplicate_rms
    if out is not None:
        check_writable(out, {".csv": "a table"})
    where = choose_device(device)
    with progress_bars() as progress:
        images = open_images(path, preparation, layout=layout, progress=progress)
        warn_about(images)
        say_search_time(images, len(images), device=where, flips=flips)
        found = rank_exposure(
            images, duplicate_rms=duplicate_rms, flips=flips, device=where, progress=progress
        )
    if out is not None:
        with atomic_write(out) as file:
            file.write(encoded(exposure_csv(found, images)))
    if as_json:
        print_json(
            {
                "path": images.source,
                "fingerprint": images.fingerprint,
                "num_images": found.num_images,
                "duplicate_rms": found.duplicate_rms,
                "flips": found.flips,
                "images": list(exposure_rows(found, images)),
            }
        )
    else:
        _print_exposure(found, images)
    if out is not None:
        remark(f"List: {out}")
    finish(f"{found.num_images:,} images in order, {len(found):,} without duplicates")


def _print_exposure(found: "Exposure", images: "ImageSet") -> None:
    import numpy as np
    from rich import box
    from rich.table import Table

    from memaudit.cli.console import out, print_row, say

    print_row("images", f"{found.num_images:,}")
    print_row(
        "without duplicates",
        f"{len(found):,}, within {found.duplicate_rms:g} gray levels taken as one",
    )
    if len(found) > 1:
        low, middle, high = np.quantile(found.isolation, (0.05, 0.5, 0.95))
        print_row(
            "nearest other",
            f"{middle:.1f} gray levels away (median), 5 % below {low:.1f}, 5 % above {high:.1f}",
        )
    table = Table(
        title="Would leak first", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in ("", "shown", "images", "equal", "distance"):
        table.add_column(column, justify="right")
    if found.group_size is not None:
        table.add_column("in its group", justify="right")
    table.add_column("image", overflow="fold")
    for row in range(min(SHOWN, len(found))):
        cells = [
            f"{row + 1}",
            f"{found.times_shown[row]:,}",
            f"{found.num_duplicates[row]:,}",
            f"{found.num_equal[row]:,}",
            f"{found.isolation[row]:.1f}",
        ]
        if found.group_size is not None:
            cells.append(f"{found.group_size[row]:,}")
        table.add_row(*cells, short(images.names[found.index[row]], 60))
    out.print(table)
    if len(found) > SHOWN:
        more = counted(len(found) - SHOWN, "image", "images")
        say(f"… and {more} more; `--out` writes all.")
