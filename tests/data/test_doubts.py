"""Images that cannot be what somebody meant are named; others are not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memaudit.audit.scan import scan
from memaudit.data.doubts import doubts_about
from memaudit.data.images import ImageSet
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.data.sources import open_images
from memaudit.data.subsets import open_selected

RNG = np.random.default_rng(0)
SHAPE = (5, 3, 8, 8)
PHOTOS = RNG.integers(0, 256, SHAPE, np.uint8)


@pytest.mark.parametrize(
    ("pixels", "signs"),
    [
        (RNG.random(SHAPE).round().astype(np.uint8), ["is 0 or 1, as if numbers in [0, 1]"]),
        (np.ones(SHAPE, np.uint8), ["is 0 or 1", "has a single color", "are equal"]),
        (
            RNG.choice([0, 1, 255], SHAPE).astype(np.uint8),
            ["is 0, 1 or 255, as if numbers in [-1, 1]"],
        ),
        (RNG.integers(2, 255, (5, 3, 1, 1)).repeat(64, 3).astype(np.uint8), ["a single color"]),
        (np.full(SHAPE, 7, np.uint8), ["has a single color", "are equal"]),
        (PHOTOS[[0] * 5], ["All 5 images in photos are equal"]),
        # Ordinary ones.
        (PHOTOS, []),
        (PHOTOS[:1], []),
        (255 * (PHOTOS > 127).astype(np.uint8), []),
        (PHOTOS[[0, 0, 0, 0, 1]], []),
        (PHOTOS // 16, []),
        (np.concatenate([np.zeros((40, 3, 8, 8), np.uint8), PHOTOS]), []),
    ],
)
def test_images_that_are_not_what_was_meant_are_named(pixels: np.ndarray, signs: list[str]) -> None:
    found = doubts_about(ImageSet(pixels, [""] * len(pixels), source="photos"))
    assert len(found) == len(signs)
    for text, sign in zip(found, signs, strict=True):
        assert sign in text and "photos" in text


def _write_folder(path: Path) -> None:
    for i, pixels in enumerate(PHOTOS):
        (path / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path / str(i % 2) / f"{i}.png")
    (path / "0" / "5.xyz").write_bytes(b"")
    (path / "1" / "6.XYZ").write_bytes(b"")
    (path / "1" / "notes").write_bytes(b"")
    (path / "manifest.json").write_bytes(b"{}")
    (path / ".hidden").write_bytes(b"")


@pytest.mark.parametrize("form", ["folder", "zip", "cached"])
def test_files_that_are_not_read_are_counted(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train"
    _write_folder(path)
    (path / "manifest.json").unlink()  # which is read, to name images
    if form == "zip":
        path = Path(shutil.make_archive(str(tmp_path / "train"), "zip", path))
    if form == "cached":
        monkeypatch.setattr("memaudit.data.sources.MAPPED_FROM", 0)
        open_images(path, cache_dir=tmp_path / "cache")
    images = open_images(path, cache_dir=tmp_path / "cache")
    assert images.unread == {".xyz": 2, "": 1}
    said = doubts_about(images.take(np.arange(2)))
    assert said[0].startswith(f"3 files were not read as images in {path} (2 .xyz, 1 without")
    result = scan(PHOTOS[:3], images)
    assert result.source.warnings == said[:1]


@pytest.mark.parametrize("form", ["npy", "npz", "h5", "tiff"])
def test_numbers_outside_the_window_are_counted(form: str, tmp_path: Path) -> None:
    values = np.linspace(0, 1, 4 * 64, dtype=np.float32).reshape(4, 8, 8)
    values[1, 0, 0] = 1.001  # rounds to 255 all the same
    values[2, 0, 0], values[3, 7, 7] = -0.01, 1.01
    path = tmp_path / f"set.{form}"
    if form == "npy":
        np.save(path, values)
    elif form == "npz":
        np.savez(path, images=values)
    elif form == "h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["images"] = values
    else:
        path.mkdir()
        for i, image in enumerate(values):
            Image.fromarray(image).save(path / f"{i}.tiff")
    images = open_images(path, Preparation(window=(0, 1)), cache_dir=False)
    converted, clipped = doubts_about(images)
    assert "were converted (4 16-bit or floating): values from 0 to 1" in converted
    assert clipped.startswith("2 images hold numbers outside the window 0 to 1 in")
    (converted,) = doubts_about(open_images(path, Preparation(window=(-1, 2)), cache_dir=False))
    part = Selection(size=3)
    images = open_selected(path, part, Preparation(window=(0, 1)), cache_dir=False)
    assert len(images) == 3
    converted, clipped = doubts_about(images)
    assert "were converted (3 16-bit or floating)" in converted
    assert clipped.startswith("1 image holds numbers outside the window 0 to 1 in")


@pytest.mark.parametrize("form", ["npy", "npz", "png"])
def test_a_window_that_bytes_do_not_have_is_said(form: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
    path = tmp_path / f"set.{form}"
    if form == "png":
        Image.fromarray(values[0]).save(path)
    else:
        (np.save if form == "npy" else np.savez)(path, values)
    (said,) = doubts_about(open_images(path, Preparation(window=(0, 200)), cache_dir=False))
    assert "have 8 bits, so the window 0 to 200 was not applied to them" in said
    assert not doubts_about(open_images(path, cache_dir=False))
