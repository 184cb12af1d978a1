"""Groups: what images belong to, by a regular expression, a CSV file, or the source itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memaudit.data.built_sets import write_set
from memaudit.data.derived_sets import cut_groups, mix_images
from memaudit.data.images import ImageSet
from memaudit.data.layout import Layout
from memaudit.data.selection import Selection
from memaudit.data.sources import open_images
from memaudit.data.subsets import open_selected
from memaudit.errors import DataError

NAMES = ("p1/a.png", "p1/b.png", "p2/c.png", "p10/d.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(file)
    return tmp_path / "images"


def opened(folder: Path, groups_from: str | None) -> ImageSet:
    return open_images(folder, layout=Layout(groups_from=groups_from), cache_dir=False)


@pytest.mark.parametrize(
    ("pattern", "groups", "kind"),
    [
        (r"^(p\d+)/", ["p1", "p1", "p10", "p2"], "group"),
        (r"^(?P<patient>p\d+)/", ["p1", "p1", "p10", "p2"], "patient"),
        (r"^p\d", ["p1", "p1", "p1", "p2"], "group"),  # without parentheses, all of the match
        (r"^(p)(\d+)/", ["p/1", "p/1", "p/10", "p/2"], "group"),
    ],
)
def test_a_regular_expression_finds_groups_in_names(folder, pattern, groups, kind):
    images = opened(folder, pattern)
    assert (list(images.groups), images.group_kind, images.groups_from) == (groups, kind, pattern)
    assert images.num_groups == len(set(groups))
    numbers = images.group_numbers
    assert (numbers[:, None] == numbers).tolist() == [[a == b for b in groups] for a in groups]


@pytest.mark.parametrize("header", ["name,patient\n", "file,age,patient_id\n", ""])
def test_a_csv_file_names_groups(folder, tmp_path, header):
    file = tmp_path / "groups.csv"
    extra = "7," if "age" in header else ""
    rows = "".join(f"{name},{extra}G{i // 2}\n" for i, name in enumerate(NAMES))
    file.write_text(f"{header}{rows}elsewhere.png,{extra}G9\n")
    images = opened(folder, str(file))
    assert list(images.groups) == ["G0", "G0", "G1", "G1"]
    assert images.group_kind == ("patient" if header else "group")
    assert not any("elsewhere" in note for note in images.notes)  # of the held-out set, perhaps


def test_a_subset_keeps_its_groups(folder):
    selection = Selection(size=2, groups_from=r"^(p\d+)/", subset="random", subset_seed=1)
    images = open_selected(folder, selection, cache_dir=False)
    assert [name.split("/")[0] for name in images.names] == list(images.groups)


def test_own_groups_count_on_request_only(folder):
    (folder / "metadata.csv").write_text(
        "file_name,text,group\n" + "".join(f"{name},x,{name[1]}\n" for name in NAMES)
    )
    images = opened(folder, None)
    assert list(images.groups) == ["1", "1", "1", "2"]
    assert images.num_groups is images.group_numbers is None
    assert images.one_per_group() is images
    images = opened(folder, "own")
    assert images.num_groups == 2


@pytest.mark.parametrize(
    ("groups_from", "message"),
    [
        ("(", "neither a CSV file nor a regular expression: missing"),
        (r"^(p1)/", r"names no group for 2 images of .*'p10/d.png', 'p2/c.png'. Every image needs"),
        ("missing.csv", "There is no file missing.csv to take groups from"),
        ("own", "does not say which images belong together"),
        (r"^()", "names no group for 4 images"),
    ],
)
def test_images_without_a_group_are_refused(folder, groups_from, message):
    with pytest.raises(DataError, match=message):
        opened(folder, groups_from)


def test_a_broken_csv_file_is_refused(folder, tmp_path):
    file = tmp_path / "groups.csv"
    file.write_text("name,patient\np1/a.png,1\np1/a.png,2\n")
    with pytest.raises(DataError, match="gives two groups to 'p1/a.png'"):
        opened(folder, str(file))
    file.write_bytes(b"x" * (1 << 25))
    with pytest.raises(DataError, match="33,554,432 bytes; at most"):
        opened(folder, str(file))


TWO_LONG = [f"{'p' * 256}{i // 2}" for i in range(4)]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_csv_file_of_another_encoding_is_refused(folder, tmp_path, encoding):
    """Read with marks in place of what is lost, two patients become one."""
    file = tmp_path / "groups.csv"
    rows = zip(NAMES, ("Jörg", "Jörg", "Jürg", "Jürg"), strict=True)
    file.write_bytes("\n".join(map(",".join, rows)).encode(encoding))
    with pytest.raises(DataError, match=r"is not UTF-8 text \(byte"):
        opened(folder, str(file))


@pytest.mark.parametrize("names", [TWO_LONG, ["J\ufffdrg"] * 4])
def test_groups_that_may_be_two_are_refused(folder, tmp_path, names):
    file = tmp_path / "groups.csv"
    file.write_text("\n".join(map(",".join, zip(NAMES, names, strict=True))))
    with pytest.raises(DataError, match="cannot be told apart for certain"):
        opened(folder, str(file))


def test_own_groups_that_are_too_long_are_none(folder):
    rows = zip(NAMES, TWO_LONG, strict=True)
    lines = (f'{{"file_name": "{name}", "group": "{group}"}}\n' for name, group in rows)
    (folder / "metadata.jsonl").write_text("".join(lines))
    with pytest.raises(DataError, match="does not say which images belong together"):
        opened(folder, "own")


def test_a_name_may_be_composed_in_two_ways(folder, tmp_path):
    """As file names of macOS and of other systems are."""
    file = tmp_path / "groups.csv"
    names = ("Jos\u00e9", "Jose\u0301", "x", "x")
    file.write_text("\n".join(map(",".join, zip(NAMES, names, strict=True))))
    assert opened(folder, str(file)).num_groups == 2


def test_one_image_of_each_group_is_drawn():
    images = ImageSet.from_array(
        np.arange(60, dtype=np.uint8)[:, None, None].repeat(5, 1).repeat(5, 2)
    )
    groups = [str(i % 7) for i in range(60)]
    one = images.grouped(groups).one_per_group()
    assert sorted(one.groups) == sorted(set(groups))
    assert [groups[i] for i in one.indices] == list(one.groups)
    assert (one.indices >= 7).any()  # at random, not the first
    with pytest.raises(DataError, match="need a name each"):
        images.grouped([""] * 60)
    with pytest.raises(DataError, match="60 images but 2 groups"):
        images.grouped(["a", "b"])


def test_sets_that_are_built_keep_their_groups(folder, tmp_path):
    first = opened(folder, r"^(p\d+)/")
    other = opened(folder, r"^(p\d+)/")
    other = replace(other, source="other")
    mixed = mix_images(first, other, share=0.5, size=4)
    assert set(mixed.groups) == {f"{first.source}/p1", "other/p1"}  # two people of one name
    assert mixed.num_groups == 2
    assert cut_groups(other, mixed) == [] and cut_groups(first, first) == []
    part = first.take(np.array([1, 3]))
    assert cut_groups(first, part) == ["p1"]
    write_set(tmp_path / "set.zip", mixed, sources=[first, other], choices={})
    again = open_images(tmp_path / "set.zip", layout=Layout(groups_from="own"), cache_dir=False)
    assert list(again.groups) == list(mixed.groups)
    assert again.num_groups == 2
