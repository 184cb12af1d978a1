"""Shards as a range of tars, as commands take them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Run = Callable

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Twelve images with classes in three tars of WebDataset's form."""
    for number in range(3):
        with tarfile.open(tmp_path / f"train-{number:04d}.tar", "w") as archive:
            for i in range(4 * number, 4 * number + 4):
                file = io.BytesIO()
                Image.fromarray(PIXELS[i]).save(file, "PNG")
                for name, data in ((f"{i:06d}.png", file.getvalue()), (f"{i:06d}.cls", b"%d" % i)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return tmp_path


def test_a_range_of_tars_is_scanned_as_one_set(run: Run, shards: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "copies.npy", PIXELS[3:10])
    given = f"{shards}/train-{{0000..0002}}.tar"
    done = run("scan", tmp_path / "copies.npy", "--data", given, "--out", tmp_path / "report")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["data"]["num_images"] == 12 and report["ratios"]["copies"]["count"] == 7
    assert (tmp_path / "report/leaks.csv").read_text().count("train-0001.tar/000004.png") == 1
    about = json.loads(run("dataset", "inspect", given, "--json").stdout)
    assert about["num_classes"] == 12 and about["path"] == given


def test_a_range_with_a_missing_tar_is_refused_by_every_command(run: Run, shards: Path) -> None:
    given = f"{shards}/train-{{0000..0003}}.tar"
    for command in (["dataset", "inspect", given], ["scan", given, "--data", given]):
        done = run(*command)
        assert done.exit_code == 2
        assert "names 4 files; '" in done.stderr and "train-0003.tar' is not there" in done.stderr
