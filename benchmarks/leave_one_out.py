"""What does the leave-one-out floor add to a scan?

    OMP_NUM_THREADS=1 python benchmarks/leave_one_out.py --rounds 5

Scans of given images against as many training images, in turn with the floor of all training images
and with that of two, which is as good as none. Everything is in one process and CPU time is
compared, so other work on the machine matters little. Without diagnostics, the ratio is the largest
that a scan can have. Both must count the same copies. Writes a table to benchmarks/results/.
"""

import argparse
import statistics
import time

import numpy as np
import result
import torch

from memaudit import ScanConfig, scan
from memaudit.audit.diagnostics.registry import DIAGNOSTICS
from memaudit.audit.memorization import controls
from memaudit.audit.result import ScanResult
from memaudit.data.images import ImageSet

SIZE = 16
NUM_IMAGES = 10_000
CONFIGS = {
    "as by default": ScanConfig(),
    "no diagnostics": ScanConfig(without=tuple(DIAGNOSTICS)),
}


def make_images(seed: int) -> ImageSet:
    """Gradients between random corners, with noise."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, SIZE)
    corners = rng.uniform(0, 255, (NUM_IMAGES, 3, 2, 2))
    pixels = np.einsum("ncij,iy,jx->ncyx", corners, [1 - t, t], [1 - t, t])
    pixels += rng.normal(0, 8, pixels.shape)
    return ImageSet.from_array(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def measure(
    made: ImageSet, train: ImageSet, num_left_out: int, config: ScanConfig
) -> tuple[float, ScanResult]:
    """Scan with the floor of that many training images: seconds of CPU, and the result."""
    controls.LEFT_OUT_IMAGES = num_left_out
    start = time.process_time()
    found = scan(made, train, config=config)
    return time.process_time() - start, found


def main() -> None:
    """Measure, check, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    options = parser.parse_args()
    train, made = make_images(0), make_images(1)
    rows = []
    for name, config in CONFIGS.items():
        measure(made, train, 2, config)  # imports and warms up
        with_floor, without = [], []
        for _ in range(options.rounds):
            seconds, found = measure(made, train, NUM_IMAGES, config)
            with_floor.append(seconds)
            seconds, again = measure(made, train, 2, config)
            without.append(seconds)
            assert found.ratios == again.ratios
        ratios = [a / b for a, b in zip(with_floor, without, strict=True)]
        rows.append(
            f"| {name} | {statistics.median(without):.2f} s | "
            f"{statistics.median(with_floor):.2f} s | {statistics.median(ratios):.2f} | "
            f"{min(ratios):.2f} to {max(ratios):.2f} |"
        )
    device = torch.device("cpu")
    lines = [
        *result.make_heading("The leave-one-out floor", device),
        f"{NUM_IMAGES:,} given images against {NUM_IMAGES:,} training images of {SIZE}×{SIZE}×3;",
        f"CPU time, medians of {options.rounds} rounds in turn.",
        "",
        "| scan | without the floor | with it | ratio | of the rounds |",
        "|---|---|---|---|---|",
        *rows,
    ]
    result.write_record("leave_one_out", lines, device)


if __name__ == "__main__":
    main()
