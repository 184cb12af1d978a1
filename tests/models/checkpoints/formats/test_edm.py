"""EDM's pickles give the numbers of the reference, and the code in them does not run."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.edm_pickles import Persistent
from safetensors import safe_open

from memaudit.errors import CheckpointError, UnsafeCheckpointError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.checkpoints.formats import edm

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
def nothing_is_executed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """The source text in the snapshots would write a file into the current folder."""
    folder = tmp_path_factory.mktemp("current")
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_snapshot_denoises_as_the_reference(golden: Path, name: str):
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
    # The reference's iddpm levels hold the rounding of its processor's float32 roots.
    rel = 1e-6 if "iddpm" in name else 0
    assert network.sigma_min == pytest.approx(float(facts["sigma_min"]), rel=rel, abs=0)
    assert network.sigma_max == pytest.approx(float(facts["sigma_max"]), rel=rel, abs=0)
    assert len(network.state_dict()) == facts["n_tensors"]
    assert sum(p.numel() for p in network.parameters()) == facts["n_params"]
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_a_snapshot_tells_its_training_and_warns_of_unknown_source(snapshot, same_output):
    checkpoint = open_checkpoint(snapshot)
    assert same_output(checkpoint.network)
    assert checkpoint.format == "EDM snapshot"
    assert checkpoint.provenance == {
        "ema": True,
        "kimg": 512,
        "dataset": {"class_name": "training.dataset.ImageFolderDataset", "path": "faces.zip"},
        "loss": {"class_name": "EDMLoss", "P_mean": -1.2},
    }
    (warning,) = checkpoint.warnings
    assert "source code that memaudit does not know" in warning


def test_known_source_gives_no_warning(snapshot, monkeypatch):
    (warning,) = open_checkpoint(snapshot).warnings
    sha256 = warning.split("'")[1]
    monkeypatch.setitem(edm.KNOWN_SOURCES, sha256, "the text of these tests")
    assert open_checkpoint(snapshot).warnings == ()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_snapshot_of_any_protocol_with_bytes_opens(
    snapshot, network, as_persistent, same_output, protocol
):
    snapshot.write_bytes(pickle.dumps({"ema": as_persistent(network)}, protocol=protocol))
    assert same_output(open_checkpoint(snapshot).network)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_state_opens_and_says_that_it_is_not_the_average(
    tmp_path, network, as_persistent, same_output, zipped
):
    path = tmp_path / "training-state-000512.pt"
    values = {"net": as_persistent(network), "optimizer_state": {"step": torch.ones(3)}}
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    assert same_output(checkpoint.network)
    assert checkpoint.format == "EDM training state"
    assert checkpoint.provenance == {"ema": False, "kimg": 512}
    assert any("not its moving average" in warning for warning in checkpoint.warnings)


def test_positional_arguments_are_the_constructors(snapshot, network, as_persistent, same_output):
    ema = as_persistent(network)
    state = ema.meta["state"]
    kwargs = state["_init_kwargs"]
    state["_init_args"] = (kwargs.pop("img_resolution"), kwargs.pop("img_channels"))
    snapshot.write_bytes(pickle.dumps({"ema": ema}))
    assert same_output(open_checkpoint(snapshot).network)


def test_buffers_that_are_not_stored_by_torch_are_left_out(
    snapshot, network, as_persistent, same_output
):
    ema = as_persistent(network)
    ema.meta["state"]["_buffers"]["cache"] = torch.ones(2)
    ema.meta["state"]["_non_persistent_buffers_set"].add("cache")
    snapshot.write_bytes(pickle.dumps({"ema": ema}))
    assert same_output(open_checkpoint(snapshot).network)


def test_a_network_in_half_precision_is_run_in_float32(snapshot, network, as_persistent):
    half = build_network(open_checkpoint(snapshot).config).half()
    snapshot.write_bytes(pickle.dumps({"ema": as_persistent(half)}))
    opened = open_checkpoint(snapshot).network
    for name, value in half.state_dict().items():
        assert torch.equal(opened.state_dict()[name], value.float())


def altered(ema, change):
    """`ema` with a change to its meta data, its state or its options."""
    change(ema.meta, ema.meta["state"], ema.meta["state"]["_init_kwargs"])
    return ema


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m, s, k: m.update(version=5), CheckpointError, "by version 5 of EDM's"),
        (lambda m, s, k: m.update(type="function"), CheckpointError, "is not of a class"),
        (lambda m, s, k: m.update(class_name="PFGMPrecond"), CheckpointError, "'PFGMPrecond'"),
        (lambda m, s, k: k.update(mask_ratio=0.5), CheckpointError, "keyword 'mask_ratio'"),
        (lambda m, s, k: k.update(num_blocks=2), CheckpointError, "lacks the tensor 'model.dec."),
        (lambda m, s, k: k.update(channel_mult={}), CheckpointError, "channel_mult must be a list"),
        (
            lambda m, s, k: k.update(dropout=float("nan")),
            CheckpointError,
            "dropout must be a number",
        ),
        (lambda m, s, k: s.update(_init_args=(1,) * 9), CheckpointError, "positional arguments"),
        (
            lambda m, s, k: s.update(_non_persistent_buffers_set=3),
            CheckpointError,
            "does not say which buffers",
        ),
        (lambda m, s, k: s.pop("_modules"), CheckpointError, "a module without _modules"),
        (
            lambda m, s, k: s["_forward_hooks"].update({0: 1}),
            UnsafeCheckpointError,
            "'_forward_hooks', which would run code",
        ),
        (
            lambda m, s, k: s["_parameters"].update(weight=3),
            CheckpointError,
            "'weight' is not a tensor",
        ),
        (
            lambda m, s, k: s["_modules"].update({"m" * 101: None}),
            CheckpointError,
            "something other than short names",
        ),
        (
            lambda m, s, k: k.update({f"a{i}": 0 for i in range(99)}),
            CheckpointError,
            "options where at most 64 make sense",
        ),
        (lambda m, s, k: s["_modules"].update(model=3), CheckpointError, "module 'model' is 3"),
    ],
)
def test_an_altered_snapshot_is_refused_by_what_is_wrong(
    snapshot, network, as_persistent, change, error, message
):
    snapshot.write_bytes(pickle.dumps({"ema": altered(as_persistent(network), change)}))
    with pytest.raises(error, match=message):
        open_checkpoint(snapshot)


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_encoder_with_arrays_of_numbers_is_passed_over(
    snapshot, network, as_persistent, same_output, protocol
):
    """EDM2's snapshots for latents hold the statistics of their encoder as numpy arrays."""
    arrays = {"raw_mean": np.zeros(4, np.float32), "raw_std": np.ones((1, 4))}
    values = {"encoder": Persistent("StabilityVAEEncoder", arrays), "net": as_persistent(network)}
    torch.save(values, snapshot, pickle_protocol=protocol)
    checkpoint = open_checkpoint(snapshot)
    assert same_output(checkpoint.network)
    assert any("latents of a 'StabilityVAEEncoder'" in text for text in checkpoint.warnings)


