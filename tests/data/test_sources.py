"""The table of readers: every form has its place in it, and a new one needs nothing else."""

import ast
from pathlib import Path

import numpy as np
import pytest

from memaudit.data import readers, sources
from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents, array_contents
from memaudit.data.readers.reader import Files, Reader, first_bytes
from memaudit.data.sources import READERS, open_images
from memaudit.errors import DataError

FOLDER = Path(readers.__file__).parent
READER_FILES = sorted(
    file for file in FOLDER.glob("*.py") if " = Reader(" in file.read_text(encoding="utf-8")
)


def read_raw(path: Path, _files: Files, _resolution: int | None) -> Contents:
    pixels = np.frombuffer(path.read_bytes()[3:], np.uint8).reshape(-1, 1, 8, 8)
    return array_contents(pixels, str(path), [f"{i}" for i in range(len(pixels))])


RAW = Reader("raw bytes", lambda path: first_bytes(path, 3) == b"RAW", read_raw)


def test_a_form_is_added_by_a_reader_and_a_line_of_the_table(
    tmp_path: Path, gray_pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "set.raw"
    path.write_bytes(b"RAW" + gray_pixels.tobytes())
    with pytest.raises(DataError, match="set.raw has none of the forms"):
        open_images(path)
    monkeypatch.setattr(sources, "READERS", (*READERS, RAW))
    np.testing.assert_array_equal(open_images(path).images, gray_pixels)
    assert open_images(path, Preparation(resolution=4)).images.shape == (6, 1, 4, 4)
    monkeypatch.setattr(sources, "MAPPED_FROM", 100)
    assert [isinstance(open_images(path).images, np.memmap) for _ in range(2)] == [True, True]
    path.write_bytes(b"RAW" + gray_pixels[:2].tobytes())
    assert len(open_images(path)) == 2


def test_an_unknown_form_is_refused_with_all_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("no images")
    with pytest.raises(DataError) as refused:
        open_images(tmp_path / "set.txt")
    assert str(tmp_path / "set.txt") in str(refused.value)
    assert [reader.form for reader in READERS if reader.form not in str(refused.value)] == []


def test_every_reader_is_in_the_table() -> None:
    defined = sum(file.read_text(encoding="utf-8").count(" = Reader(") for file in READER_FILES)
    assert len(READERS) == defined == len({reader.form for reader in READERS})


@pytest.mark.parametrize("file", READER_FILES, ids=lambda file: file.name)
def test_readers_do_not_know_each_other(file: Path) -> None:
    others = {other.stem for other in READER_FILES if other != file}
    imported = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memaudit"):
            imported |= {(node.module or "").split(".")[-1], *(alias.name for alias in node.names)}
    assert imported & others == set()


def test_an_npz_is_not_taken_for_a_zip_of_image_files(tmp_path: Path, pixels: np.ndarray) -> None:
    np.savez(tmp_path / "set.zip", images=pixels)
    (tmp_path / "set.zip.npz").rename(tmp_path / "set.zip")
    assert open_images(tmp_path / "set.zip").names[0] == "set.zip[0]"


def test_an_npy_may_be_called_npz(tmp_path: Path, pixels: np.ndarray) -> None:
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, pixels)
    np.testing.assert_array_equal(open_images(tmp_path / "set.npz").images, pixels)
