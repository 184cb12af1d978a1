"""Nothing that a file holds steers the terminal: every command, on a terminal of its own."""

import ast
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import smooth_images
from helpers.terminal import foreign, run_on_terminal
from rich.table import Table
from rich.text import Text

import memaudit.cli
from memaudit.cli import console
from memaudit.cli.console import styled
from memaudit.cli.main import COMMANDS
from memaudit.data.writers import to_picture
from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint

from .conftest import NETWORK

STEERS = "\x1b]0;owned\x07\x1b[2J\x1b[8m\x9b5m\x90q\r\x08\x7f\u202e\u2066\u200b\u3164\nPASS: 0 of 9"
"""Title, clear, conceal, two C1 controls, over-writing, direction, no width, a second line."""
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x1b[8m\x9b5m\x90q\r\x08\x7f\u202e\u2066\u200b\u3164\nPASS: 0 of 9"
"""The same as it must be shown."""
HOSTILE = [STEERS, "[bold]a[/bold]", "[/]", ":smile:", "\\x1b[2J", "\udcff\udc9b2J"]


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of inputs whose every name and value steers a terminal."""
    room = tmp_path_factory.mktemp("room")
    images = smooth_images(16, 8, seed=0)
    for i, pixels in enumerate(images):
        hostile = HOSTILE[i % len(HOSTILE)].replace("/", "")
        folder = room / f"tr{STEERS}" / f"{i % 2}{STEERS}"
        folder.mkdir(parents=True, exist_ok=True)
        to_picture(images[0] if i < 4 else pixels).save(folder / f"{i}{hostile}.png")
    names = np.array([f"{i}{STEERS}" for i in range(8)])
    np.savez(room / f"gen{STEERS}.npz", images=images[:8], names=names)
    (room / f"no{STEERS}.npz").write_bytes(b"PK\x03\x04" + STEERS.encode())
    torch.manual_seed(0)
    provenance = {STEERS: STEERS, "list": [STEERS], "long": "x" * 10_000_000, "images_seen": 9}
    network = build_network(NETWORK)
    save_checkpoint(room / f"net{STEERS}.safetensors", network, NETWORK, provenance=provenance)
    bad = {**NETWORK, "model_type": STEERS}
    save_checkpoint(room / f"bad{STEERS}.safetensors", network, bad, provenance=provenance)
    quoted = json.dumps(STEERS).replace("\x7f", "\\u007f")
    (room / f"policy{STEERS}.toml").write_text(
        f"[gate]\nlimit = 0.1\n[source]\nsha256 = {quoted}\n[data]\nfingerprint = {quoted}\n"
    )
    (room / f"bad{STEERS}.toml").write_text(f"{quoted} = {quoted}\n")
    (room / f"names{STEERS}.pkl").write_bytes(
        b"\x80\x04\x8c" + bytes([len(STEERS.encode())]) + STEERS.encode() + b"\x8c\x01f\x93)R."
    )
    return room


def args(text: str) -> list[str]:
    """A command line, whose `$` stands for the hostile text."""
    return [word.replace("$", STEERS) for word in text.split()]


GOOD = [
    ("scan gen$.npz --data tr$ --out report$", 0),
    ("scan gen$.npz --data tr$ --json", 0),
    ("scan gen$.npz --data tr$ --dry-run", 0),
    ("scan net$.safetensors --data tr$ --samples 64 --steps 2 --fail-above 0.5 --out sampled$", 3),
    ("check gen$.npz --image gen$.npz --data tr$ --out check$", 0),
    ("check gen$.npz --image gen$.npz --data tr$ --json", 0),
    ("repeats gen$.npz --out repeats$", 0),
    ("verify report$", 0),
    ("verify report$ --data tr$ --source gen$.npz", 0),
    ("verify report$ --json", 0),
    ("verify forged$", 1),
    ("verify forged$ --json", 1),
    ("reproduce --report results$", 2),
    ("report report$ --out comparison$.html", 0),
    ("report report$ --json", 0),
    ("report report$ --annex nist --out annex$.html", 0),
    ("card report$", 0),
    ("emm --from-results report$", 0),
    ("dataset inspect tr$", 0),
    ("dataset inspect tr$ --json", 0),
    ("dataset build --data tr$ --size 8 --out built$.zip", 0),
    ("dataset inspect built$.zip", 0),
    ("dataset duplicates tr$ --out dup$ --write kept$.npz", 0),
    ("dataset duplicates tr$ --json", 0),
    ("inspect net$.safetensors", 0),
    ("inspect net$.safetensors --json", 0),
    ("inspect net$.safetensors --data tr$", 2),
    ("inspect bad$.safetensors", 2),
    ("inspect names$.pkl", 2),
    ("convert net$.safetensors converted$.safetensors", 0),
    ("sample net$.safetensors --samples 2 --steps 2 --out out$", 0),
    ("sample net$.safetensors --samples 3 --steps 2 --out out$", 0),
    (
        "train --data tr$ --out run$ --epochs 1 --batch-size 8 --model-channels 8 --channel-mult 1 "
        "--num-blocks 1 --attn-resolutions 8 --audit-every 1 --audit-samples 4",
        0,
    ),
    ("selftest --data tr$ --samples 8", 0),
    ("cache", 0),
    ("cache --json", 0),
    ("cache clear", 0),
    ("doctor", 0),
    ("doctor --json", 0),
    ("completion bash", 0),
    ("manual man$", 0),
]
"""Command lines in an order in which they work, with the exit status."""

BAD = [
    "scan no$ --data tr$",
    "scan no$.npz --data tr$",
    "scan gen$.npz --data no$.npz",
    "scan gen$.npz --data tr$ --out report$",
    "scan gen$.npz --data tr$ --label $",
    "scan gen$.npz --data tr$ --seeds $",
    "scan gen$.npz --data tr$ --$",
    "scan bad$.safetensors --data tr$",
    "check gen$.npz --image no$.npz --data tr$",
    "check bad$.safetensors --image gen$.npz --data tr$",
    "scan mod$:fun$ --data tr$",
    "scan names$.pkl --data tr$ --debug",
    "convert names$.pkl to$.safetensors",
    "convert net$.safetensors no$/to$.safetensors",
    "convert net$.safetensors to$.pt",
    "sample net$.safetensors --out gen$.npz",
    "sample bad$.safetensors --out $",
    "train --data no$.npz --out run$",
    "train --data tr$ --out run$ --resume --arch $",
    "dataset inspect no$.npz",
    "dataset inspect no$",
    "dataset build --data no$.npz --out a$.zip",
    "dataset build --data tr$ --out a$.doc",
    "dataset duplicates no$.npz",
    "inspect no$",
    "inspect tr$",
    "verify tr$",
    "verify no$",
    "verify report$ --policy bad$.toml",
    "verify report$ --policy policy$.toml",
    "verify report$ --policy gen$.npz",
    "cache clear $",
    "scan gen$.npz --data tr$ --features no$.npz",
    "report tr$",
    "report forged$",
    "emm --from-results forged$",
    "emm --from-results tr$",
    "emm --data no$.npz --dry-run",
    "emm --data tr$ --set $=1 --out $",
    "reproduce --report tr$",
    "reproduce $",
    "reproduce conditioning --data no$.npz --out $",
    "selftest --data no$.npz",
    "selftest --data tr$ --model bad$.safetensors --holdout tr$",
    "$",
]
"""Command lines that end in an error."""


FEW = (
    "scan gen$.npz --data tr$ --out report$",
    "verify report$ --data",
    "inspect net$.safetensors",
)
"""Beginnings of the commands that the fast test runs."""


def check(room: Path, line: str, wanted: int) -> str:
    """Run a command on a terminal, and look at all that it received."""
    if line.startswith("verify forged$"):
        forge(room)
    status, text = run_on_terminal(*args(line), cwd=room)
    assert status == wanted, (line, text[-2000:])
    assert foreign(text) == [], line
    assert "\x1b[8m" not in text, line
    assert len(text) < 10**5 or "--json" in line, line
    return text


def forge(room: Path) -> None:
    """Write a report that steers the terminal where a verdict and hashes should be."""
    report = json.loads((room / f"report{STEERS}" / "report.json").read_text())
    report["verdict"] = report["files"][0]["name"] = report["files"][1]["sha256"] = STEERS
    (room / f"forged{STEERS}").mkdir(exist_ok=True)
    (room / f"forged{STEERS}" / "report.json").write_text(json.dumps(report))
    (room / f"results{STEERS}").mkdir(exist_ok=True)
    (room / f"results{STEERS}" / "results.jsonl").write_text(json.dumps({"recipe": STEERS}))


def test_no_name_value_or_error_steers_the_terminal(room: Path):
    shown = ""
    for line, wanted in GOOD:
        if line.startswith(FEW) and "--json" not in line and wanted == 0:
            shown += check(room, line, wanted).replace("\r\n", "")
    assert SHOWN in shown and "[bold]a[bold]" in shown and r"\udcff\udc9b2J" in shown
    for line in ("scan no$.npz --data tr$", "verify no$", "scan names$.pkl --data tr$ --debug"):
        assert r"\x1b]0;owned" in check(room, line, 2)


@pytest.mark.slow
def test_no_command_lets_a_name_or_a_value_steer_the_terminal(room: Path):
    for line, wanted in GOOD:
        check(room, f"{line} --overwrite" if line == GOOD[0][0] else line, wanted)


@pytest.mark.slow
def test_no_error_of_a_command_steers_the_terminal(room: Path):
    check(room, f"{GOOD[0][0]} --overwrite", 0)
    forge(room)
    for line in BAD:
        text = check(room, line, 2)
        assert r"\x1b]0;owned" in text, line
        assert text.count("\n") < 6 or "--debug" in line, (line, text)


def test_all_commands_are_among_those_that_are_run():
    # demo shows no names, and torchrun those of the command that it runs.
    assert {line.split()[0] for line, _ in GOOD} | {"demo", "torchrun"} == set(COMMANDS)


PACKAGE = Path(memaudit.cli.__file__).parent


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_commands_print_through_the_console_alone(path: Path):
    if path.stem in ("console", "main"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {
        "print",
        "click.echo",
        "click.secho",
        "Text",
        "Text.from_markup",
        "Console",
    }
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"rich.text", "rich.markup"}


def test_a_console_takes_every_text_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(console, "out", console._Console(width=1000))
    table = Table(title=STEERS)
    table.add_column(STEERS, no_wrap=True)
    table.add_row(f"{STEERS}[bold]:smile:", style="red")
    table.add_row(styled(STEERS, "bold red"))
    table.add_row(Text(STEERS.replace("\n", "")))  # not ours: caught at the end
    console.out.print(table, STEERS)
    console.out.rule(STEERS)
    console.say(STEERS)
    console.print_row(STEERS, STEERS)
    console.remark(f"{STEERS}{'x' * 10**6}", "bold red")
    printed = capsys.readouterr()
    assert foreign(printed.out) == foreign(printed.err) == []
    assert printed.out.count(SHOWN) == 9 and f"{SHOWN}[bold]:smile:" in printed.out
    assert len(printed.err) < 3000


def test_json_is_ascii_without_control_characters(capsys: pytest.CaptureFixture[str]):
    content = {STEERS: [STEERS, "\udcff", "é\x7f"]}
    console.print_json(content)
    text = capsys.readouterr().out
    assert text.isascii() and foreign(text) == []
    assert json.loads(text) == content


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_lets_no_task_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("memaudit.progress.QUIET", 0)
    bars = console._Console(file=stream, force_terminal=is_terminal, width=300)
    monkeypatch.setattr(console, "err", bars)
    with console.progress_bars() as progress:
        progress(f"Reading {STEERS}", 1, 2, note=STEERS)
        progress(f"Reading {STEERS}", 2, 2, note=f"[bold]{STEERS}")
    assert foreign(stream.getvalue()) == []
    assert r"\x1b]0;owned" in stream.getvalue()


def test_a_task_that_starts_again_has_a_bar_with_a_clock_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
):
    started: list[object] = []
    reset = console.Bars.reset

    def noted(self: console.Bars, task: object, **options: object) -> None:
        started.append(task)
        reset(self, task, **options)

    monkeypatch.setattr(console.Bars, "reset", noted)
    bars = console._Console(file=io.StringIO(), force_terminal=True, width=300)
    monkeypatch.setattr(console, "err", bars)
    with console.progress_bars() as progress:
        for done in (0, 5, 10, 0, 5, 10):
            progress("Sampling", done, 10)
        progress("Searching", 0, 10)
    assert started == [0]