@pytest.mark.parametrize("array", [np.array([print]), np.zeros(1, ">f4"), np.zeros(1, "f4,f4")])
def test_an_array_of_anything_else_is_refused(snapshot, network, as_persistent, array):
    values = {"encoder": Persistent("Encoder", {"a": array}), "ema": as_persistent(network)}
    snapshot.write_bytes(pickle.dumps(values))
    with pytest.raises(UnsafeCheckpointError, match="numpy|builtins.print"):
        open_checkpoint(snapshot)


def test_modules_that_share_their_parts_are_counted_each_time(snapshot, network, as_persistent):
    shared = torch.nn.ModuleDict()
    for _ in range(12):  # 8^12 modules in all.
        outer = torch.nn.ModuleDict()
        outer._modules.update({str(i): shared for i in range(8)})
        shared = outer
    ema = as_persistent(network)
    ema.meta["state"]["_modules"]["shared"] = shared
    snapshot.write_bytes(pickle.dumps({"ema": ema}))
    with pytest.raises(CheckpointError, match="more than 200,000 parts"):
        open_checkpoint(snapshot)


def test_a_chain_of_many_records_does_not_exhaust_the_stack(snapshot):
    link = b"ctorch.nn.modules.container\nModuleDict\n)\x81}X\x01\0\0\0a"
    depth = 50_000
    snapshot.write_bytes(b"\x80\x02" + b"(" + link * depth + b"N" + b"sb" * depth + b"t.")
    with pytest.raises(CheckpointError, match="a format that memaudit does not know"):
        open_checkpoint(snapshot)


def test_a_network_that_contains_itself_is_refused(snapshot, network, as_persistent):
    loop = torch.nn.ModuleDict()
    loop._modules["inner"] = loop
    ema = as_persistent(network)
    ema.meta["state"]["_modules"]["loop"] = loop
    snapshot.write_bytes(pickle.dumps({"ema": ema}))
    with pytest.raises(CheckpointError, match="nests modules deeper than 16"):
        open_checkpoint(snapshot)


def test_what_follows_the_pickle_is_not_looked_at(snapshot, same_output):
    snapshot.write_bytes(snapshot.read_bytes() + b"cos\nsystem\n.")
    assert same_output(open_checkpoint(snapshot).network)
