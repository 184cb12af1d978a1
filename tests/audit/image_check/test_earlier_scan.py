"""Seeds of a scan's report, beside the samples of a check."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memaudit import (
    CheckConfig,
    Denoiser,
    ImageSet,
    SamplerConfig,
    ScanConfig,
    check_images,
    read_earlier_scan,
    scan,
    write_report,
)
from memaudit.audit.source import optimum_of
from memaudit.errors import DataError

SAMPLER = SamplerConfig(num_steps=8)
FEW = CheckConfig(seeds=range(2), sampler=SAMPLER, num_controls=39, sigmas=(0.5,), num_noises=1)


@pytest.fixture(scope="module")
def report(train: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a scan of the optimum of the training images."""
    folder = tmp_path_factory.mktemp("scan") / "report"
    config = ScanConfig(
        seeds=range(100, 250), sampler=SAMPLER, without=("optimality", "recall", "repeats")
    )
    write_report(scan(optimum_of(train), train, config=config), folder)
    return folder


def test_the_report_names_seeds_of_copies_that_a_few_samples_miss(
    report: Path, train: ImageSet, holdout: ImageSet
):
    earlier = read_earlier_scan(report)
    assert earlier.num_images == 150
    missed = [i for i in earlier.keys if i not in (0, 1)][:2]
    asked = np.stack([train.images[missed[0]], holdout.images[0]])
    found = check_images(
        optimum_of(train), asked, data=train, holdout=holdout, earlier=earlier, config=FEW
    )
    known, other = found.images
    assert known.earlier is not None and known.earlier.keys == earlier.keys[missed[0]]
    assert known.earlier.total == 150
    assert other.earlier is None
    assert f"and {known.earlier.count} of 150 in the report of a scan (seed" in known.answer
    assert known.finding in ("given-back", "copied")
    assert found.report.earlier_scan == str(report)


def test_copies_of_others_of_the_same_patient_are_not_copies_of_an_image(
    report: Path, train: ImageSet
):
    earlier = read_earlier_scan(report)
    first, second = sorted(earlier.keys)[:2]
    patients = train.grouped(["both" if i in (first, second) else f"p{i}" for i in range(40)])
    found = check_images(
        optimum_of(train), train.images[[first]], data=patients, earlier=earlier, config=FEW
    )
    assert found.images[0].earlier is not None
    assert found.images[0].earlier.keys == earlier.keys[first]


def test_a_report_about_something_else_is_refused(
    report: Path, train: ImageSet, holdout: ImageSet, never_copies: Denoiser
):
    earlier, asked = read_earlier_scan(report), train.images[:1]
    with pytest.raises(DataError, match="is about another model or other generated images"):
        check_images(never_copies, asked, data=train, earlier=earlier, config=FEW)
    part = train.take(np.arange(30))
    with pytest.raises(DataError, match="is about other training images than train"):
        check_images(optimum_of(train), asked, data=part, earlier=earlier, config=FEW)
    with pytest.raises(DataError, match="names copies of training images; give these"):
        check_images(optimum_of(train), asked, holdout=holdout, earlier=earlier, config=FEW)


def test_a_report_of_given_images_names_their_files(train: ImageSet, tmp_path: Path):
    generated = replace(train.take(np.arange(5)), names=[f"g{i}.png" for i in range(5)])
    write_report(scan(generated, train), tmp_path)
    earlier = read_earlier_scan(tmp_path)
    found = check_images(generated, train.images[2:3], data=train, earlier=earlier, config=FEW)
    assert found.images[0].earlier is not None
    assert found.images[0].earlier.keys == ("g2.png",)


def test_a_changed_table_is_refused(report: Path, tmp_path: Path):
    for name in ("report.json", "leaks.csv"):
        (tmp_path / name).write_bytes((report / name).read_bytes())
    text = (tmp_path / "leaks.csv").read_text(encoding="utf-8")
    (tmp_path / "leaks.csv").write_text(text + "999,x,1,0,0,5,\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"leaks\.csv was changed after it was written"):
        read_earlier_scan(tmp_path)
    (tmp_path / "leaks.csv").unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_earlier_scan(tmp_path)
