"""A written set is the set, and its manifest says where every image came from."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import labels_of

import memaudit
from memaudit.data import sources
from memaudit.data.built_sets import (
    SCHEMA,
    check_set_writable,
    read_set_manifest,
    write_set,
)
from memaudit.data.derived_sets import label_images, repeat_images
from memaudit.data.images import ImageSet
from memaudit.data.preparation import Preparation
from memaudit.data.resumable_folder import ResumableFolder
from memaudit.data.sources import open_images
from memaudit.data.writers import NamedImage, write_images
from memaudit.errors import ConfigError, DataError

FORMS = ("folder", "set.zip", "set.npz")


def source(channels: int = 3, num_images: int = 12) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (num_images, channels, 8, 8), np.uint8)
    names = [f"class/{i}\udcff.png" for i in range(num_images)]
    return ImageSet(pixels, names, np.arange(num_images) % 3, ("cat", "dog", "fox"), "photos.zip")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scheme", ["true", "none", "unique"])
def test_a_set_opens_again_with_its_fingerprint_and_labels(
    tmp_path: Path, form: str, channels: int, scheme: Any
) -> None:
    images = label_images(source(channels), scheme)
    write_set(tmp_path / form, images, sources=[source(channels)], choices={})
    read = open_images(tmp_path / form)
    assert read.fingerprint == images.fingerprint
    if images.labels is None:
        assert read.labels is None
    else:
        assert read.labels is not None and labels_of(read) == labels_of(images)


@pytest.mark.parametrize("form", FORMS)
def test_the_manifest_traces_every_image_to_its_source(tmp_path: Path, form: str) -> None:
    images = repeat_images(source().take(np.array([5, 1])), 2)
    write_set(tmp_path / form, images, sources=[source()], choices={"repeat": 2})
    assert read_set_manifest(tmp_path / form) == {
        "schema": "memaudit.dataset/1",
        "memaudit": memaudit.__version__,
        "fingerprint": open_images(tmp_path / form).fingerprint,
        "shape": [4, 3, 8, 8],
        "class_names": ["cat", "dog", "fox"],
        "sources": [{"path": "photos.zip", "fingerprint": source().fingerprint, "num_images": 12}],
        "choices": {"repeat": 2},
        "names": [f"class/{i}\udcff.png" for i in (5, 5, 1, 1)],
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_set_opens_with_the_names_of_its_source(tmp_path: Path, form: str) -> None:
    images = repeat_images(source().take(np.array([5, 1])), 2)
    write_set(tmp_path / form, images, sources=[source()], choices={"repeat": 2})
    for resolution in (None, 4):
        read = open_images(tmp_path / form, Preparation(resolution=resolution))
        assert list(read.names) == list(images.names)
        assert read.class_names == ("cat", "dog", "fox")


def test_a_copy_of_a_set_still_has_the_names_of_the_first_source(tmp_path: Path) -> None:
    write_set(tmp_path / "a.zip", source(), sources=[source()], choices={})
    first = open_images(tmp_path / "a.zip")
    write_set(tmp_path / "b.npz", first, sources=[first], choices={})
    assert list(open_images(tmp_path / "b.npz").names) == list(source().names)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "memaudit.samples/1"},
        {"names": ["a"] * 11},
        {"class_names": ["cat", "dog"]},
    ],
)
def test_a_manifest_that_does_not_fit_is_ignored(tmp_path: Path, change: dict[str, Any]) -> None:
    write_set(tmp_path / "set", source(), sources=[], choices={})
    file = tmp_path / "set" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    read = open_images(tmp_path / "set")
    assert read.names[0] == "img00000000.png" and read.class_names == ()


@pytest.mark.parametrize(
    "change",
    [
        {"names": [1] * 12},
        {"names": None},
        {"class_names": "cats"},
        {"memaudit": []},
        {"sources": [{"path": "a"}]},
        {"sources": [7]},
        {"sources": {}},
        {"choices": None},
        {"choices": {"left_out": [{"name": "a"}]}},
        {"choices": {"label": [[[]]]}},
        {"captions": [1]},
        {"groups": {}},
        {"repeats": [0]},
        {"repeats": ["2"]},
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_manifest_of_wrong_types_is_refused(
    tmp_path: Path, change: dict[str, Any], form: str
) -> None:
    manifest = {"schema": SCHEMA, "memaudit": "1", "names": [], "class_names": []}
    manifest |= {"sources": [], "choices": {}}
    path = tmp_path / form

    def write(manifest: dict[str, Any]) -> None:
        if path.suffix:
            image = NamedImage("a", np.zeros((1, 8, 8), np.uint8))
            write_images(path, [image], manifest=manifest)
        else:
            path.mkdir(exist_ok=True)
            (path / "manifest.json").write_text(json.dumps(manifest))

    write(manifest)
    assert read_set_manifest(path) == manifest
    write(manifest | change)
    with pytest.raises(DataError, match=f"its {next(iter(change))} (is|are) malformed"):
        read_set_manifest(path)


def test_names_are_not_given_to_other_images(tmp_path: Path) -> None:
    write_set(tmp_path / "set", label_images(source(), "none"), sources=[], choices={})
    (tmp_path / "set" / "img00000003.png").rename(tmp_path / "set" / "new.png")
    assert open_images(tmp_path / "set").names[-1] == "new.png"


def test_a_cached_set_follows_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAPPED_FROM", 500)
    write_set(tmp_path / "set", source(), sources=[], choices={})
    before = open_images(tmp_path / "set")
    assert isinstance(before.images, np.memmap) and list(before.names) == list(source().names)
    (tmp_path / "set" / "manifest.json").unlink()
    after = open_images(tmp_path / "set")
    assert after.names[0] == "img00000000.png" and after.fingerprint == before.fingerprint


def test_a_zip_is_in_edms_form_and_the_same_whenever_it_is_written(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_set(tmp_path / name, source(), sources=[source()], choices={})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        labels = json.loads(archive.read("dataset.json"))["labels"]
        assert labels[:2] == [["00000/img00000000.png", 0], ["00000/img00000001.png", 1]]
        assert {name for name, _ in labels} < set(archive.namelist())


def test_an_order_of_more_than_a_folder_of_a_zip_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((2001, 1, 2, 2), np.uint8)
    pixels.reshape(2001, 4)[:, :2] = np.arange(2001, dtype="<u2").view(np.uint8).reshape(-1, 2)
    images = ImageSet(pixels, [""] * 2001)
    write_set(tmp_path / "set.zip", images, sources=[], choices={})
    assert open_images(tmp_path / "set.zip").fingerprint == images.fingerprint


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"no json", b"[" * 100_000, None])
def test_what_others_call_a_manifest_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    assert read_set_manifest(tmp_path) is None


def test_files_of_other_forms_have_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "images.npy").write_bytes(b"\x93NUMPY")
    np.savez(tmp_path / "images.npz", images=np.zeros(3))
    assert read_set_manifest(tmp_path / "images.npy") is None
    assert read_set_manifest(tmp_path / "images.npz") is None
    assert read_set_manifest(tmp_path / "absent") is None


def broken_after(number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the writing of a folder end after some images, as if it were killed."""
    add = ResumableFolder.add
    calls: list[str] = []

    def counted(self: ResumableFolder, image: NamedImage, **options: Any) -> None:
        if len(calls) == number:  # once
            calls.append("no limit any more")
            raise KeyboardInterrupt
        calls.append(image.name)
        add(self, image, **options)

    monkeypatch.setattr(ResumableFolder, "add", counted)
    return calls


