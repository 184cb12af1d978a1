"""An encoder is a program of somebody else: what it may not do to an audit."""

import hashlib
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.all_distances import noise
from helpers.limited import run_python
from torch import Tensor, nn

from memaudit.audit.config import ScanConfig
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.published_encoders import open_encoder
from memaudit.audit.scan import scan
from memaudit.data.images import ImageSet
from memaudit.errors import CheckpointError

SHAPE = (3, 8, 8)


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        i = 0
        while i >= 0:
            x = (x + 1).cos()
        return x.flatten(1)


class EndlessToLoad(nn.Module):
    @torch.jit.export
    def __getstate__(self) -> int:
        return 1

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        while state > 0:
            state += 1
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), 16)


class Dropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(x.flatten(1), 0.5, True)


class Position(nn.Module):
    """Depends on an image's place in its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(len(x))[:, None] * torch.ones(1, 4) + x.flatten(1)[:, :4]


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), 4)


class Mostly(nn.Module):
    """The same vector, but for one image in eight or so."""

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1)
        return torch.ones(len(x), 4) + (z[:, :4] > 0.95).to(torch.float32)


class Hash(nn.Module):
    """Repeats, and differs between images, but knows no image after any change."""

    def forward(self, x: Tensor) -> Tensor:
        z = (x.flatten(1).double() * 255).round()
        weight = torch.arange(1, z.shape[1] + 1).double()
        seeds = (z * weight).sum(1, keepdim=True)
        return torch.sin(seeds * torch.arange(1, 17).double() * 12.9898).float()


@pytest.fixture
def save(tmp_path: Path) -> Callable[[nn.Module], Path]:
    def save(module: nn.Module) -> Path:
        path = tmp_path / "encoder.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.script(module).save(str(path))
        return path

    return save


def images(number: int = 50) -> np.ndarray:
    return noise(np.random.default_rng(0), number, SHAPE)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Random(), "returns other features when it is given the same images again"),
        (Dropped(), "returns other features when it is given the same images again"),
        (Position(), "returns other features when it is given the same images again"),
        (Constant(), "returns the same features for images that differ"),
        (Mostly(), "returns the same features for images that differ"),
        (Hash(), "does not recognize images with noise of one gray level"),
    ],
)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_features_that_could_not_find_a_copy_are_refused(save, module, message, metric):
    with pytest.raises(CheckpointError, match=message):
        FeatureIndex(images(), open_encoder(save(module), preprocessing="unit"), metric=metric)


def test_images_that_are_all_alike_may_have_one_vector(save):
    FeatureIndex(np.full((9, *SHAPE), 77, np.uint8), open_encoder(save(nn.Flatten())))


def test_what_is_loaded_is_what_was_hashed(save, monkeypatch):
    path = save(nn.Flatten())
    content = path.read_bytes()
    loaded = []
    load = torch.jit.load

    def exchange(file, **options):
        path.write_bytes(b"another file")
        loaded.append(file.getvalue())
        return load(file, **options)

    monkeypatch.setattr(torch.jit, "load", exchange)
    assert open_encoder(path).sha256 == hashlib.sha256(content).hexdigest()
    assert loaded == [content]


@pytest.mark.parametrize(
    ("make", "what"),
    [(os.mkfifo, "a named pipe"), (lambda p: p.symlink_to("/dev/zero"), "a device")],
)
def test_an_encoder_is_a_regular_file(tmp_path, make, what):
    make(tmp_path / "encoder.pt")
    with pytest.raises(CheckpointError, match=f"encoder.pt cannot be read: it is {what}"):
        open_encoder(tmp_path / "encoder.pt")


class Restored(EndlessToLoad):
    """Runs code when it is loaded, which ends."""

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = False


@pytest.mark.slow
def test_an_encoder_that_restores_itself_is_tried_in_another_process(save):
    FeatureIndex(images(), open_encoder(save(Restored())))


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"noise" * 100])
def test_a_file_that_is_no_program_is_refused(tmp_path, content):
    (tmp_path / "encoder.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"encoder.pt is not a TorchScript file \("):
        open_encoder(tmp_path / "encoder.pt")


GIVES_UP = """
import sys
from memaudit.audit.neighbors import encoder, torchscript
encoder.MAX_SECONDS = torchscript.MAX_SECONDS = float(sys.argv.pop())
from memaudit.cli.main import main
sys.argv[1:] = ["scan", sys.argv[2], "--data", sys.argv[2], "--features", sys.argv[1],
    "--out", sys.argv[3]]
main()
"""


@pytest.mark.parametrize(
    ("module", "seconds", "message"),
    [
        (Endless(), 0.5, "has not encoded 64 images of float32 [64, 3, 8, 8] within 0.5 seconds"),
        pytest.param(
            EndlessToLoad(),
            9,
            "has not loaded within 9.0 seconds: its code may never end",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_code_that_never_ends_is_given_up_with_one_message(
    save, tmp_path, module, seconds, message
):
    np.savez(tmp_path / "images.npz", images=images(20))
    started = time.monotonic()
    paths = (save(module), tmp_path / "images.npz", tmp_path / "report")
    done = run_python(GIVES_UP, *paths, str(seconds), memory=16 << 30)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert done.stderr.count("Error: ") == 1 and "Traceback" not in done.stderr
    assert time.monotonic() - started < 50


def test_a_gate_says_what_it_cannot_know_of_an_encoder(save):
    data = ImageSet(images(20), [str(i) for i in range(20)], source="data")
    given = ImageSet(images(60)[30:], [str(i) for i in range(30)], source="given")
    config = ScanConfig(index=IndexConfig(features=save(nn.Flatten()), preprocessing="unit"))
    assert not scan(given, data, config=config).source.warnings
    gated = ScanConfig(index=config.index, fail_above=0.5, min_samples=1)
    (warning,) = scan(given, data, config=gated).source.warnings
    assert "a program: one made to hide copies does" in warning
