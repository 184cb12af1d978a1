"""Run the benchmarks, each in a process of its own: `make bench`, or python -m benchmarks.

    python -m benchmarks                                         # on a CPU, under 15 minutes
    python -m benchmarks --device cuda                           # on a GPU, under 8
    python -m benchmarks --data cifar10-train.zip cifar10-test.zip --only neighbors optimum

Without --data they run on synthetic photographs. Each writes its record to benchmarks/results/, and
ends in an error if its results are not equal to the baseline's. The file of a benchmark says what
it asks, and takes more arguments. Started by themselves: exposure, forecasts, gate_power, matching,
overhead, precision and screening.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.photographs import random_fields

FOLDER = Path(__file__).parent
TRAIN, QUERIES = "{train}", "{queries}"
ON_CPU = {
    "ceilings": [],
    "startup": ["--rounds", "2"],
    "optimum": [TRAIN, "--sizes", "1000", "5000", "--rounds", "2"],
    "neighbors": [TRAIN, QUERIES, "--rounds", "1"],
    "leave_one_out": ["--rounds", "2"],
    "loading": [TRAIN, "--rounds", "1"],
    "scale": ["--sizes", "5000", "20000", "--queries", "64"],
    "sampling": ["--rounds", "1", "--networks", "0", "1"],
    "ranks": ["--samples", "500", "--rounds", "1"],
    "training": ["--rounds", "3"],
}
"""Arguments with which all benchmarks together take less than the promised time."""
ON_GPU = {
    "ceilings": [],
    "optimum": [TRAIN, "--rounds", "2"],
    "neighbors": [TRAIN, QUERIES, "--rounds", "1"],
    "training": ["--rounds", "2"],
    "sampling": ["--rounds", "1"],
}
NUM_TRAIN = {"cpu": 20_000, "cuda": 50_000}
NUM_QUERIES = 4_000
LONGEST = 300
"""Seconds after which a benchmark is stopped."""


def main() -> None:
    """Run what was asked for, print what each took, and fail if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run the benchmarks. Each writes its record to benchmarks/results/, over one "
        "of the same day and machine.",
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="under 15 minutes, or under 8"
    )
    parser.add_argument(
        "--data",
        nargs=2,
        type=Path,
        metavar=("TRAIN", "QUERIES"),
        help="training images and others like them; default: synthetic photographs",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"some of these: {', '.join(ON_CPU)}"
    )
    options = parser.parse_args()
    chosen = ON_CPU if options.device == "cpu" else ON_GPU
    for name in options.only or ():
        if name not in chosen:
            parser.error(f"there is no {name} for {options.device}, but {', '.join(chosen)}")
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        train, queries = options.data or write_photographs(Path(scratch), options.device)
        for name, arguments in chosen.items():
            if options.only and name not in options.only:
                continue
            words = [word.format(train=train, queries=queries) for word in arguments]
            if options.device != "cpu":
                words += ["--device", options.device]
            print(f"\n== {name} {' '.join(arguments)}", flush=True)
            started = time.monotonic()
            outcomes.append((name, run(name, words), time.monotonic() - started))
    print("\nBenchmark        seconds  outcome")
    for name, outcome, seconds in outcomes:
        print(f"{name:15} {seconds:8.0f}  {outcome}")
    sys.exit(any(outcome != "done" for _, outcome, _ in outcomes))


def write_photographs(folder: Path, device: str) -> tuple[Path, Path]:
    """Write synthetic training images and queries of 32×32, and return the files."""
    files = folder / "train.npz", folder / "queries.npz"
    for file, number, seed in zip(files, (NUM_TRAIN[device], NUM_QUERIES), (0, 1), strict=True):
        np.savez(file, images=random_fields(number, (3, 32, 32), seed))
    return files


def run(name: str, arguments: list[str]) -> str:
    """Run one benchmark: "done", or how it ended."""
    try:
        subprocess.run(
            [sys.executable, FOLDER / f"{name}.py", *arguments], timeout=LONGEST, check=True
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {LONGEST} s"
    except subprocess.CalledProcessError as error:
        return f"failed with status {error.returncode}"
    return "done"


if __name__ == "__main__":
    main()
