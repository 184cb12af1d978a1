"""`memaudit verify`: check a report against itself and its sources."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memaudit.cli.options import (
    ImagesPath,
    SourcePath,
    choose_device,
    device_option,
    holdout_split_option,
)
from memaudit.errors import MemauditError
from memaudit.wording import counted, joined

if TYPE_CHECKING:
    from memaudit.audit.verification.check import Check
    from memaudit.audit.verification.verify import Verification

WRONG = {"policy": "VIOLATED"}
"""What is said of a check that failed, by the first word of its name; CHANGED of all others."""


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path), metavar="DIR")
@click.option(
    "--source",
    type=SourcePath(),
    metavar="SOURCE",
    help="The checkpoint, or the generated images, that the report is about.",
)
@click.option(
    "--data",
    "data_path",
    type=ImagesPath(),
    metavar="PATH",
    help="The training images that the report is about, as a whole; it says which part was used. "
    "Their floor is measured again; with given images, all of them are searched again.",
)
@click.option(
    "--holdout",
    type=ImagesPath(),
    metavar="PATH",
    help="The held-out images; what depends on them is computed again.",
)
@holdout_split_option
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="The file that the labels came from, if the report names one.",
)
@click.option(
    "--group",
    "groups_from",
    metavar="REGEX|FILE.csv|own",
    help="What the groups of the images came from, if the report has groups.",
)
@click.option(
    "--spot-check",
    type=click.IntRange(min=0),
    default=0,
    metavar="K",
    help="Generate K images of a checkpoint again, drawn at random, and search them; needs "
    "--source and --data.",
)
@click.option(
    "--policy",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="The audit that was agreed on, in TOML (docs/ci.md): name each clause that is violated.",
)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.pass_context
def verify(
    ctx: click.Context,
    folder: Path,
    source: Path | None,
    data_path: Path | None,
    holdout: Path | None,
    holdout_split: str | None,
    labels_file: Path | None,
    groups_from: str | None,
    spot_check: int,
    policy: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Check a report: against itself, its checkpoint and images, and the audit agreed on.

    DIR is a folder that `memaudit scan --out` wrote. A changed byte in any of its files is noticed,
    and ratios and verdict are computed again from matches.csv. What else is proven depends on what
    is given, and is said; nothing is read from a cache.

    Exit status: 0 as written and within the policy, 1 not so, 2 could not run.

    \b
    memaudit verify report
    # images generated elsewhere: search all of them again
    memaudit verify report --source ./generated --data ./train
    # a checkpoint: generate 16 images again, which nobody could know beforehand
    memaudit verify report --source model.safetensors --data ./train \\
        --spot-check 16
    # in CI: accept only the audit that was agreed on
    memaudit verify report --policy policy.toml
    """
    from memaudit.audit.report.schema import read_report
    from memaudit.audit.verification.verify import verify_report
    from memaudit.cli.console import out, print_json, progress_bars, say
    from memaudit.cli.forecast import say_verification_time
    from memaudit.cli.long_work import finish

    if data_path is not None:
        with suppress(MemauditError):  # whatever is wrong with it is a check that fails
            say_verification_time(read_report(folder), spot_check=spot_check)
    with progress_bars() as progress:
        result = verify_report(
            folder,
            source=source,
            data=data_path,
            holdout=holdout,
            holdout_split=holdout_split,
            labels_file=labels_file,
            groups_from=groups_from,
            spot_check=spot_check,
            policy=policy,
            device=choose_device(device) if data_path is not None else "cpu",
            progress=progress,
        )
    finish(_outcome(result))
    if as_json:
        print_json({"passed": result.passed, **asdict(result)})
        ctx.exit(0 if result.passed else 1)
    for check in result.checks:
        detail = f": {check.detail}" if check.detail else ""
        style = "green" if check.passed else "bold red"
        word = "ok" if check.passed else WRONG.get(check.name.partition(" ")[0], "CHANGED")
        out.print(f"{word:10}", style=style, end="")
        say(f"{check.name}{detail}")
    say(f"Verdict stated: {result.verdict or 'none (no gate)'}")
    for choice in result.choices:
        say(f"Not the default: {choice}")
    if not result.passed:
        say(_refusal(result.checks))
    for sentence in result.proven if result.passed else ():
        say(f"Proven: {sentence}")
    for each in result.unproven:
        options = [f"--{name.replace('_', '-')}" for name in each.needs]
        say(f"Not proven: {each.text}{f' Give {joined(options)}.' if options else ''}")
    say(f"SHA-256 of report.json: {result.sha256}")
    ctx.exit(0 if result.passed else 1)


def _outcome(result: "Verification") -> str:
    """What came out, for the line at the end."""
    stated = result.verdict or "no verdict"
    if result.passed:
        return f"as written; the report states {stated}"
    failed = sum(not check.passed for check in result.checks)
    return f"{counted(failed, 'check', 'checks')} FAILED; the report states {stated}"


def _refusal(checks: "Sequence[Check]") -> str:
    """What failed: the report itself, the policy, or both."""
    failed = [check.name.startswith("policy ") for check in checks if not check.passed]
    clauses = counted(sum(failed), "clause", "clauses")
    wrong = len(failed) - sum(failed)
    if not wrong:
        return f"Do not accept this report: it violates {clauses} of the policy."
    besides = f", and it violates {clauses} of the policy" if sum(failed) else ""
    return f"Do not trust this report: {counted(wrong, 'check', 'checks')} failed{besides}."
