"""`memaudit verify`: check a report against itself and its sources."""

from dataclasses import asdict
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path), metavar="DIR")
@click.option(
    "--source",
    type=click.Path(exists=True, path_type=Path),
    metavar="SOURCE",
    help="The checkpoint, or the generated images, that the report is about.",
)
@click.option(
    "--data",
    "data_path",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="The training images that the report is about, as a whole; it says which part was used.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.pass_context
def verify(
    ctx: click.Context, folder: Path, source: Path | None, data_path: Path | None, as_json: bool
) -> None:
    """Compute a report's verdict again from its saved matches, and check its hashes.

    DIR is a folder that `memaudit scan --out` wrote. A changed byte in any of its files is noticed.
    Exit status: 0 unchanged, 1 changed, 2 could not run.

    \b
    memaudit verify report
    memaudit verify report --source model.safetensors --data ./train
    """
<<<<<<< HEAD
    from memaudit.audit.report.verify import verify_report
    from memaudit.cli.console import out, print_json, progress_bars, say
=======
    from memaudit.audit.verification.verify import verify_report
    from memaudit.cli.console import out, progress_bars
    from memaudit.cli.wording import printable
>>>>>>> 770bd35 (Say what a verification proves: rows, search, floors, page, policy, spot checks)

    with progress_bars() as progress:
        result = verify_report(folder, source=source, data=data_path, progress=progress)
    if as_json:
        print_json({"passed": result.passed, **asdict(result)})
    else:
        for check in result.checks:
            detail = f": {check.detail}" if check.detail else ""
            style = "green" if check.passed else "bold red"
            word = "ok" if check.passed else "CHANGED"
            out.print(f"{word:8}", style=style, end="")
            say(f"{check.name}{detail}")
        say(f"Verdict stated: {result.verdict or 'none (no gate)'}")
        say(f"SHA-256 of report.json: {result.sha256}")
    ctx.exit(0 if result.passed else 1)
