"""Vectors are found by FAISS, or without it; and the whole audit works without it."""

import importlib.util
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from memaudit.audit.neighbors import vector_search
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.vector_search import nearest_vectors, open_vector_search
from memaudit.errors import ConfigError

CPU = torch.device("cpu")
WITHOUT_FAISS = """
import sys
class NoFaiss:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "faiss":
            raise ModuleNotFoundError("No module named 'faiss'", name="faiss")
sys.meta_path.insert(0, NoFaiss())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "faiss" else find_spec(name, *rest)
"""


def test_nearest_vectors_are_those_of_all_distances():
    rng = np.random.default_rng(0)
    t, y = (rng.normal(size=(n, 20)).astype(np.float32) for n in (5, 60_000))
    exact_t, exact_y = t.astype(np.float64), y.astype(np.float64)
    S = np.square(exact_t).sum(1)[:, None] + np.square(exact_y).sum(1) - 2 * exact_t @ exact_y.T
    vector_search_bytes = 8 * 20 * 7000  # in blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_search, "DISTANCE_BYTES", vector_search_bytes)
        distance, index = nearest_vectors(t, y, 7, device=CPU)
    np.testing.assert_array_equal(index, S.argsort(1)[:, :7])
    np.testing.assert_allclose(distance, np.sort(S, 1)[:, :7], rtol=1e-12)


@pytest.mark.parametrize("is_installed", [True, False])
def test_both_backends_find_the_same_vectors(is_installed, monkeypatch):
    if not is_installed:
        monkeypatch.setitem(sys.modules, "faiss", None)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 16)).astype(np.float32)
    backend, search = open_vector_search(vectors, CPU)
    assert backend == ("faiss-cpu" if is_installed else "torch-cpu")
    distance, index = search(vectors[:9], 5)
    assert index[:, 0].tolist() == list(range(9))
    assert (np.diff(distance, axis=1) >= 0).all()


def test_a_broken_faiss_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="FAISS is installed, but cannot be loaded.*uninstall"):
        vector_search.load_faiss()


def test_on_a_gpu_faiss_takes_the_current_device_and_little_memory(monkeypatch):
    """The calls that a GPU's index gets; the index itself is a stand-in."""
    made = types.SimpleNamespace(memory=None, device=None, added=0)

    class Resources:
        def setTempMemory(self, num_bytes):
            made.memory = num_bytes

    class Index:
        def __init__(self, resources, width, config):
            made.device, made.cuvs = config.device, config.use_cuvs

        def add(self, vectors):
            made.added += len(vectors)

        search = None

    faiss = types.ModuleType("faiss")
    faiss.__spec__ = importlib.util.spec_from_loader("faiss", None)
    faiss.get_num_gpus = lambda: 2
    faiss.GpuIndexFlatConfig = types.SimpleNamespace
    faiss.StandardGpuResources, faiss.GpuIndexFlatL2 = Resources, Index
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    vectors = np.zeros((70_000, 2), np.float32)
    for device, number in (("cuda", 1), ("cuda:0", 0)):
        made.added = 0
        assert open_vector_search(vectors, torch.device(device))[0] == "faiss-cuda"
        assert (made.device, made.added, made.memory) == (number, 70_000, 256 << 20)
        assert made.cuvs is False


def test_without_faiss_the_same_images_are_found(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 3, 8, 8), dtype=np.uint8)
    queries = np.concatenate([images[:20], rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)])
    index = NeighborIndex(images, flips=True)
    expected = index.distinct_nearest(queries, duplicate_rms=[8, 60])
    monkeypatch.setitem(sys.modules, "faiss", None)
    without = NeighborIndex(images, flips=True)
    found = without.distinct_nearest(queries, duplicate_rms=[8, 60])
    assert (index.backend, without.backend) == ("faiss-cpu", "products-cpu")
    assert without.num_bytes < index.num_bytes
    for name in ("index", "squared_distance", "index_distinct", "squared_distance_distinct"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.slow
def test_without_faiss_an_audit_gives_the_same_and_a_training_starts(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "train.npy", images)
    queries = np.concatenate([images[:20], rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)])
    np.save(tmp_path / "samples.npy", queries)
    program = """
import memaudit.cli.train  # early warning searches for copies, too
import numpy as np
from pathlib import Path
from memaudit.audit.neighbors.pixel_index import NeighborIndex
train, samples = (np.load(Path(FOLDER) / name) for name in ("train.npy", "samples.npy"))
index = NeighborIndex(train, flips=True)
found = index.distinct_nearest(samples, duplicate_rms=[8, 60])
print(index.backend, found.index.tolist(), found.squared_distance.tolist(),
      found.index_distinct.tolist(), found.squared_distance_distinct.tolist(), sep="\\n")
"""
    program = f"FOLDER = {str(tmp_path)!r}\n" + program
    outputs = [
        subprocess.run(
            [sys.executable, "-c", start + program], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for start in ("", WITHOUT_FAISS)
    ]
    assert [lines[0] for lines in outputs] == ["faiss-cpu", "products-cpu"]
    assert outputs[0][1:] == outputs[1][1:]
