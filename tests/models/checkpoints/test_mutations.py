"""Mutated files of every container and configuration: refused by name, or read; nothing else.

The mutations know the forms: lengths and checksums are made anew, so that they reach what lies
behind. A hundred thousand of each are tried in the slow tests, a few in the others.
"""

import io
import json
import pickle
import random
import re
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.beside_weights import BESIDE
from helpers.edm_pickles import TINY
from helpers.tiny_networks import SMALLEST
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from memaudit.errors import MemauditError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint, save_checkpoint
from memaudit.models.checkpoints.assembly import assemble, build_uninitialized
from memaudit.models.checkpoints.beside import facts_beside
from memaudit.models.checkpoints.containers.raw_file import RawFile, decode
from memaudit.models.checkpoints.formats.diffusers import check_supported
from memaudit.models.checkpoints.given import Given
from memaudit.models.checkpoints.json_metadata import json_object
from memaudit.models.checkpoints.opening import read_network
from memaudit.models.checkpoints.weight_names import ANCHOR
from memaudit.models.checkpoints.weights import find_weights
from memaudit.models.config_values import SCHEDULER_VALUES, UNET2D_VALUES, VALUES
from memaudit.unpickler import Budget

MUTANTS = 100
"""Mutants of one example of hypothesis, which is a seed."""
MAX_SECONDS = 30
"""Longest time of an example, on a slow machine that others use too."""
MAX_KILOBYTES = 300_000
NUMBERS = [
    "0",
    "-1",
    "1e300",
    "NaN",
    "Infinity",
    '"x"',
    "[1]",
    "[]",
    "true",
    "null",
    "1099511627776",
]
WIDE = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
OPCODES = (
    b"()]}l0125RbcisjhqrQ.\x80\x81\x82\x85\x86\x87\x88\x8a\x8b\x8c\x8e\x8f\x90\x92\x93\x94\x95"
)


def damaged(random: random.Random, content: bytes, *, structure: int = 3000) -> bytes:
    """Some bytes changed, cut, doubled, or made numbers at the ends of their range."""
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        # Weights are most of a file: its structure is met as often.
        last = random.choice([len(data), min(structure, len(data))])
        place, size = random.randrange(max(1, last)), random.choice([1, 2, 4, 8, 40])
        kind = random.randrange(6)
        if kind == 0:
            data[place : place + 1] = random.randbytes(1)
        elif kind == 1:
            data[place : place + 8] = random.choice(WIDE).to_bytes(8, "little")
        elif kind == 2:
            data[place : place + 4] = (random.choice(WIDE) % 2**32).to_bytes(4, "little")
        elif kind == 3:
            del data[place : place + size]
        elif kind == 4:
            data[place:place] = data[place : place + size]
        else:
            data[place:place] = bytes(random.choices(OPCODES, k=random.randint(1, 3)))
    return bytes(data)


def with_other_values(random: random.Random, text: str) -> str:
    """JSON with a value or a name of another kind."""
    for _ in range(random.randint(1, 3)):
        values = list(re.finditer(r'-?\d[\d.e+-]*|"[^"]*"|true|false|null', text))
        if not values:
            break
        chosen = random.choice(values)
        other = random.choice([*NUMBERS, random.choice(values)[0]])
        text = text[: chosen.start()] + other + text[chosen.end() :]
    return text


def with_header(content: bytes, change: Callable[[str], str]) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = change(content[8 : 8 + size].decode()).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def mutated_safetensors(random: random.Random, content: bytes) -> bytes:
    if random.random() < 0.4:
        return damaged(random, content)

    def change(text: str) -> str:
        header = json.loads(text)
        if random.random() < 0.5:
            metadata = header["__metadata__"]
            metadata["config"] = with_other_values(random, metadata["config"])
            return json.dumps(header)
        return with_other_values(random, text)

    return with_header(content, change)


@cache
def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def mutated_zip(random: random.Random, content: bytes) -> bytes:
    if random.random() < 0.4:
        # The directory is at the end.
        return damaged(random, content[::-1], structure=600)[::-1]
    entries = dict(unzipped(content))
    name = random.choice([name for name in entries if name.endswith(".pkl")] * 5 + list(entries))
    entries[name] = damaged(random, entries[name])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return made.getvalue()


Mutate = Callable[[random.Random, bytes], bytes]
FORMS: dict[str, tuple[str, Mutate]] = {
    "snapshot": ("pickle", damaged),
    "training state": ("torch zip", mutated_zip),
    "old training state": ("torch stream", damaged),
    "native": ("safetensors", mutated_safetensors),
}


@pytest.fixture
def files(tmp_path: Path, as_persistent: Any) -> Callable[[nn.Module], dict[str, bytes]]:
    """Files of every container with the weights of a module, by name of the form."""

    def make(module: nn.Module) -> dict[str, bytes]:
        net = as_persistent(module)
        paths = [tmp_path / str(i) for i in range(len(FORMS))]
        paths[0].write_bytes(pickle.dumps({"ema": net, "loss_fn": None}, protocol=4))
        torch.save({"net": net}, paths[1])
        torch.save({"net": net}, paths[2], _use_new_zipfile_serialization=False)
        save_checkpoint(paths[3], module, TINY, provenance={"images_seen": 9})
        return {name: path.read_bytes() for name, path in zip(FORMS, paths, strict=True)}

    return make


