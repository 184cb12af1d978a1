"""How much of a scan's time is not the network's?

    OMP_NUM_THREADS=1 python benchmarks/overhead.py cifar10-train.zip

Scans of untrained networks from small to large, with the diagnostics of a default scan. CPU time,
which other work on the machine changes little. What is not the network's hardly depends on the
network, so that for the largest, of which only a few images are sampled, the share is computed: its
time for an image, and what one of its resolution costs beside that. Writes a table to
benchmarks/results/.
"""

import time

import numpy as np
import torch
from result import make_heading, make_parser, write_record
from sampling import NETWORKS, make_network

from memaudit.audit.config import ScanConfig
from memaudit.audit.scan import scan
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.data.sources import open_images
from memaudit.data.subsets import select_images

FEW = 8
"""Images of a network that is too slow for all."""
SLOW = 0.5
"""Seconds of an image, from which on a network is too slow."""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="images of a scan")
    parser.add_argument("--size", type=int, default=5000, help="training images")
    parser.add_argument("--networks", type=int, nargs="+", default=range(len(NETWORKS)))
    options = parser.parse_args()
    lines = make_heading("A scan's time outside the network", options.device)
    lines += [
        "",
        f"{options.samples:,} images, {options.size:,} training images, a default scan.",
        "",
        "| network | network | everything else | share of everything else |",
        "|---|---|---|---|",
    ]
    beside: dict[int, float] = {}
    for number in options.networks:
        name, (size, config) = list(NETWORKS.items())[number]
        network = make_network(size, config, options.device)
        everything = open_images(options.train, Preparation(resolution=(size, size)))
        data = select_images(everything, Selection(size=options.size, subset="random"))
        _, per_image = measure(network, data, FEW)
        is_slow = per_image / FEW > SLOW
        if is_slow and size in beside:
            inside, outside = per_image / FEW * options.samples, beside[size]
            note = " (computed)"
        else:
            total, inside = measure(network, data, options.samples)
            outside, note = total - inside, ""
            beside[size] = outside
        share = outside / (inside + outside)
        lines.append(f"| {name} | {inside:.1f} s{note} | {outside:.1f} s | {100 * share:.1f} % |")
        print(lines[-1], flush=True)
    write_record("overhead", lines, options.device)


def measure(network: torch.nn.Module, data: object, num_samples: int) -> tuple[float, float]:
    """CPU seconds of a scan, and of the network in it."""
    inside, started = 0.0, 0.0

    def begin(*_: object) -> None:
        nonlocal started
        started = time.process_time()

    def end(*_: object) -> None:
        nonlocal inside
        inside += time.process_time() - started

    hooks = [network.register_forward_pre_hook(begin), network.register_forward_hook(end)]
    start = time.process_time()
    scan(network, data, config=ScanConfig(seeds=range(num_samples)))
    total = time.process_time() - start
    for hook in hooks:
        hook.remove()
    assert np.isfinite(total) and 0 < inside < total
    return total, inside


if __name__ == "__main__":
    main()
