"""Nearest vectors in float arithmetic: by FAISS where it is installed, else by torch.

Legend: B queries, N vectors of R numbers, K neighbors.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memaudit.audit.neighbors.integer_distances import squared_norms
from memaudit.errors import ConfigError

LONGEST_SHORTLIST = 2048  # the most that FAISS selects on a GPU
COPY_STEP = 65_536  # vectors copied to a GPU at a time
FAISS_TEMPORARY_BYTES = 256 << 20  # FAISS takes 1.5 GB by default, beside torch's memory
DISTANCE_BYTES = 64 << 20  # float64 distances that torch holds at a time

VectorSearch = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(queries float32 [B, R], K) → squared distances, float [B, K], ascending, and index [B, K]."""


def faiss_serves(device: torch.device) -> bool:
    """Whether FAISS is installed, and sees the device. Without a GPU it is not loaded."""
    if find_spec("faiss") is None:
        return False
    return device.type == "cpu" or load_faiss().get_num_gpus() > 0


def load_faiss() -> Any:
    """FAISS, which takes 0.7 s to load.

    Raises:
        ConfigError: it is installed, but broken.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            f"FAISS is installed, but cannot be loaded: {error}. Install faiss-cpu or faiss-gpu "
            "again, one of them alone; or uninstall both: the search works without, more slowly."
        ) from None
    return faiss


def open_vector_search(vectors: np.ndarray, device: torch.device) -> tuple[str, VectorSearch]:
    """The backend's name, and a function that finds the nearest in ℓ2 of `vectors`, float32 [N, R].

    On the CPU, the vectors are searched in place, without a copy.
    """
    if not faiss_serves(device):
        return f"torch-{device.type}", lambda t, k: nearest_vectors(t, vectors, k, device=device)
    if device.type == "cpu":

        def search_cpu(t: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            faiss = load_faiss()
            faiss.omp_set_num_threads(1)  # for the calling thread: parts run in parallel
            found: tuple[np.ndarray, np.ndarray] = faiss.knn(t, vectors, k)
            return found

        return "faiss-cpu", search_cpu

    faiss = load_faiss()
    config = faiss.GpuIndexFlatConfig()
    config.device = torch.cuda.current_device() if device.index is None else device.index
    config.use_cuvs = False  # the error bound assumes float32 products, as FAISS makes them itself
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(FAISS_TEMPORARY_BYTES)
    index = faiss.GpuIndexFlatL2(resources, vectors.shape[1], config)
    for start in range(0, len(vectors), COPY_STEP):
        index.add(vectors[start : start + COPY_STEP])
    return "faiss-cuda", index.search


def nearest_vectors(
    t: np.ndarray, y: np.ndarray, k: int, *, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """What FAISS does, in torch; in float64, so that TF32 has no effect.

    Args:
        t, y: queries and vectors, float32 [B, R] and [N, R].
        k: 1 … N.
        device: where to compute.

    Returns:
        Squared distances, float64 [B, k], ascending, and index, int64 [B, k].
    """
    queries = torch.from_numpy(t).to(device, torch.float64)
    norm = squared_norms(queries)[:, None]
    squared_distance = queries.new_empty(len(t), 0)
    index = torch.empty(len(t), 0, dtype=torch.int64, device=device)
    step = max(1, DISTANCE_BYTES // (8 * max(len(t), y.shape[1])))
    for start in range(0, len(y), step):
        block = torch.from_numpy(y[start : start + step]).to(device, torch.float64)
        distance = torch.addmm(squared_norms(block) + norm, queries, block.T, alpha=-2)
        nearest: tuple[Tensor, Tensor] = distance.topk(min(k, len(block)), largest=False)
        squared_distance = torch.cat([squared_distance, nearest[0]], 1)
        index = torch.cat([index, nearest[1] + start], 1)
        squared_distance, order = squared_distance.topk(
            min(k, squared_distance.shape[1]), largest=False
        )
        index = index.gather(1, order)
    return squared_distance.cpu().numpy(), index.cpu().numpy()
