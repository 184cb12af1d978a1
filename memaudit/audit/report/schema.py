"""What report.json holds. These dataclasses are the schema: reader, writer and JSON Schema follow
from them.

The page docs/report.md says what a program may rely on.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import msgspec

from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmed_images import Confirmation
from memaudit.audit.denoising.loss_test import DenoisingTest
from memaudit.audit.diagnostics.registry import Diagnostics
from memaudit.audit.environment import Environment, Timings
from memaudit.audit.memorization.controls import Controls
from memaudit.audit.memorization.findings import Ratios
from memaudit.audit.memorization.screened import Screening
from memaudit.audit.memorization.sensitivity import Sensitivity
from memaudit.audit.neighbors.results import SearchFacts
from memaudit.audit.neighbors.units import Space
from memaudit.audit.report.pictures import Pictures
from memaudit.audit.sampler_control import SamplerControl
from memaudit.audit.scanned import Scanned
from memaudit.audit.source import Source
from memaudit.audit.statistics.gate import Decision
from memaudit.audit.verdict import Conclusion
from memaudit.data.preparation import Preparation
from memaudit.errors import DataError, MemauditError
from memaudit.files import read_regular
from memaudit.models.execution import HANDED_OUT
from memaudit.models.sampler_config import SamplerConfig
from memaudit.wording import printable, ranges, short, shown

SCHEMA: Literal["memaudit.report/2"] = "memaudit.report/2"
CHECKSUM = "sha256"
"""Key of the SHA-256 of the rest of report.json."""

FRACTION = r"^\d{1,40}/\d{1,40}$"
"""How a fraction is written, as a regular expression; longer ones are not read."""
NOT_FINITE = ("inf", "-inf", "nan")
"""Numbers that JSON lacks, as strings."""
LARGEST_REPORT = 32 << 20
"""Most bytes of a report.json: with 20,000 classes it has 10 MB, and an object takes up to 50 times
its text in memory."""
LARGEST_INTEGER = 10**300
DEEPEST = 24
"""Most levels of lists and objects in a report.json."""


@dataclass(frozen=True)
class Data:
    """The training images that were searched."""

    path: str
    fingerprint: str
    """SHA-256 of their pixels."""
    num_images: int
    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    num_classes: int
    """Number of classes, 0 without labels."""
    class_names: tuple[str, ...]
    preparation: Preparation
    """How the pixels were prepared."""
    indices: str | None
    """Positions in the source that the images were selected from, as ranges `0-99,105`, or null
    where all were taken."""
    split: str | None
    """The split that was taken of a source that has some, or `all`; null where it has none."""
    other_splits: tuple[str, ...]
    """Splits of the source that were not searched."""
    labels_from: str | None
    """Where the labels come from if the user chose it: `folder`, `prefix`, `none` or a file."""
    groups_from: str | None
    """Where the groups come from if the user chose some: a regular expression, a file, or `own`;
    null where they do not count."""
    group_kind: str
    """What a group is: `patient`, or `group` where nothing says so."""
    num_groups: int | None
    """Number of groups, or null."""
    groups_fingerprint: str | None
    """SHA-256 of the groups' names, one per image, as a JSON list, or null."""


@dataclass(frozen=True)
class Sampling:
    """How the images were generated."""

    seeds: str
    """Seeds of the images that were judged, in their order, as ranges."""
    nonce: str | None
    """The text that the first seed was drawn from, or null."""
    most_seeds: int
    """Number of seeds that were asked for; a gate may stop earlier."""
    min_samples: int
    """Images that the gate looked at first."""
    num_kept: int
    """Images judged that an earlier run of this scan had generated and kept."""
    num_regenerated: int
    """How many kept images, chosen at random, were generated again and came out the same."""
    class_index: int | None
    """The one class that was generated, or null: drawn from each seed."""
    class_frequencies: Literal["uniform", "data"]
    """How often each class was drawn: all alike, or as often as in the training images."""
    sampler: SamplerConfig
    batch_size: int
    device: str
    precision: Literal["fp32", "tf32", "fp16", "bf16"]
    """Number format of the network; of a faster one than fp32, `confirmation` says which images
    were judged in it."""
    compiled: bool
    """Whether the faster format's kernels were made by torch.compile."""
    confirmation: Confirmation | None
    """How images of a faster format were confirmed in fp32; null if that was the only format."""


