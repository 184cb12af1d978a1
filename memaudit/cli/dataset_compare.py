"""`memaudit dataset compare`: are two sets the same images?"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.audit.memorization.rule import Rule
from memaudit.cli.options import choose_device, config_options, device_option, from_options
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.wording import some

if TYPE_CHECKING:
    from memaudit.audit.neighbors.set_comparison import Counterpart, SetComparison, Side
    from memaudit.data.images import ImageSet

SHOWN = 3
"""Examples by name for each kind."""


@click.command()
@click.argument("first", type=click.Path(path_type=Path), metavar="A")
@click.argument("second", type=click.Path(path_type=Path), metavar="B")
@config_options(Selection, "split")
@config_options(Preparation)
@config_options(Rule, "duplicate_rms")
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def compare(first: Path, second: Path, device: str, as_json: bool, **options: Any) -> None:
    """Compare two sets image by image: equal, nearly equal, mirrored, only in one.

    Images without a counterpart may be the same pictures cropped or resized otherwise; a sample of
    them is compared at a low resolution. --split and how images are prepared hold for
    both sets.

    \b
    memaudit dataset compare ./train cifar10.zip
    """
    from memaudit.audit.neighbors.set_comparison import compare_sets
    from memaudit.cli.console import print_json, progress_bars, warn_about
    from memaudit.data.subsets import open_selected

    duplicate_rms = from_options(Rule, options).duplicate_rms
    selection = from_options(Selection, options)
    preparation = from_options(Preparation, options)
    where = choose_device(device)
    with progress_bars() as progress:
        sets = [
            open_selected(path, selection, preparation, progress=progress)
            for path in (first, second)
        ]
        for images in sets:
            warn_about(images)
        found = compare_sets(*sets, duplicate_rms=duplicate_rms, device=where, progress=progress)
    if as_json:
        print_json(_as_dict(found, *sets))
    else:
        _print(found, *sets)


def _as_dict(found: "SetComparison", first: "ImageSet", second: "ImageSet") -> dict[str, Any]:
    def side(part: "Side", images: "ImageSet") -> dict[str, Any]:
        return {
            "path": images.source,
            "fingerprint": images.fingerprint,
            "num_images": part.num_images,
            "image_shape": images.image_shape,
            "num_equal": part.num_equal,
            "num_near": part.num_near,
            "num_mirrored": part.num_mirrored,
            "num_alone": len(part.alone),
            "alone": [images.names[i] for i in part.alone],
        }

    def pairs(counterparts: "Sequence[Counterpart]") -> list[dict[str, Any]]:
        return [
            {"first": first.names[each.first], "second": second.names[each.second], "rms": each.rms}
            for each in counterparts
        ]

    return {
        "summary": found.summary,
        "is_same": found.is_same,
        "duplicate_rms": found.duplicate_rms,
        "first": side(found.first, first),
        "second": side(found.second, second),
        "near": pairs(found.near),
        "mirrored": pairs(found.mirrored),
        "num_sampled": found.num_sampled,
        "num_prepared_otherwise": found.num_prepared_otherwise,
    }


def _print(found: "SetComparison", first: "ImageSet", second: "ImageSet") -> None:
    from memaudit.cli.console import print_row, say

    for name, images in (("A", first), ("B", second)):
        print_row(name, f"{images.source}: {images.summary}")
        print_row("  fingerprint", images.fingerprint)
    one, other = found.first, found.second
    print_row("equal", f"{one.num_equal:,} of A, {other.num_equal:,} of B")
    print_row(
        "nearly equal",
        f"{one.num_near:,} of A, {other.num_near:,} of B, within {found.duplicate_rms:g} gray "
        f"levels{_examples(found.near, first, second)}",
    )
    mirrored = _examples(found.mirrored, first, second)
    print_row("mirrored", f"{one.num_mirrored:,} of A, {other.num_mirrored:,} of B{mirrored}")
    for name, part, images in (("A", one, first), ("B", other, second)):
        names = [images.names[i] for i in part.alone[:SHOWN]]
        more = len(part.alone) - len(names)
        shown = f": {some(names)}{f' and {more:,} more' if more else ''}" if names else ""
        print_row(f"only in {name}", f"{len(part.alone):,}{shown}")
    if found.num_sampled:
        print_row(
            "prepared otherwise",
            f"{found.num_prepared_otherwise:,} of {found.num_sampled:,} that are only in A, "
            "compared at a low resolution",
        )
    say(found.summary)


def _examples(counterparts: "Sequence[Counterpart]", first: "ImageSet", second: "ImageSet") -> str:
    shown = [
        f"{first.names[each.first]} and {second.names[each.second]} ({each.rms:.2f})"
        for each in counterparts[:SHOWN]
    ]
    return f", such as {'; '.join(shown)}" if shown else ""
