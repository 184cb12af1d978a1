"""Labels that a user names: by prefixes of file names, from a CSV file, or none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.images import Encode, labels_of

from memaudit.data.images import ImageSet
from memaudit.data.layout import Layout
from memaudit.data.sources import open_images
from memaudit.errors import DataError

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, pixels: np.ndarray, encode: Encode) -> Make:
    """Writes a folder of up to six images."""

    def make(*names: str) -> Path:
        for name, image in zip(names, pixels, strict=False):
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(image))
        return tmp_path / "set"

    return make


def opened(path: Path, labels_from: str | Path) -> ImageSet:
    return open_images(path, layout=Layout(labels_from=str(labels_from)), cache_dir=False)


def test_prefixes_of_names_are_classes(make: Make) -> None:
    images = opened(make("a/dog_10.png", "cat_1_2.png", "cat_2.png"), "prefix")
    assert list(images.names) == ["a/dog_10.png", "cat_1_2.png", "cat_2.png"]
    assert images.class_names == ("cat", "dog") and labels_of(images) == [1, 0, 0]
    assert images.labels_from == "prefix" and images.notes == ()


def test_a_name_without_a_prefix_is_named(make: Make) -> None:
    with pytest.raises(DataError, match=r"2 images have no class before a _ .*'_b.png', 'a.png'"):
        opened(make("a.png", "_b.png", "c_1.png"), "prefix")


def test_labels_are_left_out_on_request(make: Make) -> None:
    images = opened(make("a/0.png", "b/1.png"), "none")
    assert images.labels is None and images.class_names == ()


@pytest.mark.parametrize(
    "text",
    [
        "a/0.png,cat\nb/1.png,dog\n",
        "name,label\na/0.png,cat\nb/1.png,dog\n",
        "\ufeffid,size,class\r\na/0.png,3,cat\r\n\r\nb/1.png,4,dog\r\n",
        "b/1.png\tdog\na/0.png\tcat",
        "0.png;cat\n1.png;dog",
        "0,cat\n1, dog\n",
        "a\\0.png,cat\nb\\1.png,dog\n",
        './a/0.png,"cat"\n./b/1.png,dog\nb/1.png,dog\n',
    ],
)
def test_a_csv_file_names_the_class_of_each_image(text: str, make: Make, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text, newline="")
    images = opened(make("a/0.png", "b/1.png"), tmp_path / "x.csv")
    assert images.class_names == ("cat", "dog") and labels_of(images) == [0, 1]
    assert images.labels_from == str(tmp_path / "x.csv")


def test_whole_numbers_are_class_indices(make: Make, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("0.png,7\n1.png,0\n2.png,3\n")
    images = opened(make("0.png", "1.png"), tmp_path / "x.csv")
    assert images.class_names == () and labels_of(images) == [7, 0]
    assert "1 row of" in images.notes[0] and "('2.png')" in images.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.png,1\n", "has no label for 2 images of .*: '1.png', '2.png'. Every image needs one"),
        ("0.png,1\n0.png,2\n1.png,1\n2.png,1", "gives two labels to '0.png'"),
        ("0.png,1\n1.png\n2.png,3", r"line 2: '1.png' is not a name and a label"),
        ("", "has no label for 3 images"),
        ("0.png,99999999999\n1.png,1\n2.png,2", "holds the label 99999999999; labels count from"),
        ('0.png,"' + "x" * 200_000, "is not a CSV file that can be read: field larger"),
        ("a\x00,\x00", "has no label for 3 images"),
        ("x" * (2 << 20), "cannot be read: it has 2,097,152 bytes; at most"),
    ],
)
def test_labels_that_are_wrong_are_refused(
    text: str, message: str, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        opened(make("0.png", "1.png", "2.png"), tmp_path / "x.csv")


def test_a_missing_file_of_labels_lists_what_there_is(make: Make) -> None:
    with pytest.raises(DataError, match="There is no file oxford.csv .* folder, prefix, none or a"):
        opened(make("0.png"), "oxford.csv")
    with pytest.raises(DataError, match="cannot be read: it is a named pipe|a folder"):
        opened(make("0.png"), "/tmp")


def test_equal_file_names_in_two_folders_are_told_apart(make: Make, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("0.png,1\n")
    with pytest.raises(DataError, match="has no label for 2 images"):
        opened(make("a/x/0.png", "a/y/0.png"), tmp_path / "x.csv")


def test_a_name_that_two_images_share_below_their_folders_labels_neither(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("0.png,5\n1.png,6\n")
    with pytest.raises(DataError, match="has no label for 3 images of .*'a/0.png', 'b/0.png'"):
        opened(make("a/0.png", "b/0.png", "b/1.png"), tmp_path / "x.csv")


def test_more_than_two_columns_need_a_header(make: Make, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("picture,split,species\n0.png,train,cat\n1.png,train,dog\n")
    with pytest.raises(DataError, match="has 3 columns, and no header says which of them is the"):
        opened(make("0.png", "1.png"), tmp_path / "x.csv")
