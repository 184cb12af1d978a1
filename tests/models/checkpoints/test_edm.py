"""EDM's pickles give the numbers of the reference, and the code in them does not run."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from memaudit.models.checkpoints import open_checkpoint

SNAPSHOTS = [
    "edm_ddpmpp_uncond_vp_torch113.pkl",
    "edm_adm_cond_iddpm_torch113.pkl",
    "edm_ncsnpp_cond_edm_aug_torch113.pkl",
    "edm_ncsnpp_cond_edm_aug_torch213.pkl",
    "dm_ddpmpp_skip_vp_torch113.pkl",
    "edm2_rgb_torch213.pkl",
    "training-state_edm_ddpmpp_uncond_vp_torch113.pt",
]


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The source text in the golden snapshots would write a file into the current folder."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_snapshot_denoises_as_the_reference(golden, name):
    expected_name = name.removeprefix("training-state_").rpartition(".")[0]
    with safe_open(golden / "pkl/expected.safetensors", "pt") as file:
        facts = json.loads(file.metadata()[expected_name])
        found = {key: file.get_tensor(key) for key in file.keys()}
    x, sigma, out = (found[f"{expected_name}.{key}"] for key in ("x", "sigma", "out"))
    checkpoint = open_checkpoint(golden / "pkl" / name)
    network = checkpoint.network
    with torch.no_grad():
        D_x = network(x, sigma, found.get(f"{expected_name}.class_labels"))
    assert float((D_x - out).abs().max() / out.abs().max()) <= 2e-5
    assert checkpoint.config == {"class_name": facts["class_name"], **facts["init_kwargs"]}
    assert str(network.sigma_min) == facts["sigma_min"]
    assert str(network.sigma_max) == facts["sigma_max"]
    assert len(network.state_dict()) == facts["n_tensors"]
    assert sum(p.numel() for p in network.parameters()) == facts["n_params"]
    assert all(p.dtype == torch.float32 for p in network.parameters())
