"""A folder of generated images is resumed where it stopped, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from memaudit.data.resumable_folder import check_resumable, resumable_folder
from memaudit.data.sources import open_images
from memaudit.data.writers import NamedImage
from memaudit.errors import ConfigError, DataError

NAMES = ("000000", "000001", "000002")


def fill(
    path: Path, pixels: np.ndarray, names: tuple[str, ...] = NAMES, **identity: str
) -> tuple[str, ...]:
    """Write the images that are missing, and return their names."""
    with resumable_folder(path, names, identity=identity) as folder:
        for name in folder.missing:
            folder.add(NamedImage(name, pixels[int(name)], label=int(name)))
    return folder.missing


def test_only_missing_and_damaged_images_are_written_again(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    assert fill(tmp_path, pixels, NAMES[:2], model="a") == NAMES[:2]
    (tmp_path / "000000.png").write_bytes((tmp_path / "000000.png").read_bytes()[:-40])
    (tmp_path / f".000001.png.{'a' * 16}.part").write_bytes(b"cut")
    check_resumable(tmp_path)
    assert fill(tmp_path, pixels, model="a") == ("000000", "000002")
    assert not list(tmp_path.glob(".*.part"))
    images = open_images(tmp_path)
    np.testing.assert_array_equal(images.images, pixels[:3])
    assert images.labels is not None and images.labels.tolist() == [0, 1, 2]


def test_another_identity_is_refused_by_its_word(tmp_path: Path, pixels: np.ndarray) -> None:
    fill(tmp_path, pixels, model="a", sampler="heun")
    with pytest.raises(ConfigError, match="holds images of another model. Continue with the"):
        fill(tmp_path, pixels, model="b", sampler="heun")
    with pytest.raises(ConfigError, match="000002.png, which is not one of the images asked for"):
        fill(tmp_path, pixels, NAMES[:2], model="a", sampler="heun")


def test_a_folder_of_something_else_is_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    fill(tmp_path, pixels)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="is not empty"):
        check_resumable(tmp_path)
    with pytest.raises(ConfigError, match="holds images of an unknown origin"):
        fill(tmp_path, pixels)


def test_a_folder_with_only_a_lock_is_as_good_as_new(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / ".samples.lock").touch()
    check_resumable(tmp_path)
    assert fill(tmp_path, pixels) == NAMES


def test_a_folder_is_filled_by_one_process_at_a_time(tmp_path: Path, pixels: np.ndarray) -> None:
    with resumable_folder(tmp_path, NAMES, identity={}):
        with pytest.raises(ConfigError, match="Another process is writing into"):
            fill(tmp_path, pixels)


def test_a_failure_leaves_no_labels(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(RuntimeError), resumable_folder(tmp_path, NAMES, identity={}):
        raise RuntimeError
    assert not (tmp_path / "dataset.json").exists()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {"schema": "memaudit.samples/1", "unfinished": True}
    with pytest.raises(DataError, match="is unfinished: what wrote its images stopped"):
        open_images(tmp_path)


def test_a_folder_of_fewer_images_is_unfinished_while_it_grows(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    fill(tmp_path, pixels, NAMES[:2])
    assert len(open_images(tmp_path)) == 2
    with pytest.raises(RuntimeError), resumable_folder(tmp_path, NAMES, identity={}):
        raise RuntimeError
    with pytest.raises(DataError, match="is unfinished"):
        open_images(tmp_path)
    assert fill(tmp_path, pixels) == NAMES[2:]
    assert len(open_images(tmp_path)) == 3


def test_links_planted_in_the_folder_are_not_written_through(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_bytes(b"mine")
    out.mkdir()
    for name in ("manifest.json", "dataset.json"):
        (out / name).symlink_to(victim)
    fill(out, pixels, NAMES[:2])
    (out / "000002.png").symlink_to(victim)
    fill(out, pixels)
    assert victim.read_bytes() == b"mine" and len(open_images(out)) == 3
    (out / ".samples.lock").unlink()
    (out / ".samples.lock").symlink_to(victim)
    with pytest.raises(OSError, match="is a link, which is not followed"):
        fill(out, pixels)
    assert victim.read_bytes() == b"mine"
