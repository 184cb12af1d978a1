"""How fast are images sampled, compared with the network in a plain loop?

    OMP_NUM_THREADS=2 python benchmarks/sampling.py
    python benchmarks/sampling.py --device cuda

For networks of the paper's kind from small to large, untrained, the same seeds are sampled by

- the published form: the eager fp32 network at batch 64, in a loop over 18 Heun steps in float64,
  noise drawn image by image, bytes at the end; on a GPU without TF32;
- `generate_images`, in fp32, and on a GPU also in fp16, of the larger networks compiled, too;
- on a CPU, `generate_images` with the network's weights in the layout channels_last.

All must make the same images: at most one byte in a thousand turned by fp32's rounding. The ways
alternate, so that other work on the machine affects all alike; medians are shown. Writes a table to
benchmarks/results/.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import result
import torch

from memaudit.data.images import float_to_uint8
from memaudit.models.build import build_network
from memaudit.models.denoiser import image_shape
from memaudit.models.execution import Compile, Execution, Precision
from memaudit.models.generate import generate_images
from memaudit.models.group_size import LARGEST
from memaudit.models.sampler_config import SamplerConfig

NETWORKS = {
    "24 channels, 8×8": (8, {"model_channels": 24, "channel_mult": [1, 2], "num_blocks": 1}),
    "32 channels, 16×16": (16, {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1}),
    "32 channels, 32×32": (32, {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1}),
    "base, 8×8": (8, {"channel_mult": [2, 2], "num_blocks": 2}),
    "4 blocks, 32×32": (32, {"channel_mult": [2, 2, 2], "num_blocks": 4}),
}
SAMPLES = {"cpu": (64, 64, 64, 64, 8), "cuda": (2048, 2048, 1024, 1024, 128)}
COMPILED = ("base, 8×8", "4 blocks, 32×32")
"""Networks that are also compiled on a GPU, which takes most of a minute for each."""
WARM_UP = 64
"""Images of the first round, which is not timed."""
TURNED = 1e-3
"""Share of bytes that fp32's rounding may turn; weights of an untrained network turn fewer."""


def make_network(size: int, options: dict[str, object], device: torch.device) -> torch.nn.Module:
    torch.manual_seed(0)
    config = {"class_name": "EDMPrecond", "model_type": "SongUNet", "img_channels": 3}
    network = build_network({**config, "img_resolution": size, **options})
    for parameter in network.parameters():  # outputs that are zero at first would hide errors
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return network.to(device).eval().requires_grad_(False)


@torch.inference_mode()
def sample_plainly(network: torch.nn.Module, seeds: range, device: torch.device) -> np.ndarray:
    """Sample with Heun's method (arXiv:2206.00364, Algorithm 2) as simply as possible."""
    shape = image_shape(network)
    i = torch.arange(18, dtype=torch.float64, device=device)
    t = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    t = torch.cat([t, torch.zeros_like(t[:1])])
    batches = []
    for first in range(0, len(seeds), 64):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[first : first + 64]]
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
        x = noise.to(torch.float64) * t[0]
        for step, (now, after) in enumerate(zip(t[:-1], t[1:], strict=True)):
            d = (x - network(x.float(), now).double()) / now
            x_next = x + (after - now) * d
            if step < 17:
                d_prime = (x_next - network(x_next.float(), after).double()) / after
                x_next = x + (after - now) * (d + d_prime) / 2
            x = x_next
        batches.append(float_to_uint8(x).cpu().numpy())
    return np.concatenate(batches)


def sample_by_memaudit(
    network: torch.nn.Module,
    seeds: range,
    device: torch.device,
    precision: Precision = "fp32",
    *,
    compile: Compile = "off",
    at_a_time: int | None = None,
) -> np.ndarray:
    execution = Execution(at_a_time, str(device), precision, compile)
    batches = generate_images(network, seeds, config=SamplerConfig(), execution=execution)
    return np.concatenate([batch.images for batch in batches])


def main() -> None:
    """Time all ways on all networks, check the images, and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed")
    parser.add_argument("--networks", type=int, nargs="+", default=range(len(NETWORKS)))
    options = parser.parse_args()
    device = options.device
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    on_cpu = device.type == "cpu"
    ways = ["plain", "fp32", *(["channels_last"] if on_cpu else ["fp16", "compiled"])]
    lines = result.make_heading("Sampling", device)
    lines += ["", f"| network | images | plain, images/s | {' | '.join(ways[1:])} | bytes turned |"]
    lines += ["|---|---|---|" + "---|" * len(ways)]
    failed = False
    for place in options.networks:
        name, (size, config) = list(NETWORKS.items())[place]
        network = make_network(size, config, device)
        other = make_network(size, config, device).to(memory_format=torch.channels_last)
        num_images = SAMPLES[device.type][place]
        ours = partial(
            sample_by_memaudit,
            device=device,
            at_a_time=None if on_cpu else min(num_images, LARGEST),
        )
        calls: dict[str, Callable[[range], np.ndarray]] = {
            "plain": lambda seeds, n=network: sample_plainly(n, seeds, device),
            "fp32": partial(ours, network),
            "fp16": partial(ours, network, precision="fp16"),
            "compiled": partial(ours, network, precision="fp16", compile="on"),
            "channels_last": partial(ours, other),
        }
        timed = [way for way in ways if way != "compiled" or name in COMPILED]
        seconds: dict[str, list[float]] = {way: [] for way in timed}
        images = {}
        for way in timed:
            calls[way](range(min(num_images, WARM_UP)))
        for _ in range(options.rounds):
            for way in timed:
                started = time.perf_counter()
                images[way] = calls[way](range(num_images))
                seconds[way].append(time.perf_counter() - started)
        plain = statistics.median(seconds["plain"])
        ratios = [
            f"{plain / statistics.median(seconds[way]):.2f} ×" if way in timed else "–"
            for way in ways[1:]
        ]
        turned = {way: float((images[way] != images["plain"]).mean()) for way in timed[1:]}
        failed |= turned["fp32"] > TURNED
        shares = ", ".join(f"{share:.1e}" for share in turned.values())
        rate = num_images / plain
        lines.append(f"| {name} | {num_images} | {rate:.1f} | {' | '.join(ratios)} | {shares} |")
        print(lines[-1], flush=True)
    result.write_record("sampling", lines, device)
    sys.exit(failed)


if __name__ == "__main__":
    main()
