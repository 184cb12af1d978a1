"""Nearest training images by feature vectors, for copies that pixels do not show.

Copies that are shifted, cropped or recolored are far away in pixels, but near in the features of
an encoder made to detect copies. Distances are floats: neighbors are as good as float arithmetic
and the encoder make them, and nothing is proven. Duplicates are still judged in pixels.

Legend: B queries, N training images, F features, K neighbors, R radii.
"""

from collections.abc import Callable
from functools import cached_property, partial, reduce
from hashlib import blake2b
from typing import get_args

import numpy as np

from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.config import Metric
from memaudit.audit.neighbors.encoder import SAME, Encoder, as_encoder, check_features
from memaudit.audit.neighbors.integer_distances import DistinctQuery, all_distances
from memaudit.audit.neighbors.pixel_index import SHORTLIST
from memaudit.audit.neighbors.results import Neighbors, SearchStatistics
from memaudit.audit.neighbors.units import Space, feature_space
from memaudit.audit.neighbors.vector_search import (
    LONGEST_SHORTLIST,
    nearest_vectors,
    open_vector_search,
)
from memaudit.errors import DataError
from memaudit.progress import Progress, silent

ENCODING_STEP = 1024  # images between two reports of progress
MOST_KNOWN = 1 << 16
"""Vectors of queries that are kept: the same images are searched for by several diagnostics."""
DIFFERENCE_BYTES = 32 << 20  # limits the float64 differences between queries and shortlists


