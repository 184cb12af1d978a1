"""What do further rules cost beside the plain search, and which copies do they see?

    OMP_NUM_THREADS=2 python benchmarks/matching.py cifar10-train.zip cifar10-test.zip

1. Cost: queries against all training images, by the plain search with the index kept and by each
   rule; the same on synthetic photographs of 256×256. CPU time of all threads counts, which other
   work on the machine changes little.
2. Truth: 64 queries, planted copies among them, must be judged as all distances judge them.
3. Recall: planted copies that each rule alone and the union see, and the floors of both, on given
   images, on flat icons and on gray images like X-rays.

Writes a table to benchmarks/results/.
"""

import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import photographs
import result
import torch

from memaudit.audit.memorization.matches import Matches, judge, match_images, searched_radii
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.rules.registry import RULES
from memaudit.audit.neighbors.rules.rule import RuleSearch
from memaudit.data.sources import open_images
from memaudit.data.transformed_copies import plant_copies
from memaudit.progress import silent

ALL = ("pixels", "tiles", "tone", "shift", "flips", "all")
RULE = Rule()


def opened(images: np.ndarray) -> NeighborIndex:
    """An index with every rule for pixels."""
    index = NeighborIndex(images)
    rules = [rule.open(index, IndexConfig(), silent) for rule in RULES if rule.in_all]
    index.rules = tuple(rule for rule in rules if rule is not None)
    return index


def timed(function: Callable[[], object]) -> tuple[object, float]:
    """What a function returns, and the CPU seconds that it took."""
    start = time.process_time()
    found = function()
    return found, time.process_time() - start


def cost_table(images: np.ndarray, queries: np.ndarray) -> list[str]:
    """Tabulate CPU seconds of each search with the index kept, and of building it."""
    index, plain_build = timed(lambda: NeighborIndex(images))
    assert isinstance(index, NeighborIndex)
    index.distinct_nearest(queries[:64], duplicate_rms=searched_radii(RULE))  # warms up
    near, plain = timed(
        lambda: match_images(index, queries, RULE).neighbors,
    )
    lines = [
        "| rule | index | search | × plain | copies found |",
        "|---|---|---|---|---|",
        f"| plain search | {plain_build:.1f} s | {plain:.1f} s | 1 | |",
    ]
    total = plain
    for rule in RULES:
        if not rule.in_all:
            continue
        search, build = timed(lambda rule=rule: rule.open(index, IndexConfig(), silent))
        assert isinstance(search, RuleSearch)
        index.rules = (search,)
        search_seconds, count = 0.0, 0
        for start in range(0, len(queries), 1024):
            part = slice(start, start + 1024)
            found, seconds = timed(lambda part=part: judge(index, queries[part], near[part], RULE))
            assert isinstance(found, Matches)
            search_seconds += seconds
            count += int(found.finds[0].is_copy.sum())
        total += search_seconds
        lines.append(
            f"| {rule.name} | {build:.1f} s | {search_seconds:.1f} s "
            f"| {search_seconds / plain:.1f} | {count:,} |"
        )
        print(lines[-1], file=sys.stderr)
    lines.append(f"| all, with the plain search | | {total:.1f} s | {total / plain:.1f} | |")
    index.rules = ()
    return lines


def recall_table(name: str, images: np.ndarray, holdout: np.ndarray) -> list[str]:
    """Tabulate planted copies that each rule sees, and the floors."""
    index = opened(images)
    planted = plant_copies(images, np.random.default_rng(0), num_originals=100)
    extra = _more_copies(images, holdout)
    kinds = [(each.kind.phrase, each.originals, each.copies) for each in planted] + extra
    lines = [
        f"| {name}: copies | {' | '.join(ALL)} |",
        f"|---|{'---|' * len(ALL)}",
    ]
    for phrase, originals, copies in kinds:
        found = match_images(index, copies, RULE)
        seen = _seen(found, originals)
        shares = " | ".join(f"{100 * hits.mean():.0f}" for hits in seen)
        lines.append(f"| {phrase}, % seen | {shares} |")
        print(lines[-1], file=sys.stderr)
    lines.append(_floor_row("held-out images counted", match_images(index, holdout, RULE)))
    lines.append(_floor_row("leave-one-out", _left_out(index)))
    return lines


