"""WebDataset's shards, and other tars of images."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import Encode, labels_of

from memaudit.data.layout import Layout
from memaudit.data.path_ranges import expanded
from memaudit.data.selection import Selection
from memaudit.data.sources import open_images
from memaudit.data.subsets import open_selected
from memaudit.errors import DataError

webdataset = pytest.importorskip("webdataset")


@pytest.fixture
def files(pixels: np.ndarray, encode: Encode) -> list[bytes]:
    """The six images as PNG."""
    return [encode(image) for image in pixels]


def shard(path: Path, samples: list[dict[str, Any]]) -> None:
    """A tar that WebDataset writes."""
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)


def tar(path: Path, members: dict[str, bytes], mode: Any = "w", form: int | None = None) -> None:
    """A tar of these files."""
    with tarfile.open(path, mode, format=form or tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_a_shard_gives_pixels_classes_and_names(
    tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    samples = [
        {"__key__": f"a/{i:06d}", "png": data, "cls": i % 3, "json": {"x": 1}}
        for i, data in enumerate(files)
    ]
    shard(tmp_path / "a.tar", samples)
    images = open_images(tmp_path / "a.tar")
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == [0, 1, 2, 0, 1, 2]
    assert images.names[1] == "a/000001.png"


@pytest.mark.parametrize("source", ["", "{000..002}.tar", "{000,001,002}.tar"])
def test_shards_are_one_set(
    source: str, tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    for i in range(3):
        samples = [
            {"__key__": f"{j}", "png": files[2 * i + j], "json": {"label": i}} for j in range(2)
        ]
        shard(tmp_path / f"{i:03d}.tar", samples)
    images = open_images(tmp_path / source)
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == [0, 0, 1, 1, 2, 2]
    assert images.names[2] == "001.tar/0.png"


def test_a_range_names_the_shard_that_is_missing(tmp_path: Path, files: list[bytes]) -> None:
    shard(tmp_path / "0.tar", [{"__key__": "0", "png": files[0]}])
    with pytest.raises(DataError, match="names 3 files; '.*1.tar', '.*2.tar' are not there"):
        open_images(tmp_path / "{0..2}.tar")


@pytest.mark.parametrize("pattern", ["{0..999999}", "{5..1}", "{0..9999}{0..9999}"])
def test_a_range_of_very_many_files_is_refused(pattern: str) -> None:
    with pytest.raises(DataError, match="100,000 files"):
        expanded(pattern)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_of_a_folder_is_that_folder(
    mode: str, tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    members = {f"./set/{'ab'[i % 2]}/{i}.png": data for i, data in enumerate(files)}
    tar(tmp_path / "a.tar", members, mode)
    images = open_images(tmp_path / "a.tar")
    np.testing.assert_array_equal(images.images, pixels[[0, 2, 4, 1, 3, 5]])
    assert labels_of(images) == [0, 0, 0, 1, 1, 1]
    assert images.class_names == ("a", "b")


def test_zstd_is_unpacked(tmp_path: Path, pixels: np.ndarray, files: list[bytes]) -> None:
    zstandard = pytest.importorskip("zstandard")
    for i in range(2):
        path = tmp_path / f"{i}.tar"
        tar(path, {f"{j}.png": data for j, data in enumerate(files[3 * i : 3 * i + 3])})
        (tmp_path / f"{i}.tar.zst").write_bytes(zstandard.compress(path.read_bytes()))
        path.unlink()
    np.testing.assert_array_equal(open_images(tmp_path).images, pixels)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_are_read(form: int, tmp_path: Path, files: list[bytes]) -> None:
    name = "a" * 90 + "/" + "b" * 90 + ".png"
    tar(tmp_path / "a.tar", {name: files[0]}, form=form)
    assert list(open_images(tmp_path / "a.tar").names) == [name]


def test_names_of_classes_are_numbered(tmp_path: Path, files: list[bytes]) -> None:
    samples = [
        {"__key__": f"{i}", "png": data, "cls": name.encode()}
        for i, (data, name) in enumerate(zip(files, "bababa", strict=True))
    ]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for sample in samples:
            for kind in ("png", "cls"):
                info = tarfile.TarInfo(f"{sample['__key__']}.{kind}")
                info.size = len(sample[kind])
                archive.addfile(info, io.BytesIO(sample[kind]))
    images = open_images(tmp_path / "a.tar")
    assert labels_of(images) == [1, 0, 1, 0, 1, 0]
    assert images.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.png": b"x", "1.cls": b"0", "1.jpg": b"x"}, "'1.jpg', '1.png' are one sample"),
        ({"1.png": None, "1.cls": b"0", "2.png": None}, "2.png has no class, and others have one"),
        ({"1.png": None, "1.cls": b"-2"}, "holds the label -2"),
        ({"1.png": b"x", "1.cls": b"0"}, "1.png cannot be decoded"),
        ({"1.png": None, "1.json": b"["}, "1.json is not readable JSON"),
        ({"a.txt": b"x"}, "holds no images"),
    ],
)
def test_what_cannot_be_read_is_told_by_its_name(
    members: dict[str, bytes | None], message: str, tmp_path: Path, files: list[bytes]
) -> None:
    tar(tmp_path / "a.tar", {name: data or files[0] for name, data in members.items()})
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "a.tar")


def test_other_files_are_counted(tmp_path: Path, files: list[bytes]) -> None:
    members = {"1.png": files[0], "1.cls": b"0", "1.npy": b"", "2.psd": b"", "3.json": b"{}"}
    tar(tmp_path / "a.tar", members)
    assert dict(open_images(tmp_path / "a.tar").unread) == {".npy": 1, ".psd": 1, ".json": 1}


def test_a_link_is_passed_over(tmp_path: Path, files: list[bytes]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        info = tarfile.TarInfo("1.png")
        info.size = len(files[1])
        archive.addfile(info, io.BytesIO(files[1]))
    assert list(open_images(tmp_path / "a.tar").names) == ["1.png"]


def test_json_beside_an_image_gives_its_class(tmp_path: Path, files: list[bytes]) -> None:
    members = {}
    for i, data in enumerate(files):
        members[f"{i}.png"] = data
        members[f"{i}.json"] = json.dumps({"label": i, "caption": "a cat"}).encode()
    tar(tmp_path / "a.tar", members)
    assert labels_of(open_images(tmp_path / "a.tar")) == list(range(6))


def test_other_files_beside_shards_are_counted(tmp_path: Path, files: list[bytes]) -> None:
    shard(tmp_path / "0.tar", [{"__key__": "0", "png": files[0], "cls": 0}])
    for name in ("set.h5", "0.parquet", "0_stats.json"):
        (tmp_path / name).write_bytes(b"")
    found = dict(open_images(tmp_path).unread)
    assert found == {".h5": 1, ".parquet": 1, ".json": 1}


def test_shards_are_found_at_any_depth_and_behind_links(
    tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    for name, data in zip(("set/a/b/c/d/1.tar", "elsewhere/2.tar"), files, strict=False):
        (tmp_path / name).parent.mkdir(parents=True)
        tar(tmp_path / name, {"0.png": data})
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/a/loop").symlink_to(tmp_path / "set")
    images = open_images(tmp_path / "set")
    assert list(images.names) == ["a/b/c/d/1.tar/0.png", "linked/2.tar/0.png"]
    np.testing.assert_array_equal(images.images, pixels[:2])


@pytest.mark.parametrize("kind", [Layout, Selection])
def test_a_shard_is_opened_with_every_choice_that_it_has(
    kind: type[Layout], tmp_path: Path, files: list[bytes]
) -> None:
    shard(tmp_path / "a.tar", [{"__key__": "0", "png": files[0], "cls": 3}])
    assert labels_of(open_images(tmp_path / "a.tar", layout=kind())) == [3]
    assert open_images(tmp_path / "a.tar", layout=kind(labels_from="none")).labels is None
    with pytest.raises(DataError, match="no folders to take labels from; leave labels_from out"):
        open_images(tmp_path / "a.tar", layout=kind(labels_from="folder"))
    with pytest.raises(DataError, match="is not divided into splits .* there is no 'test'"):
        open_images(tmp_path / "a.tar", layout=kind(split="test"))
    assert len(open_selected(tmp_path / "a.tar", Selection(size=1))) == 1


@pytest.mark.parametrize("number", [1, 5])
def test_a_tar_that_was_cut_between_two_files_is_told(
    number: int, tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    tar(tmp_path / "whole.tar", {f"{i}.png": data for i, data in enumerate(files)})
    with tarfile.open(tmp_path / "whole.tar") as archive:
        end = archive.getmembers()[3].offset
    (tmp_path / "cut").mkdir()
    for i in range(number):
        (tmp_path / f"cut/{i}.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:end])
    images = open_images(tmp_path / "cut", cache_dir=False)
    np.testing.assert_array_equal(images.images[:3], pixels[:3])
    assert len(images) == 3 * number and len(images.notes) == min(number, 4)
    assert "lacks the mark of its end" in images.notes[0]
    assert number == 1 or images.notes[3] == "2 more tars end so."
    assert open_images(tmp_path / "whole.tar", cache_dir=False).notes == ()


def test_what_follows_the_end_of_a_tar_is_told(
    tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    tar(tmp_path / "a.tar", {"0.png": files[0], "1.png": files[1]})
    tar(tmp_path / "b.tar", {"2.png": files[2]})
    both = (tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes()
    (tmp_path / "c.tar").write_bytes(both)
    images = open_images(tmp_path / "c.tar", cache_dir=False)
    np.testing.assert_array_equal(images.images, pixels[:2])  # as tarfile and webdataset read it
    assert "continues after its end" in images.notes[0]


def test_equal_shards_of_a_range_of_folders_are_told_apart(
    tmp_path: Path, files: list[bytes]
) -> None:
    for folder in "01":
        (tmp_path / folder).mkdir()
        tar(tmp_path / folder / "0.tar", {"0.png": files[0]})
    images = open_images(f"{tmp_path}/{{0..1}}/0.tar", cache_dir=False)
    assert list(images.names) == [f"{tmp_path.as_posix()}/{i}/0.tar/0.png" for i in "01"]
