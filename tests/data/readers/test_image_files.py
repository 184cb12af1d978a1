"""Folders and zips of image files, with and without classes."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import Encode, labels_of, write_files
from helpers.permissions import permissions_hold

from memaudit.data.preparation import Preparation
from memaudit.data.sources import open_images
from memaudit.errors import ConfigError, DataError

both = pytest.mark.parametrize("name", ["set", "set.zip"])


def test_files_behind_a_link_to_a_folder_are_read_or_counted(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    write_files(tmp_path / "elsewhere", {"1.png": encode(pixels[1]), "2.raw": b"x"})
    path = write_files(tmp_path / "set", {"0.png": encode(pixels[0])})
    (path / "linked").symlink_to(tmp_path / "elsewhere")
    (path / "loop").symlink_to(path)
    images = open_images(path)
    assert list(images.names) == ["0.png", "linked/1.png"] and images.unread == {".raw": 1}


@both
def test_flat_images_come_in_the_order_of_their_names(
    name: str, tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    names = ["10.png", "2.png", "a.PNG", "b.bmp", "c.tif", "d.webp"]
    files = {
        file: encode(image, form, **options)
        for file, image, form, options in zip(
            names, pixels, ["PNG", "PNG", "PNG", "BMP", "TIFF", "WEBP"],
            [{}, {}, {}, {}, {}, {"lossless": True}], strict=True,
        )
    }  # fmt: skip
    shuffled = dict(sorted(files.items(), key=lambda item: item[1]))
    images = open_images(write_files(tmp_path / name, shuffled))
    np.testing.assert_array_equal(images.images, pixels)
    assert list(images.names) == names
    assert images.labels is None and images.class_names == ()
    assert images.source == str(tmp_path / name)


@both
def test_class_folders_give_labels_sorted_by_name(
    name: str, tmp_path: Path, gray_pixels: np.ndarray, encode: Encode
) -> None:
    folders = ["dog", "cat", "dog", "cat", "bird", "dog"]
    files = {f"{c}/{i}.png": encode(gray_pixels[i]) for i, c in enumerate(folders)}
    images = open_images(write_files(tmp_path / name, files))
    assert images.class_names == ("bird", "cat", "dog")
    assert labels_of(images) == [0, 1, 1, 2, 2, 2]
    assert images.labels is not None and images.labels.dtype == np.int64
    assert list(images.names) == sorted(files)
    np.testing.assert_array_equal(images.images, gray_pixels[[4, 1, 3, 0, 2, 5]])


def test_a_zip_may_hold_its_own_name_as_an_outer_folder(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    files = {f"pets/{'cat' if i < 3 else 'dog'}/{i}.png": encode(pixels[i]) for i in range(6)}
    images = open_images(write_files(tmp_path / "pets.zip", files))
    assert images.class_names == ("cat", "dog")
    assert images.names[0] == "pets/cat/0.png"


@both
def test_edm_form_takes_labels_from_dataset_json(
    name: str, tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    names = [f"00000/img{i:08d}.png" for i in range(6)]
    files = {file: encode(image) for file, image in zip(names, pixels, strict=True)}
    labels = [[file, i % 3] for i, file in enumerate(names)]
    files["dataset.json"] = json.dumps({"labels": labels[::-1]}).encode()
    images = open_images(write_files(tmp_path / name, files))
    assert labels_of(images) == [0, 1, 2, 0, 1, 2]
    assert images.class_names == ()
    assert list(images.names) == names
    np.testing.assert_array_equal(images.images, pixels)


@both
def test_edm_form_may_be_without_labels(
    name: str, tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    files = {f"0000{i % 2}/{i}.png": encode(pixels[i]) for i in range(6)}
    files["dataset.json"] = b'{"labels": null}'
    assert open_images(write_files(tmp_path / name, files)).labels is None


def test_what_memaudit_writes_it_reads(tmp_path: Path, pixels: np.ndarray) -> None:
    from memaudit.data.writers import NamedImage, write_images

    named = [NamedImage(f"{i:06d}", image, i % 2) for i, image in enumerate(pixels)]
    for name in ("out.zip", "out.npz"):
        write_images(tmp_path / name, named)
        images = open_images(tmp_path / name)
        np.testing.assert_array_equal(images.images, pixels)
        assert labels_of(images) == [0, 1, 0, 1, 0, 1]
        assert images.names[5].removesuffix(".png").endswith("000005")


@both
def test_hidden_files_and_other_files_are_not_seen(
    name: str, tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    files = {f"{i}.png": encode(pixels[i]) for i in range(6)}
    junk = {".DS_Store": b"x", "__MACOSX/._0.png": b"x", ".git/a.png": b"x", "._0.png": b"x"}
    images = open_images(write_files(tmp_path / name, files | junk | {"readme.txt": b"x"}))
    assert list(images.names) == sorted(files)


def test_linked_class_folders_are_followed_and_loops_are_not(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    real = write_files(tmp_path / "real", {f"{i}.png": encode(pixels[i]) for i in range(6)})
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "dog").symlink_to(real)
    (folder / "loop").symlink_to(folder)
    images = open_images(folder)
    assert images.names[0] == "dog/0.png" and len(images) == 6


def test_stored_members_are_read_like_packed_ones(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_STORED) as archive:
        for i, image in enumerate(pixels):
            info = zipfile.ZipInfo(f"{i}.png")
            info.extra = b"\x99\x99\x02\x00ab"  # the local header's length varies with this
            archive.writestr(info, encode(image))
    np.testing.assert_array_equal(open_images(tmp_path / "set.zip").images, pixels)


def test_progress_counts_images_to_the_last(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    calls = []
    write_files(tmp_path / "set", {f"{i}.png": encode(pixels[i]) for i in range(6)})
    open_images(tmp_path / "set", progress=lambda *call: calls.append(call))
    assert calls[-1] == ("Reading images", 6, 6)


def test_resolution_resizes_by_lanczos(tmp_path: Path, pixels: np.ndarray, encode: Encode) -> None:
    from PIL import Image

    write_files(tmp_path / "set", {f"{i}.png": encode(pixels[i]) for i in range(6)})
    images = open_images(tmp_path / "set", Preparation(resolution=4))
    for image, original in zip(images.images, pixels, strict=True):
        picture = Image.fromarray(original.transpose(1, 2, 0)).resize(
            (4, 4), Image.Resampling.LANCZOS
        )
        np.testing.assert_array_equal(image.transpose(1, 2, 0), np.asarray(picture))


def test_resolution_makes_square_images_of_any_size_alike(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    files = {"a.png": encode(pixels[0]), "b.png": encode(pixels[1][:, :6, :6])}
    images = open_images(write_files(tmp_path / "set", files), Preparation(resolution=6))
    assert images.images.shape == (2, 3, 6, 6)


# ------------------------------------------------------------------------------------------------
# Bad input


@both
def test_nothing_to_read_is_refused(name: str, tmp_path: Path) -> None:
    write_files(tmp_path / name, {"notes.txt": b"x"})
    with pytest.raises(DataError, match=r"set(\.zip)? holds no images; looked for \.avif, \.bmp"):
        open_images(tmp_path / name)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file or folder .*nowhere"):
        open_images(tmp_path / "nowhere")


def test_a_resolution_below_one_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resolution is 0; at least 1 and at most 8,192"):
        open_images(tmp_path, Preparation(resolution=0))


@both
def test_a_broken_image_is_named(
    name: str, tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    files = {f"{i}.png": encode(pixels[i]) for i in range(6)}
    files["3.png"] = files["3.png"][:60]
    with pytest.raises(DataError, match=r"set(\.zip)?: 3.png cannot be decoded"):
        open_images(write_files(tmp_path / name, files))


@both
def test_images_of_another_size_are_counted_and_named(
    name: str, tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    files = {f"{i}.png": encode(pixels[i]) for i in range(6)}
    files["2.png"] = files["4.png"] = encode(pixels[2][:, :5])
    message = (
        r"2 of 6 images are not 8×8 pixels .* as the others are: 2.png 5×8, 4.png 5×8. Say how"
    )
    with pytest.raises(DataError, match=message):
        open_images(write_files(tmp_path / name, files))


def test_an_image_of_another_mode_is_named(
    tmp_path: Path, pixels: np.ndarray, gray_pixels: np.ndarray, encode: Encode
) -> None:
    files = {"0.png": encode(pixels[0]), "1.png": encode(gray_pixels[1])}
    message = r"set: 1 of 2 images is gray: 1.png. mode rgb \(or gray\) converts all images"
    with pytest.raises(DataError, match=message):
        open_images(write_files(tmp_path / "set", files))


def test_an_image_that_is_not_square_is_not_squeezed(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    write_files(tmp_path / "set", {"0.png": encode(pixels[0][:, :5])})
    with pytest.raises(
        DataError, match=r"1 of 1 images cannot become 4×4 .* or a margin: 0.png 5×8. Say how"
    ):
        open_images(tmp_path / "set", Preparation(resolution=4))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ('{"labels": [["0.png", 1]]}', "has no label for 1.png"),
        ('{"labels": [["0.png", 1], ["1.png", 0.5]]}', "labels 1.png as 0.5; a class index"),
        ('{"labels": [["0.png", 1], ["1.png", -1]]}', "holds the label -1; labels count from 0"),
        ('{"labels": [["0.png", 1], ["1.png", 1], ["2.png", 1]]}', "labels '2.png', which is not"),
        ('{"labels": [["0.png"]]}', r'neither {"labels": \[\[name, label\], ...\]} nor'),
        ('{"tags": null}', 'neither {"labels"'),
        ("[]", 'neither {"labels"'),
        ("{", 'neither {"labels"'),
    ],
)
def test_labels_that_do_not_match_are_refused(
    labels: Any, message: str, tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    files = {"0.png": encode(pixels[0]), "1.png": encode(pixels[1])}
    write_files(tmp_path / "set.zip", files | {"dataset.json": labels.encode()})
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "set.zip")


def test_a_dataset_json_below_the_top_is_refused(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    files = {"a/0.png": encode(pixels[0]), "b/0.png": encode(pixels[1])}
    files["a/dataset.json"] = b'{"labels": null}'
    with pytest.raises(DataError, match="has a a/dataset.json; a dataset.json must lie at"):
        open_images(write_files(tmp_path / "set", files))


def test_an_image_without_permission_is_named(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    write_files(tmp_path / "set", {"0.png": encode(pixels[0])})
    (tmp_path / "set" / "0.png").chmod(0)
    with pytest.raises(DataError, match="0.png cannot be read: .*denied"), permissions_hold():
        open_images(tmp_path / "set")


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match="set/0.png cannot be read: No such file"):
        open_images(tmp_path / "set")


# ------------------------------------------------------------------------------------------------
# Zips that are not what they say


def test_a_damaged_member_is_named(tmp_path: Path, pixels: np.ndarray, encode: Encode) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("0.png", encode(pixels[0]))
        archive.writestr("1.png", encode(pixels[1]))
        offset = archive.getinfo("1.png").header_offset
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[offset + 80] ^= 1
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(DataError, match="1.png cannot be read: its checksum does not match"):
        open_images(tmp_path / "set.zip")


def test_a_member_that_unpacks_to_more_than_announced_is_refused(
    tmp_path: Path, encode: Encode
) -> None:
    path = write_files(tmp_path / "set.zip", {"0.png": bytes(1 << 20)})
    data = path.read_bytes()
    announced = (1 << 20).to_bytes(4, "little")
    path.write_bytes(data.replace(announced, (100).to_bytes(4, "little")))
    with pytest.raises(DataError, match="0.png cannot be read: its checksum does not match"):
        open_images(path)


def test_a_member_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = write_files(tmp_path / "set.zip", {"0.png": bytes(1 << 20)})
    announced = (1 << 20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(announced, (1 << 31).to_bytes(4, "little")))
    with pytest.raises(DataError, match="0.png' is said to unpack from .* bytes to 2,147,483,648"):
        open_images(path)


def test_an_encrypted_member_is_refused(tmp_path: Path, pixels: np.ndarray, encode: Encode) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.png", encode(pixels[0]))
        central = archive.start_dir
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    assert central > 0
    path.write_bytes(data)
    with pytest.raises(DataError, match="0.png cannot be read: it is encrypted"):
        open_images(path)


def test_other_ways_of_packing_are_refused(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("0.png", encode(pixels[0]))
    with pytest.raises(DataError, match="it is packed by method 14, not deflate"):
        open_images(tmp_path / "set.zip")


def test_two_files_of_one_name_are_refused(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("0.png", encode(pixels[0]))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("0.png", encode(pixels[1]))
    with pytest.raises(DataError, match="holds two files with the same name"):
        open_images(tmp_path / "set.zip")


def test_a_zip_that_is_cut_short_is_refused(
    tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    path = write_files(tmp_path / "set.zip", {"0.png": encode(pixels[0])})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="set.zip is not a readable zip"):
        open_images(path)


# ------------------------------------------------------------------------------------------------
# CIFAR-10


@pytest.mark.parametrize(
    ("name", "num_images"),
    [
        ("cifar10-jpeg-test.zip", 10_000),
        pytest.param("cifar10-jpeg-train.zip", 50_000, marks=pytest.mark.slow),
    ],
)
def test_cifar_as_jpeg_equals_pil(
    name: str, num_images: int, shared_data: Path, cache_dir: Path
) -> None:
    import io

    from PIL import Image

    images = open_images(shared_data / name)
    assert images.images.shape == (num_images, 3, 32, 32)
    assert images.class_names[0] == "airplane" and len(images.class_names) == 10
    assert np.bincount(labels_of(images)).tolist() == [num_images // 10] * 10
    with zipfile.ZipFile(shared_data / name) as archive:
        for i in range(0, num_images, num_images // 500):
            picture = Image.open(io.BytesIO(archive.read(images.names[i])))
            np.testing.assert_array_equal(images.images[i].transpose(1, 2, 0), np.asarray(picture))
    if images.images.nbytes >= 64 << 20:
        calls = []
        again = open_images(shared_data / name, progress=lambda *call: calls.append(call))
        assert isinstance(again.images, np.memmap)
        assert {task for task, *_ in calls} == {"Comparing images with the cache"}
        assert max(done for _, done, _ in calls) == num_images // 100
        assert again.fingerprint == images.fingerprint
        assert again.names == images.names
