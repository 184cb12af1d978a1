"""Scans in a faster number format: which images are judged in it, and what is said of that."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.forged_reports import seal_again
from helpers.tiny_networks import SMALLEST
from torch import Tensor

import memaudit
from memaudit.audit import confirmed_images
from memaudit.audit import sampling as audit_sampling
from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.noise_and_return import ReturnTestConfig, return_test
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.words import without_links
from memaudit.audit.scan_state import ScanState
from memaudit.audit.verification.rows import ROWS
from memaudit.audit.verification.verify import verify_report
from memaudit.data.images import ImageSet
from memaudit.data.sources import open_images
from memaudit.errors import ConfigError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint, save_checkpoint
from memaudit.models.execution import Execution
from memaudit.models.precond.base import Scalings
from memaudit.models.precond.edm import EDMPrecond
from memaudit.models.sampler_config import SamplerConfig
from memaudit.wording import parse_ranges

NUM_PROBED = 48
STEPS = SamplerConfig(num_steps=4)


class Blends(torch.nn.Module):
    """Image a of N blended with the next: (1 − w) y_a + w y_(a + 1), w = a/2N, where y_a is the
    nearest to the input. Half of the blends are copies, with all kinds of margins. In half
    precision they are wrong by as much as asked for."""

    def __init__(self, images: np.ndarray, error: float) -> None:
        super().__init__()
        y = torch.from_numpy(images).float().flatten(1) / 127.5 - 1
        w = (torch.arange(len(y)) / (2 * len(y)))[:, None]
        self.y = torch.nn.Parameter(y, requires_grad=False)
        self.register_buffer("blends", (1 - w) * y + w * y.roll(-1, 0))
        self.error = error

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: None = None) -> Tensor:
        nearest = torch.cdist(x.float().flatten(1), self.y.float()).argmin(1)
        out = self.blends.float()[nearest].reshape(x.shape)
        if x.dtype != torch.float32:
            out = out + self.error * torch.sin(1000 * out)
        return out.to(x.dtype)


class Plain(EDMPrecond):
    """D = F."""

    def scalings(self, sigma: Tensor) -> Scalings:
        one = torch.ones_like(sigma)
        return Scalings(c_skip=0 * one, c_out=one, c_in=one, c_noise=one)


def network(images: np.ndarray, error: float) -> EDMPrecond:
    made = Plain(8, 1, model_type="SongUNet", model_channels=4, channel_mult=[1])
    made.model = Blends(images, error)
    return made.eval()


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (confirmed_images, audit_sampling):
        monkeypatch.setattr(module, "PROBE_SIZE", NUM_PROBED)


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (24, 1, 8, 8)).astype(np.uint8)


def scanned(model: Any, train: np.ndarray, precision: Any, **options: Any) -> Any:
    config = ScanConfig(
        seeds=range(options.pop("samples", 160)),
        sampler=STEPS,
        without=("optimality", "recall"),
        execution=Execution(batch_size=16, precision=precision),
        fail_above=options.pop("fail_above", None),
    )
    return memaudit.scan(model, train, config=config, **options)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("error", [0.003, 0.05])
def test_verdicts_are_those_of_fp32(train: np.ndarray, precision: str, error: float):
    model = network(train, error)
    exact, fast = (scanned(model, train, name) for name in ("fp32", precision))
    assert 0.05 < exact.ratios.copies.ratio < 0.95
    assert np.array_equal(exact.matches.is_copy, fast.matches.is_copy)
    assert [leak.index for leak in exact.leaks] == [leak.index for leak in fast.leaks]
    found = fast.confirmation
    assert found.precision == precision and found.probe.num_images == NUM_PROBED
    assert exact.confirmation is None
    is_fast = np.zeros(160, dtype=bool)
    if found.fast_seeds is not None:
        is_fast[parse_ranges(found.fast_seeds)] = True
    assert not is_fast[:NUM_PROBED].any()
    assert np.array_equal(fast.generated[~is_fast], exact.generated[~is_fast])
    if found.probe.pays:
        assert is_fast.any() and found.num_resampled == (~is_fast[NUM_PROBED:]).sum()
        assert (fast.generated[is_fast] != exact.generated[is_fast]).any()
    else:
        assert not is_fast.any()


def test_a_format_that_would_have_to_be_confirmed_everywhere_gives_way_to_fp32(train):
    model = network(train, 1.0)
    exact, fast = (scanned(model, train, name) for name in ("fp32", "fp16"))
    assert not fast.confirmation.probe.pays and fast.confirmation.fast_seeds is None
    assert np.array_equal(exact.generated, fast.generated)
    assert "so all were sampled in fp32" in fast.confirmation_text


def test_groups_that_are_not_finite_are_sampled_in_fp32(train):
    model = network(train, float("nan"))
    exact, fast = (scanned(model, train, name) for name in ("fp32", "fp16"))
    assert np.array_equal(exact.generated, fast.generated)
    assert fast.confirmation.fast_seeds is None


def test_few_images_are_all_sampled_in_fp32(train):
    said: list[str] = []
    model = network(train, 0.01)
    result = scanned(model, train, "fp16", samples=2 * NUM_PROBED, tell=said.append)
    assert said and said[0].startswith("All images are sampled in fp32: fp16 begins after")
    assert result.confirmation is None and result.config.execution.precision == "fp32"


def test_a_gate_that_ends_within_the_probe_never_uses_the_format(train):
    result = scanned(network(train, 0.01), train, "fp16", fail_above=0.01)
    assert result.verdict == "FAIL" and len(result.keys) <= NUM_PROBED + 16
    assert result.confirmation.num_resampled == 0
    assert result.conclusion.choices == ("without optimality, recall", "steps 4")


def test_a_killed_scan_resumes_with_the_same_images(train, tmp_path: Path, monkeypatch):
    model = network(train, 0.003)
    whole = scanned(model, train, "fp16", folder=tmp_path / "whole")
    parts = sorted((tmp_path / "whole" / "scan-state").glob("part-*.npz"))
    assert len(parts) >= 8
    for path in parts[-2:]:
        path.unlink()
    again = scanned(model, train, "fp16", folder=tmp_path / "whole")
    assert np.array_equal(whole.generated, again.generated)
    assert again.num_kept == 160 - 32
    assert again.confirmation.fast_seeds == whole.confirmation.fast_seeds
    assert again.confirmation.probe == whole.confirmation.probe
    with pytest.raises(ConfigError, match="another precision"):
        scanned(model, train, "bf16", folder=tmp_path / "whole")


def test_a_scan_killed_after_its_last_image_says_what_was_confirmed(train, tmp_path: Path):
    model = network(train, 0.003)
    whole, again = (scanned(model, train, "bf16", folder=tmp_path) for _ in range(2))
    assert again.num_kept == 160 and whole.confirmation.fast_seeds is not None
    assert again.confirmation == replace(whole.confirmation, num_changed=0)


def test_kept_images_within_the_margin_of_this_machine_are_made_anew(train, tmp_path: Path):
    whole = scanned(network(train, 0.003), train, "fp16", folder=tmp_path)
    again = scanned(network(train, 0.05), train, "fp16", folder=tmp_path)  # the same weights
    num_fast, num_fast_now = (
        len(parse_ranges(each.confirmation.fast_seeds)) for each in (whole, again)
    )
    assert again.confirmation.probe.rms_margin > whole.confirmation.probe.rms_margin
    assert num_fast_now < num_fast and again.num_kept == 160 - num_fast + num_fast_now


def test_more_seeds_continue_in_the_format_that_was_asked_for(train, tmp_path: Path):
    model = network(train, 0.003)
    few = scanned(model, train, "fp16", samples=2 * NUM_PROBED, folder=tmp_path)
    more = scanned(model, train, "fp16", folder=tmp_path)
    assert few.confirmation is None and more.num_kept == 2 * NUM_PROBED
    assert min(parse_ranges(more.confirmation.fast_seeds)) >= 2 * NUM_PROBED
    fewer = scanned(model, train, "fp16", samples=2 * NUM_PROBED, folder=tmp_path)
    assert fewer.confirmation is None and fewer.num_kept == 2 * NUM_PROBED


def test_images_of_the_format_do_not_stand_where_all_are_in_fp32(train, tmp_path: Path):
    model = network(train, 0.003)
    whole = scanned(model, train, "fp16", folder=tmp_path)
    num_fast = sum(seed < 2 * NUM_PROBED for seed in parse_ranges(whole.confirmation.fast_seeds))
    fewer = scanned(model, train, "fp16", samples=2 * NUM_PROBED, folder=tmp_path)
    assert fewer.confirmation is None and fewer.num_kept == 2 * NUM_PROBED - num_fast
    exact = scanned(model, train, "fp32", samples=2 * NUM_PROBED)
    assert np.array_equal(fewer.generated, exact.generated)


def test_kept_images_of_the_format_in_the_place_of_the_probe_are_made_anew(
    train, tmp_path: Path, monkeypatch
):
    model = network(train, 0.003)
    whole = scanned(model, train, "fp16", folder=tmp_path)
    load = ScanState.load

    def forged(self: ScanState, *shape: Any) -> Any:
        parts = load(self, *shape)
        batch = replace(parts[0].batch, is_fast=np.ones(len(parts[0].batch.seeds), dtype=bool))
        return [parts[0]._replace(batch=batch), *parts[1:]]

    monkeypatch.setattr(ScanState, "load", forged)
    again = scanned(model, train, "fp16", folder=tmp_path)
    num_fast = len(parse_ranges(whole.confirmation.fast_seeds))
    assert again.num_kept == 160 - 16 - num_fast  # they need the probe
    assert np.array_equal(whole.generated, again.generated)


def test_under_a_gate_a_faster_format_has_to_be_asked_for_and_is_named(train, monkeypatch):
    monkeypatch.setattr(confirmed_images, "resolve_precision", lambda *_: "fp16")
    model = network(train, 0.003)
    plain, gated = (scanned(model, train, "auto", fail_above=limit) for limit in (None, 0.9))
    asked = scanned(model, train, "fp16", fail_above=0.9)
    assert [each.config.execution.precision for each in (plain, gated)] == ["fp16", "fp32"]
    assert gated.confirmation is None and gated.conclusion.choices == asked.conclusion.choices[:-1]
    assert asked.conclusion.choices[-1] == "sampled in fp16, confirmed in fp32"


def test_no_copy_of_a_faster_format_counts_under_a_gate(train):
    plain, gated = (
        scanned(network(train, 0.0003), train, "fp16", fail_above=limit) for limit in (None, 0.5)
    )
    for found, any_copies in ((plain, True), (gated, False)):
        fast = [found.confirmation.is_fast(seed) for seed in found.keys]
        assert any(fast)
        assert bool(found.matches.is_copy[fast].any()) == any_copies
    assert (plain.matches.is_copy[: len(gated.keys)] == gated.matches.is_copy).all()


def test_features_and_groups_have_no_bound():
    config = ScanConfig(execution=Execution(precision="fp16"))
    from memaudit.audit.source import checkpoint_of

    images = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    checkpoint = checkpoint_of(network(images, 0.0))
    with pytest.raises(ConfigError, match="an encoder's features are compared"):
        confirmed_images.choose_precision(config, checkpoint, compares_features=True)
    with pytest.raises(ConfigError, match="second neighbors come from another group"):
        confirmed_images.choose_precision(
            config, checkpoint, compares_features=False, has_groups=True
        )


def test_the_report_says_what_was_confirmed(train, tmp_path: Path):
    result = scanned(network(train, 0.003), train, "fp16")
    page = memaudit.write_report(result, tmp_path / "report").read_text()
    report = memaudit.read_report(tmp_path / "report")
    assert report.sampling is not None and report.sampling.precision == "fp16"
    assert report.sampling.confirmation == result.confirmation
    assert "gray levels could change the verdict" in without_links(page)
    stated = json.loads((tmp_path / "report" / "report.json").read_text())
    assert stated["sampling"]["confirmation"]["probe"]["num_images"] == NUM_PROBED


def test_verify_makes_images_again_in_the_format_that_made_them(train, tmp_path: Path):
    torch.manual_seed(0)
    config = SMALLEST | {"img_channels": 1}
    save_checkpoint(tmp_path / "model.safetensors", build_network(config), config)
    np.savez(tmp_path / "train.npz", images=train.transpose(0, 2, 3, 1)[..., 0])
    model = open_checkpoint(tmp_path / "model.safetensors")
    data = open_images(tmp_path / "train.npz")
    result = scanned(model, data, "bf16")
    assert result.confirmation.fast_seeds is not None
    folder = tmp_path / "report"
    write_report(result, folder)
    given: Any = {"source": tmp_path / "model.safetensors", "data": tmp_path / "train.npz"}
    found = verify_report(folder, **given, spot_check=160)
    assert [check for check in found.checks if not check.passed] == []
    report = json.loads((folder / "report.json").read_text())
    sampling, confirmation = report["sampling"], report["sampling"]["confirmation"]
    for forged in (
        sampling | {"precision": "fp32"},
        sampling | {"confirmation": None},
        sampling | {"confirmation": confirmation | {"probe": None}},
        sampling | {"confirmation": confirmation | {"fast_seeds": "150-170"}},
    ):
        (folder / "report.json").write_text(json.dumps(report | {"sampling": forged}))
        seal_again(folder)
        failed = [check.name for check in verify_report(folder).checks if not check.passed]
        assert ROWS in failed, forged


@pytest.mark.parametrize("seeds", ["", "1-", "a", "1,,2", "1" * 11])
def test_seeds_that_are_no_ranges_are_refused(seeds: str):
    with pytest.raises(ValueError, match="no ranges of seeds"):
        confirmed_images.Confirmation("fp16", None, seeds, 0, 0)


def test_the_return_test_stays_in_fp32(train):
    model = network(train, 0.05)
    data = ImageSet.from_array(train)
    found = [
        return_test(
            model, data, config=ReturnTestConfig((0.5,), 8, execution=Execution(None, "cpu", name))
        )
        for name in ("fp32", "fp16")
    ]
    assert found[0] == found[1]
