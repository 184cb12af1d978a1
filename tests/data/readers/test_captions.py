"""Texts beside images are kept; what is wrong with them is said and hinders nothing."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import Encode, write_files
from helpers.limited import run_python

from memaudit.data.doubts import doubts_about
from memaudit.data.images import ImageSet
from memaudit.data.layout import Layout
from memaudit.data.sources import open_images
from memaudit.errors import DataError

Make = Callable[..., ImageSet]

both = pytest.mark.parametrize("form", ["set", "set.zip"])
NAMES = ("0.png", "1.png", "2.png")


@pytest.fixture
def make(tmp_path: Path, pixels: np.ndarray, encode: Encode) -> Make:
    """Opens a folder or a zip of up to six images with other files beside them."""

    def make(
        form: str,
        others: dict[str, bytes | str],
        names: tuple[str, ...] = NAMES,
        split: str | None = None,
    ) -> ImageSet:
        files = {name: encode(image) for name, image in zip(names, pixels, strict=False)}
        files |= {k: v.encode() if isinstance(v, str) else v for k, v in others.items()}
        path = write_files(tmp_path / form, files)
        return open_images(path, layout=Layout(split=split), cache_dir=False)

    return make


def table(rows: list[dict[str, str]], **options: Any) -> bytes:
    """What Hugging Face writes as metadata.parquet; empty without its library."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        return b""
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


COCO = {
    "images": [{"id": 7, "file_name": "0.png"}, {"id": 9, "file_name": "2.png"}],
    "annotations": [
        {"image_id": 9, "caption": "a dog"},
        {"image_id": 7, "caption": "a cat"},
        {"image_id": 7, "caption": "another text for the cat"},
    ],
}
ROWS = [{"file_name": "0.png", "text": "a cat"}, {"file_name": "2.png", "text": "a dog"}]


@both
@pytest.mark.parametrize(
    "others",
    [
        {"0.txt": "a cat\n", "2.caption": "\ufeffa dog", "1.txt": "  "},
        {"metadata.jsonl": "\n".join(map(json.dumps, ROWS))},
        {"metadata.csv": "size,file_name,text\n3,0.png,a cat\n3,./2.png,a dog\n"},
        {"annotations/captions_train.json": json.dumps(COCO)},
        {"metadata.parquet": table(ROWS)},
        # The file of an image goes before the others.
        {"0.txt": "a cat", "metadata.csv": "file_name,caption\n0.png,x\n2.png,a dog\n"},
    ],
)
def test_captions_are_kept_and_their_files_are_not_strange(
    form: str, others: dict[str, str], make: Make
) -> None:
    images = make(form, others)
    assert images.captions == ["a cat", None, "a dog"]
    assert images.unread == {} and doubts_about(images) == ()
    assert images.take(np.array([2, 0])).captions == ["a dog", "a cat"]


