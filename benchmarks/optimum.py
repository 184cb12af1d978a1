"""How fast and how exact is the closed-form optimum, compared with its plain form in float32?

    OMP_NUM_THREADS=2 python benchmarks/optimum.py cifar10-train.zip

One sampling of 18 Heun steps (35 evaluations) of a batch of 64 images from noise, for N = 1,000,
5,000 and 50,000 training images, by

- the paper's form: softmax(−cdist(x, Y)²/2σ²) @ Y, all float32;
- memaudit's ClosedFormOptimum.

Both start from the same noise and must end on the same 8-bit images. Then each noise level is
measured by itself, at the x that the sampling passed through: the time without anything cached, and
the relative error from float64. The forms alternate, so that other work on the machine affects both
alike; medians are shown. Writes a table to benchmarks/results/.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import result
import torch
from torch import Tensor

from memaudit.data.images import float_to_uint8, uint8_to_float
from memaudit.data.sources import open_images
from memaudit.models.denoiser import Denoiser
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler import heun_sampler, karras_sigmas

CHECKED_ROWS = 16
"""Images of the batch whose error is measured, since float64 takes seconds per noise level."""


class PaperOptimum:
    """The published form."""

    label_dim, sigma_min, sigma_max = 0, 0.0, float("inf")

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self.img_channels, self.img_resolution = images.shape[1], images.shape[3]
        self.y = uint8_to_float(torch.from_numpy(images)).flatten(1).to(device)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        distance = torch.cdist(x.flatten(1).float(), self.y)
        weights = torch.softmax(-(distance**2) / (2 * sigma.float() ** 2), 1)
        return (weights @ self.y).view(x.shape)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma


class Recording:
    """A denoiser that records its inputs."""

    def __init__(self, denoiser: ClosedFormOptimum) -> None:
        self.denoiser = denoiser
        self.img_channels, self.img_resolution = denoiser.img_channels, denoiser.img_resolution
        self.label_dim = denoiser.label_dim
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.round_sigma = denoiser.round_sigma
        self.asked: dict[float, Tensor] = {}
        """The first x at each sigma."""

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.asked.setdefault(float(sigma), x)
        return self.denoiser(x, sigma, class_labels)


def in_float64(images: np.ndarray, x: Tensor, sigma: float) -> Tensor:
    """Compute D* from all differences in float64, [B, D]."""
    device = x.device
    blocks = [torch.from_numpy(images[i : i + 1000]) for i in range(0, len(images), 1000)]
    rows = [block.flatten(1).to(device, torch.float64) / 127.5 - 1 for block in blocks]
    mode = "donot_use_mm_for_euclid_dist"
    distance = torch.cat([torch.cdist(x.flatten(1), y, compute_mode=mode) for y in rows], 1)
    weights = torch.split(torch.softmax(-(distance**2) / (2 * sigma**2), 1), 1000, 1)
    products = [w @ y for w, y in zip(weights, rows, strict=True)]
    return torch.stack(products).sum(0)


def relative_error(denoised: Tensor, truth: Tensor) -> float:
    return float((denoised.flatten(1) - truth).abs().max() / truth.abs().max())


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def whole_sampling(
    paper: PaperOptimum, ours: ClosedFormOptimum, noise: Tensor, rounds: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of the paper's form and of ours, once both ended on the same images."""
    ends: dict[str, Tensor] = {}
    times: dict[str, list[float]] = {"paper": [], "ours": []}
    denoisers: dict[str, Denoiser] = {"paper": paper, "ours": ours}
    for _ in range(rounds):
        for name, denoiser in denoisers.items():

            def run(name: str = name, denoiser: Denoiser = denoiser) -> None:
                ends[name] = heun_sampler(denoiser, noise, karras_sigmas(18))

            times[name].append(seconds(run, noise.device))
            print(f"  {name}: {times[name][-1]:.2f} s", file=sys.stderr)
    same = (float_to_uint8(ends["paper"]) == float_to_uint8(ends["ours"])).all()
    assert same, "the images differ"
    return times["paper"], times["ours"]


