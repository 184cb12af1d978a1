"""The command that repeats a scan, from what its report says.

Paths are left out: a command that is published names the model's file, and stands for the training
images by a word.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.report.schema import Report
from memaudit.audit.source import OPTIMUM
from memaudit.audit.unchosen_seeds import are_consecutive
from memaudit.audit.verification.settings import config_of
from memaudit.data.preparation import Preparation
from memaudit.models.checkpoints.formats.python_function import NAME as FUNCTION
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import config_fields, size_text
from memaudit.wording import parse_ranges, ranges

DATA = "TRAINING-IMAGES"
HOLDOUT = "HELD-OUT-IMAGES"
"""Words that stand for what only the auditor has."""


def scan_command(report: Report) -> list[str]:
    """The words of the `memaudit scan` command with the settings of a report.

    Whoever gives it puts the training images in place of a word, and takes the same selection of
    them: `selection_text` says which, where no option does.

    Args:
        report: of a scan, verified.
    """
    return ["memaudit", "scan", *_words(report)]


def selection_text(report: Report) -> str:
    """What the command does not say of the training images that were taken, or an empty text."""
    if report.data.indices is None or _size(report) is not None:
        return ""
    return (
        f"The {report.data.num_images:,} training images are a selection of their source; "
        "data.indices in report.json lists them."
    )


def _words(report: Report) -> Iterator[str]:
    sampling, data = report.sampling, report.data
    seeds = () if sampling is None else tuple(parse_ranges(sampling.seeds))
    config = config_of(report, seeds)
    source, model = report.source, report.source.model
    name = source.path if source.path == OPTIMUM else Path(source.path).name or source.path
    is_code = model is not None and model.format == FUNCTION
    # A name of a file that would be an option, or a function to call.
    yield f"./{name}" if name.startswith("-") or (":" in name and not is_code) else name
    yield from ("--data", DATA)
    if report.controls.num_holdout:
        yield from ("--holdout", HOLDOUT)
    for flag, value in (("--split", data.split if data.other_splits else None),):
        if value is not None:
            yield from (flag, value)
    for flag, value in (("--labels", data.labels_from), ("--group", data.groups_from)):
        if value is not None:
            yield from (flag, Path(value).name if value.endswith(".csv") else value)
    if (size := _size(report)) is not None:
        yield from ("--size", str(size))
    yield from _changed(data.preparation, Preparation())
    if sampling is not None:
        yield from _seed_words(report, config)
        if model is not None and model.arch is not None:
            yield from ("--arch", model.arch)
        yield from _changed(config, ScanConfig(), "class_index", "class_frequencies", "min_samples")
        yield from _changed(config.sampler, SamplerConfig())
        if config.screening is not None:
            yield "--screen"
            yield from _changed(config.screening, ScreeningConfig())
    yield from _changed(config.rule, Rule())
    # The order of diagnostics is that of a report.
    yield from _changed(
        config, ScanConfig(), "fail_above", "fail_above_groups", "fail_on", "also", "without"
    )
    yield from _index_words(report, config)
    if sampling is not None:
        if sampling.device != "cpu":  # on a GPU the last bits depend on it
            yield from ("--batch-size", str(sampling.batch_size))
        if sampling.precision != "fp32":
            yield from ("--precision", sampling.precision)
        yield from ("--device", sampling.device)
    yield from ("--out", "report")


def _size(report: Report) -> int | None:
    """N where the first N images of a source were taken."""
    number = report.data.num_images
    return number if report.data.indices == ranges(range(number)) else None


def _seed_words(report: Report, config: ScanConfig) -> Iterator[str]:
    sampling = report.sampling
    assert sampling is not None
    if sampling.nonce is not None:
        yield from ("--samples", str(sampling.most_seeds), "--nonce", sampling.nonce)
    elif not are_consecutive(config.seeds):
        yield from ("--seeds", ranges(config.seeds))
    elif config.seeds[0]:
        first = config.seeds[0]
        yield from ("--seeds", ranges(range(first, first + sampling.most_seeds)))
    else:
        yield from ("--samples", str(sampling.most_seeds))


def _index_words(report: Report, config: ScanConfig) -> Iterator[str]:
    if config.index.encoder_weights is not None:
        yield from ("--features", str(config.index.features))
        yield from ("--encoder-weights", config.index.encoder_weights.name)
        yield from _changed(config.index, IndexConfig(), "flips", "match")
    else:
        yield from _changed(config.index, IndexConfig(), "flips", "match", "features")
    encoder = report.search.encoder
    if encoder is not None and encoder.metric != IndexConfig().feature_metric:
        yield from ("--feature-metric", encoder.metric)


def _changed(config: Any, usual: Any, *names: str) -> Iterator[str]:
    """The options of the fields that differ from the default; of all fields without names."""
    for name, field in config_fields(type(config)).items():
        value = getattr(config, name)
        if (names and name not in names) or value in (getattr(usual, name), None):
            continue
        yield field.flag
        if value is True:
            continue
        if field.option is not None and field.option.is_size:
            yield size_text(value)
        elif isinstance(value, tuple):
            yield ",".join(str(item).replace("_", "-") for item in value)
        else:
            yield str(value)
