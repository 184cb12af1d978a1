"""`memaudit doctor`: what is installed, what it computes with, and what is missing."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from memaudit.wording import counted

if TYPE_CHECKING:
    from memaudit.audit.doctor import Computing, Diagnosis


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Show what is installed here, what it computes with, and what is missing.

    Names versions, GPUs with their capability, what searches, the cache folder and its size, disk,
    memory and threads, and for all that is missing the command that installs it. Nothing is
    changed, and nothing is fetched.

    Exit status: 0 if audits can run, 2 if something has to be mended first.

    \b
    memaudit doctor
    memaudit doctor --json
    """
    from memaudit.audit.doctor import diagnose
    from memaudit.cli.console import print_json

    found = diagnose()
    if as_json:
        print_json({"is_fit": found.is_fit, **asdict(found)})
    else:
        _show(found)
    ctx.exit(0 if found.is_fit else 2)


def _show(found: "Diagnosis") -> None:
    from memaudit.cli.console import print_row, say, say_in_lines

    print_row("memaudit", found.memaudit)
    print_row("Python", f"{found.python}, {found.executable}")
    print_row("system", found.platform)
    needed = [package for package in found.packages if package.extra is None]
    print_row("packages", ", ".join(f"{each.name} {each.version or 'missing'}" for each in needed))
    print_row("extras", ", ".join(_whole_extras(found)) or "none")
    if found.computing is not None:
        _show_computing(found.computing, found.cores)
    cache = found.cache
    size = f"{cache.num_bytes / 1e6:,.1f} MB in {counted(cache.num_entries, 'entry', 'entries')}"
    print_row("cache", f"{cache.folder}, {size}")
    for folder, free in found.free_disk.items():
        print_row("free disk", f"{free / 1e9:,.1f} GB in {folder}")
    if found.free_memory is not None:
        print_row("free memory", f"{found.free_memory / 1e9:,.1f} GB")

    for advice in found.advice:
        if advice.is_problem:
            say_in_lines(f"To mend: {advice.text}", "bold red")
        else:
            say_in_lines(f"To know: {advice.text}")
        if advice.command is not None:
            say(f"    {advice.command}")
    if found.is_fit:
        say("Audits can run here.", "bold green")
    else:
        say("Audits cannot run here, or may be wrong, until this is mended.", "bold red")


def _whole_extras(found: "Diagnosis") -> list[str]:
    """The extras of which every package is installed."""
    extras = sorted({package.extra for package in found.packages if package.extra is not None})
    broken = {each.extra for each in found.packages if each.version is None or each.fault}
    return [extra for extra in extras if extra not in broken]


def _search(computing: "Computing") -> str:
    installed = ", ".join(computing.faiss) or "FAISS is not installed"
    if not computing.search:
        return f"broken ({installed})"
    name, _, device = computing.search.partition("-")
    place = "the GPU" if device == "cuda" else "the CPU"
    searches = "by FAISS" if name == "faiss" else "by PyTorch's products"
    return f"exact, {searches} on {place} ({installed})"


def _show_computing(computing: "Computing", cores: int) -> None:
    from memaudit.cli.console import print_row

    for gpu in computing.gpus:
        memory = f"{gpu.memory / 1e9:,.0f} GB"
        print_row("GPU", f"{gpu.name}, capability {gpu.capability}, {memory}")
    if not computing.gpus:
        print_row("GPU", "none that PyTorch sees")
    cuda = "for the CPU" if computing.cuda is None else f"for CUDA {computing.cuda}"
    print_row("PyTorch's build", cuda)
    print_row("search", _search(computing))
    print_row("computes on", computing.device)
    print_row("threads", f"{computing.threads} on {counted(cores, 'core', 'cores')}")