def _seen(found: Matches, originals: np.ndarray) -> list[np.ndarray]:
    """Copies that each rule, and any of them, credits to their original."""
    by_pixels = found.is_pixel_copy & (found.nn1 == originals)
    seen = [by_pixels, *(each.index == originals for each in found.finds)]
    return [*seen, np.logical_or.reduce(seen)]


def _floor_row(name: str, found: Matches) -> str:
    counts = [int(hits.sum()) for hits in found.by_rule.values()]
    shown = " | ".join(str(count) for count in [*counts, int(found.is_copy.sum())])
    return f"| {name}, of {len(found):,} | {shown} |"


def _left_out(index: ImageSearch) -> Matches:
    positions = np.random.default_rng(0).permutation(len(index.images))[:1000]
    near = index.leave_one_out(positions, duplicate_rms=searched_radii(RULE))
    kept = positions if near.judged is None else positions[near.judged]
    return judge(index, index.images[kept], near, RULE, left_out=kept)


def _more_copies(
    images: np.ndarray, holdout: np.ndarray
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Copies beside those of the recall diagnostic."""
    rng = np.random.default_rng(1)
    originals = rng.choice(len(images), 100, replace=False)
    x, others = images[originals], holdout[rng.integers(len(holdout), size=100)]
    half, three = others.copy(), others.copy()
    half_h, half_w = x.shape[2] // 2, x.shape[3] // 2
    half[..., :half_w] = x[..., :half_w]
    three[..., :half_w], three[..., :half_h, :] = x[..., :half_w], x[..., :half_h, :]
    toned = (x * 1.15 + 10).clip(0, 255).astype(np.uint8)
    down, right = (max(1, size * k // 32) for size, k in zip(x.shape[2:], (2, 3), strict=True))
    moved = np.pad(x, ((0, 0), (0, 0), (down, 0), (right, 0)), mode="edge")
    moved = np.ascontiguousarray(moved[..., : x.shape[2], : x.shape[3]])
    return [
        ("half copied, the rest held out", originals, half),
        ("three quarters copied", originals, three),
        ("brightness ×1.15 + 10", originals, toned),
        (f"shifted by ({down}, {right}) pixels", originals, moved),
    ]


def flat_icons(number: int, seed: int) -> np.ndarray:
    """Icons of a few flat shapes on a flat ground, of which many share their frame."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (12, 3))
    y, x = np.mgrid[:32, :32]
    icons = np.empty((number, 3, 32, 32), dtype=np.uint8)
    for icon in icons:
        icon[:] = palette[rng.integers(12)][:, None, None]
        frame = (np.abs(y - 15.5) < 13) & (np.abs(x - 15.5) < 13)
        icon[:, frame] = palette[rng.integers(12)][:, None]
        for _ in range(rng.integers(2, 5)):
            cy, cx, r = rng.integers(6, 26, 2).tolist() + [int(rng.integers(2, 9))]
            inside = (
                (y - cy) ** 2 + (x - cx) ** 2 < r * r
                if rng.random() < 0.5
                else (np.abs(y - cy) < r) & (np.abs(x - cx) < r / 2)
            )
            icon[:, inside] = palette[rng.integers(12)][:, None]
    return icons


def like_x_rays(number: int, seed: int) -> np.ndarray:
    """Gray images of one anatomy: two dark lungs that vary in place and size, ribs and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32].astype(np.float64)
    images = np.empty((number, 1, 32, 32), dtype=np.uint8)
    for image in images:
        field = 170 + rng.normal(0, 8) - 0.5 * np.abs(x - 15.5) * rng.uniform(0.5, 2)
        for side in (-1, 1):
            cx, cy = 15.5 + side * rng.normal(7, 0.8), 16 + rng.normal(0, 1.2)
            w, h = rng.normal(4.6, 0.5), rng.normal(9, 0.9)
            field = field - rng.normal(95, 8) * np.exp(
                -((((x - cx) / w) ** 2 + ((y - cy) / h) ** 2) ** 2)
            )
        ribs = np.sin(
            2 * np.pi * (y + 0.08 * (x - 15.5) ** 2 + rng.uniform(0, 4)) / rng.normal(4, 0.3)
        )
        spots = rng.normal(0, 1, (8, 8)).repeat(4, 0).repeat(4, 1)
        field = field + 9 * ribs + 9 * spots + rng.normal(0, 3, field.shape)
        image[0] = field.clip(0, 255).astype(np.uint8)
    return images


def check_truth(images: np.ndarray, queries: np.ndarray) -> str:
    """Judge 64 queries by all distances of whole images, and of every place of a window."""
    from memaudit.audit.neighbors.rules.shift import largest_shift
    from memaudit.audit.neighbors.rules.tone import without_tone

    index = opened(images)
    copies = np.concatenate(
        [
            each.copies[:3]
            for each in plant_copies(images, np.random.default_rng(2), num_originals=3)
        ]
    )
    x = np.concatenate([queries[: max(0, 64 - len(copies))], copies])
    found = {each.rule: each for each in match_images(index, x, RULE).finds}
    rows = images.reshape(len(images), -1).astype(np.float32)

    def all_S(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (each.reshape(len(each), -1).astype(np.float64) for each in (a, b))
        S = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
        return np.rint(S).astype(np.int64)

    up, side = largest_shift(images.shape[2]), largest_shift(images.shape[3])
    H, W = images.shape[2:]
    inner = x[..., up : H - up, side : W - side]
    S_of = {
        "tone": all_S(without_tone(x), without_tone(images)),
        "flips": np.minimum(all_S(x, images), all_S(x[..., ::-1], images)),
        "shift": np.minimum.reduce(
            [
                all_S(inner, images[..., i : i + H - 2 * up, j : j + W - 2 * side])
                for i in range(2 * up + 1)
                for j in range(2 * side + 1)
            ]
        ),
    }
    limit = {"flips": 64 * images[0].size, "shift": 64 * inner[0].size, "tone": -1}
    for name, S in S_of.items():
        for row, distances in enumerate(S):
            first = int(distances.argmin())
            apart = np.square(rows - rows[first]).sum(1) > 64 * images[0].size
            expected = (
                distances[first] <= limit[name] or 9 * distances[first] < distances[apart].min()
            )
            assert (found[name].index[row] == first) == expected, (name, row)
            assert (found[name].index[row] >= 0) == expected, (name, row)
    what = f"{len(x)} queries, {len(copies)} of them planted"
    return f"{what}: tone, shift and flips as by all distances."


def main() -> None:
    """Measure, check, print and write."""
    parser = result.make_parser(__doc__)
    parser.add_argument("queries", type=Path, help="images of the same shape")
    parser.add_argument("--num-queries", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=0, help="images of 256×256, 0 for none")
    options = parser.parse_args()
    device = options.device
    images = np.ascontiguousarray(open_images(options.train).images)
    queries = np.ascontiguousarray(open_images(options.queries).images[: options.num_queries])
    assert RULE.threshold == Fraction(1, 3)
    torch.manual_seed(0)
    report = [*result.make_heading("Further rules", device), ""]
    report += [f"## {len(queries):,} queries among {len(images):,} of {list(images.shape[1:])}", ""]
    report += [*cost_table(images, queries), "", check_truth(images[:5000], queries), ""]
    if options.large:
        large = photographs.random_fields(options.large + 64, (3, 256, 256), seed=0)
        report += [f"## 64 queries among {options.large:,} of [3, 256, 256]", ""]
        report += [*cost_table(large[64:], large[:64]), ""]
    report += ["## Recall and floors", ""]
    sets = [("given images", images[:5000], queries[:400])]
    sets += [
        (name, made(3000, 0), made(400, 1))
        for name, made in (("flat icons", flat_icons), ("like X-rays", like_x_rays))
    ]
    for name, train, holdout in sets:
        report += [*recall_table(name, train, holdout), ""]
    result.write_record("matching", report, device)


if __name__ == "__main__":
    main()
