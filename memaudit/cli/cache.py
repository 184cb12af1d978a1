"""`memaudit cache`: what is kept of earlier runs in the user's cache folder."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from memaudit.wording import counted

if TYPE_CHECKING:
    from memaudit.data.cache_folder import CachedSet


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON.")
@click.pass_context
def cache(ctx: click.Context, as_json: bool) -> None:
    """List the decoded images and features that are kept, and remove them.

    Images of large sets are decoded once and kept in the cache folder, MEMAUDIT_CACHE or the
    system's: of 64 MiB of pixels or files, or of 10,000 images, and more. So are features of an
    encoder that took more than 10 seconds. Only what belongs to you and what nobody else can write
    is used.

    \b
    memaudit cache
    memaudit cache clear --older-than 30
    """
    if ctx.invoked_subcommand is not None:
        return
    from memaudit.cli.console import print_json, say
    from memaudit.data.cache_folder import default_cache_dir, list_cache

    entries = list_cache()
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    if entries:
        _print_entries(entries)
    say(f"{_total(entries)} in {default_cache_dir()}")


@cache.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0,
    metavar="DAYS",
    help="Only what was not used for that long.",
)
def clear(names: tuple[str, ...], older_than: float) -> None:
    """Remove what is kept, and make the folder yours alone.

    NAME is one that `memaudit cache` lists, or its beginning; without any, all are removed. Nothing
    but what memaudit put there is removed, and no link is followed. The right of others to write
    into the folder is taken away.

    \b
    memaudit cache clear
    memaudit cache clear images/3f2a
    """
    from memaudit.cli.console import remark
    from memaudit.data.cache_folder import clear_cache, default_cache_dir

    removed = clear_cache(names, older_than=older_than)
    remark(f"Removed {_total(removed)} from {default_cache_dir()}.")


def _total(entries: Sequence["CachedSet"]) -> str:
    size = sum(entry.num_bytes for entry in entries)
    return f"{counted(len(entries), 'entry', 'entries')}, {size / 1e6:,.1f} MB"


def _print_entries(entries: Sequence["CachedSet"]) -> None:
    """Print each entry on lines of its own: a table would break names and paths in two."""
    from memaudit.cli.console import say

    for entry in entries:
        say(entry.name, "bold")
        say(f"  {entry.source or 'of a run that was stopped'}")
        shape = "" if entry.shape is None else " x ".join(f"{n:,}" for n in entry.shape) + ", "
        days = max(0.0, time.time() - entry.used) / 86400
        say(f"  {shape}{entry.num_bytes / 1e6:,.1f} MB, last used {days:.1f} days ago")
