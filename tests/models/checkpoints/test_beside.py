"""What lies beside the weights is read as inert records, shown, and stands in nothing's way."""

import argparse
import json
import pickle
from functools import partial

import pytest
import torch
from helpers.beside_weights import BESIDE, SHOWN
from helpers.edm_pickles import TINY

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import inspect_checkpoint, open_checkpoint
from memaudit.models.checkpoints.beside import MAX_FACTS, facts_beside, options_beside
from memaudit.models.checkpoints.containers.plain_objects import Attributes

SAVES = {
    "torch zip": torch.save,
    "torch stream": partial(torch.save, _use_new_zipfile_serialization=False),
    **{
        f"protocol {protocol}": lambda value, path, protocol=protocol: path.write_bytes(
            pickle.dumps(value, protocol=protocol)
        )
        for protocol in (2, 3, 4, 5)
    },
}


@pytest.mark.parametrize("save", SAVES)
def test_options_paths_and_random_states_are_shown(tmp_path, network, same_output, save):
    path = tmp_path / "model.pt"
    SAVES[save](BESIDE | {"ema": network.state_dict()}, path)
    checkpoint = open_checkpoint(path, config=TINY)
    assert same_output(checkpoint.network)
    assert checkpoint.provenance["beside_the_weights"] == SHOWN
    assert checkpoint.provenance["weights"] == "the moving average (EMA), under 'ema'"
    info = inspect_checkpoint(path, config=TINY)
    assert info.safe and "argparse.Namespace" in info.globals
    json.dumps(info.network.provenance, allow_nan=False)


def test_the_options_of_omegaconf_are_shown(tmp_path, network):
    omegaconf = pytest.importorskip("omegaconf", reason="omegaconf is not installed")
    options = {"unet": {"dim": 64, "mults": [1, 2.5, "x", None]}, "path": "${unet.dim}"}
    path = tmp_path / "model.ckpt"
    values = {
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": omegaconf.OmegaConf.create(options),
        "state_dict": {f"net.{name}": value for name, value in network.state_dict().items()},
    }
    torch.save(values, path)
    shown = open_checkpoint(path, config=TINY).provenance["beside_the_weights"]
    assert shown == {"pytorch-lightning_version": "2.4.0", "hyper_parameters": options}


def test_options_are_found_where_a_format_needs_them():
    namespace = Attributes("Namespace", {"model": "DiT-S/2", "image_size": 32})
    assert options_beside({"step": 1, "args": namespace})["model"] == "DiT-S/2"
    assert options_beside({"config": {"a": 1}}) == {"a": 1}
    assert options_beside({"ema": {}}) == options_beside([1]) == {}


def test_what_is_shown_is_cut_where_it_is_long_deep_or_circular():
    circle = {}
    circle["a"] = {f"{i}": circle for i in range(10)}
    facts = facts_beside({"args": circle, "config": {str(i): "x" * 5000 for i in range(10**4)}})
    assert len(json.dumps(facts)) < MAX_FACTS * 1100
    odd = facts_beside({"args": {"n": 2**200, "nan": float("nan")}})["args"]
    assert odd["n"].startswith("160693804425899027554") and odd["nan"] == "nan"


OPTIMIZER = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
SCHEDULE = torch.optim.lr_scheduler.MultiStepLR(OPTIMIZER, [3, 3])
NO_NETWORKS = {
    "the state of an optimizer": OPTIMIZER.state_dict(),
    "the state of a learning rate's schedule": SCHEDULE.state_dict(),
    "the state of a gradient scaler": {"scale": 1.0, "growth_factor": 2.0, "backoff_factor": 0.5},
    "the random states that accelerate keeps": {
        "step": 1,
        "random_state": BESIDE["python_state"],
        "numpy_random_seed": BESIDE["numpy_state"],
    },
    "an average of weights without their names": {
        "decay": 0.99,
        "num_updates": 3,
        "shadow_params": [torch.ones(2)],
    },
}


@pytest.mark.parametrize("what", NO_NETWORKS)
def test_a_file_beside_the_weights_is_named_with_the_one_to_take(tmp_path, what):
    path = tmp_path / "opt000300.pt"
    torch.save(NO_NETWORKS[what], path)
    with pytest.raises(CheckpointError, match=f"it is {what}.*the file with the"):
        open_checkpoint(path)
    for name in ("model000100.pt", "model000300.pt", "ema_0.9999_000100.pt", "log.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="such as 'model000300.pt' beside it"):
        open_checkpoint(path)
    (tmp_path / "ema_0.9999_000300.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="such as 'ema_0.9999_000300.pt' beside it"):
        open_checkpoint(path)


def test_a_namespace_of_a_training_is_no_obstacle(tmp_path, network, same_output):
    """EDM's own weights beside a Namespace were refused as unsafe."""
    torch.save(
        {"ema": network.state_dict(), "extra": argparse.Namespace(lr=1e-3)}, tmp_path / "model.pt"
    )
    assert same_output(open_checkpoint(tmp_path / "model.pt", config=TINY).network)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("15_edm_plus_namespace.pt", {"extra": {"lr": 0.001}}),
        ("15_edm_plus_posixpath.pt", {"extra": "/x"}),
        ("16_edm_ema_model.pt", None),
    ],
)
def test_what_people_have_opens(real_cases, name, shown):
    config = json.loads((real_cases / "15_edm_config.json").read_text())
    checkpoint = open_checkpoint(real_cases / name, config=config)
    assert checkpoint.provenance.get("beside_the_weights") == shown
    assert checkpoint.provenance["weights"].startswith("the moving average (EMA)")
