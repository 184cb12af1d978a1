"""What can this device do at most, and are its integer products exact?

    python benchmarks/ceilings.py --device cuda

Ceilings that fractions of the floor in docs/performance.md refer to: products of large matrices and
the convolution that U-Nets are made of, by format and memory layout; copies within the device and
from the host; what a launch and a synchronization cost. Then products of 8-bit integers whose sums
stay within 2²⁴, as the search computes them, in float32, TF32 and int8, compared with int64: the
proof of the search needs every one to be exact. Writes a table to benchmarks/results/.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from result import describe_hardware, make_heading, write_record
from torch import Tensor
from torch.nn.functional import conv2d, group_norm

from memaudit.models.arithmetic import fp32_products

FORMATS = (
    ("float32", torch.float32, False),
    ("TF32", torch.float32, True),
    ("float16", torch.float16, False),
    ("bfloat16", torch.bfloat16, False),
)


def seconds(run: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median time of a call on the device, after two to warm up."""
    times = []
    for repeat in range(2 + repeats):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize(device)
            passed = begin.elapsed_time(end) / 1e3
        else:
            started = time.perf_counter()
            run()
            passed = time.perf_counter() - started
        if repeat >= 2:
            times.append(passed)
    return statistics.median(times)


def products(device: torch.device, size: int) -> list[str]:
    """Tabulate operations per second of matrix products."""
    lines = ["| product of two matrices | TFLOP/s |", "|---|---|"]
    for name, dtype, tf32 in (*FORMATS, ("float64", torch.float64, False)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        with fp32_products(tf32):
            taken = seconds(lambda: a @ b, device)  # noqa: B023
        lines.append(f"| {name} | {2 * size**3 / taken / 1e12:.3g} |")
    a, b = (
        torch.randint(-128, 128, (size, size), device=device, dtype=torch.int8) for _ in range(2)
    )
    taken = seconds(lambda: torch._int_mm(a, b.T), device)
    return [*lines, f"| int8 (torch._int_mm) | {2 * size**3 / taken / 1e12:.3g} |"]


def convolutions(device: torch.device, batch: int, channels: int, side: int) -> list[str]:
    """Tabulate operations per second of a 3×3 convolution by format and layout."""
    lines = [
        f"| 3×3 convolution, {batch} × {channels} × {side} × {side} | NCHW, TFLOP/s | NHWC |",
        "|---|---|---|",
    ]
    for name, dtype, tf32 in FORMATS:
        rates = []
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(batch, channels, side, side, device=device).to(dtype)
            w = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
            x, w = x.to(memory_format=layout), w.to(memory_format=layout)
            with fp32_products(tf32):
                taken = seconds(lambda: conv2d(x, w, padding=1), device)  # noqa: B023
            rates.append(2 * batch * channels**2 * 9 * side**2 / taken / 1e12)
        lines.append(f"| {name} | {rates[0]:.3g} | {rates[1]:.3g} |")
    x = torch.randn(2, 64, 8, 8, device=device).to(memory_format=torch.channels_last)
    kept = group_norm(x, 8).is_contiguous(memory_format=torch.channels_last)
    return [*lines, "", f"GroupNorm {'keeps' if kept else 'does not keep'} NHWC."]


def memory_and_launches(device: torch.device, num_bytes: int) -> list[str]:
    """Tabulate copies, and what the host pays for a launch and for waiting."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    within = 2 * num_bytes / seconds(lambda: target.copy_(source), device)
    lines = ["| memory and launches | |", "|---|---|", f"| copy | {within / 1e9:.0f} GB/s |"]
    if device.type == "cuda":
        pageable = torch.empty(num_bytes // 8, dtype=torch.uint8).random_()
        for name, host in (("pageable", pageable), ("pinned", pageable.pin_memory())):
            rate = len(host) / seconds(lambda: host.to(device, non_blocking=True), device)  # noqa: B023
            lines.append(f"| from {name} memory of the host | {rate / 1e9:.1f} GB/s |")
    z = torch.zeros(8, device=device)
    number = 2000
    started = time.perf_counter()
    for _ in range(number):
        z.add_(1)
    lines.append(f"| a launch | {(time.perf_counter() - started) / number * 1e6:.1f} µs |")
    started = time.perf_counter()
    for _ in range(number // 8):
        z.sum().item()
    waited = (time.perf_counter() - started) / (number // 8)
    return [*lines, f"| a sum that the host waits for | {waited * 1e6:.1f} µs |"]


def exactness(device: torch.device, num_queries: int, num_images: int) -> list[str]:
    """Tabulate wrong sums of 1,024 products of 8-bit integers; there may be none."""
    K = 1024
    random = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, rows: int) -> Tensor:
        return torch.randint(low, high, (rows, K), generator=random)

    cases = {
        "random": (integers(-128, 128, num_queries), integers(-128, 128, num_images)),
        "all −128": (torch.full((num_queries, K), -128), torch.full((num_images, K), -128)),
        "large and odd": (
            torch.full((num_queries, K), 127),
            127 - 2 * integers(0, 2, num_images),
        ),
    }
    lines = ["| 8-bit factors | float32 | TF32 | int8 |", "|---|---|---|---|"]
    for name, (x, y) in cases.items():
        truth = x @ y.T
        wrong = []
        for tf32 in (False, True):
            with fp32_products(tf32):
                found = x.to(device, torch.float32) @ y.to(device, torch.float32).T
            wrong.append(int((found.cpu().to(torch.int64) != truth).sum()))
        found = torch._int_mm(x.to(device, torch.int8), y.to(device, torch.int8).T)
        wrong.append(int((found.cpu().to(torch.int64) != truth).sum()))
        lines.append(f"| {name} | {wrong[0]} wrong | {wrong[1]} wrong | {wrong[2]} wrong |")
        assert not any(wrong), f"{describe_hardware(device)} rounds products of integers"
    return lines


def main() -> None:
    """Measure, check, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    device = parser.parse_args().device
    on_gpu = device.type == "cuda"
    parts = [
        products(device, 8192 if on_gpu else 1024),
        convolutions(device, *((256, 256, 32) if on_gpu else (16, 128, 16))),
        memory_and_launches(device, 1 << (32 if on_gpu else 27)),
        exactness(device, *((512, 4096) if on_gpu else (64, 512))),
    ]
    lines = make_heading("Ceilings", device)
    for part in parts:
        lines += ["", *part]
    write_record("ceilings", lines, device)


if __name__ == "__main__":
    main()
