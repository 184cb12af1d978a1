"""Whether a part of an image is copied: exact, by bounds so cheap that few images are compared.

An image is a copy if S(x, y₁) < t²·S(x, y₂), where y₁ is its nearest training image and y₂ the
nearest that is not a duplicate of it. Any two training images that cannot both be duplicates of one
bound S(x, y₂) by U, the larger of their distances: whatever y₁ is, one of them counts as a second
neighbor. So only training images within t²·U of x matter, a ball that is nearly always empty, and
lower bounds of distances (window.py) prove it. If the ball is not empty, its nearest image is y₁,
and x is a copy iff every other image within S(x, y₁)/t² is a duplicate of y₁. No second distance is
needed. docs/neighbors.md has the proof.

Where a window may have moved, S is the smallest over its places, and near places share a ball.

Legend: B queries, N training images, D values of a window, R boxes, M pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.integer_distances import pair_distances
from memaudit.audit.neighbors.rules.exclusions import are_allowed, are_excluded, have_seconds
from memaudit.audit.neighbors.rules.rule import Criteria
from memaudit.audit.neighbors.rules.window import Boxes, Window, integral_image
from memaudit.audit.neighbors.threads import map_parts
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.models.arithmetic import fp32_products
from memaudit.progress import Progress, silent

QUERY_PART = 256
"""Queries whose bounds are computed at a time."""
PRODUCTS, CUDA_PRODUCTS = 1 << 20, 1 << 26
"""Bounds that are held at a time."""
IMAGE_BYTES = 8 << 20
"""Limits what is made of images at a time: features, or windows."""
COARSE, FINE = 6, 16
"""Boxes along an axis of a window: in the first bound, and in that of each place."""
COLUMNS = 64
"""Balls that are looked at together at first."""
SAMPLE = 64
"""Training images that say where the middle of all is."""
SPARSE = 8
"""Where fewer than one in that many pairs of queries and images are compared, each is by itself."""
FIRST_COMPARED, MOST_COMPARED = 32, 1 << 15
"""Balls of a query that are compared at a time to see whether a second neighbor is near."""
MOST_BALLS = 10**7
"""Balls in memory at a time, if all are near."""
ROUNDOFF = 2.0**-24


@dataclass(frozen=True)
class Pairs:
    """Queries and training images near each other, by the nearest place of the window."""

    query: np.ndarray
    """int64 [M], ascending."""
    index: np.ndarray
    """int64 [M]: the training image."""
    squared_distance: np.ndarray
    """int64 [M]: the smallest S over places and orientations."""
    dy: np.ndarray
    dx: np.ndarray
    """int64 [M] each: where the window was in the training image, as it lies there."""
    mirrored: np.ndarray
    """bool [M]: whether the query was mirrored."""

    def __getitem__(self, rows: np.ndarray) -> "Pairs":
        return Pairs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @staticmethod
    def concatenate(parts: "Sequence[Pairs]") -> "Pairs":
        """All pairs of several lists; of equal ones the nearest, the first of those that tie."""
        arrays = [
            np.concatenate([getattr(part, name) for part in parts])
            for name in Pairs.__dataclass_fields__
        ]
        query, index, S, dy, dx, mirrored = arrays
        order = np.lexsort((dx, dy, mirrored, S, index, query))
        first = np.ones(len(order), dtype=bool)
        q, i = query[order], index[order]
        first[1:] = (q[1:] != q[:-1]) | (i[1:] != i[:-1])
        return Pairs(query, index, S, dy, dx, mirrored)[order[first]]


class CopyFinder:
    """Finds copies of one window among N training images."""

    def __init__(
        self,
        index: ImageSearch,
        window: Window,
        *,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
        flips: bool | None = None,
        within_radius: bool = False,
        progress: Progress = silent,
    ) -> None:
        """Compute the bounds' features of the training images.

        Args:
            index: of the training images; says the device, duplicates, groups and mirror images.
            window: what is compared.
            change: made of images before they are compared, uint8 [n, C, H, W] to the same.
            flips: whether mirror images count; None: as in the index.
            within_radius: whether an image within the duplicate radius is a copy, too.
            progress: told how many images are indexed.
        """
        self.index, self.window = index, window
        self._change = change
        self._flips = index.flips if flips is None else flips
        self._within_radius = within_radius
        num_images, channels = index.images.shape[:2]
        self.num_values = channels * window.height * window.width
        self._coarse = Boxes(window, channels, COARSE)
        self._fine = Boxes(window, channels, FINE)
        parts = window.parts
        centers = np.empty((len(parts), num_images, self._coarse.width), dtype=np.float32)
        radius = np.empty((len(parts), num_images))
        picked = np.linspace(0, num_images - 1, min(SAMPLE, num_images)).astype(np.int64)
        self._origin = self._features(self._images(picked)).mean(0)
        step = self._block(max(len(dy) * len(dx) for dy, dx in parts) * self._coarse.width)

        def describe(rows: np.ndarray) -> tuple[np.ndarray]:
            integral = integral_image(self._images(rows))
            for number, (dy, dx) in enumerate(parts):
                f = self._coarse.features(integral, dy, dx) - self._origin  # [n, P, R]
                centers[number, rows] = (f.max(1) + f.min(1)) / 2
                apart = f - centers[number, rows][:, None]
                radius[number, rows] = np.sqrt(np.square(apart).sum(2).max(1))
            return (rows,)

        large = 64 * step
        for start in range(0, num_images, large):
            rows = np.arange(start, min(start + large, num_images))
            map_parts(describe, rows, largest=step, device=torch.device("cpu"))
            progress("Indexing parts of training images", int(rows[-1]) + 1, num_images)
        radius = np.where(radius > 0, radius * (1 + 1e-6) + 1e-6, 0)
        # One row for each ball: 2t·c + 2aρ + ρ² − ‖c‖², with 2t, 2a and 1 from the query.
        c = centers.reshape(-1, self._coarse.width).astype(np.float64)
        rho = radius.reshape(-1, 1)
        last = np.square(rho) - np.square(c).sum(1, keepdims=True)
        rows_of_balls = np.concatenate([c, rho, last], 1).astype(np.float32)
        self._num_balls = len(rows_of_balls)
        missing = -len(rows_of_balls) % COLUMNS
        nowhere = np.zeros((missing, rows_of_balls.shape[1]), dtype=np.float32)
        nowhere[:, -1] = -np.finfo(np.float32).max
        rows_of_balls = np.concatenate([rows_of_balls, nowhere])
        self._balls = torch.from_numpy(rows_of_balls).to(index.device)
        self._extent = float(np.sqrt(np.square(c).sum(1)).max() + rho.max())

    @property
    def num_bytes(self) -> int:
        """Memory of the features."""
        return self._balls.numel() * 4

    # --------------------------------------------------------------------------------------------
    # Copies

    def candidates(
        self,
        images: np.ndarray,
        apart: np.ndarray,
        criteria: Criteria,
        left_out: np.ndarray | None = None,
    ) -> Pairs:
        """The nearest training image of each query that may be a copy: no other query is one.

        Args:
            images: uint8 [B, C, H, W].
            apart: of `images_apart`, int64 [B, K].
            criteria: when an image is a copy.
            left_out: positions of the images in the training set, int64 [B], or None.

        Returns:
            At most one pair per query.
        """
        square = float(criteria.threshold) ** 2
        limit = self._within_levels(criteria)

        def search(part: np.ndarray) -> tuple[np.ndarray, ...]:
            if not len(part):
                return (np.empty((0, 5), dtype=np.int64),)
            x = self._orientations(images[part])
            bound = self._bound_of_second(images[part], apart[part])
            most = np.maximum(limit, square * bound * (1 + 1e-9))
            found = self._within(x, most, None if left_out is None else left_out[part])
            order = np.lexsort((found.index, found.squared_distance, found.query))
            best = order[np.unique(found.query[order], return_index=True)[1]]
            columns = np.full((len(part), 5), -1, dtype=np.int64)
            rows = found.query[best]
            columns[rows] = np.stack(
                [
                    found.index[best],
                    found.squared_distance[best],
                    found.dy[best],
                    found.dx[best],
                    found.mirrored[best],
                ],
                1,
            )
            return (columns,)

        (columns,) = self._map(search, len(images))
        rows = np.flatnonzero(columns[:, 0] >= 0)
        index, S, dy, dx, mirrored = columns[rows].T
        return Pairs(rows, index, S, dy, dx, mirrored.astype(bool))

    def are_copies(
        self,
        images: np.ndarray,
        found: Pairs,
        apart: np.ndarray,
        criteria: Criteria,
        left_out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Whether every image as near as S/t² is a duplicate of the nearest, or S is within the
        radius: bool [M].

        Args:
            images: uint8 [B, C, H, W].
            found: of `candidates`.
            apart: of `images_apart`, int64 [B, K].
            criteria: when an image is a copy.
            left_out: positions of the images in the training set, int64 [B], or None.
        """
        is_copy: np.ndarray = found.squared_distance <= self._within_levels(criteria)
        todo = np.flatnonzero(~is_copy)
        if len(todo):
            with fp32_products(False):
                (alone,) = map_parts(
                    lambda part: (self._are_alone(images, found[part], apart, criteria, left_out),),
                    todo,
                    largest=max(1, min(QUERY_PART, MOST_BALLS // self._num_balls)),
                    device=self.index.device,
                )
            is_copy[todo] = alone
        return is_copy

    def _are_alone(
        self,
        images: np.ndarray,
        pairs: Pairs,
        apart: np.ndarray,
        criteria: Criteria,
        left_out: np.ndarray | None,
    ) -> np.ndarray:
        """Whether every image within S/t² is a duplicate of the nearest: bool [M].

        The most likely second neighbors are compared first, and one of them is enough.
        """
        if not len(pairs.query):
            return np.empty(0, dtype=bool)
        p, q = criteria.threshold.as_integer_ratio()
        most = pairs.squared_distance * (q / p) ** 2 * (1 + 1e-9)
        others = None if left_out is None else left_out[pairs.query]
        by_group = (apart[pairs.query] >= 0).all(1)  # one of these is a second neighbor
        alone = by_group.copy()
        unsure = np.flatnonzero(~by_group)
        if len(unsure):
            first = pairs.index[unsure]
            by_group[unsure] = have_seconds(self.index, first, criteria, by_group=True)
            # Without a second neighbor at all, there is no ratio.
            anywhere = have_seconds(self.index, first, criteria, by_group=False)
            alone[unsure] = by_group[unsure] | anywhere
        for x in self._orientations(images[pairs.query]):
            query, ball, closeness = self._near_balls(x, most)
            order = np.lexsort((-closeness, query))
            query, ball = query[order], ball[order]
            starts = np.searchsorted(query, np.arange(len(pairs.query)))
            rank = np.arange(len(query)) - starts[query]
            begin, size = 0, FIRST_COMPARED
            while len(query) and begin <= rank.max():
                some = np.flatnonzero(alone[query] & (rank >= begin) & (rank < begin + size))
                again = self._compare(x, most, query[some], ball[some])
                if others is not None:
                    allowed = are_allowed(self.index, others[again.query], again.index)
                    again = again[np.flatnonzero(allowed)]
                first = pairs.index[again.query]
                S1 = pairs.squared_distance[again.query].astype(object)
                S2 = again.squared_distance.astype(object)
                rows = np.flatnonzero((again.index != first) & (p**2 * S2 <= q**2 * S1))
                excluded = are_excluded(
                    self.index,
                    first[rows],
                    again.index[rows],
                    criteria,
                    by_group[again.query[rows]],
                )
                alone[again.query[rows[~excluded]]] = False
                begin, size = begin + size, min(16 * size, MOST_COMPARED)
        return np.asarray(alone)

    def _within_levels(self, criteria: Criteria) -> int:
        """The largest S of an image that is a copy whatever its ratio; -1 if there is none."""
        if not self._within_radius:
            return -1
        return largest_squared_distance(criteria.duplicate_rms, (self.num_values,))

    def _bound_of_second(self, images: np.ndarray, apart: np.ndarray) -> np.ndarray:
        """U, float64 [B]; infinite where no two training images are known to be far apart.

        Args:
            images: uint8 [B, C, H, W].
            apart: of `images_apart`, int64 [B, K].
        """
        bound = np.full(len(images), np.inf)
        rows = np.flatnonzero((apart >= 0).all(1))
        if len(rows):
            x = self._windows(images[rows])
            query = np.arange(len(rows)).repeat(apart.shape[1])
            zero = np.zeros(len(query), dtype=np.int64)
            S = self._exact(x, query, apart[rows].ravel(), zero, zero)
            bound[rows] = S.reshape(len(rows), -1).max(1)
        return bound

    # --------------------------------------------------------------------------------------------
    # Ranges

    def within(self, images: np.ndarray, limit: np.ndarray) -> Pairs:
        """All training images within a distance of each query.

        Args:
            images: uint8 [B, C, H, W].
            limit: the largest S, float64 [B].
        """
        return self._within(self._orientations(images), limit, None)

    def _within(
        self, x: Sequence[np.ndarray], limit: np.ndarray, left_out: np.ndarray | None
    ) -> Pairs:
        """As `within`, of images in one or both orientations, changed already."""
        found = [
            self._within_one(each, limit, mirrored=bool(number)) for number, each in enumerate(x)
        ]
        pairs = Pairs.concatenate(found)
        if left_out is None or not len(pairs.query):
            return pairs
        return pairs[are_allowed(self.index, left_out[pairs.query], pairs.index)]

    def _within_one(self, x: np.ndarray, limit: np.ndarray, *, mirrored: bool) -> Pairs:
        query, ball, _ = self._near_balls(x, limit)
        return self._compare(x, limit, query, ball, mirrored=mirrored)

    def _compare(
        self,
        x: np.ndarray,
        limit: np.ndarray,
        query: np.ndarray,
        ball: np.ndarray,
        *,
        mirrored: bool = False,
    ) -> Pairs:
        """All places within the limit, with their distances, in balls that queries come near.

        Args:
            x: queries, changed already, uint8 [B, C, H, W].
            limit: the largest S, float64 [B].
            query, ball: int64 [M] each.
            mirrored: whether the queries are mirrored.
        """
        part, index = np.divmod(ball, len(self.index.images))
        rows = self.window.of(x)
        if not any(self.window.reach):
            dy = dx = np.zeros(len(query), dtype=np.int64)
        else:
            query, index, dy, dx = self._near_places(x, limit, query, index, part)
        S = self._exact(rows, query, index, dy, dx)
        kept = np.flatnonzero(S <= limit[query])
        return Pairs(
            query[kept], index[kept], S[kept], dy[kept], dx[kept], np.full(len(kept), mirrored)
        )

    def _near_balls(
        self, x: np.ndarray, limit: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries and balls that may be within the limit: query and ball, int64 [M] each, and how
        near they may be, float32 [M], larger for nearer ones."""
        f = self._features(x) - self._origin
        everything = np.flatnonzero(~np.isfinite(limit))
        t = f.astype(np.float32)
        norm = np.sqrt(np.square(t.astype(np.float64)).sum(1))
        a = np.sqrt(np.where(np.isfinite(limit), limit, 0).clip(0)) + 2 * ROUNDOFF * norm
        terms = self._balls.shape[1]
        error = 2 * (terms + 8) * ROUNDOFF * np.square(norm + a + self._extent)
        least = np.square(norm) - np.square(a) - error
        least[everything] = np.inf  # are added below
        least[limit < 0] = np.inf
        rows = np.concatenate([2 * t, 2 * a[:, None], np.ones((len(t), 1))], 1).astype(np.float32)
        device = self._balls.device
        queries = torch.from_numpy(rows).to(device)
        least32 = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
        lower = torch.from_numpy(least32).to(device)
        products = PRODUCTS if device.type == "cpu" else CUDA_PRODUCTS
        step = max(COLUMNS, products // max(1, len(rows)) // COLUMNS * COLUMNS)
        columns = queries.T.contiguous()
        held = torch.empty(min(step, len(self._balls)), len(rows), device=device)  # pages stay
        found = []
        for start in range(0, len(self._balls), step):
            balls = self._balls[start : start + step]
            P = torch.mm(balls, columns, out=held[: len(balls)])
            P = P.view(COLUMNS, -1, len(rows))  # [columns, balls of each, B]
            # Most balls are far: look at the largest of every so many, and closer where it hits.
            place, query = _nonzero(P.amax(0) >= lower)
            looked = P[:, place, query].cpu().numpy()
            column, hit = np.nonzero(looked >= least32[query])
            balls_hit = start + column * P.shape[1] + place[hit]
            found.append((query[hit], balls_hit, looked[column, hit]))
        for row in everything.tolist():
            every = np.arange(self._num_balls)
            found.append((np.full(len(every), row), every, np.zeros(len(every), np.float32)))
        query, ball, closeness = (np.concatenate(each) for each in zip(*found, strict=True))
        return query, ball, closeness

    def _near_places(
        self,
        x: np.ndarray,
        limit: np.ndarray,
        query: np.ndarray,
        index: np.ndarray,
        part: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The places in balls that may be within the limit: query, index, dy, dx."""
        f = self._fine.features(integral_image(x))[:, 0]  # [b, R]
        norm = np.square(f).sum(1)
        found = []
        for number, (dy, dx) in enumerate(self.window.parts):
            rows = np.flatnonzero(part == number)
            rows = rows[np.argsort(index[rows], kind="stable")]
            used, starts = np.unique(index[rows], return_index=True)
            size = self._block(len(dy) * len(dx) * self._fine.width)
            for start in range(0, len(used), size):
                images = used[start : start + size]
                end = starts[start + size] if start + size < len(used) else len(rows)
                some = rows[starts[start] : end]
                place = np.searchsorted(images, index[some])
                y = self._fine.features(integral_image(self._images(images)), dy, dx)  # [n, P, R]
                if SPARSE * len(some) < len(images) * len(f):
                    bound = np.square(y[place] - f[query[some], None]).sum(2)
                else:  # nearly every query comes near every image: a matrix product is faster
                    apart = np.square(y).sum(2)[:, :, None] - 2 * (y @ f.T) + norm
                    bound = apart[place, :, query[some]]
                most = limit[query[some], None] * (1 + 1e-9) + 1e-6
                hit, at = np.nonzero(bound <= most + 1e-9 * norm[query[some], None])
                down, right = np.divmod(at, len(dx))
                found.append(np.stack([query[some[hit]], index[some[hit]], dy[down], dx[right]]))
        if not found:
            empty = np.empty(0, dtype=np.int64)
            return empty, empty, empty, empty
        query, index, down, right = np.concatenate(found, 1)
        return query, index, down, right

    def _exact(
        self,
        windows: np.ndarray,
        query: np.ndarray,
        index: np.ndarray,
        dy: np.ndarray,
        dx: np.ndarray,
    ) -> np.ndarray:
        """S of pairs of queries and places in training images: int64 [M].

        Args:
            windows: of the queries, uint8 [b, D].
            query, index, dy, dx: int64 [M] each.
        """
        S = np.empty(len(query), dtype=np.int64)
        size = self._block(self.num_values)
        for start in range(0, len(query), size):
            some = slice(start, start + size)
            used, place = np.unique(index[some], return_inverse=True)
            images = self._images(used)
            place = place.ravel()
            if any(self.window.reach):
                y = self.window.moved(images[place], dy[some], dx[some])
                place = np.arange(len(y))
            else:
                y = self.window.of(images)
            S[some] = pair_distances(windows, y, query[some], place, device=torch.device("cpu"))
        return S

    # --------------------------------------------------------------------------------------------
    # Images

    def _images(self, index: np.ndarray) -> np.ndarray:
        """Training images as they are compared."""
        images = self.index.images[index]
        return images if self._change is None else self._change(images)

    def _windows(self, images: np.ndarray) -> np.ndarray:
        return self.window.of(images if self._change is None else self._change(images))

    def _features(self, images: np.ndarray) -> np.ndarray:
        """f of images that are changed already: float64 [n, R]."""
        found: np.ndarray = self._coarse.features(integral_image(images))[:, 0]
        return found

    def _orientations(self, images: np.ndarray) -> list[np.ndarray]:
        changed = images if self._change is None else self._change(images)
        if not self._flips:
            return [changed]
        return [changed, np.ascontiguousarray(changed[..., ::-1])]

    def _block(self, num_values: int) -> int:
        """Images at a time, if so many numbers are made of each."""
        H, W = self.index.images.shape[2:]
        integral = 4 * (H + 1) * (W + 1)
        return max(1, int(IMAGE_BYTES // (8 * num_values + integral)))

    def _map(
        self, function: Callable[[np.ndarray], tuple[np.ndarray, ...]], number: int
    ) -> tuple[np.ndarray, ...]:
        with fp32_products(False):
            return map_parts(
                function, np.arange(number), largest=QUERY_PART, device=self.index.device
            )


def _nonzero(mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each that is set; NumPy is faster than torch at that."""
    host = mask.cpu().numpy()
    rows, columns = np.divmod(np.flatnonzero(host), host.shape[1])
    return rows, columns
