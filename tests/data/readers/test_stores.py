"""Stores of images, each written by its own library and read back: the same pixels and labels."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import Encode, labels_of
from helpers.tfrecords import record, tensorflow_example

from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers import tfrecords
from memaudit.data.readers.checksums import crc32c
from memaudit.data.sources import open_images
from memaudit.errors import DataError

LABELS = [2, 0, 1, 1, 0, 2]


# ------------------------------------------------------------------------------------------------
# Arrays


def test_medmnist_is_its_training_images_or_another_split(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    last = pixels.transpose(0, 2, 3, 1)
    labels = np.array(LABELS, np.uint8)[:, None]
    np.savez(
        tmp_path / "pathmnist.npz",
        **{"train_images": last, "train_labels": labels},
        **{"val_images": last[:2], "val_labels": labels[:2]},
        **{"test_images": last[2:5], "test_labels": labels[2:5]},
    )
    images = open_images(tmp_path / "pathmnist.npz")
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == LABELS
    assert images.split == "train" and set(images.other_splits) == {"val", "test"}
    assert "only the images of" in images.notes[0]
    test = open_images(tmp_path / "pathmnist.npz", layout=Layout(split="test"))
    np.testing.assert_array_equal(test.images, pixels[2:5])
    with pytest.raises(DataError, match="keeps its splits apart"):
        open_images(tmp_path / "pathmnist.npz", layout=Layout(split="all"))


def test_keras_and_imagenet64_are_read(tmp_path: Path, pixels: np.ndarray) -> None:
    last, labels = pixels.transpose(0, 2, 3, 1), np.array(LABELS)
    np.savez(tmp_path / "keras.npz", x_train=last, y_train=labels, x_test=last[:1], y_test=[1])
    np.savez(
        tmp_path / "train_data_batch_1.npz",
        data=pixels.reshape(6, -1),
        labels=labels + 1,
        mean=np.zeros(192, np.uint8),
    )
    for name in ("keras.npz", "train_data_batch_1.npz"):
        images = open_images(tmp_path / name)
        np.testing.assert_array_equal(images.images, pixels)
        assert labels_of(images) == LABELS


@pytest.mark.parametrize("form", ["npz", "h5", "mat", "pt"])
def test_other_arrays_of_images_are_told(form: str, tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / f"set.{form}"
    arrays = {"images": pixels.transpose(0, 2, 3, 1), "more": pixels[:2], "z": np.zeros((6, 4))}
    if form == "npz":
        np.savez(path, **arrays, about=np.array({"a": 1}))
    elif form == "h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    elif form == "mat":
        arrays["images"] = arrays["images"].transpose(1, 2, 3, 0)
        pytest.importorskip("scipy.io").savemat(path, arrays)
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(a.copy()) for name, a in arrays.items()}, path)
    images = open_images(path)
    assert images.notes == (f"{path} also holds 'more', which was not read.",)


@pytest.mark.parametrize(
    ("images", "labels"),
    [("train_img", "train_labels"), ("train/images", "train/labels"), ("x_train", "y_train")],
)
def test_splits_of_hdf5_are_known_by_the_names_of_their_data_sets(
    images: str, labels: str, tmp_path: Path, pixels: np.ndarray
) -> None:
    with pytest.importorskip("h5py").File(tmp_path / "set.h5", "w") as file:
        file[images], file[labels] = pixels, np.array(LABELS)[:, None, None, None]
        file[images.replace("train", "test")] = pixels[:2]
        file[labels.replace("train", "test")] = LABELS[:2]
    found = open_images(tmp_path / "set.h5")
    np.testing.assert_array_equal(found.images, pixels)
    assert labels_of(found) == LABELS and found.other_splits == ("test",)
    assert len(open_images(tmp_path / "set.h5", layout=Layout(split="test"))) == 2


@pytest.mark.parametrize("form", ["npz", "h5", "mat"])
def test_labels_that_are_not_one_class_each_are_told(
    form: str, tmp_path: Path, pixels: np.ndarray
) -> None:
    rows = np.eye(3, dtype=np.uint8)[LABELS]
    for name, labels in (("onehot", rows), ("several", rows + rows[::-1])):
        path = tmp_path / f"{name}.{form}"
        if form == "npz":
            np.savez(path, data=pixels, labels=labels)
        elif form == "h5":
            with pytest.importorskip("h5py").File(path, "w") as file:
                file["images"], file["labels"] = pixels, labels
        else:
            whole = {"X": pixels.transpose(2, 3, 1, 0), "y": labels}
            pytest.importorskip("scipy.io").savemat(path, whole)
    assert labels_of(open_images(tmp_path / f"onehot.{form}")) == LABELS
    several = open_images(tmp_path / f"several.{form}")
    assert several.labels is None and "not one class for each image" in several.notes[0]


def test_a_list_of_single_images_is_refused_with_a_remedy(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    torch = pytest.importorskip("torch")
    torch.save([torch.from_numpy(image.copy()) for image in pixels], tmp_path / "set.pt")
    with pytest.raises(DataError, match=r"holds 6 tensors in a list.* torch.stack"):
        open_images(tmp_path / "set.pt")
    torch.save([(torch.from_numpy(image.copy()), 3) for image in pixels], tmp_path / "pairs.pt")
    with pytest.raises(DataError, match=r"6 objects in a list and none is a tensor.* torch.stack"):
        open_images(tmp_path / "pairs.pt")


def test_files_of_one_image_each_are_refused_with_a_remedy(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    for index, image in enumerate(pixels):
        np.save(tmp_path / f"{index}.npy", image)
    with pytest.raises(DataError, match=r"no image files, but '0.npy'.* stack them into one array"):
        open_images(tmp_path)


SAVES = pytest.mark.parametrize("save", [np.savez, np.savez_compressed])


def write_imagenet64(folder: Path, pixels: np.ndarray, save: Any = np.savez) -> None:
    """Two batches of three images and three of validation, with labels from 1 as downloaded."""
    folder.mkdir(exist_ok=True)
    rows = pixels.reshape(len(pixels), -1)
    mean = {"mean": np.zeros(192)}
    save(folder / "train_data_batch_1.npz", data=rows[:3], labels=[3, 1, 2], **mean)
    save(folder / "train_data_batch_2.npz", data=rows[3:], labels=[2, 1000, 3], **mean)
    save(folder / "val_data.npz", data=rows[::2], labels=[3, 2, 7])


@SAVES
def test_imagenet64_is_one_set_of_its_batches(
    save: Any, tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_imagenet64(tmp_path / "set", pixels, save)
    (tmp_path / "set/about.txt").write_bytes(b"x")
    monkeypatch.setattr("memaudit.data.sources.MAPPED_FROM", 500)
    for _ in range(2):  # the second time from the cache
        images = open_images(tmp_path / "set")
        np.testing.assert_array_equal(images.images, pixels)
        assert labels_of(images) == [2, 0, 1, 1, 999, 2]
    assert images.names[4] == "train_data_batch_2.npz[1]"
    assert (images.split, images.other_splits) == ("train", ("val",))
    assert images.notes[0] == f"{tmp_path / 'set'} has 2 of the 10 batches of training images."
    assert images.unread == {".txt": 1}
    val = open_images(tmp_path / "set", layout=Layout(split="val"))
    np.testing.assert_array_equal(val.images, pixels[::2])
    assert labels_of(val) == [2, 1, 6] == labels_of(open_images(tmp_path / "set/val_data.npz"))
    assert len(open_images(tmp_path / "set", layout=Layout(split="all"))) == 9


@SAVES
def test_a_batch_of_imagenet64_that_is_damaged_or_missing_is_named(
    save: Any, tmp_path: Path, pixels: np.ndarray
) -> None:
    folder = tmp_path / "set"
    write_imagenet64(folder, pixels, save)
    whole = (folder / "train_data_batch_2.npz").read_bytes()
    at = whole.index(pixels[4].tobytes()) if save is np.savez else 400
    changed = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
    (folder / "train_data_batch_2.npz").write_bytes(changed)
    with pytest.raises(DataError, match=r"data in .*batch_2.npz"):
        open_images(folder)
    (folder / "train_data_batch_2.npz").rename(folder / "train_data_batch_3.npz")
    with pytest.raises(DataError, match="lacks batch 2 of the training images"):
        open_images(folder)
    (folder / "train_data_batch_3.npz").rename(folder / "train_data_batch_2")
    with pytest.raises(DataError, match=r"is a pickle.* np.savez\('train_data_batch_2.npz'"):
        open_images(folder)


@pytest.mark.parametrize("form", ["npy", "npz", "pt"])
def test_floating_images_need_a_window(form: str, tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / f"set.{form}"
    values = (pixels / 127.5 - 1).astype(np.float32)
    if form == "pt":
        torch = pytest.importorskip("torch")
        torch.save(torch.from_numpy(values), path)
    elif form == "npz":
        np.savez(path, images=values)
    else:
        np.save(path, values)
    with pytest.raises(DataError, match="float32 numbers from -1 to 1, and images have bytes"):
        open_images(path)
    images = open_images(path, Preparation(window=(-1, 1)))
    np.testing.assert_array_equal(images.images, pixels)


@pytest.mark.parametrize("kind", ["tensor", "dict", "tuple", "transposed"])
def test_what_torch_saves_is_mapped(kind: str, tmp_path: Path, pixels: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    x, y = torch.from_numpy(pixels.copy()), torch.tensor(LABELS)
    saved: Any = {
        "tensor": x,
        "dict": {"images": x, "labels": y},
        "tuple": (x, y),
        "transposed": torch.from_numpy(pixels.transpose(0, 2, 3, 1).copy()).permute(0, 3, 1, 2),
    }[kind]
    torch.save(saved, tmp_path / "set.pt")
    images = open_images(tmp_path / "set.pt")
    np.testing.assert_array_equal(images.images, pixels)
    assert isinstance(images.images.base, np.ndarray)
    if kind in ("dict", "tuple"):
        assert labels_of(images) == LABELS


def test_a_checkpoint_is_no_set_of_images(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weights = {f"conv{i}.weight": torch.zeros(8, 3, 5, 5) for i in range(2)}
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(DataError, match="a tensor of images, .* is needed, alone or called images"):
        open_images(tmp_path / "model.pt")


# ------------------------------------------------------------------------------------------------
# LMDB


def write_lmdb(path: Path, values: dict[bytes, bytes], **options: Any) -> None:
    """A database that the library writes."""
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=1 << 26, **options) as opened:
        with opened.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key, value)


@pytest.mark.parametrize("subdir", [True, False])
@pytest.mark.parametrize("number", [6, 700])
def test_lsun_is_read_in_the_order_of_its_keys(
    number: int, subdir: bool, tmp_path: Path, encode: Encode
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (number, 3, 8, 8), np.uint8)
    files = [encode(image, "WEBP", lossless=True) for image in pixels]
    files[0] = encode(pixels[0], compress_level=0)
    keys = [f"{i:040x}".encode() for i in range(number)]
    write_lmdb(tmp_path / "set", dict(zip(keys, files, strict=True)), subdir=subdir)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    images = open_images(tmp_path / "set")
    np.testing.assert_array_equal(images.images, pixels)
    assert images.names[1] == f"{1:040x}"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_stylegans_lmdb_is_its_largest_resolution(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    values = {b"length": b"6"}
    for i, image in enumerate(pixels):
        values[f"8-{i:05d}".encode()] = encode(image)
        values[f"4-{i:05d}".encode()] = encode(image[:, ::2, ::2])
    write_lmdb(tmp_path / "set", values)
    images = open_images(tmp_path / "set")
    np.testing.assert_array_equal(images.images, pixels)
    assert images.names[0] == "8-00000"


def test_files_beside_an_lmdb_are_counted(tmp_path: Path, encode: Encode) -> None:
    picture = encode(np.zeros((3, 8, 8), np.uint8))
    write_lmdb(tmp_path / "set", {b"a": picture, b"b": b"text"})
    assert open_images(tmp_path / "set").unread == {"": 1}
    (tmp_path / "set/more.png").write_bytes(picture)
    assert open_images(tmp_path / "set").unread == {"": 1, ".png": 1}


def test_pickles_in_an_lmdb_are_named(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "set", {b"a": b"\x80\x03}."})
    with pytest.raises(DataError, match="pickles, which are not run"):
        open_images(tmp_path / "set")


# ------------------------------------------------------------------------------------------------
# HDF5 and .mat


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": (4, 3, 8, 8)}])
def test_biggans_hdf5_is_read(options: dict[str, Any], tmp_path: Path, pixels: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file.create_dataset("imgs", data=pixels, **options)
        file.create_dataset("labels", data=np.array(LABELS))
    images = open_images(tmp_path / "set.h5")
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == LABELS


def test_one_of_several_data_sets_is_chosen(tmp_path: Path, pixels: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["a/slices"] = pixels
        file["b/slices"] = pixels[:2]
    with pytest.raises(DataError, match="a/slices"):
        open_images(tmp_path / "set.h5")
    found = open_images(tmp_path / "set.h5", layout=Layout(split="b/slices"))
    np.testing.assert_array_equal(found.images, pixels[:2])


def test_data_in_other_files_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "raw").write_bytes(pixels.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        outside = [(str(tmp_path / "raw"), 0, pixels.nbytes)]
        file.create_dataset("images", pixels.shape, "u1", external=outside)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        layout = h5py.VirtualLayout(pixels.shape, "u1")
        layout[:] = h5py.VirtualSource(str(tmp_path / "a.h5"), "images", pixels.shape)
        file.create_virtual_dataset("images", layout)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["images"] = h5py.ExternalLink("a.h5", "images")
    for name, message in (("a", "other files"), ("b", "other files"), ("c", "no numbers")):
        with pytest.raises(DataError, match=message):
            open_images(tmp_path / f"{name}.h5")


@pytest.mark.parametrize("packed", [False, True])
def test_svhns_mat_is_read(packed: bool, tmp_path: Path, pixels: np.ndarray) -> None:
    io = pytest.importorskip("scipy.io")
    pixels = np.random.default_rng(3).integers(0, 256, (6, 3, 32, 32), np.uint8)
    labels = np.array([10, 1, 2, 3, 4, 10], np.uint8)[:, None]
    whole = {"X": pixels.transpose(2, 3, 1, 0), "y": labels, "about": "digits"}
    io.savemat(tmp_path / "train_32x32.mat", whole, do_compression=packed)
    images = open_images(tmp_path / "train_32x32.mat")
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize(("name", "size"), [("images", 32), ("X", 8)])
def test_ten_classes_of_another_mat_are_not_svhns_digits(
    name: str, size: int, tmp_path: Path
) -> None:
    io = pytest.importorskip("scipy.io")
    whole = {name: np.zeros((size, size, 3, 3), np.uint8), "y": np.array([10, 1, 2])[:, None]}
    io.savemat(tmp_path / "set.mat", whole)
    assert labels_of(open_images(tmp_path / "set.mat")) == [10, 1, 2]


def test_a_mat_of_version_7_3_has_its_axes_in_order(tmp_path: Path, pixels: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "set.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["X"] = pixels.transpose(0, 1, 3, 2)  # as MATLAB writes [H, W, C, N]
        file["y"] = np.array([LABELS], np.float64)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")
    images = open_images(path)
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == LABELS


# ------------------------------------------------------------------------------------------------
# TFRecord


def test_the_checksum_is_that_of_the_standard() -> None:
    # https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    data = np.random.default_rng(0).bytes(10_000)
    for size in (0, 1, 63, 64, 4095, 4096, 4097, 10_000):
        state = 0xFFFFFFFF
        for byte in data[:size]:
            state ^= byte
            for _ in range(8):
                state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
        assert crc32c(data[:size]) == state ^ 0xFFFFFFFF


def stylegan(pixels: np.ndarray) -> bytes:
    """What StyleGAN writes of one resolution."""
    return b"".join(
        record(tensorflow_example(shape=list(image.shape), data=image.tobytes()))
        for image in pixels
    )


def test_stylegans_tfrecords_are_the_largest_resolution_with_labels(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    (tmp_path / "set-r03.tfrecords").write_bytes(stylegan(pixels))
    (tmp_path / "set-r02.tfrecords").write_bytes(stylegan(pixels[:, :, ::2, ::2]))
    with (tmp_path / "set-rxx.labels").open("wb") as file:
        np.save(file, np.eye(3, dtype=np.float32)[LABELS])
    images = open_images(tmp_path)
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == LABELS
    np.testing.assert_array_equal(open_images(tmp_path / "set-r03.tfrecords").images, pixels)


def test_files_beside_tfrecords_are_counted(tmp_path: Path, pixels: np.ndarray) -> None:
    for level in (2, 3):
        (tmp_path / f"set-r{level:02d}.tfrecords").write_bytes(stylegan(pixels))
    assert open_images(tmp_path).unread == {}
    (tmp_path / "more.npz").write_bytes(b"")
    assert open_images(tmp_path).unread == {".npz": 1}


@pytest.mark.parametrize("other", ["other-r02.tfrecords", "other-r03.tfrecords", "a.tfrecords"])
def test_tfrecords_of_two_sets_are_not_mixed(
    other: str, tmp_path: Path, pixels: np.ndarray
) -> None:
    (tmp_path / "set-r03.tfrecords").write_bytes(stylegan(pixels))
    (tmp_path / other).write_bytes(stylegan(pixels))
    with pytest.raises(DataError, match="holds TFRecords of several sets"):
        open_images(tmp_path, cache_dir=False)


def test_a_record_of_several_images_is_refused(
    tmp_path: Path, pixels: np.ndarray, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = record(tensorflow_example(image=encode(pixels[0])))
    (tmp_path / "a.tfrecords").write_bytes(data)
    two = {"image": [encode(pixels[0]), encode(pixels[1])]}
    monkeypatch.setattr(tfrecords, "example", lambda _data, _what: two)
    with pytest.raises(DataError, match=r"a.tfrecords\[0\] holds 2 images in image; one in each"):
        open_images(tmp_path / "a.tfrecords", cache_dir=False)


def test_image_files_in_tfrecords_are_decoded(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    examples = [
        record(
            tensorflow_example(
                **{"image/encoded": encode(image), "image/class/label": [label], "width": [8]}
            )
        )
        for image, label in zip(pixels, LABELS, strict=True)
    ]
    for i in range(2):
        name = f"set-train.tfrecord-{i:05d}-of-00002"
        (tmp_path / name).write_bytes(b"".join(examples[3 * i : 3 * i + 3]))
    images = open_images(tmp_path)
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == LABELS


def test_a_damaged_record_is_named(tmp_path: Path, pixels: np.ndarray) -> None:
    data = bytearray(stylegan(pixels))
    data[-20] ^= 1
    (tmp_path / "a.tfrecords").write_bytes(data)
    with pytest.raises(DataError, match=r"a.tfrecords\[5\] is damaged: its checksum"):
        open_images(tmp_path / "a.tfrecords")
    (tmp_path / "a.tfrecords").write_bytes(data[:-100])
    with pytest.raises(DataError, match="cut short"):
        open_images(tmp_path / "a.tfrecords")
    bomb = struct.pack("<Q", 1 << 60)
    crc = crc32c(bomb)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    (tmp_path / "a.tfrecords").write_bytes(stylegan(pixels) + bomb + struct.pack("<I", masked))
    with pytest.raises(DataError, match="cut short"):
        open_images(tmp_path / "a.tfrecords")


def test_rows_of_pixels_are_not_taken_for_planes(tmp_path: Path) -> None:
    y, x = np.mgrid[:32, :32]
    ramps = np.stack([4 * x + 3 * y, 255 - 7 * x, 6 * y + 20], axis=-1)
    images = np.stack([ramps, ramps[::-1], ramps[:, ::-1]]).astype(np.uint8)  # [N, H, W, 3]
    np.savez(tmp_path / "set.npz", data=images.reshape(3, -1))
    with pytest.raises(DataError, match=r"seem to be pixels of three bytes.* \[N, 32, 32, 3\]"):
        open_images(tmp_path / "set.npz", cache_dir=False)
    planes = images.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "set.npz", data=planes.reshape(3, -1))
    read = open_images(tmp_path / "set.npz", cache_dir=False)
    np.testing.assert_array_equal(read.images, planes)
