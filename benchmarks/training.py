"""How fast is a training step, compared with a plain PyTorch loop in eager float32?

    OMP_NUM_THREADS=1 python benchmarks/training.py

The plain loop has what most programs have: a DataLoader with a process of its own, torch's Adam as
it is by default, a nan_to_num for each gradient and a lerp_ for each averaged weight. Both train
the same network from the same weights on the same images, noise levels, noise and dropped features,
a few steps each in turn, so that other work on the machine slows both; medians of the ratios are
shown. On a CPU the time is the training process's own on its cores, which leaves out what the
loop's second process takes. Their losses must agree in every step: to 0.1 % in float32, to 5 % in
bfloat16. On a GPU ours fits the batch, compiles and records graphs as `memaudit train` does; that
is not timed. Writes a table to benchmarks/results/.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import result
import torch
from photographs import random_fields
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from memaudit.data.images import ImageSet
from memaudit.experiments.training_presets import LAPTOP
from memaudit.models.arithmetic import fp32_products
from memaudit.models.memory import give_memory_back
from memaudit.training.config import TrainingConfig
from memaudit.training.ema import copy_for_average
from memaudit.training.trainer import Trainer, _seed

NUM_IMAGES = 1000
COMPILED = "base, 8x8", "bf16"
"""The only case that a GPU compiles, since that takes a minute."""
LONG = 10**9
"""Images of a run that is long enough for everything that pays in a long one."""


@dataclass(frozen=True)
class Case:
    """A network and its batch."""

    name: str
    config: TrainingConfig
    resolution: int
    steps: int
    """In each turn."""


def cases(device: torch.device) -> list[Case]:
    """Networks that a device trains in seconds."""
    # Without a ramp-up, so that losses soon depend on the steps before.
    base = TrainingConfig(duration_images=LONG, lr_rampup_epochs=0)
    small = replace(LAPTOP, model_channels=24, duration_images=LONG)
    if device.type == "cuda":
        return [
            Case("24 channels, 8x8", small, 8, 100),
            Case("base, 8x8", base, 8, 10),
            Case("base, 32x32", base, 32, 2),
        ]
    return [
        Case("24 channels, 8x8", small, 8, 10),
        Case("128 channels, 8x8", replace(base, channel_mult=(1, 1), batch_size=32), 8, 2),
    ]


class Rows(Dataset[Tensor]):
    """Images as float32 [C, H, W] in [-1, 1]."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.images[index]).float() / 127.5 - 1


class PlainLoop:
    """The loop that ours is compared with; it computes in float32."""

    def __init__(self, images: ImageSet, config: TrainingConfig, device: torch.device) -> None:
        # Its network, schedule and order of images are those of a trainer that takes no step.
        self.trainer = Trainer(images, replace(config, precision="fp32"), device=device)
        self.config, self.device = config, device
        self.network = self.trainer.network
        self.average = copy_for_average(self.network)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.lr, betas=config.betas, eps=config.eps
        )
        self.loader = iter(
            DataLoader(
                Rows(images.images),
                batch_size=config.batch_size,
                sampler=self.order(len(images)),
                num_workers=1,
                pin_memory=device.type == "cuda",
            )
        )
        self.num_steps = 0

    def order(self, num_images: int) -> Iterator[int]:
        order = np.arange(num_images)
        np.random.RandomState(self.config.seed).shuffle(order)
        while True:
            yield from order.tolist()

    def step(self) -> Tensor:
        y = next(self.loader).to(self.device, non_blocking=True)
        torch.manual_seed(_seed(self.config.seed, self.num_steps))
        sigma, noise = self.trainer._loss.draw_noise(y)
        torch.manual_seed(_seed(self.config.seed, self.num_steps, 0))
        self.optimizer.zero_grad()
        network = partial(self.network, augment_labels=None)
        loss = self.trainer._loss.at(network, y, sigma, noise).sum() / len(y)
        loss.backward()
        seen = self.num_steps * len(y)
        for group in self.optimizer.param_groups:
            group["lr"] = self.trainer.schedule.lr(seen)
        for parameter in self.network.parameters():
            torch.nan_to_num(parameter.grad, 0.0, 1e5, -1e5, out=parameter.grad)
        self.optimizer.step()
        beta = self.trainer.schedule.ema_beta(seen)
        with torch.no_grad():
            for averaged, weight in zip(
                self.average.parameters(), self.network.parameters(), strict=True
            ):
                averaged.lerp_(weight, 1 - beta)
        self.num_steps += 1
        return loss.detach() * len(y) / y.numel()


def compare(case: Case, precision: str, rounds: int, device: torch.device) -> str:
    """Train both ways in turn, and return a row of the table."""
    shape = (3, case.resolution, case.resolution)
    pixels = random_fields(NUM_IMAGES, shape, 0)
    images = ImageSet(pixels, [str(i) for i in range(NUM_IMAGES)])
    config = replace(case.config, precision=precision)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    with fp32_products(False):
        plain = PlainLoop(images, config, device)
        ours = Trainer(images, config, device=device)
        ours.accelerate()
        ways = {"plain": plain.step, "ours": ours.step}
        losses: dict[str, list[Tensor]] = {name: [] for name in ways}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, step in ways.items():
                started = clock()
                losses[name] += [step() for _ in range(case.steps)]
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if turn:  # the first one warms up
                    seconds[name].append((clock() - started) / case.steps)
    found, expected = (torch.stack(losses[name]).double().cpu() for name in ("ours", "plain"))
    worst = float(((found - expected) / expected).abs().max())
    allowed = 1e-3 if precision == "fp32" else 5e-2
    if worst > allowed:
        sys.exit(f"{case.name} in {precision}: losses differ by {worst:.1e}")
    ratios = [p / o for p, o in zip(seconds["plain"], seconds["ours"], strict=True)]
    p, o = (statistics.median(seconds[name]) for name in ("plain", "ours"))
    how = ours.acceleration
    done = [name for name in ("channels_last", "compiled", "graph") if getattr(how, name)]
    return (
        f"| {case.name}, batch {config.batch_size} | {precision} | {1e3 * p:.1f} ms "
        f"| {1e3 * o:.1f} ms | {statistics.median(ratios):.2f} "
        f"| {min(ratios):.2f} to {max(ratios):.2f} | {config.batch_size / o:,.0f} | {worst:.0e} "
        f"| {', '.join(done) or 'eager'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is timed")
    options = parser.parse_args()
    lines = [
        *result.make_heading("Training", options.device),
        "",
        "Medians of a step, in turns; the ratio is that of each pair of turns, with its range.",
        *(["Time of the process on its cores."] if options.device.type == "cpu" else []),
        "",
        "| network | precision | plain loop | memaudit | ratio | range | images/s | largest "
        "difference of losses | how |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    on_gpu = options.device.type == "cuda"
    for case in cases(options.device):
        for precision in ("bf16",) if on_gpu and case.resolution == 32 else ("fp32", "bf16"):
            is_compiled = not on_gpu or (case.name, precision) == COMPILED
            config = replace(case.config, compile="auto" if is_compiled else "off")
            row = compare(replace(case, config=config), precision, options.rounds, options.device)
            lines.append(row)
            print(row, flush=True)
            give_memory_back(options.device)
    result.write_record("training", lines, options.device)


if __name__ == "__main__":
    main()
