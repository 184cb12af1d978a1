"""Hugging Face's sets: parquet files and the folders of save_to_disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import Encode, labels_of

from memaudit.data.preparation import AS_STORED
from memaudit.data.sources import open_images
from memaudit.errors import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ["cat", "dog", "owl"]


def table(images: list[bytes], *, labels: list[Any] | None = None, paths: bool = True) -> Any:
    """What `datasets` makes of images and their classes."""
    rows = [{"bytes": data, "path": f"{i}.png" if paths else None} for i, data in enumerate(images)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(rows, kind)}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels)
        features["label"] = {"names": NAMES, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(columns).replace_schema_metadata(metadata)


@pytest.fixture
def files(pixels: np.ndarray, encode: Encode) -> list[bytes]:
    """The six images as PNG."""
    return [encode(image) for image in pixels]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_parquet_file_gives_pixels_labels_and_names(
    compression: str, tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    whole = table(files, labels=[2, 0, 1, 1, 0, 2])
    parquet.write_table(whole, tmp_path / "a.parquet", compression=compression, row_group_size=4)
    images = open_images(tmp_path / "a.parquet")
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == [2, 0, 1, 1, 0, 2]
    assert images.class_names == ("cat", "dog", "owl")
    assert list(images.names) == [f"{i}.png" for i in range(6)]


def test_shards_are_one_set_in_their_order(
    tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    (tmp_path / "data").mkdir()
    for i in range(3):
        part = table(files[2 * i : 2 * i + 2], labels=[i, i], paths=False)
        parquet.write_table(part, tmp_path / f"data/train-{i:05d}-of-00003.parquet")
    parquet.write_table(table(files[:1], labels=[0]), tmp_path / "data/test-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("about")
    images = open_images(tmp_path)
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == [0, 0, 1, 1, 2, 2]
    assert images.names[3] == "data/train-00001-of-00003.parquet[1]"


def test_a_missing_shard_is_told(tmp_path: Path, files: list[bytes]) -> None:
    for i in (0, 2):
        parquet.write_table(table(files), tmp_path / f"train-{i:05d}-of-00003.parquet")
    with pytest.raises(DataError, match="2 of the 3 files of train; number '1' is missing"):
        open_images(tmp_path)


def test_two_sets_in_one_folder_are_told_apart(tmp_path: Path, files: list[bytes]) -> None:
    for name in ("coarse", "fine"):
        (tmp_path / name).mkdir()
        parquet.write_table(table(files), tmp_path / name / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="several sets, coarse/train-…-of-00001 and fine/train"):
        open_images(tmp_path)


def test_columns_are_found_by_name_and_type_without_metadata(
    tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    plain = pa.table({"id": range(6), "jpg": files, "class": ["b", "a", "b", "a", "a", "b"]})
    parquet.write_table(plain, tmp_path / "a.parquet")
    images = open_images(tmp_path / "a.parquet")
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == [1, 0, 1, 0, 0, 1]
    assert images.class_names == ("a", "b")
    assert images.names[0] == "a.parquet[0]"


def test_labels_that_a_test_set_hides_are_none(tmp_path: Path, files: list[bytes]) -> None:
    parquet.write_table(table(files, labels=[-1] * 6), tmp_path / "a.parquet")
    assert open_images(tmp_path / "a.parquet").labels is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, r"no column of images; it has 'text \(string\)'"),
        ({"a": [b"1"], "b": [b"2"]}, "several columns of images"),
        ({"image": [{"bytes": None, "path": "1.png"}]}, r"set.parquet\[0\] has no image"),
    ],
)
def test_a_table_without_images_is_told(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    whole = pa.table(columns)
    if "image" in columns:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        whole = pa.table({"image": pa.array(columns["image"], kind)})
    parquet.write_table(whole, tmp_path / "set.parquet")
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "set.parquet")


def test_a_broken_image_is_named(tmp_path: Path, files: list[bytes]) -> None:
    files[3] = files[3][:-30]
    parquet.write_table(table(files), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="3.png cannot be decoded"):
        open_images(tmp_path / "a.parquet")


def save_to_disk(folder: Path, whole: Any, *, rows: int = 2, files: int = 2) -> None:
    """What `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    size = len(whole) // files
    for i, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as file:
            with pa.ipc.new_stream(file, whole.schema) as stream:
                stream.write_table(whole.slice(i * size, size), max_chunksize=rows)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_saved_set_gives_the_same(tmp_path: Path, pixels: np.ndarray, files: list[bytes]) -> None:
    whole = table(files, labels=[2, 0, 1, 1, 0, 2])
    save_to_disk(tmp_path / "set", whole)
    images = open_images(tmp_path / "set")
    np.testing.assert_array_equal(images.images, pixels)
    assert labels_of(images) == [2, 0, 1, 1, 0, 2]
    assert images.class_names == ("cat", "dog", "owl")
    one = open_images(tmp_path / "set/data-00001-of-00002.arrow")
    np.testing.assert_array_equal(one.images, pixels[3:])


def test_the_training_images_of_a_saved_dict_are_taken(
    tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    save_to_disk(tmp_path / "set/train", table(files))
    save_to_disk(tmp_path / "set/test", table(files[:2]))
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    np.testing.assert_array_equal(open_images(tmp_path / "set").images, pixels)
    assert len(open_images(tmp_path / "set/test").images) == 2


def test_a_state_that_leads_elsewhere_is_refused(tmp_path: Path, files: list[bytes]) -> None:
    save_to_disk(tmp_path / "set", table(files))
    (tmp_path / "set/state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(DataError, match="a file beside it is needed"):
        open_images(tmp_path / "set")


def test_rows_are_read_without_the_rest(
    tmp_path: Path, pixels: np.ndarray, files: list[bytes]
) -> None:
    from memaudit.data.readers import arrow_streams
    from memaudit.data.readers import parquet as parquet_files

    parquet.write_table(table(files), tmp_path / "a.parquet", row_group_size=2)
    save_to_disk(tmp_path / "set", table(files), rows=1)
    rows = np.array([1, 4, 5])
    for reader, path in (
        (parquet_files.FILE, tmp_path / "a.parquet"),
        (arrow_streams.SAVED, tmp_path / "set"),
    ):
        contents = reader.read(path, reader.files(path), AS_STORED)
        np.testing.assert_array_equal(np.concatenate([*contents.batches(rows)]), pixels[rows])


@pytest.mark.parametrize("several", [False, True])
def test_texts_are_captions(several: bool, tmp_path: Path, files: list[bytes]) -> None:
    texts = [f"a picture of {i}" for i in range(6)]
    column = [[text, "another"] for text in texts] if several else texts
    parquet.write_table(
        table(files).append_column("text", pa.array(column)), tmp_path / "a.parquet"
    )
    assert open_images(tmp_path / "a.parquet").captions == texts


@pytest.mark.parametrize(
    ("columns", "is_called"), [(("image", "edited"), True), (("img", "image"), False)]
)
def test_another_column_of_images_is_told(
    columns: tuple[str, str], is_called: bool, tmp_path: Path, pixels: np.ndarray, encode: Encode
) -> None:
    taken = [encode(image) for image in pixels]
    other = [encode(255 - image) for image in pixels]
    first = columns[0] == "image"
    plain = pa.table(dict(zip(columns, (taken, other) if first else (other, taken), strict=True)))
    if is_called:
        features = {name: {"_type": "Image"} for name in columns}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        plain = plain.replace_schema_metadata(metadata)
    parquet.write_table(plain, tmp_path / "a.parquet")
    images = open_images(tmp_path / "a.parquet", cache_dir=False)
    np.testing.assert_array_equal(images.images, pixels)
    left_out = columns[1] if first else columns[0]
    assert f"those in image were taken, and those in '{left_out}' were not" in images.notes[0]


def test_a_saved_set_of_some_rows_is_refused(tmp_path: Path, files: list[bytes]) -> None:
    save_to_disk(tmp_path / "set", table(files))
    state = json.loads((tmp_path / "set/state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]  # as datasets 1 wrote it
    (tmp_path / "set/state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="only some are the set.*flatten_indices"):
        open_images(tmp_path / "set", cache_dir=False)