@dataclass(frozen=True)
class FileHash:
    """A file of the report folder."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Report:
    """The content of report.json but for its own checksum."""

    schema: Literal["memaudit.report/2"]
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"] | None
    """The verdict, or null without a gate."""
    conclusion: Conclusion
    """The verdict in words that can be quoted, and what it is about."""
    gate: Decision | None
    """The gate's decision by the count alone and its evidence, or null without a gate."""
    ratios: Ratios
    """Shares of generated images that are copies, by each rule."""
    interval: Literal["Clopper-Pearson", "mixture sequence"]
    """How the intervals of the ratios were made."""
    num_degenerate: int
    """Images at distance 0 from both neighbors, which the published rule cannot call copies."""
    num_leaking_images: int
    """Training images that were copied at least once."""
    sensitivity: tuple[Sensitivity, ...]
    """The share of copies at every threshold and radius, beside its floor."""
    controls: Controls
    """How often images are counted as copies that cannot be copies."""
    threshold: float
    """A generated image is a copy where the ratio of its two distances is below this."""
    threshold_fraction: Fraction
    """The threshold, exact."""
    duplicate_rms: float
    """Training images within this many RMS gray levels are duplicates of each other."""
    confidence: float
    """Confidence of the intervals and of the gate."""
    fail_above: float | None
    """The gate's limit, or null without a gate."""
    fail_above_groups: float | None
    """The gate's limit on the share of groups that are copied, or null without one."""
    source: Source
    """What was audited."""
    denoising: DenoisingTest | None
    """Whether the model denoises the training images, or null where images were given."""
    data: Data
    """The training images."""
    space: Space
    """What distances are distances of."""
    search: SearchFacts
    """How the nearest training images were found."""
    sampling: Sampling | None
    """How images were generated, or null where they were given."""
    sampler_control: SamplerControl | None
    """What the published sampler shows of the same seeds, where a gate judged images of another
    sampler; null otherwise."""
    screening: Screening | None
    """Which seeds were sampled in full and the share of copies that they estimate, where the others
    were screened only; null where every seed was sampled in full. The ratios, the sensitivity and
    the diagnostics are then those of the seeds that chance drew."""
    diagnostics: Diagnostics
    """What stands beside the ratio."""
    without: tuple[str, ...]
    """Diagnostics that were left out on request."""
    fail_on: tuple[str, ...]
    """Findings that fail the gate besides the count of copies."""
    timings: Timings
    environment: Environment
    pictures: Pictures
    """What the page shows of training and generated images."""
    files: tuple[FileHash, ...] = ()
    """The other files of the folder."""


def make_report(result: Scanned, *, pictures: Pictures = "full") -> Report:
    """The report of a scan, without the hashes of files that are not written yet."""
    config, data, findings = result.config, result.data, result.findings
    sampling = None
    if result.source.kind == "checkpoint":
        sampling = Sampling(
            seeds=ranges(int(key) for key in result.keys),
            nonce=config.nonce,
            most_seeds=len(config.seeds),
            min_samples=config.min_samples,
            num_kept=result.num_kept,
            num_regenerated=result.num_regenerated,
            class_index=config.class_index,
            class_frequencies=config.class_frequencies,
            sampler=config.sampler.resolved(),
            batch_size=config.execution.batch_size or HANDED_OUT,
            device=config.execution.device,
            precision=_precision_of(config),
            compiled=config.execution.compile == "on",
            confirmation=result.confirmation,
        )
    return Report(
        schema=SCHEMA,
        verdict=result.verdict,
        conclusion=result.conclusion,
        gate=findings.decision,
        ratios=findings.ratios,
        interval=findings.interval,
        num_degenerate=findings.num_degenerate,
        num_leaking_images=len(findings.leaks),
        sensitivity=findings.sensitivity,
        controls=result.controls,
        threshold=float(config.rule.threshold),
        threshold_fraction=config.rule.threshold,
        duplicate_rms=config.rule.duplicate_rms,
        confidence=config.rule.confidence,
        fail_above=config.fail_above,
        fail_above_groups=config.fail_above_groups,
        source=result.source,
        denoising=result.denoising,
        data=Data(
            path=data.source,
            fingerprint=data.fingerprint,
            num_images=len(data),
            image_shape=data.image_shape,
            num_classes=data.num_classes,
            class_names=data.class_names,
            preparation=data.preparation,
            indices=None if data.indices is None else ranges(data.indices.tolist()),
            split=data.split,
            other_splits=data.other_splits,
            labels_from=data.labels_from,
            groups_from=data.groups_from,
            group_kind=data.group_kind,
            num_groups=data.num_groups,
            groups_fingerprint=data.groups_fingerprint,
        ),
        space=result.space,
        search=result.search,
        sampling=sampling,
        sampler_control=result.sampler_control,
        screening=result.screening,
        diagnostics=result.diagnostics,
        without=config.without,
        fail_on=config.fail_on,
        timings=result.timings,
        environment=result.environment,
        pictures=pictures,
    )


