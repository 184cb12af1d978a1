"""How often does a faster number format change a verdict, and what is saved by it?

    OMP_NUM_THREADS=1 nice python benchmarks/precision.py --folder ./kept --images 4096

Trains the demo's network on 32 and 64 handwritten digits (it copies nearly all of its images, and
more than half of them), samples the same seeds in fp32 and in fp16, bf16 and TF32, and lets the
confirmation of audit/confirmation.py choose which images are sampled again: with the first 512
seeds as its probe, as in a scan, and with 200 random probes. fp16 and bf16 are PyTorch's own on
this CPU; TF32 is emulated by rounding the factors of convolutions and linear layers to 10 bits.
Images are kept in the folder, so that a second run takes seconds. Writes a table to
benchmarks/results/.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import result
import torch
import torch.nn.functional as F
from torch import Tensor

from memaudit.audit import confirmation
from memaudit.audit.confirmation import Margins, evaluate_probe, match_with_margins
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.data.selection import Selection
from memaudit.data.subsets import select_images
from memaudit.experiments.demo import NETWORK, load_digits
from memaudit.experiments.train_and_scan import train_to_end
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.progress import silent

SIZES = (32, 64)
FORMATS = ("fp16", "bf16", "tf32")
NUM_TIMED = 128
NUM_PROBES = 200


def rounded(x: Tensor) -> Tensor:
    """Float32 rounded to the 10 bits of TF32's mantissa, ties to even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


@contextmanager
def tf32() -> Iterator[None]:
    """Round the factors of all products of networks."""
    kept = F.conv2d, F.linear

    def product(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, weight, *rest, **options: function(
            rounded(x), rounded(weight), *rest, **options
        )

    F.conv2d, F.linear = map(product, kept)
    try:
        yield
    finally:
        F.conv2d, F.linear = kept


def sample(network: Denoiser, name: str, seeds: range) -> tuple[np.ndarray, float]:
    """Images of some seeds in a format, and the seconds of CPU that they took."""
    execution = Execution(precision="fp32" if name == "tf32" else name)
    start = time.process_time()
    with tf32() if name == "tf32" else nullcontext():
        made = list(generate_images(network, seeds, execution=execution))
    return np.concatenate([batch.images for batch in made]), time.process_time() - start


def part(margins: Margins, rows: np.ndarray) -> Margins:
    return Margins(
        margins.signed[rows], margins.counts[rows], margins.certain[rows], margins.is_copy[rows]
    )


def confirm(
    fast: Margins, exact: Margins, images: np.ndarray, again: np.ndarray, probed: np.ndarray
) -> tuple[bool, float, int]:
    """Whether a format is used, the share sampled again, and the verdicts that differ unseen."""
    probe, margin = evaluate_probe(
        part(fast, probed), part(exact, probed), images[probed], again[probed]
    )
    if not probe.pays:
        return False, 1.0, 0
    others = np.setdiff1d(np.arange(len(images)), probed)
    unseen = fast.certain[others] > margin
    differs = (fast.is_copy != exact.is_copy)[others]
    return True, float(1 - unseen.mean()), int((differs & unseen).sum())


def main() -> None:
    """Train, sample, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where images are kept")
    parser.add_argument("--images", type=int, default=4096, help="seeds per network and format")
    options = parser.parse_args()
    rows, total, unseen_in_all = [], 0, 0
    num_probed = confirmation.PROBE_SIZE
    for size in SIZES:
        data = select_images(load_digits(), Selection(size=size, subset="random"))
        folder = options.folder / str(size)
        model = train_to_end(data, NETWORK, out=folder, device="cpu", progress=silent).model
        network, index = open_checkpoint(model).network, NeighborIndex(data.images)
        kept, margins, seconds = {}, {}, {}
        for name in ("fp32", *FORMATS):
            path = folder / f"{name}.npy"
            if not path.exists():
                np.save(path, sample(network, name, range(options.images))[0])
            kept[name] = np.load(path)[: options.images]
            _, seconds[name] = sample(network, name, range(NUM_TIMED))
            margins[name] = match_with_margins(index, kept[name], Rule(), every_cell=False)[1]
        for name in FORMATS:
            fast, images = margins[name], kept[name]
            count = len(images)
            exact, again = part(margins["fp32"], np.arange(count)), kept["fp32"][:count]
            is_used, share, differing = confirm(fast, exact, images, again, np.arange(num_probed))
            rng = np.random.default_rng(0)
            trials = [
                confirm(fast, exact, images, again, rng.permutation(count)[:num_probed])
                for _ in range(NUM_PROBES)
            ]
            used = [trial for trial in trials if trial[0]]
            total += count
            unseen_in_all += differing
            ratio = seconds[name] / seconds["fp32"]
            rows.append(
                [
                    f"{size} ({100 * exact.is_copy.mean():.0f} % copies)",
                    name,
                    f"{count:,}",
                    f"{(fast.is_copy != exact.is_copy).sum()}",
                    f"{share:.0%}" if is_used else "fp32 instead",
                    f"{differing}",
                    f"{len(used) / NUM_PROBES:.0%}",
                    f"{np.mean([trial[1] for trial in used]):.0%}" if used else "–",
                    f"{np.mean([trial[2] for trial in trials]):.2f}",
                    "emulated" if name == "tf32" else f"{1 / ratio:.2f}",
                ]
            )
    lines = [
        *result.make_heading("Number formats", torch.device("cpu")),
        "",
        f"{total:,} images in all; {unseen_in_all} with another verdict than in fp32 after the\n"
        "confirmation with the first 512 seeds.",
        "",
        "| trained on | format | images | other verdicts before | sampled again | after | "
        "random probes: format used | sampled again | after, mean | speed of the network |",
        "|" + "---|" * 10,
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    result.write_record("precision", lines, torch.device("cpu"))


if __name__ == "__main__":
    main()
