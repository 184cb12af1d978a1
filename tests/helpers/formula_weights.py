"""Weights that are a formula of their name: reference outputs need no stored weights."""

import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn

U64 = np.uint64


def set_formula_weights(network: nn.Module, seed: int) -> None:
    """Give every parameter and buffer of `network` the value that its name and shape stand for."""
    state = network.state_dict()
    constants = {name for name in state if name == "u" or name.endswith("resample_filter")}
    network.load_state_dict(
        {
            name: tensor if name in constants else formula_tensor(name, tensor.shape, seed)
            for name, tensor in state.items()
        }
    )


def formula_tensor(name: str, shape: torch.Size, seed: int) -> Tensor:
    """float32 values of the given shape; only `name`, `shape` and `seed` decide them."""
    v = uniform(name, math.prod(shape), seed).reshape(shape)
    last = name.rpartition(".")[2]
    if last == "freqs":
        return 16 * v
    if last == "phases":
        return (v.double() * math.pi).float()
    if len(shape) == 0:
        return 0.5 + v / 4
    if len(shape) == 1:
        return 1 + v / 4 if last == "weight" else v / 8
    fan_in = math.prod(shape[1:])
    return v * 2.0 ** math.floor(math.log2(3 / fan_in) / 2 + 0.5)


def uniform(name: str, count: int, seed: int) -> Tensor:
    """`count` numbers in (-1, 1), float32: SplitMix64 started at a hash of the name."""
    start = (zlib.crc32(name.encode()) + (seed << 32)) * 0xD1342543DE82EF95 % 2**64
    z = np.arange(1, count + 1, dtype=U64) * U64(0x9E3779B97F4A7C15) + U64(start)
    z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    z = z ^ (z >> U64(31))
    k = (z >> U64(40)).astype(np.float64)
    return torch.from_numpy(((2 * k + 1 - 2**24) / 2**24).astype(np.float32))
