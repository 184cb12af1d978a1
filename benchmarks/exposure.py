"""Do the images that stand out before training leak first? Digits at 8x8, and the optimum beside.

    python benchmarks/exposure.py --sizes 100 --out runs/exposure

A small network is trained on some of scikit-learn's digits and scanned, and the order of `memaudit
dataset risk` is compared with the leaks. The closed-form optimum copies every training image
equally often, so what correlates there is the rule's own doing: it sees copies of images that are
far from all others more easily. A training takes a quarter of an hour on one core; one that is in
the folder already is not repeated.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from result import make_heading, write_record

from memaudit.audit.config import ScanConfig
from memaudit.audit.scan import scan
from memaudit.experiments.demo import NETWORK, load_digits
from memaudit.experiments.train_and_scan import train_to_end
from memaudit.models.checkpoints import open_checkpoint
from memaudit.progress import silent

SHOWN = 96_000
"""Images shown in a training."""
CONFIG = ScanConfig(seeds=range(1500), also=("exposure",), without=("optimality", "recall"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100])
    parser.add_argument("--seed", type=int, default=1, help="chooses the digits")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits = load_digits()
    rows = []
    for size in arguments.sizes:
        chosen = np.random.default_rng(arguments.seed).permutation(len(digits))[:size]
        data = digits.take(chosen)
        preset = replace(NETWORK, duration_images=SHOWN)
        folder = arguments.out / f"{size}-{arguments.seed}"
        trained = train_to_end(data, preset, out=folder, device="cpu", progress=silent)
        for name, source in (("trained", open_checkpoint(trained.model)), ("optimum", "optimum")):
            result = scan(source, data, config=CONFIG, progress=silent)
            found = result.diagnostics.exposure
            cells = ["0", "–", "–", "–"]
            if found is not None:
                cells = [
                    f"{found.num_leaked}",
                    f"{found.correlation.rho:.2f}",
                    f"{found.correlation.p_value:.3f}",
                    "–" if found.auc is None else f"{found.auc.value:.2f}",
                ]
            copies = f"{result.findings.ratios.copies.ratio:.1%}"
            rows.append(f"| {size} | {name} | {copies} | {' | '.join(cells)} |")
    device = torch.device("cpu")
    write_record(
        "exposure",
        [
            *make_heading("Exposure before training", device),
            "",
            f"DDPM++ with 189,000 parameters, {SHOWN:,} images shown, 1,500 samples.",
            "",
            "| training images | source | copies | leaked | rank correlation | p | AUC |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ],
        device,
    )


if __name__ == "__main__":
    main()