def test_a_table_of_captions_without_its_library_is_told(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    images = make("set", {"metadata.parquet": b"PAR1"})
    assert "pip install pyarrow" in doubts_about(images)[0]
    assert images.unread == {".parquet": 1}


@both
def test_metadata_counts_from_its_own_folder_and_split(form: str, make: Make) -> None:
    rows = "\n".join(map(json.dumps, ROWS))
    others = {"train/metadata.jsonl": rows, "test/metadata.jsonl": rows.replace("cat", "fox")}
    names = tuple(f"{split}/{name}" for split in ("train", "test") for name in NAMES)
    assert make(form, others, names, "train").captions == ["a cat", None, "a dog"]
    assert make(f"2{form}", others, names, "test").captions == ["a fox", None, "a dog"]


def test_groups_come_with_metadata(make: Make) -> None:
    rows = "file_name,group\n0.png,p1\n1.png,p2\n2.png,p1\n"
    images = make("set", {"metadata.csv": rows})
    assert images.groups == ["p1", "p2", "p1"] and images.captions is None
    assert images.take(np.array([1])).groups == ["p2"]


def test_a_folder_stands_for_missing_captions_where_it_counts_repeats(make: Make) -> None:
    images = make("set", {"3_a dog/1.txt": "my dog"}, ("3_a dog/0.png", "3_a dog/1.png"))
    assert images.captions == ["a dog", "my dog"]


@both
def test_celeba_is_divided_by_its_file_and_grouped_by_person(form: str, make: Make) -> None:
    names = tuple(f"celeba/img_align_celeba/00000{i}.png" for i in range(4))
    others = {
        "celeba/list_eval_partition.txt": "".join(f"00000{i}.png {i // 2}\n" for i in range(4)),
        "celeba/identity_CelebA.txt": "".join(f"00000{i}.png {7 * i}\n" for i in range(4)),
        "celeba/list_attr_celeba.txt": "4\nbald\n",
    }
    images = make(form, others, names)
    assert (images.split, images.other_splits) == ("train", ("val",))
    assert list(images.names) == list(names[:2]) and images.groups == ["0", "7"]
    assert images.labels is None and images.unread == {}
    assert "only the 2 images of train were taken" in doubts_about(images)[0]
    assert len(make(f"2{form}", others, names, "all")) == 4
    others["celeba/list_eval_partition.txt"] = "000000.png 0\n"
    with pytest.raises(DataError, match="has no split for 3 images: .* Complete it, or remove it"):
        make(f"3{form}", others, names)
    others["celeba/list_eval_partition.txt"] = "000000.png 0 7\n"
    with pytest.raises(DataError, match="line 1 is not a file name and a number"):
        make(f"4{form}", others, names)


def test_a_split_of_celeba_that_changes_is_not_taken_from_the_cache(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memaudit.data.sources.MAPPED_FROM", 0)
    monkeypatch.setattr("memaudit.data.cache_pixels.FEWEST_CHECKED", 0)
    names = tuple(f"{i}.png" for i in range(4))
    file = tmp_path / "set" / "list_eval_partition.txt"
    make("set", {}, names)
    for splits in ("0011", "0101"):
        lines = [f"{name} {split}\n" for name, split in zip(names, splits, strict=True)]
        file.write_text("".join(lines))
        cached = open_images(file.parent, cache_dir=tmp_path / "cache")
        uncached = open_images(file.parent, cache_dir=False)
        assert cached.fingerprint == uncached.fingerprint


@both
@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metadata.jsonl", '{"file_name": "../0.png"}', "leads elsewhere, '../0.png'"),
        ("metadata.jsonl", '{"file_name": "/etc/passwd"}', "leads elsewhere"),
        ("metadata.jsonl", r'{"file_name": "..\\\\0.png"}', "leads elsewhere"),
        ("metadata.jsonl", '{"text": "a"}', "line 1 has no `file_name`"),
        ("metadata.jsonl", '{"file_name": 3}', "line 1 has no `file_name`"),
        ("metadata.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("metadata.jsonl", "[]", "line 1 is not an object"),
        ("metadata.jsonl", '{"file_name": "9.png"}', "describes 1 image that is not among"),
        ("metadata.csv", "text\na\n", "has no column `file_name`"),
        (
            "metadata.csv",
            'file_name,text\n0.png,"' + "x" * 200_000,
            "field larger than field limit",
        ),
        ("captions_a.json", "{", "it is not JSON"),
        ("captions_a.json", "[" * 100_000, "it is not JSON"),
        ("captions_a.json", '{"images": 3}', "its `images` is not a list of objects"),
        ("captions_a.json", '{"images": [{"id": []}]}', "an image lacks `id` or `file_name`"),
        ("captions_a.json", '{"images": [], "annotations": [{}]}', "an annotation lacks"),
        ("identity_CelebA.txt", "a b", "line 1 is not a file name and a number"),
        ("0.txt", "x" * 20_000, "1 caption of .* could not be read .*'0.txt'"),
        ("metadata.parquet", b"PAR1", "metadata.parquet cannot be read: .* Fetch it again"),
        ("metadata.parquet", table([{"text": "a"}]), "has no column `file_name`"),
        ("metadata.parquet", table([{"file_name": "../0.png"}]), "leads elsewhere, '../0.png'"),
        (
            "metadata.parquet",
            table([{"file_name": "0.png", "text": "a" * (1 << 20)}] * 40, compression="zstd"),
            "its texts take more than 16,826,368 bytes",
        ),
        ("metadata.csv", bytes(2 << 20), "2,097,152 bytes; at most"),
    ],
)
def test_what_is_wrong_with_captions_is_said(
    form: str, file: str, content: bytes | str, said: str, make: Make
) -> None:
    import re

    if file.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    images = make(form, {file: content})
    assert images.captions is None
    assert re.search(said, doubts_about(images)[0]) and len(doubts_about(images)[0]) < 500
    if "not among" not in said:
        assert sum(images.unread.values()) == 1


def test_a_pipe_beside_an_image_is_not_waited_for(make: Make, tmp_path: Path) -> None:
    make("set", {})
    os.mkfifo(tmp_path / "set" / "0.txt")
    os.mkfifo(tmp_path / "set" / "metadata.jsonl")
    done = run_python(
        "import sys; from memaudit.data.sources import open_images; "
        "print(open_images(sys.argv[1], cache_dir=False).notes)",
        tmp_path / "set",
        timeout=30,
    )
    assert "not a regular file" in done.stdout and "1 caption of" in done.stdout, done.stderr


def test_very_long_captions_together_are_not_all_read(make: Make, monkeypatch) -> None:
    monkeypatch.setattr("memaudit.data.readers.captions.side_file_bytes", lambda number: 20_000)
    images = make("set", {f"{i}.txt": "x" * 9_000 for i in range(3)})
    assert images.captions == ["x" * 9_000, "x" * 9_000, None]
    assert "take more than 20,000 bytes; those from 2.txt on were not read" in images.notes[0]
