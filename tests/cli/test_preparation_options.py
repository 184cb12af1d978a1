"""Images as people have them, prepared by a command's options on both sides of the audit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from memaudit.audit.report.schema import read_report
from memaudit.audit.verification.given import open_data
from memaudit.data.preparation import Preparation
from memaudit.data.sources import open_images
from memaudit.progress import silent

Run = Callable[..., Result]
SIZES = [(20, 16), (16, 24), (17, 17), (40, 30), (31, 33), (16, 16)]


def photograph(size: tuple[int, int], seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return coarse.resize(size[::-1], Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photographs of six sizes, two of them with the suffix .jfif."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        suffix = "jfif" if i < 2 else "jpg"
        photograph(SIZES[i % 6], i).save(folder / f"{i:02d}.{suffix}", "JPEG", quality=95)
    return folder


@pytest.fixture
def copies(tmp_path: Path, photos: Path) -> Path:
    """What a model that copies six of them would generate: 16x16, as ADM crops."""
    folder = tmp_path / "generated"
    folder.mkdir()
    images = open_images(photos, Preparation(resolution=16, fit="adm"))
    for i in range(6):
        Image.fromarray(images.images[i].transpose(1, 2, 0)).save(folder / f"{i}.png")
    return folder


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


def test_the_first_line_about_mixed_sizes_names_the_options(run: Run, photos: Path) -> None:
    result = run("dataset", "inspect", photos)
    assert result.exit_code == 2
    assert "10 of 12 images are not 20×16 pixels" in said(result)
    assert "with --resolution R and --fit: adm (ADM, DiT, SiT), short" in said(result)
    assert "jfif" in said(run("dataset", "inspect", photos, "--resolution", 16))


def test_photographs_are_audited_as_they_were_trained_on(
    run: Run, photos: Path, copies: Path, tmp_path: Path
) -> None:
    options = ("--resolution", "16", "--fit", "adm")
    out = tmp_path / "report"
    result = run("scan", copies, "--data", photos, *options, "--out", out)
    assert result.exit_code == 0, result.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["num_leaking_images"] == 6
    assert report["data"]["preparation"] == {
        **{"resolution": [16, 16], "fit": "adm", "filter": "bicubic", "mode": None},
        **{"background": None, "window": None, "exif": "ignore"},
    }
    words = "fit adm to 16 x 16, bicubic filter"
    assert f"images prepared: {words}" in report["conclusion"]["choices"]
    assert words in (out / "report.html").read_text()
    verified = run("verify", out, "--data", photos, "--source", copies)
    assert verified.exit_code == 0, verified.stdout + verified.stderr
    # Another recipe gives other pixels.
    other = run("scan", copies, "--data", photos, "--resolution", 16, "--fit", "short", "--json")
    assert json.loads(other.stdout)["data"]["fingerprint"] != report["data"]["fingerprint"]


def test_generated_and_held_out_images_are_prepared_alike(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    """All three are photographs; half of the generated ones are copies in another size."""
    generated, holdout = tmp_path / "generated", tmp_path / "holdout"
    for folder, seeds in ((generated, range(3)), (holdout, range(100, 104))):
        folder.mkdir()
        for seed in seeds:
            size = (SIZES[seed % 6][0] * 3, SIZES[seed % 6][1] * 3)
            photograph(size, seed).save(folder / f"{seed}.png")
    arguments = ("--data", photos, "--holdout", holdout, "--resolution", 16, "--fit", "square")
    result = run("scan", generated, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["num_leaking_images"] == 3
    assert report["controls"]["num_holdout"] == 4
    assert run("selftest", *arguments, "--samples", 8).exit_code in (0, 1)
    duplicates = run("dataset", "duplicates", photos, "--resolution", 16, "--fit", "short")
    assert duplicates.exit_code == 0, duplicates.stderr


def test_a_built_set_says_how_its_images_were_prepared(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set.zip"
    options = ("--resolution", "16x24", "--fit", "pad", "--background", "black")
    assert run("dataset", "build", "--data", photos, *options, "--out", out).exit_code == 0
    about = json.loads(run("dataset", "inspect", out, "--json").stdout)
    assert about["image_shape"] == [3, 16, 24]
    choices = about["manifest"]["choices"]
    assert choices["resolution"] == [16, 24] and choices["background"] == "black"
    assert (choices["fit"], choices["filter"]) == ("pad", "lanczos")
    shown = " ".join(run("dataset", "inspect", out).stdout.split())
    assert "fit pad" in shown and "background black" in shown


def test_odd_modes_are_named_and_converted(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(5):
        photograph((16, 16), i).save(folder / f"{i}.jpg")
    photograph((16, 16), 5).convert("L").save(folder / "gray.jpg")
    photograph((16, 16), 6).convert("CMYK").save(folder / "ink.jpg")
    refused = run("dataset", "inspect", folder)
    assert refused.exit_code == 2
    assert "1 of 7 images is gray: gray.jpg. --mode rgb (or gray) converts all" in said(refused)
    assert "1 of 7 images is CMYK: ink.jpg" in said(refused)
    result = run("dataset", "inspect", folder, "--mode", "rgb", "--json")
    assert json.loads(result.stdout)["kinds"] == {"gray": 1, "CMYK": 1}
    assert "were converted (1 gray, 1 CMYK): converted to RGB" in said(result)


def test_transparent_and_deep_images_are_named_with_their_options(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(4):
        photograph((16, 16), i).convert("L").save(folder / f"{i}.png")
    veiled = photograph((16, 16), 5).convert("LA")
    veiled.putalpha(100)
    veiled.save(folder / "veiled.png")
    Image.fromarray(np.full((16, 16), 4_000, np.uint16)).save(folder / "xray.png")
    refused = said(run("dataset", "inspect", folder))
    assert "1 of 6 images is transparent: veiled.png. --background COLOR" in refused
    assert "1 of 6 images is 16-bit or floating: xray.png. --window LOW,HIGH" in refused
    options: tuple[Any, ...] = ("--background", "white", "--range", "0,4095")
    result = run("dataset", "inspect", folder, *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["preparation"]["window"] == [0, 4095]


def test_one_photograph_is_data(run: Run, photos: Path, copies: Path, tmp_path: Path) -> None:
    photo = photos / "03.jpg"
    assert "1 image, 3 x 40 x 30" in run("dataset", "inspect", photo).stdout
    options = ("--resolution", 16, "--fit", "adm")
    refused = run("scan", copies, "--data", photo, *options)
    assert refused.exit_code == 2 and "at least 2 are required" in said(refused)
    result = run("scan", copies / "3.png", "--data", photos, *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["num_leaking_images"] == 1
    shutil.copy(photo, tmp_path / "without-a-suffix")
    assert run("dataset", "inspect", tmp_path / "without-a-suffix").exit_code == 0


def test_verify_opens_images_no_larger_than_it_must(
    run: Run, photos: Path, copies: Path, tmp_path: Path
) -> None:
    """A report that says another size than its images have is not followed."""

    out = tmp_path / "report"
    options = ("--resolution", "16", "--fit", "adm")
    assert run("scan", copies, "--data", photos, *options, "--out", out).exit_code == 0
    report = read_report(out)
    data = replace(report.data, preparation=report.data.preparation.at(8192, 8192))
    assert "are said to be prepared as fit adm to 8192" in str(open_data(photos, data, silent))
    data = replace(data, image_shape=(3, 8192, 8192))
    large = tmp_path / "large"
    large.mkdir()
    photograph((16, 16), 0).save(large / "0.png")
    assert str(open_data(large, data, silent)) == "are 16 x 16 pixels, not 8192 x 8192 as reported"


@pytest.mark.parametrize("size", ["32x", "a", "1x2x3", ""])
def test_a_size_is_one_number_or_two(run: Run, photos: Path, size: str) -> None:
    result = run("dataset", "inspect", photos, "--resolution", size)
    assert result.exit_code == 2 and "is not a size; write 32, or 32x48" in said(result)
