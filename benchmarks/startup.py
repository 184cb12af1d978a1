"""What does a small scan cost beside importing torch?

    OMP_NUM_THREADS=1 python benchmarks/startup.py --rounds 5

Each round runs a scan of 50 images against 100, the same scan with a report, and the inspection of
a small checkpoint, each in a new process that imports torch first. CPU time and peak memory are
read after that import and at the end, so both halves of a ratio come from one process, and other
work on the machine matters little. Two help texts, which need no torch, are timed as they are.
Medians are shown. Every round must print the same text and write the same matches. Writes a table
to benchmarks/results/.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 8
CHECKPOINT = """
from memaudit.models.build import build_network
from memaudit.models.checkpoints.formats.native import save_checkpoint
config = {"class_name": "EDMPrecond", "img_resolution": 8, "img_channels": 3, "label_dim": 0}
config |= {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
save_checkpoint("model.safetensors", build_network(config), config)
"""
MEASURED = """
import atexit, resource, sys
def report():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print("COST", usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, file=sys.stderr)
report()
atexit.register(report)
from memaudit.cli.main import main
main()
"""
SCAN = ("scan", "generated", "--data", "train")


@dataclass
class Case:
    """A command, and what its runs took."""

    arguments: tuple[str, ...]
    needs_torch: bool = True
    before: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of CPU and peak MB when the command starts, after `import torch` if it needs it."""
    after: list[tuple[float, float]] = field(default_factory=list)
    """The same at its end."""
    outputs: set[bytes] = field(default_factory=set)

    @property
    def name(self) -> str:
        return " ".join(("memaudit", *self.arguments))


def write_images(folder: Path, count: int, random: np.random.Generator) -> None:
    folder.mkdir()
    for i in range(count):
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


def run(case: Case, folder: Path) -> None:
    """Run a command in a new process, and add what it took."""
    shutil.rmtree(folder / "report", ignore_errors=True)
    code = "import torch\n" * case.needs_torch + MEASURED
    command = [sys.executable, "-c", code, *case.arguments]
    finished = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    costs = [line.split()[1:] for line in finished.stderr.splitlines() if line.startswith(b"COST")]
    (before, start_peak), (after, peak) = ([float(part) for part in cost] for cost in costs)
    case.before.append((before, start_peak))
    case.after.append((after, peak))
    matches = folder / "report" / "matches.csv"
    case.outputs.add(finished.stdout + (matches.read_bytes() if matches.exists() else b""))


def main() -> None:
    """Measure, check, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each command is run")
    options = parser.parse_args()
    cases = [
        Case(SCAN),
        Case((*SCAN, "--out", "report")),
        Case(("inspect", "model.safetensors")),
        Case(("scan", "--help"), needs_torch=False),
        Case(("--help",), needs_torch=False),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random = np.random.default_rng(0)
        write_images(folder / "generated", 50, random)
        write_images(folder / "train", 100, random)
        subprocess.run([sys.executable, "-c", CHECKPOINT], cwd=folder, check=True)
        for i in range(options.rounds):
            for case in cases:
                run(case, folder)
                print(f"round {i + 1}, {case.name}: {case.after[-1][0]:.2f} s", file=sys.stderr)
    for case in cases:
        assert len(case.outputs) == 1, f"the results of {case.name} differ"

    lines = ["| command | import torch | whole | ratio | of the rounds | peak, import | whole |"]
    lines.append("|---|---|---|---|---|---|---|")
    for case in cases:
        start, start_peak = map(statistics.median, zip(*case.before, strict=True))
        end, peak = map(statistics.median, zip(*case.after, strict=True))
        ratios = [a[0] / b[0] for a, b in zip(case.after, case.before, strict=True)]
        torch_part = ["–"] * 4
        if case.needs_torch:
            torch_part = [f"{start:.2f} s", f"{statistics.median(ratios):.2f}"]
            torch_part += [f"{min(ratios):.2f} to {max(ratios):.2f}", f"{start_peak:,.0f} MB"]
        first, *others = torch_part
        cells = [f"`{case.name}`", first, f"{end:.2f} s", *others, f"{peak:,.0f} MB"]
        lines.append(f"| {' | '.join(cells)} |")

    import result  # imports torch, and a child's peak memory begins with its parent's
    import torch

    device = torch.device("cpu")
    report = [
        *result.make_heading("Start-up", device),
        f"CPU time and peak memory; images of {SIDE}×{SIDE}×3, 50 against 100; medians of "
        f"{options.rounds} interleaved rounds.",
        "",
        *lines,
        "",
        "Every round printed the same text and wrote the same matches.",
    ]
    result.write_record("startup", report, device)


if __name__ == "__main__":
    main()
