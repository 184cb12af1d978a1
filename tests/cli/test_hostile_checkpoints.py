"""Every command says the same of a checkpoint that cannot be used, in one message."""

import struct
from pathlib import Path

import pytest
import torch

from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint
from tests.cli.conftest import NETWORK


def configured(**change):
    def write(path: Path) -> None:
        save_checkpoint(path, build_network(NETWORK), NETWORK | change)

    return write


def damaged_zip(path: Path) -> None:
    torch.save({"net": torch.zeros(9)}, path)
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    locator = b"PK\6\7" + struct.pack("<IQI", 0, 10**9, 1)
    path.write_bytes(content[:end] + b"PK\6\6" + bytes(52) + locator + content[end:])


HOSTILE = {
    "its zip64 directory is damaged": damaged_zip,
    "dropout must be a number, at least 0 and at most 1, got 5": configured(dropout=5),
    "sigma_data must be a number, at least 1e-06 and": configured(sigma_data=1e300),
    "sigma_max must be a number, more than 0, got 0": configured(sigma_max=0),
    "sigma_max must be a number, more than 0, got a list": configured(sigma_max=[1]),
    "sigma_min = 20 to sigma_max = 10": configured(sigma_min=20, sigma_max=10),
    "far more weights than the file has": configured(num_blocks=200),
    "img_resolution must be an integer": configured(img_resolution=True),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_every_command_says_the_same_of_a_hostile_checkpoint(tmp_path, run, make_npz, message):
    path = tmp_path / "model.pt"
    HOSTILE[message](path)
    out = tmp_path / "out"
    inspected = run("inspect", path)
    assert inspected.exit_code == 2
    assert message in " ".join(inspected.stdout.split())
    for command in (
        ("convert", path, out.with_suffix(".safetensors")),
        ("sample", path, "--out", out, "--seeds", "0-1"),
        ("scan", path, "--data", make_npz(4), "--out", out),
    ):
        result = run(*command)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
        assert result.stderr.count("Error: ") == 1
