"""How fast are exact neighbors, compared with the paper's method and FAISS alone?

    OMP_NUM_THREADS=2 python benchmarks/neighbors.py cifar10-train.zip cifar10-test.zip

The two nearest training images of 1,000 and of 10,000 queries, from uint8 to indices, by

- the paper's method: torch.cdist and topk over batches of queries, float32;
- faiss.IndexFlatL2 on the pixels, float32;
- all distances in integers as an int8 matrix product (torch._int_mm), exact by construction;
- memaudit's NeighborIndex without FAISS, which does that for any size, and settles ties;
- memaudit's NeighborIndex: exact, with proof.

The methods alternate, and the fastest round of each is shown, since other work on the machine only
adds time. Ours must equal all distances in integers for the first 1,000 queries, and no method
may find a nearer image than ours for any. Writes a table to benchmarks/results/.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import result
import torch

from memaudit.audit.neighbors.integer_distances import (
    TrainingRows,
    nearest_by_brute_force,
    pair_distances,
)
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.data.sources import open_images

K = 2
Search = Callable[[np.ndarray], np.ndarray]


@dataclass
class Method:
    """A way to find neighbors, and its timings."""

    name: str
    build: Callable[[np.ndarray, torch.device], Search]
    """Takes training images, uint8 [N, C, H, W]; returns a search from queries to int64 [B, K]."""
    build_seconds: list[float] = field(default_factory=list)
    search_seconds: list[float] = field(default_factory=list)

    @property
    def searching(self) -> float:
        return min(self.search_seconds)

    @property
    def total(self) -> float:
        return float(np.add(self.build_seconds, self.search_seconds).min())


def build_cdist(batch_size: int) -> Callable[[np.ndarray, torch.device], Search]:
    """Build the paper's method."""

    def build(images: np.ndarray, device: torch.device) -> Search:
        y = torch.from_numpy(np.array(images)).to(device).flatten(1).float()

        def search(queries: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(np.array(queries)).to(device).flatten(1).float()
            found = [
                torch.cdist(b, y).topk(K, largest=False).indices for b in torch.split(x, batch_size)
            ]
            return torch.cat(found).cpu().numpy()

        return search

    return build


def build_faiss(images: np.ndarray, device: torch.device) -> Search:
    """Build FAISS alone: on the GPU if it sees one, else on the CPU."""
    import faiss

    index: faiss.Index = faiss.IndexFlatL2(images[0].size)
    if device.type == "cuda" and faiss.get_num_gpus():
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(images.reshape(len(images), -1).astype(np.float32))
    return lambda queries: index.search(queries.reshape(len(queries), -1).astype(np.float32), K)[1]


def build_int8(images: np.ndarray, device: torch.device) -> Search:
    """Build all products in int8 with int32 sums, of pixel values minus 128."""

    def centered(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        v = torch.from_numpy(rows.reshape(len(rows), -1) ^ 128).view(torch.int8).to(device)
        return v, v.to(torch.int32).square_().sum(1, dtype=torch.int32)

    y, norm_y = centered(images)

    def search(queries: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(queries), 500):
            x, norm_x = centered(queries[start : start + 500])
            S = torch._int_mm(x, y.T).mul_(-2).add_(norm_y).add_(norm_x[:, None])
            found.append(S.topk(K, largest=False).indices)
        return torch.cat(found).cpu().numpy()

    return search


def build_ours(images: np.ndarray, device: torch.device) -> Search:
    """Build a NeighborIndex."""
    index = NeighborIndex(images, device=device)
    return lambda queries: index.nearest(queries, K).index


def build_products(images: np.ndarray, device: torch.device) -> Search:
    """Build a NeighborIndex that computes all distances."""
    index = NeighborIndex(images, device=device, by_products=True)
    return lambda queries: index.nearest(queries, K).index


def methods() -> list[Method]:
    flat = Method("faiss.IndexFlatL2", build_faiss)
    if find_spec("faiss") is None:
        flat = Method("torch.cdist + topk, batch 2,000 (FAISS is missing)", build_cdist(2000))
    return [
        Method("torch.cdist + topk, batch 64 (the paper's)", build_cdist(64)),
        Method("torch.cdist + topk, batch 500", build_cdist(500)),
        flat,
        Method("int8 product + topk, batch 500", build_int8),
        Method("memaudit, all products", build_products),
        Method("memaudit, exact", build_ours),
    ]


def measure(
    contenders: list[Method],
    images: np.ndarray,
    queries: np.ndarray,
    device: torch.device,
    *,
    rounds: int,
) -> dict[str, np.ndarray]:
    """Time all in turn, `rounds` times; return what each found."""
    found = {}
    for _ in range(rounds):
        for method in contenders:
            start = time.perf_counter()
            search = method.build(images, device)
            built = time.perf_counter()
            found[method.name] = search(queries)
            method.build_seconds.append(built - start)
            method.search_seconds.append(time.perf_counter() - built)
            print(f"  {method.name}: {method.search_seconds[-1]:.2f} s", file=sys.stderr)
    return found


def check(found: dict[str, np.ndarray], images: np.ndarray, queries: np.ndarray) -> list[str]:
    """Compare with integers, and say how many queries each method answers differently from ours."""
    cpu = torch.device("cpu")
    x, y = queries.reshape(len(queries), -1), images.reshape(len(images), -1)
    rows = np.repeat(np.arange(len(x)), K)
    distance = {
        name: pair_distances(x, y, rows, index.ravel(), device=cpu).reshape(-1, K)
        for name, index in found.items()
    }
    ours, our_distance = found["memaudit, exact"], distance["memaudit, exact"]
    rows_of_training = TrainingRows(y, cpu)
    for start in range(0, min(1000, len(x)), 500):
        part = slice(start, start + 500)
        index, squared_distance = nearest_by_brute_force(x[part], rows_of_training, K)
        assert (ours[part] == index).all(), "ours differs from all distances in integers"
        assert (our_distance[part] == squared_distance).all()
    lines = []
    for name, index in found.items():
        assert (np.sort(distance[name], 1) >= our_distance).all(), f"{name} found nearer images"
        lines.append(f"{name}: {int((index != ours).any(1).sum())} of {len(x)} queries differ")
    return lines


def timing_table(contenders: list[Method]) -> list[str]:
    """Tabulate seconds, and speed relative to FAISS and to the paper's method."""
    paper, flat = contenders[0], contenders[2]
    lines = [
        "| method | build + search | × FAISS | × paper | search, index kept | × FAISS | × paper |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in contenders:
        lines.append(
            f"| {method.name} | {method.total:.2f} s | {flat.total / method.total:.2f} "
            f"| {paper.total / method.total:.1f} | {method.searching:.2f} s "
            f"| {flat.searching / method.searching:.2f} "
            f"| {paper.searching / method.searching:.1f} |"
        )
    return lines


def growth_table(
    sets: list[tuple[str, np.ndarray, np.ndarray]], sizes: list[int], device: torch.device
) -> list[str]:
    """Tabulate seconds as the training set or its images grow, and the fitted exponents.

    Args:
        sets: a name, training images and queries of each size.
        sizes: N or D of each.
        device: where to search.
    """
    lines = [
        "| | FAISS flat | all products | exact, build | exact, search |",
        "|---|---|---|---|---|",
    ]
    rows = []
    for name, images, queries in sets:
        _, _, flat, _, products, ours = methods()
        measure([flat, products, ours], images, queries, device, rounds=2)
        rows.append([flat.searching, products.searching, min(ours.build_seconds), ours.searching])
        lines.append(f"| {name} | " + " | ".join(f"{seconds:.3f} s" for seconds in rows[-1]) + " |")
    slopes = np.polyfit(np.log(sizes), np.log(rows), 1)[0]
    lines.append("| exponent | " + " | ".join(f"{slope:.2f}" for slope in slopes) + " |")
    return lines


def proof_table(images: np.ndarray, queries: np.ndarray, device: torch.device) -> list[str]:
    """Tabulate how hard it is to prove the neighbors of different queries."""
    rng = np.random.default_rng(0)
    copies = images[rng.choice(len(images), 1000, replace=False)]
    others = images[rng.choice(len(images), 1000, replace=False)].astype(np.float64)
    noisy = np.clip(copies + rng.normal(0, 30, copies.shape), 0, 255).astype(np.uint8)
    kinds = {
        "held-out images": queries[:1000],
        "copies": copies,
        "copies with noise of 30 gray levels": noisy,
        "blends, 3/4 of one image and 1/4 of another": (0.75 * copies + 0.25 * others).astype(
            np.uint8
        ),
        "noise": rng.integers(0, 256, (100, *images.shape[1:]), dtype=np.uint8),
    }
    index = NeighborIndex(images, device=device)
    lines = [
        "| queries | certified at once | widened | brute force | candidates per query "
        "| ms per query |",
        "|---|---|---|---|---|---|",
    ]
    for name, batch in kinds.items():
        start = time.perf_counter()
        of = index.nearest(batch, K).statistics
        milliseconds = 1e3 * (time.perf_counter() - start) / len(batch)
        lines.append(
            f"| {len(batch):,} {name} | {of.num_certified} | {of.num_widened} "
            f"| {of.num_brute_forced} | {of.num_candidates / len(batch):.1f} "
            f"| {milliseconds:.2f} |"
        )
    return lines


def main() -> None:
    """Measure, check, print and write."""
    parser = result.make_parser(__doc__)
    parser.add_argument("queries", type=Path, help="10,000 images of the same shape")
    options = parser.parse_args()
    device = options.device
    images = open_images(options.train).images
    queries = open_images(options.queries).images

    report = [
        *result.make_heading("Exact neighbors", device),
        f"Training images uint8 {list(images.shape)}; the top {K}; the fastest of alternating "
        "rounds.",
    ]
    measure(methods()[2:], images[:2000], queries[:100], device, rounds=1)  # warms up
    for num_queries in (1000, len(queries)):
        contenders = methods()
        batch = queries[:num_queries]
        found = measure(contenders, images, batch, device, rounds=options.rounds)
        report += ["", f"## {num_queries:,} queries", "", *timing_table(contenders), ""]
        report += [f"- {line}" for line in check(found, images, batch)]
    report += ["", "## 1,000 queries, growing N", ""]
    sizes = [len(images) // 8, len(images) // 4, len(images) // 2, len(images)]
    sets = [(f"N = {size:,}", images[:size], queries[:1000]) for size in sizes]
    report += growth_table(sets, sizes, device)
    report += ["", "## 1,000 queries, growing D", ""]
    sides = [images.shape[3] // 4, images.shape[3] // 2, images.shape[3]]
    cut = [(a[..., :side, :side] for a in (images, queries[:1000])) for side in sides]
    sizes = [images.shape[1] * side**2 for side in sides]
    sets = [
        (f"D = {size:,}", *map(np.ascontiguousarray, pair))
        for size, pair in zip(sizes, cut, strict=True)
    ]
    report += growth_table(sets, sizes, device)
    report += ["", "## How much is proven", "", *proof_table(images, queries, device)]

    result.write_record("neighbors", report, device)


if __name__ == "__main__":
    main()
