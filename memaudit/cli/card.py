"""`memaudit card`: a few lines of Markdown for the page of a model."""

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path), metavar="DIR")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to FILE."
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def card(folder: Path, out: Path | None, overwrite: bool) -> None:
    """Print the card of an audit: Markdown for a model's page.

    DIR is a folder that `memaudit scan --out` wrote. The card says what was audited, the verdict
    with its interval, when, the hashes, the command that repeats the audit, and its limits. It
    names no training image and no folder. A report that was changed has no card.

    \b
    memaudit card report
    memaudit card report >> README.md
    """
    from memaudit.audit.documents.card import audit_card
    from memaudit.cli.console import print_text, remark
    from memaudit.files import atomic_write, check_new

    if out is not None:
        check_new(out, overwrite=overwrite)
    text = audit_card(folder)
    if out is None:
        print_text(text)
        return
    with atomic_write(out) as file:
        file.write(text.encode())
    remark(f"Card: {out}")
