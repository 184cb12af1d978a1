"""How much faster is a scan on several ranks, and is its report the same?

    python benchmarks/ranks.py --ranks 1 2 --samples 1000

Each round scans a small checkpoint with a single process and then with ranks on the CPU, each of
one thread. Sampling is timed by the report; what a launch costs beside it (the launcher, and ranks
that import torch at the same time) is the rest of the wall time. Matches of all runs must be the
same bytes. Other work on the machine takes from two ranks what one does not need, so the share of
the cores that the processes got is shown as well. Writes a table to benchmarks/results/.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
from result import make_heading, write_record

NETWORK = {
    "class_name": "EDMPrecond",
    "img_resolution": 16,
    "img_channels": 3,
    "label_dim": 0,
    "model_type": "SongUNet",
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [],
}
NUM_TRAIN = 2_000


@dataclass
class Runs:
    """What the runs with one number of ranks took."""

    sampling: list[float] = field(default_factory=list)
    """Seconds of sampling, by the report."""
    wall: list[float] = field(default_factory=list)
    """Seconds of the command."""
    cpu: list[float] = field(default_factory=list)
    """Seconds of CPU of all its processes."""


def scan(folder: Path, num_ranks: int, samples: int, runs: Runs) -> bytes:
    """Scan once, and return the matches."""
    out = folder / f"ranks-{num_ranks}"
    where = ["--device", "cpu"] if num_ranks == 1 else ["--devices", f"cpu:{num_ranks}"]
    command = ["scan", "model.safetensors", "--data", "train.npz", "--samples", str(samples)]
    command += ["--without", "optimality", "--out", str(out), "--overwrite", *where]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "memaudit", *command], cwd=folder, check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    runs.wall.append(time.monotonic() - started)
    runs.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    steps = json.loads((out / "report.json").read_text())["timings"]["steps"]
    runs.sampling.append(sum(step["seconds"] for step in steps if step["step"] == "sampling"))
    return (out / "matches.csv").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    heading = make_heading("Ranks", device)
    runs = {number: Runs() for number in options.ranks}
    matches = set()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_checkpoint(folder / "model.safetensors", build_network(NETWORK), NETWORK)
        images = np.random.default_rng(0).integers(0, 256, (NUM_TRAIN, 3, 16, 16), np.uint8)
        np.savez(folder / "train.npz", images=images)
        for _ in range(options.rounds):
            for number in options.ranks:
                matches.add(scan(folder, number, options.samples, runs[number]))
    if len(matches) != 1:
        sys.exit("The matches differ with the number of ranks.")
    first = runs[options.ranks[0]]
    lines = [
        *heading,
        f"{options.samples:,} images [3, 16, 16] of a small network, {options.rounds} rounds, the "
        "fastest of them; ranks of one thread. The matches of all runs are the same bytes.",
        "",
        "| ranks | sampling | images/s | times as fast | wall | CPU | cores it got |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, one in runs.items():
        sampling = min(one.sampling)
        cores = statistics.median(c / w for c, w in zip(one.cpu, one.wall, strict=True))
        lines.append(
            f"| {number} | {sampling:.1f} s | {options.samples / sampling:,.1f} | "
            f"{min(first.sampling) / sampling:.2f} | {min(one.wall):.1f} s | "
            f"{min(one.cpu):.1f} s | {cores:.2f} |"
        )
    write_record("ranks", lines, device)


if __name__ == "__main__":
    main()