def level_table(
    images: np.ndarray, paper: PaperOptimum, ours: ClosedFormOptimum, noise: Tensor, rounds: int
) -> list[str]:
    """Tabulate time and error at each noise level by itself."""
    recording = Recording(ours)
    heun_sampler(recording, noise, karras_sigmas(18))
    lines = [
        "| σ | effective number | paper, ms | ours, ms | ratio | paper, error | ours, error |",
        "|---|---|---|---|---|---|---|",
    ]
    for sigma, x in recording.asked.items():
        level = torch.tensor(sigma, dtype=torch.float64, device=x.device)
        of_paper, of_ours = [], []
        for _ in range(rounds):
            of_paper.append(seconds(lambda: paper(x, level), x.device))  # noqa: B023
            ours(x[:1], level)  # what is cached from another batch is of no use
            of_ours.append(seconds(lambda: ours(x, level), x.device))  # noqa: B023
        some = x[:CHECKED_ROWS]
        truth = in_float64(images, some, sigma)
        error = relative_error(ours(some, level), truth)
        assert error <= 1e-5, f"the error at sigma {sigma} is {error}"
        milliseconds = [1e3 * statistics.median(times) for times in (of_paper, of_ours)]
        lines.append(
            f"| {sigma:.4g} | {float(ours.evaluate(x, level).num_effective.mean()):,.1f} "
            f"| {milliseconds[0]:.1f} | {milliseconds[1]:.1f} "
            f"| {milliseconds[0] / milliseconds[1]:.2f} "
            f"| {relative_error(paper(some, level), truth):.0e} | {error:.0e} |"
        )
    return lines


def main() -> None:
    """Measure, check, print and write."""
    parser = result.make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 50_000])
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    device = options.device
    images = open_images(options.train).images
    images = images[np.random.default_rng(0).permutation(len(images))]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(options.batch_size, *images.shape[1:], generator=generator).to(device)

    heading = result.make_heading("The closed-form optimum", device)
    summary = [
        "| N | build | paper | ours | ratio | ours, ms per image and evaluation |",
        "|---|---|---|---|---|---|",
    ]
    levels, seconds_of_ours = [], []
    for size in options.sizes:
        print(f"N = {size}", file=sys.stderr)
        some = images[:size]
        paper = PaperOptimum(some, device)
        start = time.perf_counter()
        ours = ClosedFormOptimum(some, device=device)
        build = time.perf_counter() - start
        of_paper, of_ours = whole_sampling(paper, ours, noise, options.rounds)
        seconds_of_ours.append(statistics.median(of_ours))
        ratio = statistics.median(a / b for a, b in zip(of_paper, of_ours, strict=True))
        summary.append(
            f"| {size:,} | {build:.2f} s | {statistics.median(of_paper):.2f} s "
            f"| {statistics.median(of_ours):.2f} s | {ratio:.2f} "
            f"| {1e3 * statistics.median(of_ours) / 35 / len(noise):.3f} |"
        )
        levels += ["", f"## Each noise level by itself, N = {size:,}", ""]
        levels += level_table(some, paper, ours, noise, options.rounds)

    slope = np.polyfit(np.log(options.sizes), np.log(seconds_of_ours), 1)[0]
    report = [
        *heading,
        "Images uint8 "
        f"{list(images.shape[1:])}; {len(noise)} at a time; medians of alternating rounds. Errors "
        f"are max|D − D*| / max|D*| against float64, on {CHECKED_ROWS} images.",
        "",
        "## Whole sampling: 18 Heun steps, 35 evaluations",
        "",
        *summary,
        "",
        "Both forms ended on the same 8-bit images for every seed. Fitted over these sizes, ours "
        f"grows as N^{slope:.2f}.",
        *levels,
    ]
    result.write_record("optimum", report, device)


if __name__ == "__main__":
    main()
