"""How many evaluations of a model does screening save, and what does its filter miss?

    python benchmarks/screening.py TRAIN --models model.safetensors:64 … --seeds 2000

Every seed is sampled with the 18 Heun steps and with DPM-Solver++(2M) in several numbers of steps.
From both, what a screened scan would have taken, found and estimated follows for each threshold.
The number behind a model is that of its training images, a random choice of TRAIN.
"""

import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from result import make_heading, make_parser, write_record

from memaudit.audit.memorization.matches import Matches, match_images
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screened import drawn_positions, screened_rows
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.statistics.difference_estimator import screened_share
from memaudit.data.selection import Selection
from memaudit.data.sources import open_images
from memaudit.data.subsets import select_images
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.sampler_config import SamplerConfig

STEPS = (6, 8, 9, 10, 12)
THRESHOLDS = (Fraction(1, 2), Fraction(3, 5), Fraction(4, 5))
SHARES = (0.02, 0.05, 0.1)
HEUN = 35
"""Evaluations of the published 18 steps."""
RULE = Rule()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", required=True, metavar="FILE:SIZE")
    parser.add_argument("--seeds", type=int, default=2000)
    options = parser.parse_args()
    lines = make_heading("Screening", options.device)
    everything = open_images(options.train)
    for text in options.models:
        file, _, size = text.rpartition(":")
        data = select_images(everything, Selection(size=int(size), subset="random"))
        index = NeighborIndex(data.images, device=options.device)
        network = open_checkpoint(Path(file), device=str(options.device)).network
        seeds = range(options.seeds)

        full, seconds = judged(network, seeds, index, SamplerConfig())
        copies = full.is_copy
        lines += [
            "",
            f"## {size} training images: {copies.sum():,} of {len(seeds):,} images are copies",
            "",
            f"Heun in 18 steps: {seconds:.0f} s.",
            "",
            "| steps | time | copies there | verdict differs | nearest differs | d1/d2 below |"
            " candidates | copies kept | saved at a share of "
            + ", ".join(f"{share:.0%}" for share in SHARES)
            + " | estimate, 5 % drawn |",
            "|" + "---|" * 10,
        ]
        for steps in STEPS:
            cheap, took = judged(
                network, seeds, index, SamplerConfig(solver="multistep", num_steps=steps)
            )
            rows = screened_rows(cheap, np.zeros(len(seeds), dtype=bool))
            for below in THRESHOLDS:
                found = rows.is_copy(RULE, below)
                kept = "—" if not copies.any() else f"{(found & copies).sum() / copies.sum():.1%}"
                saved = ", ".join(f"{factor(steps, found, s, seeds):.2f}" for s in SHARES)
                lines.append(
                    f"| {steps} | {took:.0f} s | {cheap.is_copy.mean():.1%} | "
                    f"{(cheap.is_copy != copies).mean():.1%} | {(cheap.nn1 != full.nn1).mean():.1%}"
                    f" | {below} | {found.mean():.1%} | {kept} | {saved} | "
                    f"{estimate(found, copies, seeds)} |"
                )
    write_record("screening", lines, options.device)


def judged(
    network: Denoiser, seeds: range, index: NeighborIndex, sampler: SamplerConfig
) -> tuple[Matches, float]:
    """The images of some seeds, judged, and the seconds that sampling them took."""
    started = time.perf_counter()
    execution = Execution(device=str(index.device))
    batches = generate_images(network, seeds, config=sampler, execution=execution)
    images = np.concatenate([batch.images for batch in batches])
    seconds = time.perf_counter() - started
    return match_images(index, images, RULE), seconds


def factor(steps: int, found: np.ndarray, share: float, seeds: range) -> float:
    """Evaluations of a full scan as a multiple of those of a screened one."""
    in_full = found.copy()
    in_full[drawn_positions("benchmark", seeds, round(share * len(seeds)))] = True
    return HEUN / (steps + HEUN * float(in_full.mean()))


def estimate(found: np.ndarray, copies: np.ndarray, seeds: range) -> str:
    """What a screened scan would have said."""
    drawn = drawn_positions("benchmark", seeds, round(0.05 * len(seeds)))
    missed = int((copies & ~found)[drawn].sum())
    share = screened_share(int((copies & found).sum()), len(seeds), missed, len(drawn))
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


if __name__ == "__main__":
    main()
