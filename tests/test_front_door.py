"""memaudit as a library: what the public functions take, and how their results are looked at."""

import csv
import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import memaudit
from memaudit.audit.diagnostics.optimality import OptimalityConfig
from memaudit.audit.report import figures
from memaudit.audit.report.schema import CHECKSUM, make_report
from memaudit.audit.source import optimum_of

ROOT = Path(__file__).parents[1]
CONFIG = memaudit.ScanConfig(seeds=range(6))
rng = np.random.default_rng(0)
TRAIN = rng.integers(0, 256, (24, 3, 4, 4), np.uint8)
FRESH = rng.integers(0, 256, (10, 3, 4, 4), np.uint8)
GENERATED = np.concatenate([TRAIN[:5], FRESH[:7]])
"""5 copies and 7 other images."""


class GrayDenoiser:
    """Denoises everything to gray; no module, and no parameters."""

    img_channels, img_resolution, label_dim = 3, 4, 0
    sigma_min, sigma_max = 0.002, 80.0

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x, dtype=torch.float32)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma


class CopyingModule(nn.Module):
    """The optimum of the training images, as a module of somebody's own."""

    img_channels, img_resolution, label_dim = 3, 4, 0
    sigma_min, sigma_max = 0.002, 80.0

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.optimum = memaudit.ClosedFormOptimum(TRAIN)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.gain * self.optimum(x, sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma


@pytest.fixture(scope="module")
def given() -> memaudit.ScanResult:
    """A scan of arrays."""
    return memaudit.scan(GENERATED, TRAIN)


@pytest.fixture(scope="module")
def sampled() -> memaudit.ScanResult:
    """A scan of a model, with held-out images."""
    return memaudit.scan("optimum", TRAIN, holdout=FRESH, config=CONFIG)


# ------------------------------------------------------------------------------------------------
# What is taken


def test_images_are_taken_as_arrays_sets_and_paths(
    given: memaudit.ScanResult, tmp_path: Path
) -> None:
    paths = {}
    for name, images in (("generated", GENERATED), ("train", TRAIN)):
        paths[name] = tmp_path / f"{name}.npy"
        np.save(paths[name], images)
    sets = [memaudit.ImageSet.from_array(images) for images in (GENERATED, TRAIN)]
    last = [images.transpose(0, 2, 3, 1) for images in (GENERATED, TRAIN)]
    assert given.ratios.distinct == memaudit.clopper_pearson(5, 12)
    for source, data in (sets, last, paths.values(), map(str, paths.values())):
        result = memaudit.scan(source, data)
        assert result.ratios == given.ratios
        assert np.array_equal(result.matches.nn1, given.matches.nn1)
        assert memaudit.memorization_ratio(source, data) == given.ratios.distinct


def test_held_out_images_are_taken_as_an_array(sampled: memaudit.ScanResult) -> None:
    floor = sampled.diagnostics.holdout
    assert floor is not None
    assert floor.everyone.total == len(FRESH)


def test_models_are_taken_as_words_checkpoints_paths_and_denoisers(
    sampled: memaudit.ScanResult, tmp_path: Path
) -> None:
    assert sampled.ratios.distinct.count == 6
    for copying in (
        optimum_of(memaudit.ImageSet.from_array(TRAIN)),
        memaudit.ClosedFormOptimum(TRAIN),
        CopyingModule(),
    ):
        result = memaudit.scan(copying, TRAIN, config=CONFIG)
        assert result.ratios == sampled.ratios
        assert np.array_equal(result.generated, sampled.generated)

    config = {
        "class_name": "EDMPrecond",
        "img_resolution": 4,
        "img_channels": 3,
        "label_dim": 0,
        "model_type": "SongUNet",
        "model_channels": 4,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
    }
    from memaudit.models.build import build_network

    network = build_network(config)
    path = tmp_path / "model.safetensors"
    memaudit.save_checkpoint(path, network, config)
    opened = memaudit.open_checkpoint(path)
    results = [
        memaudit.scan(source, TRAIN, config=CONFIG)
        for source in (opened, path, str(path), opened.network)
    ]
    assert all(np.array_equal(each.generated, results[0].generated) for each in results)
    assert all(each.ratios == results[0].ratios for each in results)


def test_a_denoiser_need_not_be_a_module() -> None:
    result = memaudit.scan(GrayDenoiser(), TRAIN, config=CONFIG)
    assert (result.generated == 128).all()
    assert result.ratios.distinct.count == 0
    assert result.source.sha256 is None
    assert result.source.path.endswith("GrayDenoiser")


def test_the_one_line_equals_the_scan_by_any_rule(given: memaudit.ScanResult) -> None:
    assert memaudit.memorization_ratio(GENERATED, TRAIN) == given.ratios.distinct
    rule = memaudit.Rule(duplicate_rms=0, confidence=0.5)
    result = memaudit.scan(GENERATED, TRAIN, config=memaudit.ScanConfig(rule=rule))
    assert memaudit.memorization_ratio(GENERATED, TRAIN, rule=rule) == result.ratios.distinct


def test_the_parts_take_what_a_scan_takes(tmp_path: Path) -> None:
    data = memaudit.ImageSet.from_array(TRAIN)
    checkpoint = optimum_of(data)
    made = [
        next(memaudit.generate_images(model, range(3))).images
        for model in (checkpoint, checkpoint.network)
    ]
    assert np.array_equal(*made)
    assert memaudit.check_denoising(checkpoint, data).denoises
    assert len(repr(checkpoint)) < 120
    config = OptimalityConfig(num_trajectories=2)
    found = memaudit.compare_with_optimum(checkpoint, data, config=config)
    assert found.agreement.count == found.agreement.total == 2
    folder = tmp_path / "train.npy"
    np.save(folder, TRAIN)
    for same in (TRAIN, str(folder)):
        assert memaudit.check_denoising(checkpoint, same).denoises
        assert memaudit.compare_with_optimum(checkpoint, same, config=config) == found
        assert memaudit.find_duplicates(same) == memaudit.find_duplicates(data)
        assert len(memaudit.select_images(same, memaudit.Selection(size=4))) == 4
    for call in (memaudit.generate_images, memaudit.check_denoising, memaudit.compare_with_optimum):
        with pytest.raises(TypeError, match="the model is a str; a Checkpoint .* is needed"):
            call("model.safetensors", data)  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("source", [None, 3, object(), torch.zeros(4, 3, 4, 4), lambda x, sigma: x])
def test_a_source_of_another_kind_is_refused_with_what_is_accepted(source: Any) -> None:
    with pytest.raises(TypeError) as refusal:
        memaudit.scan(source, TRAIN)
    for accepted in ("path", "array", "ImageSet", "Checkpoint", "denoiser", "img_resolution"):
        assert accepted in str(refusal.value)
    assert f"source is a {type(source).__name__}" in str(refusal.value)


def test_images_of_another_kind_are_refused_with_what_is_accepted() -> None:
    data: Any
    for data in (None, object(), optimum_of(memaudit.ImageSet.from_array(TRAIN))):
        for call in (memaudit.scan, memaudit.memorization_ratio):
            with pytest.raises(TypeError, match="a path, a uint8 array .* or an ImageSet"):
                call(GENERATED, data)


@pytest.mark.parametrize("call", [memaudit.scan, memaudit.memorization_ratio])
@pytest.mark.parametrize(
    ("generated", "train", "message"),
    [
        (GENERATED / 255, TRAIN, "float64.*must be uint8.*Convert"),
        (GENERATED, TRAIN.astype(np.float32), "float32.*must be uint8.*Convert"),
        (GENERATED[0], TRAIN, "could be 3 gray images"),
        (GENERATED[:, :2], TRAIN, "1 channel .* or 3"),
        (GENERATED[..., :2, :2], TRAIN, "2.*4"),
        (GENERATED, TRAIN[:1], "at least 2"),
        (GENERATED[:0], TRAIN, "holds no images"),
        ("nowhere/at/all", TRAIN, "nowhere"),
    ],
)
def test_images_that_cannot_be_judged_are_refused(
    call: Callable[..., Any], generated: Any, train: Any, message: str
) -> None:
    with pytest.raises(memaudit.MemauditError, match=message):
        call(generated, train)


# ------------------------------------------------------------------------------------------------
# How results are looked at


def test_representations_are_short(given: memaudit.ScanResult) -> None:
    many = memaudit.ImageSet.from_array(np.zeros((50_000, 1, 4, 4), np.uint8))
    assert repr(many) == "ImageSet(50,000 images, 1 x 4 x 4, no labels, source='array')"
    assert repr(memaudit.ScanConfig()) == "ScanConfig(seeds='0-9999')"
    changed = memaudit.ScanConfig(rule=memaudit.Rule(duplicate_rms=4), fail_above=0.01)
    assert len(repr(changed)) < 300
    assert len(repr(given)) < 300
    assert "5 of 12" in repr(given)
    assert len(repr(memaudit.open_images)) < 300


def test_a_summary_says_what_was_found(
    given: memaudit.ScanResult, sampled: memaudit.ScanResult
) -> None:
    first, second, *_ = lines = given.summary().splitlines()
    assert first == "5 of 12 generated images copy a training image."
    assert second.startswith("5 of 12 generated images count as near-exact pixel copies")
    assert "5 of 24 training images leak." in lines
    gated = memaudit.scan(GENERATED, TRAIN, config=memaudit.ScanConfig(fail_above=0.001))
    assert gated.summary().startswith("FAIL: more than 0.10 %")
    assert len(sampled.summary().splitlines()) > 2  # what the diagnostics say


@pytest.mark.parametrize("name", ["given", "sampled"])
def test_a_dictionary_holds_what_the_report_says(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    result = request.getfixturevalue(name)
    memaudit.write_report(result, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content == result.to_dict()
    assert len(written.pop("files")) == 3
    assert content.pop("files") == []
    del written[CHECKSUM]
    assert content == written
    assert memaudit.verify_report(tmp_path).passed
    assert memaudit.read_report(tmp_path).ratios == result.ratios


@pytest.mark.parametrize("name", ["given", "sampled"])
def test_a_data_frame_is_the_table_of_matches(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("pandas")
    result = request.getfixturevalue(name)
    memaudit.write_report(result, tmp_path)
    header, *rows = csv.reader((tmp_path / "matches.csv").read_text().splitlines())
    frame = result.to_pandas()
    assert list(frame.columns) == header
    assert [list(map(str, row)) for row in frame.itertuples(index=False)] == rows


class Elements(HTMLParser):
    """Elements of a page, and whether all are closed in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_notebook_shows_the_answer_and_the_closest_pairs(given: memaudit.ScanResult) -> None:
    text = given._repr_html_()
    page = Elements()
    page.feed(text)
    assert page.open == []
    assert page.found.count("table") == 4
    assert page.found.count("img") >= 4 * 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "5 of 12 generated images copy a training image" in text
    assert len(text) < 100_000


def test_a_notebook_shows_hostile_names_as_text() -> None:
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=y>"
    generated = memaudit.ImageSet(GENERATED, [f"{hostile}{i}" for i in range(12)], source=hostile)
    train = memaudit.ImageSet(TRAIN, [f"{hostile}\x1b{i}" for i in range(24)], source=hostile)
    text = memaudit.scan(generated, train)._repr_html_()
    page = Elements()
    page.feed(text)
    assert "script" not in page.found
    assert all(source.startswith("data:") for source in page.sources)
    assert "\x1b" not in text


# ------------------------------------------------------------------------------------------------
# Figures


def test_a_name_is_no_formula_of_a_figure(given: memaudit.ScanResult) -> None:
    pytest.importorskip("matplotlib")
    hostile = dataclasses.replace(
        given, keys=tuple(f"$\\x{{_\u202e{i}$" for i in range(len(given.keys)))
    )
    figure = hostile.plot_pairs(4)
    figure.savefig(io.BytesIO(), format="png")
    assert "\u202e" not in figure.axes[0].get_title()


def test_the_figure_of_pairs_shows_the_images(given: memaudit.ScanResult) -> None:
    figure_type = pytest.importorskip("matplotlib.figure").Figure
    figure = given.plot_pairs(4)
    assert isinstance(figure, figure_type)
    axes = np.reshape(figure.axes, (3, 4))
    for column in axes.T:
        generated, nearest, second = (axis.images[0].get_array() for axis in column)
        assert np.array_equal(generated, nearest)  # the closest pairs are exact copies
        assert not np.array_equal(generated, second)
    names = [axis.get_title() for axis in axes[0]]
    assert set(names) <= {f"array[{i}]" for i in range(5)}
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows


def test_a_pair_without_a_second_neighbor_is_drawn() -> None:
    pytest.importorskip("matplotlib")
    alike = np.repeat(TRAIN[:1], 3, axis=0)
    result = memaudit.scan(alike, alike)
    result.plot_pairs().savefig(io.BytesIO(), format="png")
    result.plot_ratios().savefig(io.BytesIO(), format="png")
    assert result._repr_html_()


def test_the_figure_of_ratios_counts_every_image(given: memaudit.ScanResult) -> None:
    pytest.importorskip("matplotlib")
    axis = given.plot_ratios().axes[0]
    copies, others = axis.containers
    assert sum(bar.get_height() for bar in copies) == 5
    assert sum(bar.get_height() for bar in others) == 7
    assert axis.lines[0].get_xdata() == pytest.approx([1 / 3, 1 / 3])
    assert "5 of 12" in axis.get_title()


def test_the_figure_of_noise_levels_shows_the_losses(
    given: memaudit.ScanResult, sampled: memaudit.ScanResult
) -> None:
    pytest.importorskip("matplotlib")
    optimality = sampled.diagnostics.optimality
    assert optimality is not None
    axis = sampled.plot_sigmas().axes[0]
    model, optimum, held_out = axis.lines
    assert list(model.get_xdata()) == [each.sigma for each in optimality.at_sigma]
    losses = [max(each.train.model_loss.value, 1e-7) for each in optimality.at_sigma]
    assert list(model.get_ydata()) == losses
    assert list(optimum.get_ydata()) == pytest.approx(losses)
    assert len(held_out.get_xdata()) == len(losses)
    with pytest.raises(memaudit.MemauditError, match="did not compare"):
        given.plot_sigmas()


def test_the_figure_of_snapshots_shows_the_ratio_over_training(
    given: memaudit.ScanResult, sampled: memaudit.ScanResult, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")

    def after(images_seen: int) -> memaudit.ScanResult:
        model = sampled.source.model
        assert model is not None
        model = dataclasses.replace(model, provenance={"images_seen": images_seen})
        source = dataclasses.replace(sampled.source, model=model)
        return dataclasses.replace(sampled, source=source)

    memaudit.write_report(after(2000), tmp_path)
    axis = memaudit.plot_snapshots([tmp_path, make_report(after(1000))]).axes[0]
    assert list(axis.lines[0].get_xdata()) == [1000, 2000]
    assert list(axis.lines[0].get_ydata()) == [1, 1]
    with pytest.raises(memaudit.MemauditError, match="does not say how many images"):
        memaudit.plot_snapshots([make_report(given)])


@pytest.mark.parametrize("method", ["plot_pairs", "plot_ratios", "plot_sigmas"])
def test_figures_say_that_they_need_matplotlib(
    sampled: memaudit.ScanResult, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures._figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(memaudit.MemauditError, match="pip install matplotlib"):
        getattr(sampled, method)()


def test_data_frames_say_that_they_need_pandas(
    sampled: memaudit.ScanResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(memaudit.MemauditError, match="pip install pandas"):
        sampled.to_pandas()


# ------------------------------------------------------------------------------------------------
# What a type checker sees

SNIPPET = """
import memaudit
import numpy as np

images = np.zeros((2, 3, 4, 4), np.uint8)
reveal_type(memaudit.scan(images, "train/"))
reveal_type(memaudit.memorization_ratio(images, images))
reveal_type(memaudit.open_images("train/"))
reveal_type(memaudit.scan("optimum", images).to_dict())
memaudit.scan(3, images)
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_public_names(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    mypy = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "snippet.py")]
    shown = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True).stdout
    revealed = [line.partition("Revealed type is ")[2] for line in shown.splitlines()]
    assert [each.strip('"').replace("builtins.", "") for each in revealed if each] == [
        "memaudit.audit.result.ScanResult",
        "memaudit.audit.statistics.intervals.Proportion",
        "memaudit.data.images.ImageSet",
        "dict[str, Any]",
    ], shown
    assert shown.count("error:") == 1, shown  # 3 is not a source
