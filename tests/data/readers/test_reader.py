"""How readers look at a path before they read it."""

import zipfile
from pathlib import Path

from memaudit.data.readers.reader import first_bytes, first_member, only_itself, stats


def test_the_first_bytes_of_a_folder_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdef")
    assert first_bytes(tmp_path / "file", 3) == b"abc"
    assert first_bytes(tmp_path / "file") == b"abcdef"
    assert first_bytes(tmp_path) == b""


def test_the_first_member_tells_zips_apart(tmp_path: Path) -> None:
    for name, members in (("full.zip", ["a/b.png", "c.png"]), ("empty.zip", [])):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in members:
                archive.writestr(member, b"")
    (tmp_path / "other").write_bytes(b"PK but not a zip")
    assert first_member(tmp_path / "full.zip") == "a/b.png"
    assert first_member(tmp_path / "empty.zip") == ""
    assert first_member(tmp_path / "other") is None and first_member(tmp_path) is None


def test_files_are_told_by_name_and_stat(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert list(stats([tmp_path / "b", tmp_path / "a"])) == ["b", "a"]
    assert only_itself(tmp_path / "a")["a"].st_size == 1
