"""The average is taken wherever a file has one, and what was taken is said."""

import pytest
import torch
from helpers.edm_pickles import TINY
from torch import nn
from torch.optim.swa_utils import AveragedModel

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.checkpoints.containers.stored_tensors import Storage, StoredTensor
from memaudit.models.checkpoints.weights import find_weights, holds_weights, name_parameters


def stored(*shape: int) -> StoredTensor:
    size = 1
    for n in shape:
        size *= n
    stride = tuple(torch.empty(shape, device="meta").stride())
    return StoredTensor(Storage(torch.float32, size), shape, stride)


@pytest.fixture
def trained(network):
    """Weights of the network in training, which are not those that are sampled."""
    return {name: value + 1 for name, value in network.state_dict().items()}


def behind(prefix, weights):
    return {f"{prefix}{name}": value for name, value in weights.items()}


def averaged(module):
    """The state of torch's own average of a module, updated once."""
    average = AveragedModel(module)
    average.update_parameters(module)
    return average.state_dict()


LAYOUTS = {
    "ema": lambda ema, net, module: {"model": net, "ema": ema},
    "ema_model": lambda ema, net, module: {"net_model": net, "ema_model": ema},
    "ema_net": lambda ema, net, module: {"net": net, "ema_net": behind("module.", ema)},
    "model_ema": lambda ema, net, module: {"model": net, "model_ema": ema},
    "state_dict_ema": lambda ema, net, module: {"state_dict": net, "state_dict_ema": ema},
    "ema of several rates": lambda ema, net, module: {"model": net, "ema_0.9999": ema},
    "one dict": lambda ema, net, module: behind("net.", net) | behind("net_ema.", ema),
    "Lightning": lambda ema, net, module: {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": behind("net.", net) | behind("ema_model.module.", ema),
        "optimizer_states": [],
    },
    "a callback of Lightning's": lambda ema, net, module: {
        "state_dict": behind("model.", net),
        "callbacks": {"EMACallback": {"ema_state_dict": ema}},
    },
    "ema_pytorch": lambda ema, net, module: {
        "model": net,
        "ema": behind("online_model.", net)
        | behind("ema_model.", ema)
        | {"initted": torch.tensor(True), "step": torch.tensor([9])},
    },
    "AveragedModel": lambda ema, net, module: {"model": net, "average": averaged(module)},
    "AveragedModel alone": lambda ema, net, module: averaged(module),
    "torch_ema": lambda ema, net, module: {
        "optimizer": {},
        "model": behind("module.", net),
        "ema": {
            "decay": 0.999,
            "num_updates": 7,
            "shadow_params": [p.detach() for p in module.parameters()],
        },
    },
    "torch_ema as a module": lambda ema, net, module: {
        "model": behind("model.", net)
        | {f"shadow_params.{i}": p.detach() for i, p in enumerate(module.parameters())}
        | {"num_updates": torch.tensor(3)},
    },
    "CompVis": lambda ema, net, module: {
        "state_dict": behind("model.", net)
        | {f"model_ema.{name.replace('.', '')}": value for name, value in ema.items()}
        | {"model_ema.decay": torch.tensor(0.999), "betas": torch.ones(3)},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_average_is_taken_under_every_common_name(
    tmp_path, network, same_output, trained, layout
):
    path = tmp_path / "model.pt"
    torch.save(LAYOUTS[layout](network.state_dict(), trained, network), path)
    checkpoint = open_checkpoint(path, config=TINY)
    assert same_output(checkpoint.network)
    assert checkpoint.provenance["weights"].startswith("the moving average (EMA)")
    assert not any("average" in warning for warning in checkpoint.warnings)


BEGINNINGS = {
    "ema_pytorch": lambda untrained, net, module: {
        "ema": behind("online_model.", net)
        | behind("ema_model.", untrained)
        | {"initted": torch.tensor(False), "step": torch.tensor([0])},
    },
    "AveragedModel": lambda untrained, net, module: {
        "model": net,
        "average": behind("module.", untrained) | {"n_averaged": torch.tensor(0)},
    },
    "torch_ema": lambda untrained, net, module: {
        "model": net,
        "ema": {
            "num_updates": 0,
            "shadow_params": [untrained[name] for name, _ in module.named_parameters()],
        },
    },
    "CompVis": lambda untrained, net, module: {
        "state_dict": behind("model.", net)
        | {f"model_ema.{name.replace('.', '')}": value for name, value in untrained.items()}
        | {"model_ema.num_updates": torch.tensor(0, dtype=torch.int32)},
    },
}


@pytest.mark.parametrize("layout", BEGINNINGS)
def test_an_average_that_was_never_updated_is_not_taken(
    tmp_path, network, same_output, trained, layout
):
    """It is a copy of the weights before training, which copy nothing."""
    path = tmp_path / "model.pt"
    torch.save(BEGINNINGS[layout](trained, network.state_dict(), network), path)
    checkpoint = open_checkpoint(path, config=TINY)
    assert same_output(checkpoint.network)
    assert any("average (EMA)" in warning for warning in checkpoint.warnings)


def test_an_average_that_was_never_updated_is_refused_if_it_is_alone(tmp_path, network):
    path = tmp_path / "model.pt"
    torch.save(behind("module.", network.state_dict()) | {"n_averaged": torch.tensor(0)}, path)
    with pytest.raises(CheckpointError, match="an average .* that was never updated"):
        open_checkpoint(path, config=TINY)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (lambda net: {"online_model": net}, "the network in training, not its average"),
        (lambda net: {"unet_non_ema": net}, "the network in training, not its average"),
        (lambda net: {"no_ema": net}, "the network in training, not its average"),
        (lambda net: {"model_without_ema": net}, "the network in training, not its average"),
        (lambda net: {"state_dict": behind("net.", net)}, "under 'state_dict net'; it does not"),
        (lambda net: behind("_orig_mod.", net), "those of the file; it does not say"),
    ],
)
def test_it_is_said_where_weights_are_not_known_to_be_an_average(tmp_path, network, values, said):
    path = tmp_path / "model.pt"
    torch.save(values(network.state_dict()), path)
    checkpoint = open_checkpoint(path, config=TINY)
    assert said in checkpoint.provenance["weights"]
    if "file;" not in said:
        assert any("average (EMA)" in warning for warning in checkpoint.warnings)


