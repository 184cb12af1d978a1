"""The index of a training set in parts, of which each rank holds one.

Rank r searches the images [a_r, b_r). Distances are integers, so the k smallest keys S·N + index of
all parts, merged, are those of the whole: ties included, to the lower index.
"""

import socket
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.integer_distances import FARTHEST, DistinctQuery, split_keys
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.results import Neighbors, SearchStatistics
from memaudit.data.images import fingerprint_of
from memaudit.errors import DataError
from memaudit.progress import Progress, silent
from memaudit.ranks.board import Handler
from memaudit.ranks.leader import Leader
from memaudit.ranks.message import Message, pack

TASK = "search"


def shard_rows(num_images: int, num_shards: int) -> list[slice]:
    """The rows of each part, as even as can be; there may be fewer parts than asked for."""
    num_shards = min(num_images, num_shards)
    ends = [num_images * shard // num_shards for shard in range(num_shards + 1)]
    return [slice(first, end) for first, end in zip(ends, ends[1:], strict=False)]


def search_handler(
    images: np.ndarray, *, device: str | torch.device, memory_limit: int | None = None
) -> Handler:
    """Search one part of the training images, which is indexed when it is first asked for.

    Args:
        images: all training images, uint8 [N, C, H, W]; may be memory-mapped.
        device: "cpu", or "cuda" to search on a GPU.
        memory_limit: most bytes that the index of a part may take.
    """

    @cache
    def index_of(first: int, end: int, fingerprint: str) -> NeighborIndex:
        if fingerprint_of(images[first:end]) != fingerprint:
            raise DataError(
                f"{socket.gethostname()} opened other training images than rank 0: images "
                f"{first:,} to {end:,} of {len(images):,} differ. Give every machine the same ones."
            )
        return NeighborIndex(images[first:end], device=device, memory_limit=memory_limit)

    def handle(message: Message, look: Callable[[], None]) -> bytes:
        about, arrays = message
        first, end = about["rows"]
        index = index_of(first, end, about["fingerprint"])
        if about["what"] == "build":
            return pack({"num_bytes": index.num_bytes, "backend": index.backend})
        if about["what"] == "nearest":
            found = index.search_part(arrays["x"], min(about["k"], end - first))
            return pack(
                {"statistics": vars(found.statistics)},
                index=found.index + first,
                squared_distance=found.squared_distance,
            )
        query = DistinctQuery(
            [arrays[f"x{i}"] for i in range(about["orientations"])],
            [arrays[f"first{i}"] for i in range(about["orientations"])],
            about["limits"],
            leave_out_equal=about["leave_out_equal"],
            but=arrays["but"] - first if "but" in arrays else None,
            groups=arrays.get("groups"),
            left_out=arrays.get("left_out"),
        )
        position, squared_distance = index.search_part_distinct(query)
        position = np.where(position < 0, -1, position + first)
        return pack({}, index=position, squared_distance=squared_distance)

    return handle


class ShardedIndex(NeighborIndex):
    """`NeighborIndex` among images that the ranks hold in parts."""

    def __init__(
        self,
        images: np.ndarray,
        leader: Leader,
        *,
        device: str | torch.device = "cpu",
        flips: bool = False,
        groups: np.ndarray | None = None,
        memory_limit: int | None = None,
        progress: Progress = silent,
    ) -> None:
        """Have every rank index its part.

        Args:
            images: all training images, uint8 [N, C, H, W], N ≥ 1; may be memory-mapped.
            leader: shares out the work; the others serve with `search_handler`.
            device: "cpu", or "cuda" to search on GPUs.
            flips: whether a training image also counts as its mirror image.
            groups: int64 [N]: images with the same number belong together; None: each is its own.
            memory_limit: most bytes that the index of a part may take.
            progress: told how many parts are indexed.

        Raises:
            DataError: there are no images, they are too large, or not uint8 [N, C, H, W].
            ConfigError: there is no GPU; or the index takes more memory than the limit.
        """
        ImageSearch.__init__(self, images, device=device, flips=flips, groups=groups)
        self._leader = leader
        self._parts = [
            (rows, fingerprint_of(images[rows]))
            for rows in shard_rows(len(images), leader.num_ranks)
        ]
        leader.handlers[TASK] = search_handler(images, device=device, memory_limit=memory_limit)
        built = self._ask({"what": "build"})
        progress("Indexing parts", len(built), len(built))
        self._bytes = sum(int(each.about["num_bytes"]) for each in built)
        self.backend = str(built[0].about["backend"])

    @property
    def num_bytes(self) -> int:
        return self._bytes

    @property
    def passes_over_groups(self) -> bool:
        return False

    def _search(self, x: np.ndarray, k: int, left_out: np.ndarray | None = None) -> Neighbors:
        assert left_out is None
        found = self._ask({"what": "nearest", "k": k}, x=x)
        S = np.concatenate([each.arrays["squared_distance"] for each in found], 1)
        index = np.concatenate([each.arrays["index"] for each in found], 1)
        keys = np.sort(S * len(self.images) + index, axis=1)[:, :k]
        statistics = [SearchStatistics(**each.about["statistics"]) for each in found]
        return Neighbors(
            *split_keys(keys, len(self.images)), sum(statistics[1:], start=statistics[0])
        )

    def _search_all_distinct(self, query: DistinctQuery) -> tuple[np.ndarray, np.ndarray]:
        about = {
            "what": "distinct",
            "orientations": len(query.x),
            "limits": [int(limit) for limit in query.limits],
            "leave_out_equal": query.leave_out_equal,
        }
        arrays = {f"x{i}": rows for i, rows in enumerate(query.x)}
        arrays |= {f"first{i}": rows for i, rows in enumerate(query.first)}
        if query.but is not None:
            arrays["but"] = query.but
        if query.left_out is not None:
            arrays["left_out"] = query.left_out
        found = self._ask(about, groups=query.groups, **arrays)
        index = np.stack([each.arrays["index"] for each in found])
        S = np.stack([each.arrays["squared_distance"] for each in found])
        keys = np.where(index < 0, FARTHEST, S * len(self.images) + index)
        return split_keys(keys.min(0), len(self.images))

    def _ask(
        self, about: dict[str, object], *, groups: np.ndarray | None = None, **arrays: np.ndarray
    ) -> list[Message]:
        """What each rank finds among its part, in the order of the parts.

        Args:
            about: what is asked for.
            groups: of all training images, int64 [N]; each rank is sent those of its part.
            arrays: sent to every rank.
        """
        return self._leader.ask_each(
            [
                pack(
                    {"task": TASK, "rows": [rows.start, rows.stop], "fingerprint": part, **about},
                    **arrays,
                    **({} if groups is None else {"groups": groups[rows]}),
                )
                for rows, part in self._parts
            ]
        )
