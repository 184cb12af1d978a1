"""Scans of conditional models: empty classes, class frequencies, and the worst class."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.page import sample_command
from memaudit.audit.scan import scan
from memaudit.audit.source_checks import class_warnings, weigh_classes
from memaudit.audit.verification.verify import verify_report
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig

CONFIG = ScanConfig(
    seeds=range(40), sampler=SamplerConfig(num_steps=3), optimum_images=8, optimum_trajectories=8
)


def image_set(seed: int, labels: np.ndarray | None) -> ImageSet:
    rng = np.random.default_rng(seed)
    num_images = 24 if labels is None else len(labels)
    images = rng.integers(0, 256, (num_images, 1, 4, 4), dtype=np.uint8)
    return ImageSet(images, list(map(str, range(num_images))), labels=labels, source=f"set {seed}")


class AnyClass(ClosedFormOptimum):
    """A model of 6 classes that can be asked for each, as a network can."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(np.repeat(images, 6, 0), np.tile(np.arange(6), len(images)), label_dim=6)


TRAIN = image_set(0, np.array([0, 3, 3, 3])[np.arange(24) % 4])
"""Two of the model's six classes have training images, the second three times as many."""
MODEL = AnyClass(TRAIN.images)


def test_a_scan_of_a_model_with_empty_classes_runs_to_its_end():
    holdout = image_set(1, np.array([0, 2, 3])[np.arange(30) % 3])
    result = scan(MODEL, TRAIN, holdout=holdout, config=CONFIG)
    assert len(set(result.class_index.tolist())) > 2
    optimality = result.diagnostics.optimality
    assert optimality.agreement.total == 8
    assert optimality.num_holdout == 8
    assert optimality.baseline.num_images == 16  # 6 of class 0, 10 of class 3
    one = scan(MODEL, TRAIN, config=replace(CONFIG, class_index=2))
    assert one.diagnostics.optimality is None
    assert set(one.class_index.tolist()) == {2}


def test_classes_are_generated_as_often_as_they_occur(tmp_path: Path):
    config = replace(CONFIG, class_frequencies="data", seeds=range(400), without=("optimality",))
    result = scan(MODEL, TRAIN, config=config)
    counts = np.bincount(result.class_index, minlength=6)
    assert counts[[1, 2, 4, 5]].sum() == 0
    assert abs(counts[3] - 300) < 4 * (400 * 0.75 * 0.25) ** 0.5
    page = write_report(result, tmp_path).read_text()
    assert "as often as in the training images" in page
    assert '"class_frequencies": "data"' in (tmp_path / "report.json").read_text()


def test_the_page_says_that_classes_are_drawn_alike(tmp_path: Path):
    page = write_report(scan(MODEL, TRAIN, config=CONFIG), tmp_path).read_text()
    assert "all alike, whatever their frequency in the training images" in page


def test_the_command_that_generates_an_image_again_names_its_class():
    result = scan(MODEL, TRAIN, config=replace(CONFIG, class_frequencies="data"))
    model = replace(result.source.model, format="EDM")
    result = replace(result, source=replace(result.source, model=model, path="m.pkl"))
    assert f"--seeds 7 --class {result.class_index[7]}" in sample_command(result, 7)
    assert "--seeds SEED --class CLASS" in sample_command(result, "SEED")


def test_frequencies_that_cannot_be_had_are_refused_before_sampling():
    plain = ClosedFormOptimum(TRAIN.images)
    assert weigh_classes(plain, TRAIN, "uniform") is None
    data = replace(CONFIG, class_frequencies="data")
    with pytest.raises(ConfigError, match="the model has no classes"):
        scan(plain, TRAIN, config=data)
    with pytest.raises(DataError, match="has no classes and the model has 6"):
        scan(MODEL, image_set(2, None), config=data)
    with pytest.raises(ConfigError, match="generates one class only"):
        replace(data, class_index=1)


def test_it_is_said_where_the_images_have_classes_that_the_model_has_not():
    images = TRAIN.images
    three = ClosedFormOptimum(np.repeat(images, 3, 0), np.tile(np.arange(3), 24), label_dim=3)
    config = replace(CONFIG, seeds=range(4), without=("optimality",))
    warnings = scan(three, TRAIN, config=config).source.warnings
    assert "have 4 classes, but the model 3" in " ".join(warnings)
    assert class_warnings(MODEL, TRAIN) == class_warnings(three, image_set(0, None)) == ()
    with pytest.raises(ConfigError, match="have 4 classes, but the model 3") as refused:
        scan(three, TRAIN, config=replace(config, fail_above=0.5))
    assert refused.value.fields == ("labels_from",)


def test_the_worst_class_fails_where_all_together_pass(tmp_path: Path):
    """There are 2,000 images given; the 40 of the second class are all copies."""
    rng = np.random.default_rng(3)
    fresh = rng.integers(0, 256, (1960, 1, 4, 4), dtype=np.uint8)
    images = np.concatenate([fresh, TRAIN.images, TRAIN.images[:16]])
    given = ImageSet(
        images, list(map(str, range(2000))), labels=(np.arange(2000) >= 1960).astype(np.int64)
    )
    result = scan(given, TRAIN, config=ScanConfig(fail_above=0.1))
    assert result.findings.decision.verdict == "PASS"
    worst = result.diagnostics.worst_class
    assert (worst.verdict, worst.failing, worst.worst) == ("FAIL", (1,), 1)
    write_report(result, tmp_path)
    assert verify_report(tmp_path).passed
    assert scan(given, TRAIN).diagnostics.worst_class is None
