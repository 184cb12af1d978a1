"""How do exact neighbors grow with the training set, in time and in memory?

    OMP_NUM_THREADS=1 python benchmarks/scale.py --sizes 20000 80000 320000

Writes synthetic images of 64×64×3 to a file in the folder, maps it, and for each size (the first N
of them) builds the index and searches, each size in a process of its own. Memory is the peak of
anonymous memory (RssAnon) beyond what the process had before; the mapped file is not counted, since
the system drops its pages when it needs them. Some queries are checked against all distances in
integers.

Seconds are processor time (all threads), since other work on the machine adds to wall-clock time;
on a free machine, with one thread and the file in memory, both are the same.

The images are synthetic (photographs.py).
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import result
import torch
from photographs import random_fields

from memaudit.audit.neighbors.integer_distances import TrainingRows, nearest_by_brute_force
from memaudit.audit.neighbors.pixel_index import NeighborIndex

SHAPE = (3, 64, 64)
D = 3 * 64 * 64
CHUNK = 2048
NUM_CHECKED = 8
IMAGENET = 1_281_167


def write_images(path: Path, num_images: int) -> None:
    """Write random fields as .npy, chunk by chunk."""
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(num_images, *SHAPE))
    for start in range(0, num_images, CHUNK):
        images[start : start + CHUNK] = random_fields(
            min(CHUNK, num_images - start), SHAPE, seed=start
        )
    images.flush()


def make_queries(images: np.ndarray, num_queries: int) -> np.ndarray:
    """Make queries: half new images, half copies with noise of 10 gray levels."""
    rng = np.random.default_rng(1)
    new = random_fields(num_queries - num_queries // 2, SHAPE, seed=2**31)
    copies = images[rng.choice(len(images), num_queries // 2, replace=False)]
    noisy = copies + rng.normal(0, 10, copies.shape)
    return np.concatenate([new, np.clip(noisy, 0, 255).astype(np.uint8)])


def anonymous_bytes() -> int:
    """Return the memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("This system does not tell RssAnon; run the benchmark on Linux.")


class Cost:
    """Processor seconds of a step, and its peak of anonymous memory beyond a base."""

    seconds = 0.0
    peak_bytes = 0


@contextmanager
def measured(base: int) -> Iterator[Cost]:
    """Measure the body of the context, looking at the memory twenty times per second."""
    cost, done = Cost(), threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            cost.peak_bytes = max(cost.peak_bytes, anonymous_bytes() - base)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.process_time()
    try:
        yield cost
    finally:
        cost.seconds = time.process_time() - started
        done.set()
        watcher.join()
        cost.peak_bytes = max(cost.peak_bytes, anonymous_bytes() - base)


@dataclass(frozen=True)
class Row:
    """What the index of one size costs."""

    num_images: int
    width: int
    index_bytes: int
    build: Cost
    search: Cost
    num_certified: int
    num_widened: int
    num_brute_forced: int
    num_candidates: int