class FeatureIndex(ImageSearch):
    """Nearest neighbors among the feature vectors of N training images; distances are float64."""

    exact = False

    def __init__(
        self,
        images: np.ndarray,
        encoder: Encoder | Callable[[np.ndarray], object],
        *,
        metric: Metric = "cosine",
        flips: bool = False,
        groups: np.ndarray | None = None,
        encode_all: Callable[[], np.ndarray] | None = None,
        progress: Progress = silent,
    ) -> None:
        """Encode the training images.

        Args:
            images: training images, uint8 [N, C, H, W], N ≥ 1; may be memory-mapped.
            encoder: turns images into vectors, and the search runs on its device; or any callable
                uint8 [B, C, H, W] → floats [B, F], with a search on the CPU.
            metric: "l2" for the squared distance of the vectors, or "cosine" for that of the
                vectors scaled to length 1, 2 - 2·cos.
            flips: whether a training image also counts as its mirror image.
            groups: int64 [N]: images with the same number belong together; None: each is its own.
            encode_all: gives what the encoder makes of the images, float32 [N, F], where it may be
                kept; called once the encoder was tried.
            progress: told how many images have been encoded.

        Raises:
            DataError: there are no images, they are not uint8 [N, C, H, W], or the metric is
                "cosine" and an image has the zero vector, which has no direction.
            CheckpointError: the encoder fails, returns anything but a finite vector per image, or
                features that could not find a copy (`check_features`).
        """
        encoder = as_encoder(encoder)
        super().__init__(images, device=encoder.device, flips=flips, groups=groups)
        if metric not in get_args(Metric):
            raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}; got {metric!r}")
        self.encoder = encoder
        self.metric: Metric = metric
        check_features(self.images, self._encode_images, self.encoder.name)
        if encode_all is None:
            encode_all = partial(encode_images, images, encoder, progress=progress)
        features = encode_all()
        self._vectors = self._scaled(features)
        self.backend, self._search_vectors = open_vector_search(self._vectors, self.device)

    @property
    def space(self) -> Space:
        return feature_space(self.metric)

    @property
    def num_bytes(self) -> int:
        return self._vectors.nbytes

    def _encode(self, rows: np.ndarray) -> np.ndarray:
        """Vectors, float32 [B, F], of images uint8 [B, D], each of which is encoded only once."""
        known = self._known
        digests = [_digest(row) for row in rows]
        unknown = {digest: i for i, digest in enumerate(digests) if digest not in known}
        found = {}
        if unknown:
            shape = self.images.shape[1:]
            vectors = self._encode_images(rows[list(unknown.values())].reshape(-1, *shape))
            found = dict(zip(unknown, vectors, strict=True))
        result = np.empty((len(rows), self._vectors.shape[1]), dtype=np.float32)
        for i, digest in enumerate(digests):
            result[i] = found[digest] if digest in found else known[digest]
        if len(known) + len(found) <= len(self._vectors) + MOST_KNOWN:
            known.update(found)
        return result

    @cached_property
    def _known(self) -> dict[bytes, np.ndarray]:
        """Vectors by the hash of their images: those of the training images and of queries."""
        return {_digest(row): self._vectors[i] for i, row in enumerate(self._rows)}

    def _encode_images(self, images: np.ndarray) -> np.ndarray:
        """Vectors, float32 [B, F], of images uint8 [B, C, H, W]."""
        return self._scaled(self.encoder(images))

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        """Vectors as the metric compares them, float32 [B, F]."""
        if self.metric == "l2":
            return np.asarray(features)
        length = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
        if not length.all():
            raise DataError(
                f"{self.encoder.name} returns the zero vector for an image. It has no direction, "
                "so the cosine is not defined. Use the metric l2."
            )
        unit: np.ndarray = (features / length).astype(np.float32)
        return unit

    def _search(self, x: np.ndarray, k: int, left_out: np.ndarray | None = None) -> Neighbors:
        assert left_out is None
        v = self._encode(x)
        num_images, num_features = self._vectors.shape
        width = min(num_images, max(SHORTLIST, 4 * k))

        def search(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            shortlist = self._shortlist(v[part], width)
            # Differences in float64: FAISS's expansion gives copies a distance above 0.
            squared_distance = self._distances(v[part, None], shortlist)
            order = np.lexsort((shortlist, squared_distance), axis=1)[:, :k]
            return (
                np.take_along_axis(shortlist, order, 1),
                np.take_along_axis(squared_distance, order, 1),
            )

        largest = max(1, DIFFERENCE_BYTES // (8 * width * num_features))
        index, squared_distance = self._map(search, np.arange(len(x)), largest)
        statistics = SearchStatistics(
            self.backend, num_searches=len(x), num_candidates=len(x) * width
        )
        return Neighbors(index, squared_distance, statistics)

    def _shortlist(self, v: np.ndarray, width: int) -> np.ndarray:
        """The `width` nearest in float arithmetic, int64 [B, width]."""
        if self.device.type == "cuda" and width > LONGEST_SHORTLIST:
            return nearest_vectors(v, self._vectors, width, device=self.device)[1]
        return self._search_vectors(v, width)[1]

    def _distances(self, v: np.ndarray, index: np.ndarray) -> np.ndarray:
        """‖v − y‖² for v float32 [..., F] and the training images of an index [...]; float64."""
        x, y = v.astype(np.float64), self._vectors[index]
        return _without_noise(np.square(x - y).sum(-1), x, y)

    def _search_all_distinct(self, query: DistinctQuery) -> tuple[np.ndarray, np.ndarray]:
        vectors = [self._encode(rows) for rows in query.x]
        B, R = len(vectors[0]), len(query.limits)
        best = np.full((B, R), np.inf)
        index = np.full((B, R), -1)
        for (part, S), (_, own) in zip(
            all_distances(query.first, self._training),
            all_distances(query.x if query.leave_out_equal else query.first, self._training),
            strict=True,
        ):
            y = self._vectors[part].astype(np.float64)
            distance = reduce(np.minimum, (_squared_distances(v, y) for v in vectors))  # [B, n]
            if query.leave_out_equal:
                distance = np.where(own.cpu().numpy() == 0, np.inf, distance)
            never = query.never_counted(part)
            if never is not None:
                distance = np.where(never, np.inf, distance)
            apart = S.cpu().numpy()
            for r, limit in enumerate(query.limits):
                distinct = np.where(apart <= limit, np.inf, distance)
                nearest = distinct.argmin(1)  # ties: the first
                smallest = distinct[np.arange(B), nearest]
                nearer = smallest < best[:, r]
                best[nearer, r] = smallest[nearer]
                index[nearer, r] = part.start + nearest[nearer]
        precisely = reduce(np.minimum, (self._distances(v[:, None], index) for v in vectors))
        return index, np.where(index < 0, -1.0, precisely)


def _digest(row: np.ndarray) -> bytes:
    return blake2b(row.tobytes(), digest_size=16).digest()


def encode_images(
    images: np.ndarray, encoder: Encoder, *, progress: Progress = silent
) -> np.ndarray:
    """What an encoder gives for images, float32 [N, F].

    Args:
        images: uint8 [N, C, H, W], N ≥ 1; may be memory-mapped.
        encoder: turns them into vectors.
        progress: told how many have been encoded.

    Raises:
        CheckpointError: the encoder fails, or returns anything but a finite vector per image.
    """
    features = None
    for start in range(0, len(images), ENCODING_STEP):
        step = slice(start, min(start + ENCODING_STEP, len(images)))
        part = encoder(images[step])
        if features is None:
            features = np.empty((len(images), part.shape[1]), dtype=np.float32)
        features[step] = part
        progress("Encoding training images", step.stop, len(images))
    assert features is not None
    return features


def _squared_distances(v: np.ndarray, y: np.ndarray) -> np.ndarray:
    """‖v − y‖² of all pairs of float32 [B, F] and float64 [n, F], by a product in float64."""
    x = v.astype(np.float64)[:, None]
    squared_distance = np.square(x).sum(-1) + np.square(y).sum(-1) - 2 * x[:, 0] @ y.T
    return _without_noise(squared_distance, x, y)


def _without_noise(squared_distance: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """0 where the vectors x and y [..., F] differ only by rounding, so that they tie."""
    scale = np.square(x).sum(-1) + np.square(y).sum(-1)
    return np.where(squared_distance <= SAME * scale, 0.0, squared_distance)
