"""Native checkpoints: what is written comes back bitwise, and a broken file says what is broken."""

import hashlib
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.limited import run_python
from safetensors import safe_open
from safetensors.torch import save_file

from memaudit.errors import CheckpointError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint, save_checkpoint
from memaudit.models.denoiser import Denoiser

CONFIG = {
    "class_name": "EDMPrecond",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "model_type": "SongUNet",
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
WEIGHT = "model.enc.8x8_conv.weight"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, build_network(CONFIG), CONFIG, provenance={"images_seen": 512})
    return path


def rewrite(path: Path, *, config: Any = None, **tensors: torch.Tensor | None) -> None:
    """Save the file again with other tensors (None removes one) or another configuration."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        found = {name: file.get_tensor(name) for name in file.keys()}
    found |= {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name in (name for name, tensor in tensors.items() if tensor is None):
        del found[name]
    if config is not None:
        metadata["config"] = json.dumps(config)
    save_file(found, path, metadata)


def test_what_is_saved_comes_back_bitwise(tmp_path):
    network = build_network(CONFIG).eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, CONFIG, provenance={"images_seen": 512})
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint.network, Denoiser)
    assert checkpoint.config == CONFIG
    assert checkpoint.provenance == {"images_seen": 512}
    assert checkpoint.format == "memaudit"
    assert not checkpoint.network.training
    assert not any(p.requires_grad for p in checkpoint.network.parameters())
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 20.0])
    labels = torch.eye(3)[:2]
    with torch.no_grad():
        assert torch.equal(checkpoint.network(x, sigma, labels), network(x, sigma, labels))


def test_the_hash_is_that_of_the_file(saved):
    assert open_checkpoint(saved).sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()


def test_half_precision_weights_are_run_in_float32(saved):
    half = open_checkpoint(saved).network.state_dict()[WEIGHT].half()
    rewrite(saved, **{WEIGHT: half})
    weight = open_checkpoint(saved).network.state_dict()[WEIGHT]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half.float())


def test_a_failed_save_leaves_the_old_file_alone(saved):
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(saved, build_network(CONFIG), {"class_name": object()})
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({WEIGHT: None}, f"lacks the tensor '{WEIGHT}', which its configuration calls for"),
        ({"model.extra": torch.ones(1)}, "holds the tensor 'model.extra', for which"),
        (
            {WEIGHT: torch.ones(8, 3, 3, 3)},
            r"'model.enc.8x8_conv.weight' is \[8, 3, 3, 3\] in the file, but .* \[8, 1, 3, 3\]",
        ),
        ({WEIGHT: torch.full([8, 1, 3, 3], float("nan"))}, f"'{WEIGHT}' has 72 of 72 .* NaN"),
        ({WEIGHT: torch.ones(8, 1, 3, 3, dtype=torch.int32)}, f"'{WEIGHT}' holds torch.int32"),
        ({"config": CONFIG | {"sigma_dat": 1}}, "unknown keyword 'sigma_dat'"),
        (
            {"config": CONFIG | {"class_name": "GAN"}},
            "class_name is 'GAN', which memaudit does not know",
        ),
        (
            {"config": CONFIG | {"num_blocks": 10**9}},
            "num_blocks must be an integer, .* got 1000000000",
        ),
        (
            {"config": CONFIG | {"channel_mult": [1] * 1000}},
            "channel_mult has 1,000 entries; at most 64",
        ),
        ({"config": CONFIG | {"sigma_data": "0.5"}}, "sigma_data must be a number"),
        ({"config": CONFIG | {"sigma_data": math.nan}}, "sigma_data must be a number"),
        (
            {"config": CONFIG | {"channel_mult": [[1]]}},
            "channel_mult must be a list of integers, .* got the entry a list",
        ),
        ({"config": CONFIG | {"x\x1b[2J": 1}}, r"unknown keyword 'x\\x1b\[2J'"),
        (
            {"config": CONFIG | {"model_type": "a" * 100}},
            "model_type must be a string, of at most 80 characters",
        ),
        ({"config": [1]}, "'config' is not a JSON object"),
        ({"config": {}}, "class_name is None"),
    ],
)
def test_weights_and_configuration_must_fit(saved, change, message):
    rewrite(saved, **change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(saved)


def with_header(text: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + body


ENTRY = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\0\1\2\3\4\5\6\7\x08", "starts with the bytes 00 01 02 03 04 05 06 07"),
        (struct.pack("<Q", 2**39) + b"{", "announced as 549,755,813,888 bytes, but only 1 "),
        (with_header(b"{" * 40), "not valid JSON"),
        (with_header(b"{" + b'"a":[' * 100_000), "not valid JSON"),
        (with_header(b'{"a":1,"a":1}'), "a name occurs twice"),
        (with_header(b'{"a":1}'), "'a' has no dtype, shape and range"),
        (with_header(b'{"__metadata__":{"a":1}}'), "not a mapping of texts"),
        (with_header(ENTRY, b"1234"), "'a' should lie at bytes 0:8, but only 4"),
        (with_header(ENTRY, b"0" * 12), "12 bytes of tensors; its header names 8"),
        (
            with_header(ENTRY.replace(b"F32", b"F64"), b"0" * 8),
            "'a': a storage of 2 elements needs 16 bytes, but 8",
        ),
        (with_header(ENTRY.replace(b"[2]", b"[1]"), b"0" * 8), "needs 4 bytes, but 8 are there"),
        (with_header(ENTRY.replace(b"[2]", b"[-2]"), b"0" * 8), "not a count"),
        (with_header(ENTRY.replace(b"F32", b"F4"), b"0" * 8), "is stored as 'F4'"),
        (with_header(ENTRY, b"0" * 8), "of a format that memaudit does not know"),
    ],
)
def test_a_broken_file_is_refused_by_what_is_wrong_with_it(tmp_path, content, message):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)


def test_provenance_without_sense_is_harmless(saved):
    network = build_network(CONFIG)
    save_checkpoint(saved, network, CONFIG, provenance={"loss": math.nan, "lr": math.inf})
    assert open_checkpoint(saved).provenance == {"loss": None, "lr": math.inf}
    nested: dict[str, Any] = {}
    for _ in range(20):
        nested = {"a": nested}
    with pytest.raises(CheckpointError, match="'provenance' nests deeper than 16"):
        save_checkpoint(saved, network, CONFIG, provenance=nested)


def test_a_file_cut_short_anywhere_is_refused(saved):
    content = saved.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, 1000, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            open_checkpoint(saved)


def test_a_missing_file_and_a_newer_version_say_so(saved, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(tmp_path / "absent.safetensors")
    save_file({}, saved, {"format": "memaudit", "format_version": "2"})
    with pytest.raises(CheckpointError, match="version '2'; this memaudit reads version 1"):
        open_checkpoint(saved)


def test_equal_networks_are_equal_files(tmp_path):
    """The order of safetensors' metadata changes from call to call."""
    network = build_network(CONFIG)
    for i in range(8):
        save_checkpoint(tmp_path / str(i), network, CONFIG, provenance={"images_seen": 64})
    assert len({(tmp_path / str(i)).read_bytes() for i in range(8)}) == 1


def test_a_file_larger_than_memory_is_not_read(tmp_path):
    """A file with holes takes no room on the disk; in memory it would."""
    path = tmp_path / "holes.safetensors"
    path.write_bytes((100).to_bytes(8, "little") + b"{")
    os.truncate(path, 30 << 30)
    code = (
        "import sys; from memaudit.models.checkpoints import open_checkpoint\n"
        "try: open_checkpoint(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = run_python(code, path, memory=16 << 30, timeout=60)
    assert "CheckpointError" in done.stdout and "it has 32.2 GB, all of which" in done.stdout
