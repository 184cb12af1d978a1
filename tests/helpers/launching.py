"""Run commands in several ranks on the CPU, and interfere with them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint

NETWORK = {
    "class_name": "EDMPrecond",
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 0,
    "model_type": "SongUNet",
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}
TIMEOUT = 600


def small_checkpoint(path: Path) -> Path:
    """A network of random weights for 8x8 images."""
    save_checkpoint(path, build_network(NETWORK), NETWORK)
    return path


def start(
    *arguments: object, module: str = "memaudit", cwd: Path | None = None
) -> "subprocess.Popen[str]":
    """Start `memaudit ARGUMENTS…`, which may start ranks."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=cwd,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Its exit status, and what it printed on stdout and stderr."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def run(*arguments: object, module: str = "memaudit") -> tuple[int, str, str]:
    """Run `memaudit ARGUMENTS…` to its end."""
    return finish(start(*arguments, module=module))


def rank_pids(launcher: int) -> dict[int, int]:
    """The process of each rank that a launcher has started, by rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    found = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        for variable in variables:
            if variable.startswith(b"RANK="):
                found[int(variable[5:])] = child
    return found


def wait_for_parts(folder: Path, count: int) -> None:
    """Return when a scan into the folder has kept at least this many parts."""
    end = time.monotonic() + TIMEOUT
    while len(list((folder / "scan-state").glob("part-*"))) < count:
        assert time.monotonic() < end, "nothing was sampled"
        time.sleep(0.05)


def kill_rank(launcher: int, rank: int, by: signal.Signals = signal.SIGKILL) -> int:
    """Send a rank a signal, and return its process."""
    pid = rank_pids(launcher)[rank]
    os.kill(pid, by)
    return pid


def is_running(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def findings(folder: Path) -> tuple[Any, bytes, bytes]:
    """All that a report says but times, the machine and the number of ranks."""
    report = json.loads((folder / "report.json").read_text())
    for name in ("timings", "environment", "files", "sha256"):  # the page shows the times, too
        del report[name]
    return report, (folder / "matches.csv").read_bytes(), (folder / "leaks.csv").read_bytes()
