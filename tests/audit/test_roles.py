"""What was given in the wrong place, or is only a part, is recognized and said."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from memaudit.audit.report.ci import markdown_summary
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import make_report
from memaudit.audit.scan import scan
from memaudit.audit.source import check_roles, holds_images, open_source
from memaudit.data.images import ImageSet
from memaudit.errors import CheckpointError, DataError
from memaudit.models.checkpoints import save_checkpoint
from tests.helpers.tiny_networks import TINY, tiny


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tiny("EDMPrecond"), {"class_name": "EDMPrecond"} | TINY)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "train.npz"
    np.savez(path, images=np.zeros((4, 3, 8, 8), np.uint8))
    return path


def test_source_and_data_exchanged_are_told_with_the_right_order(checkpoint: Path, images: Path):
    with pytest.raises(DataError, match=rf"memaudit scan {checkpoint} --data {images}"):
        scan(images, checkpoint)
    with pytest.raises(DataError, match="Name a folder, zip or array"):
        check_roles(checkpoint, checkpoint)
    check_roles(checkpoint, images)
    check_roles(images, images)
    check_roles("optimum", images)


def test_what_only_a_few_images_can_say_is_said_wherever_they_are():
    photographs = np.random.default_rng(0).integers(0, 256, (100, 3, 8, 8), np.uint8)
    few = scan(photographs[:5], ImageSet.from_array(photographs[:20], source="mine"))
    for shown in (markdown_summary(few), render_page(few, make_report(few))):
        assert "Only these 20 images were searched" in shown
    assert scan(photographs[:5], photographs).few_searched == ""


def damaged_zip64(content: bytes) -> bytes:
    """A zip whose zip64 locator points at something else, as `zipfile` will not read it."""
    end = content.rindex(b"PK\5\6")
    record = b"PK\6\6" + bytes(52)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, 10**9, 1)
    return content[:end] + record + locator + content[end:]


@pytest.mark.parametrize(
    "damage",
    [
        damaged_zip64,
        lambda content: content[:-22],
        lambda content: content[:-1],
        lambda content: content.replace(b"PK\1\2", b"PK\1\3"),
        lambda content: content[: len(content) // 2],
    ],
)
def test_a_damaged_checkpoint_is_still_told_from_images(tmp_path: Path, damage):
    path = tmp_path / "model.pt"
    torch.save({"net": torch.zeros(9)}, path)
    assert not holds_images(path)
    path.write_bytes(damage(path.read_bytes()))
    assert not holds_images(path)
    with pytest.raises(CheckpointError, match=r"model.pt: its zip"):
        open_source(path)