def test_an_unfinished_folder_is_refused_by_name_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "set"
    calls = broken_after(7, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        write_set(path, source(), sources=[source()], choices={"size": 12})
    with pytest.raises(DataError, match=r"set is unfinished: .* Give the command that began it"):
        open_images(path)
    check_set_writable(path, overwrite=False)
    (path / "img00000002.png").write_bytes((path / "img00000001.png").read_bytes())  # another one

    with pytest.raises(ConfigError, match="holds images of another choices"):
        write_set(path, source(), sources=[source()], choices={"size": 11})
    write_set(path, source(), sources=[source()], choices={"size": 12})
    assert calls[8:] == ["img00000002"] + [f"img{i:08d}" for i in range(7, 12)]
    assert open_images(path).fingerprint == source().fingerprint
    manifest = read_set_manifest(path)
    assert manifest is not None and "unfinished" not in manifest


def test_a_set_is_replaced_only_if_asked_and_only_if_it_is_one(tmp_path: Path) -> None:
    path, other = tmp_path / "set", source(num_images=5)
    write_set(path, source(), sources=[], choices={})
    with pytest.raises(ConfigError, match="holds a set already; name another place, or replace"):
        check_set_writable(path, overwrite=False)
    with pytest.raises(ConfigError, match="is not empty"):
        check_set_writable(path)
    check_set_writable(path, overwrite=True)
    write_set(path, other, sources=[], choices={}, overwrite=True)
    assert open_images(path).fingerprint == other.fingerprint

    (path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt, which is not of a set .* nothing was"):
        write_set(path, source(), sources=[], choices={}, overwrite=True)
    assert open_images(path).fingerprint == other.fingerprint
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is not empty"):
        check_set_writable(tmp_path / "photos", overwrite=True)

    write_set(tmp_path / "set.npz", source(), sources=[], choices={})
    with pytest.raises(ConfigError, match="holds a set already"):
        check_set_writable(tmp_path / "set.npz", overwrite=False)
    check_set_writable(tmp_path / "set.npz", overwrite=True)


@pytest.mark.parametrize("form", FORMS)
def test_captions_groups_and_repeats_come_back(tmp_path: Path, form: str) -> None:
    images = replace(
        source(num_images=3),
        captions=["a cat", None, "\u732b"],
        groups=[None, "p1", "p2"],
        repeats=np.array([1, 10, 2]),
    )
    write_set(tmp_path / form, images, sources=[source()], choices={})
    read = open_images(tmp_path / form)
    assert (read.captions, read.groups) == (images.captions, images.groups)
    assert read.repeats is not None and read.repeats.tolist() == [1, 10, 2]
    plain = open_images(tmp_path / form).take(np.array([1]))
    assert plain.captions == [None] and plain.groups == ["p1"]


@pytest.mark.parametrize("form", FORMS)
def test_captions_that_are_too_long_to_be_read_again_are_told(tmp_path: Path, form: str) -> None:
    images = replace(source(num_images=40), captions=["x" * 10_000] * 40)
    write_set(tmp_path / form, images, sources=[source()], choices={})
    read = open_images(tmp_path / form)
    assert read.captions is None and read.fingerprint == images.fingerprint
    assert f"The captions of {tmp_path / form} were too long" in read.notes[0]