def _precision_of(config: ScanConfig) -> Literal["fp32", "tf32", "fp16", "bf16"]:
    precision = config.execution.precision
    return "fp32" if precision == "auto" else precision


# ------------------------------------------------------------------------------------------------
# Writing and reading


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: numbers that JSON lacks as strings, tuples as lists."""
    return _finite(msgspec.to_builtins(value, enc_hook=str))


def json_text(report: Any) -> str:
    """What a JSON file of a result holds; report.json of a scan is sealed as well, by `encode`."""
    return f"{json.dumps(plain(report), indent=2, ensure_ascii=False, allow_nan=False)}\n"


def encode(report: Report) -> bytes:
    """The bytes of report.json, with its own checksum."""
    content = plain(report)
    return _json({**content, CHECKSUM: hashlib.sha256(_json(content)).hexdigest()})


_END = b"\n}\n"
"""How report.json ends, with its checksum and before it is added."""


def is_sealed(content: bytes) -> bool:
    """Whether the bytes of a report.json are those that were written: its checksum is theirs."""
    rest, mark, seal = content.rpartition(f',\n  "{CHECKSUM}": "'.encode())
    return bool(mark) and seal == f'{hashlib.sha256(rest + _END).hexdigest()}"'.encode() + _END


def decode(content: bytes) -> Report:
    """The report in the bytes of a report.json.

    Raises:
        ValueError: they are not a report of this version; says what is wrong and where.
    """
    stated = _of_this_version(content)
    try:
        # Not strict, so that "inf" is read as a number.
        report = msgspec.convert(stated, Report, strict=False, dec_hook=_fraction)
    except (ArithmeticError, MemauditError) as error:  # such as a share of nothing
        raise ValueError(f"it holds a value that cannot be: {error}") from error
    stated.pop(CHECKSUM, None)
    if plain(report) != stated:
        raise ValueError("it holds fields or values that no report has")
    return report


def read_report(path: str | Path) -> Report:
    """Read a report.json.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        DataError: it cannot be read, is of another version, or was changed after it was written.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import memaudit
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
        >>> result = memaudit.scan(images[:5], images)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = memaudit.write_report(result, folder)
        ...     report = memaudit.read_report(folder)
        >>> report.num_leaking_images
        5
    """
    file = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
    try:
        content = read_regular(file, LARGEST_REPORT)
        _of_this_version(content)
        report = decode(content) if is_sealed(content) else None
    except OSError as error:
        raise DataError(
            f"{file} is not a readable memaudit report: {error.strerror}. Name a folder that "
            "`memaudit scan` wrote."
        ) from error
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = short(printable(str(error)), 300) or type(error).__name__
        raise DataError(f"{file} is not a readable memaudit report: {reason}.") from error
    if report is None:
        raise DataError(
            f"{file} was changed after it was written: its checksum does not match. "
            f"See `memaudit verify {file.parent}`, and leave it out."
        )
    return report


def _of_this_version(content: bytes) -> dict[str, Any]:
    stated = json.loads(
        content, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
    )
    _check_values(stated)
    schema = stated.get("schema") if isinstance(stated, dict) else None
    if schema != SCHEMA:
        raise ValueError(
            f"its schema is {shown(schema)}, and this version of memaudit reads {SCHEMA!r}. Scan "
            "again, or use the version that wrote it"
        )
    return dict(stated)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values with the same name, other readers would take the first."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"it holds {shown(name)} twice")
        content[name] = value
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is not JSON")


def _check_values(content: Any) -> None:
    """Refuse lists in lists in lists, and integers that no float can hold.

    Whatever walks through the lists later may do so by recursion.
    """
    level = [content]
    for _ in range(DEEPEST):
        level = [
            item
            for value in level
            if isinstance(value, list | dict)
            for item in (value if isinstance(value, list) else value.values())
        ]
        if any(type(item) is int and abs(item) >= LARGEST_INTEGER for item in level):
            raise ValueError("it holds an integer of more than 300 digits")
        if not level:
            return
    raise ValueError(f"its lists and objects are more than {DEEPEST} levels deep")


def _fraction(kind: type, value: object) -> Fraction:
    # Fraction itself would compute 10 to any power that a text names.
    if kind is not Fraction or not re.fullmatch(FRACTION, str(value), re.ASCII):
        raise ValueError(f"{shown(value)} is not a fraction such as 1/3")
    return Fraction(str(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