def bounded(mutants: Iterator[Callable[[], object]]) -> None:
    """Run each; only errors of ours may come out, and little time and memory may go."""
    started = time.monotonic()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for run in mutants:
        try:
            run()
        except MemauditError as error:
            assert 0 < len(str(error)) < 5000
    assert time.monotonic() - started < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MAX_KILOBYTES


@pytest.mark.parametrize("examples", [2, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_a_mutated_file_is_read_or_refused(tmp_path, files, network, form, examples):
    container, mutate = FORMS[form]
    # Many files of a whole network would take a quarter of an hour.
    whole = files(network if examples < 10 else nn.Linear(2, 1))[form]
    path = tmp_path / "mutant"

    def opened(content: bytes, chance: random.Random) -> object:
        file = RawFile(path, container, memoryview(bytearray(content)), "")
        stored = read_network(decode(file, Budget()), Given())
        return assemble(stored) if chance.random() < 0.05 else None

    @settings(max_examples=examples, deadline=None)
    @given(seed=st.integers(0, 2**64))
    def check(seed: int) -> None:
        chance = random.Random(seed)

        def mutants() -> Iterator[Callable[[], object]]:
            for _ in range(MUTANTS):
                content = mutate(chance, whole)
                yield lambda content=content: opened(content, chance)

        bounded(mutants())

    check()


@pytest.mark.parametrize("examples", [2, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_options_beside_weights_are_read_or_refused(tmp_path, examples):
    weights = {"net.enc.8x8_conv.weight": torch.ones(2)}
    average = {"decay": 0.9, "num_updates": 3, "shadow_params": [torch.zeros(2)]}
    whole = pickle.dumps(BESIDE | {"model": weights, "ema": average}, protocol=4)

    def read(content: bytes) -> None:
        file = RawFile(tmp_path / "mutant", "pickle", memoryview(bytearray(content)), "")
        value = decode(file, Budget()).value
        assert len(json.dumps(facts_beside(value))) < 1_000_000
        if (found := find_weights(value, ANCHOR)) is not None:
            assert found.tensors and found.said

    read(whole)

    @settings(max_examples=examples, deadline=None)
    @given(seed=st.integers(0, 2**64))
    def check(seed: int) -> None:
        chance = random.Random(seed)
        # Lambdas are called before the next is made.
        bounded(lambda: read(damaged(chance, whole)) for _ in range(MUTANTS))

    check()


def test_the_files_are_valid_before_they_are_mutated(tmp_path, files, network):
    for content in files(network).values():
        (tmp_path / "whole").write_bytes(content)
        open_checkpoint(tmp_path / "whole")


def values_of(value: Any) -> Any:
    """Values that a keyword may hold, and others."""
    any_number = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none())
    near = st.one_of(st.integers(-2, 9), st.floats(0, 2), st.just(value))
    return st.one_of(near, any_number, st.text(max_size=90), st.lists(near, max_size=70))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_configuration_is_built_or_refused(data):
    config = dict(SMALLEST)
    names = st.sampled_from([*sorted(VALUES), "unknown", "bad name"])
    for name in data.draw(st.lists(names, min_size=1, max_size=3)):
        config[name] = data.draw(values_of(config.get(name, 1)))
    present = build_network(SMALLEST).state_dict()
    bounded(iter([lambda: build_uninitialized(config, present=present)]))


UNET = {"_class_name": "UNet2DModel", "sample_size": 8, "block_out_channels": [8, 16]}
UNET |= {"layers_per_block": 1, "norm_eps": 1e-5, "down_block_types": ["DownBlock2D"] * 2}
SCHEDULER = {"_class_name": "DDPMScheduler", "beta_start": 0.0001, "trained_betas": [0.1, 0.2]}
SCHEDULER |= {"prediction_type": "epsilon", "num_train_timesteps": 1000}


@pytest.mark.parametrize("examples", [2, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_configurations_of_diffusers_are_read_or_refused(examples):
    assert UNET.keys() <= UNET2D_VALUES.keys() and SCHEDULER.keys() <= SCHEDULER_VALUES.keys()

    @settings(max_examples=examples, deadline=None)
    @given(seed=st.integers(0, 2**64))
    def check(seed: int) -> None:
        chance = random.Random(seed)

        def read() -> None:
            texts = {"unet": json.dumps(UNET), "scheduler": json.dumps(SCHEDULER)}
            for name, text in texts.items():
                if chance.random() < 0.2:
                    text = damaged(chance, text.encode()).decode("utf-8", "replace")
                texts[name] = with_other_values(chance, text)
            check_supported(*(json_object(texts, name) for name in texts))

        bounded(iter([read] * MUTANTS))

    check()
