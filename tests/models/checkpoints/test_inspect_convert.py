"""`inspect` tells what a file holds, unsafe ones too; `convert` proves what it writes."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from helpers.edm_pickles import TINY
from safetensors import safe_open

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import (
    conversion,
    convert_checkpoint,
    inspect_checkpoint,
    open_checkpoint,
)


def test_a_snapshot_is_described_in_full(snapshot, network):
    info = inspect_checkpoint(snapshot)
    assert info.safe
    assert info.problem is None
    assert info.container == "pickle"
    assert info.num_bytes == snapshot.stat().st_size
    assert info.sha256 == open_checkpoint(snapshot).sha256
    assert "torch_utils.persistence._reconstruct_persistent_obj" in info.globals
    assert "torch.FloatStorage" in info.globals
    held = info.network
    assert (held.format, held.preconditioning) == ("EDM snapshot", "EDMPrecond")
    assert held.architecture == "SongUNet"
    assert held.config == TINY
    assert held.num_parameters == sum(p.numel() for p in network.parameters())
    assert held.dtypes == {"float32": sum(t.numel() for t in network.state_dict().values())}
    assert (held.img_resolution, held.img_channels, held.label_dim) == (4, 1, 2)
    assert (held.sigma_min, held.sigma_max) == (0, float("inf"))
    assert held.provenance["kimg"] == 512
    assert held.warnings
    json.dumps(dataclasses.asdict(info))


def test_half_precision_is_told_as_stored(golden):
    held = inspect_checkpoint(golden / "pkl/edm2_rgb_torch213.pkl").network
    assert set(held.dtypes) == {"float16"}
    assert held.architecture == "EDM2UNet"


def test_an_unsafe_file_is_described_and_not_raised(tmp_path):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"ema": print}))
    info = inspect_checkpoint(path)
    assert not info.safe
    assert info.globals == ("builtins.print",)
    assert "names the global builtins.print" in info.problem
    assert info.network is None


def test_a_broken_file_is_not_called_safe(snapshot):
    snapshot.write_bytes(snapshot.read_bytes()[:1000])
    info = inspect_checkpoint(snapshot)
    assert not info.safe
    assert "cut short" in info.problem


def test_weights_without_configuration_are_safe_but_not_opened(tmp_path, network):
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    info = inspect_checkpoint(path)
    assert info.safe
    assert "weights without a configuration" in info.problem
    assert inspect_checkpoint(path, config=TINY).network.config == TINY


def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        inspect_checkpoint(tmp_path / "absent.pkl")
    with pytest.raises(CheckpointError, match="a diffusers folder with a UNet2DModel has"):
        inspect_checkpoint(tmp_path)


def test_a_converted_snapshot_denoises_to_the_same_bits(snapshot, tmp_path, same_output):
    source = open_checkpoint(snapshot)
    target = tmp_path / "model.safetensors"
    native = convert_checkpoint(snapshot, target)
    assert same_output(native.network)
    assert native.config == source.config
    assert native.warnings == source.warnings  # Conversion does not make them go away.
    assert native.provenance["converted_from"] == {
        "file": snapshot.name,
        "format": "EDM snapshot",
        "sha256": source.sha256,
    }
    with safe_open(target, "pt") as file:
        assert file.metadata()["format"] == "memaudit"
    assert {path.name for path in tmp_path.iterdir()} == {snapshot.name, "model.safetensors"}


@pytest.mark.parametrize(
    "name",
    [
        "edm_adm_cond_iddpm_torch113.pkl",
        "edm_ncsnpp_cond_edm_aug_torch213.pkl",
        "dm_ddpmpp_skip_vp_torch113.pkl",
        "edm2_rgb_torch213.pkl",
        "training-state_edm_ddpmpp_uncond_vp_torch113.pt",
    ],
)
def test_every_kind_of_snapshot_converts(golden: Path, tmp_path: Path, name: str):
    native = convert_checkpoint(golden / "pkl" / name, tmp_path / "model.safetensors")
    source = open_checkpoint(golden / "pkl" / name)
    for key, value in source.network.state_dict().items():
        assert torch.equal(native.network.state_dict()[key], value)


def test_a_conversion_that_differs_writes_nothing(snapshot, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_probe", lambda checkpoint: torch.rand(3))
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"before")
    with pytest.raises(CheckpointError, match="does not denoise as the source does"):
        convert_checkpoint(snapshot, target)
    assert target.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {snapshot.name, "model.safetensors"}