def test_a_list_is_named_by_shapes_around_what_is_not_trained():
    network = {
        "sigmas": stored(9),
        "W": stored(4),
        "norm.weight": stored(3),
        "norm.bias": stored(3),
        "norm.running_mean": stored(3),
        "norm.running_var": stored(3),
        "out.weight": stored(2, 3),
    }
    shadow = [stored(3), stored(3), stored(2, 3)]
    named = name_parameters(shadow, network)
    assert list(named) == list(network)
    assert [named[name] for name in ("norm.weight", "norm.bias", "out.weight")] == shadow
    assert named["W"] is network["W"]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(3,)], "fit those of its network in several ways"),
        ([(5,)], "fit those of its network in no way"),
        ([(3,)] * 4, "has 4 tensors, but its network 3"),
    ],
)
def test_a_list_that_may_be_named_in_other_ways_is_refused(shapes, message):
    network = {name: stored(3) for name in ("a", "b", "c")}
    with pytest.raises(CheckpointError, match=message):
        name_parameters([stored(*shape) for shape in shapes], network)


def test_names_without_dots_that_stand_for_two_weights_are_refused():
    names = ("model.first.1.1", "model.first.11", "model_ema.first11")
    with pytest.raises(CheckpointError, match="stand for several weights each"):
        find_weights({name: stored(3) for name in names}, r"first\.1\.1")


def test_a_file_that_holds_itself_ends():
    values = {"model": {}}
    values["model"]["state_dict"] = values
    assert find_weights(values, "x") is None
    assert find_weights([nn.Identity()], "x") is None


def test_a_dict_that_many_keys_hold_is_looked_into_once():
    """64 keys, three deep, would be 513 times."""

    class Counted(dict):
        num_read = 0

        def items(self):
            Counted.num_read += 1
            return super().items()

    inner = Counted({"x": stored(3)})
    for _ in range(3):
        inner = {f"k{i}": inner for i in range(64)}
    assert not holds_weights(inner, "y") and Counted.num_read <= 2


@pytest.mark.parametrize("keys", [("model", "ema"), ("ema", "model")])
def test_one_dict_under_two_names_is_the_average_by_either(keys):
    weights = {"x": stored(3)}
    found = find_weights(dict.fromkeys(keys, weights), "x")
    assert found is not None and found.is_ema and found.place == "ema"
