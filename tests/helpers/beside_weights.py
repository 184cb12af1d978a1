"""What programs keep beside the weights of a network, one of each kind."""

import argparse
import collections
import pathlib
import random
import types
from typing import Any

import numpy as np
import torch

BESIDE: dict[str, Any] = {
    "args": argparse.Namespace(
        model="SiT-B/2",
        image_size=256,
        path_type="linear",
        results_dir=pathlib.PurePosixPath("/data/runs"),
        relative=pathlib.PurePosixPath("runs/1"),
        device=torch.device("cuda:1"),
        dtype=torch.bfloat16,
        shape=torch.Size([3, 32, 32]),
        milestones=collections.Counter([10, 10, 20]),
        losses=collections.deque([0.5, 0.25], maxlen=9),
        groups=collections.defaultdict(list, {"a": [1]}),
        rate=np.float32(0.5),
        count=np.uint8(3),
        mean=np.zeros([2, 3], dtype=np.float64),
        nothing=None,
        best=float("inf"),
    ),
    "extra": types.SimpleNamespace(seed=1),
    "step": 700,
    "numpy_state": np.random.RandomState(0).get_state(),
    "numpy_generator": np.random.RandomState(0),
    "numpy_default": np.random.default_rng(0),
    "python_state": random.Random(0).getstate(),
}
SHOWN = {
    "args": {
        "model": "SiT-B/2",
        "image_size": 256,
        "path_type": "linear",
        "results_dir": "/data/runs",
        "relative": "runs/1",
        "device": "cuda:1",
        "dtype": "torch.bfloat16",
        "shape": [3, 32, 32],
        "milestones": {"10": 2, "20": 1},
        "losses": [0.5, 0.25],
        "groups": {"a": [1]},
        "rate": 0.5,
        "count": 3,
        "mean": "an array of shape [2, 3]",
        "nothing": None,
        "best": "inf",
    },
    "extra": {"seed": 1},
    "step": 700,
}
"""What `inspect` shows of it."""
