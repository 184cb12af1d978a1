"""Folders that hold more than one form: what is the set is clear, or both are named."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import store_files
from helpers.images import Encode, labels_of, write_files

from memaudit.data.doubts import doubts_about
from memaudit.data.layout import Layout
from memaudit.data.sources import open_images
from memaudit.errors import DataError

Make = Callable[[dict[str, bytes]], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a folder of files."""
    return lambda files: write_files(tmp_path / "set", files)


@pytest.fixture
def files(pixels: np.ndarray, encode: Encode) -> list[bytes]:
    """The six images as PNG."""
    return [encode(image) for image in pixels]


def tar_of(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def parquet() -> bytes:
    pytest.importorskip("pyarrow")
    return store_files.parquet()


def dicom() -> bytes:
    pytest.importorskip("pydicom")
    return store_files.dicom(implicit=False)


def nifti() -> bytes:
    pytest.importorskip("nibabel")
    return store_files.nifti(packed=False)


STORES: dict[str, tuple[Callable[[], bytes], int]] = {
    "data/train-00000-of-00001.parquet": (parquet, 4),
    "a.tar": (lambda: tar_of({f"{i}.png": store_files.png() for i in range(4)}), 4),
    "scan.dcm": (dicom, 1),
    "scan.nii": (nifti, 8),
}


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("picture", ["preview.png", "docs/figures/grid.jpg"])
def test_a_preview_does_not_hide_the_store_beside_it(
    name: str, picture: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, number = STORES[name]
    data = store()
    path = make({name: data, picture: data[: len(data) // 10], "README.md": b"a set"})
    images = open_images(path)
    assert len(images) == number
    suffix = Path(picture).suffix
    assert images.unread[suffix] == 1 and f"1 {suffix}" in " ".join(doubts_about(images))
    (path / picture).write_bytes(bytes(len(data) // 5))
    with pytest.raises(DataError) as caught:
        open_images(path)
    assert picture in str(caught.value) and name in str(caught.value)
    assert "either may be the set" in str(caught.value)


def test_a_small_tar_or_table_does_not_hide_the_images_beside_it(
    make: Make, files: list[bytes]
) -> None:
    others = {"more.tar": b"x" * 10, "captions.parquet": b"PAR1"}
    images = open_images(make({f"{i}.png": data for i, data in enumerate(files)} | others))
    assert len(images) == 6 and dict(images.unread) == {".tar": 1, ".parquet": 1}


def test_images_are_the_set_beside_what_is_named_like_a_batch_of_imagenet(
    make: Make, files: list[bytes]
) -> None:
    path = make({f"val_data/{i}.png": data for i, data in enumerate(files)} | {"val_data.npz": b""})
    assert len(open_images(path)) == 6
    (path / "val_data.npz").write_bytes(bytes(sum(map(len, files))))
    with pytest.raises(DataError, match=r"holds 6 images .*val_data.npz.* either may be the set"):
        open_images(path)


@pytest.mark.parametrize("name", ["set.npz", "shards/set.zip", "set.h5"])
def test_a_preview_beside_one_large_file_is_refused_with_its_name(
    name: str, make: Make, files: list[bytes]
) -> None:
    path = make({"preview.png": files[0], name: bytes(20 * len(files[0]))})
    with pytest.raises(DataError) as caught:
        open_images(path)
    assert f"Give {path / name} if it is the set" in str(caught.value)
    (path / name).write_bytes(bytes(8))  # as a file of statistics beside a few images
    assert len(open_images(path)) == 1


def test_a_folder_of_stores_alone_names_one_of_them(make: Make) -> None:
    path = make({"val.zip": b"PK", "train.zip": b"PK"})
    with pytest.raises(DataError, match=r"'train.zip', 'val.zip'. Give .* such as .*train.zip"):
        open_images(path)


@pytest.mark.parametrize("form", ["set", "set.zip", "set.tar"])
def test_hidden_images_are_counted_and_what_systems_add_is_not(
    form: str, tmp_path: Path, files: list[bytes]
) -> None:
    found = {"a/0.png": files[0], "b/1.png": files[1], ".2.png": files[2]}
    found |= {"a/.ipynb_checkpoints/0-checkpoint.png": files[3], ".DS_Store": b"x"}
    found |= {"__MACOSX/a/._0.png": b"x", "a/._0.png": b"x", "Thumbs.db": b"x"}
    path = tmp_path / form
    if form.endswith(".tar"):
        path.write_bytes(tar_of(found))
    else:
        write_files(path, found)
    images = open_images(path)
    assert list(images.names) == ["a/0.png", "b/1.png"] and images.class_names == ("a", "b")
    assert dict(images.unread) == {"hidden .png": 2, ".db": 1}


def test_a_hidden_folder_that_cannot_be_listed_is_passed_over(
    make: Make, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    path = make({"0.png": files[0], ".Trashes/1.png": files[1]})
    listed = os.scandir

    def scandir(folder: Path) -> object:
        if ".Trashes" in str(folder):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(open_images(path)) == 1


@pytest.mark.parametrize("form", ["set", "set.zip"])
@pytest.mark.parametrize("folder", ["images", "a/b/images", "10_sks dog", "train/images"])
def test_one_folder_alone_is_no_class_unless_it_is_asked_for(
    form: str, folder: str, tmp_path: Path, files: list[bytes]
) -> None:
    path = write_files(tmp_path / form, {f"{folder}/{i}.png": files[i] for i in range(3)})
    images = open_images(path)
    assert images.labels is None and images.num_classes == 0
    assert (images.repeats is not None) == folder.startswith("10_")
    images = open_images(path, layout=Layout(labels_from="folder"))
    assert images.class_names == (folder.rpartition("/")[2],) and labels_of(images) == [0, 0, 0]


def test_a_folder_of_one_tar_is_that_tar(make: Make, files: list[bytes]) -> None:
    inside = {"train/cat/0.png": 0, "train/dog/1.png": 1, "val/cat/2.png": 2, "val/dog/3.png": 3}
    path = make({"set.tar": tar_of({name: files[i] for name, i in inside.items()}), "a.md": b""})
    images = open_images(path)
    assert list(images.names) == list(inside)[:2] and images.class_names == ("cat", "dog")
    assert images.split == "train" and images.unread == {".md": 1}
    images = open_images(path, layout=Layout(split="val", labels_from="folder"))
    assert images.split == "val" and labels_of(images) == [0, 1]
    with pytest.raises(DataError, match="no split test"):
        open_images(path, layout=Layout(split="test"))


def test_splits_within_several_tars_are_not_mixed_in_silence(
    make: Make, files: list[bytes]
) -> None:
    inside = {"train/0.png": files[0], "val/1.png": files[1]}
    path = make({"0.tar": tar_of(inside), "1.tar": tar_of(inside)})
    with pytest.raises(DataError, match="holds folders of the splits train and val within"):
        open_images(path)


def test_images_beside_a_downloaded_set_are_counted(make: Make, files: list[bytes]) -> None:
    idx = {"train": b"\0\0\x08\x03\0\0\0\2\0\0\0\1\0\0\0\1ab", "t10k": b"\0\0\x08\x03" + bytes(12)}
    raw = {f"MNIST/raw/{split}-images-idx3-ubyte": data for split, data in idx.items()}
    path = make(raw | {"more/0.png": files[0], "more/1.jpg": files[1]})
    images = open_images(path)
    assert len(images) == 2 and images.unread == {".png": 1, ".jpg": 1}
    images = open_images(path / "MNIST/raw")
    assert len(images) == 2 and not images.unread