def measure(path: Path, num_images: int, num_queries: int, memory_limit: int | None) -> Row:
    """Build an index, search it, check what it found, and open it again."""
    torch.zeros(1).sum()  # takes its memory before the base is measured
    images = np.load(path, mmap_mode="r")[:num_images]
    queries = make_queries(images, num_queries)
    NeighborIndex(np.array(images[:500])).nearest(queries[:8], 2)  # warms up
    base = anonymous_bytes()
    with measured(base) as build:
        index = NeighborIndex(images, memory_limit=memory_limit, by_products=False)
    with measured(base) as search:
        found = index.nearest(queries, 2)

    checked = queries[:: len(queries) // NUM_CHECKED]
    truth, _ = nearest_by_brute_force(
        checked.reshape(len(checked), D),
        TrainingRows(images.reshape(-1, D), torch.device("cpu")),
        2,
    )
    assert (found.index[:: len(queries) // NUM_CHECKED] == truth).all(), "differs from integers"

    of = found.statistics
    assert index.projected is not None
    return Row(
        num_images,
        index.projected.vectors.shape[1],
        index.num_bytes,
        build,
        search,
        of.num_certified,
        of.num_widened,
        of.num_brute_forced,
        of.num_candidates,
    )


def measure_apart(path: Path, num_images: int, num_queries: int, memory_limit: int | None) -> Row:
    """Measure in a process of its own, where no other size has left memory behind."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, path, num_images, num_queries, memory_limit).result()


def table(rows: list[Row], num_queries: int) -> list[str]:
    """One line per size."""
    lines = [
        "| N | images on disk | R | index | build | peak | search | peak "
        "| certified / widened / brute | candidates per query |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.num_images:,} | {row.num_images * D / 1e6:,.0f} MB | {row.width} "
            f"| {row.index_bytes / 1e6:.0f} MB "
            f"| {row.build.seconds:.1f} s | {row.build.peak_bytes / 1e6:.0f} MB "
            f"| {row.search.seconds:.2f} s | {row.search.peak_bytes / 1e6:.0f} MB "
            f"| {row.num_certified} / {row.num_widened} / {row.num_brute_forced} "
            f"| {row.num_candidates / num_queries:.0f} |"
        )
    return lines


def growth(rows: list[Row], num_queries: int) -> list[str]:
    """The exponent b of cost ~ N^b, fitted in logs, and what ImageNet's size would cost.

    The forecast extends the slope between the two largest sizes.
    """
    sizes = [row.num_images for row in rows]

    def line(name: str, costs: list[float], unit: str, digits: int) -> str:
        exponent = np.polyfit(np.log(sizes), np.log(costs), 1)[0]
        slope = (costs[-1] - costs[-2]) / (sizes[-1] - sizes[-2])
        forecast = costs[-1] + slope * (IMAGENET - sizes[-1])
        return f"- {name}: N^{exponent:.2f}; N = {IMAGENET:,}: {forecast:.{digits}f} {unit}"

    per_image = 4 * rows[-1].width
    return [
        line("build", [row.build.seconds for row in rows], "s", 0),
        line(f"search of {num_queries}", [row.search.seconds for row in rows], "s", 1),
        line("peak while building", [row.build.peak_bytes / 1e9 for row in rows], "GB", 2),
        line("peak while searching", [row.search.peak_bytes / 1e9 for row in rows], "GB", 2),
        f"- the index takes {per_image} bytes per image: {IMAGENET:,} take "
        f"{IMAGENET * per_image / 1e9:.2f} GB, and 20 of 24 GB hold {20e9 / per_image / 1e6:.0f} "
        "million",
        f"- the build reads {rows[-1].num_images * D / rows[-1].build.seconds / 1e6:.0f} MB/s: a "
        "slower disk slows it down",
    ]


def main() -> None:
    """Measure, check, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 80_000, 320_000])
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="for the images; needs room")
    options = parser.parse_args()
    cpu = torch.device("cpu")
    lines = result.make_heading("Neighbors in large training sets", cpu)
    sizes = sorted(options.sizes)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "images.npy")
        started = time.perf_counter()
        write_images(path, sizes[-1])
        print(f"images written in {time.perf_counter() - started:.0f} s", flush=True)
        rows = []
        for size in sizes:
            rows.append(measure_apart(path, size, options.queries, None))
            print(table(rows[-1:], options.queries)[-1], flush=True)
        limit = rows[-1].index_bytes // 4
        limited = measure_apart(path, sizes[-1], options.queries, limit)
    lines += [
        f"Images uint8 {list(SHAPE)}, memory-mapped; the top 2 of {options.queries} queries, of "
        f"which {NUM_CHECKED} equal all distances in integers.",
        "",
        *table(rows, options.queries),
        "",
        *growth(rows, options.queries),
        "",
        f"## With a memory limit of {limit / 1e6:.0f} MB",
        "",
        *table([limited], options.queries),
    ]
    result.write_record("scale", lines, cpu)


if __name__ == "__main__":
    main()
