"""The audit that was agreed on, as a file: which reports a CI accepts.

A key that is left out stands for its default, and the defaults are those of a plain audit: whatever
was chosen in a scan has to be in its policy.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from memaudit.audit.config import FINDINGS
from memaudit.audit.diagnostics.registry import DIAGNOSTICS
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.rules.registry import PIXELS, RULES
from memaudit.audit.report.schema import Report
from memaudit.audit.verification.check import Check, check
from memaudit.data.layout import ALL_SPLITS
from memaudit.data.preparation import AS_STORED, Preparation
from memaudit.errors import ConfigError, MemauditError
from memaudit.files import read_regular
from memaudit.models.sampler_config import OWN_SOLVERS, OWN_STEPS, SamplerConfig
from memaudit.wording import parse_fraction, percent, printable, short, shown

LARGEST_POLICY = 1 << 20
VERSION_RANGE = re.compile(r"(==|!=|>=|<=|>|<)\s*(\d{1,6}(?:\.\d{1,6}){0,3})", re.ASCII)


@dataclass(frozen=True)
class GatePolicy:
    """The verdict and what it rests on."""

    limit: float | str
    """The report's limit must be this share or a lower one: 0.001 or "0.1%"."""
    confidence: float = 0.95
    """Least confidence."""
    least_samples: int = 1
    """Least number of images judged."""
    verdicts: tuple[Literal["PASS", "FAIL", "INCONCLUSIVE"], ...] = ("PASS",)
    """Verdicts that are accepted."""
    limit_groups: float | str | None = None
    """The report's limit on the share of groups that are copied must be this or a lower one."""
    fail_on: tuple[str, ...] = ()
    """Findings that must be part of the gate, such as "label-test"."""
    evidence: bool = True
    """Whether a PASS is accepted beside which there is evidence of memorization."""

    @property
    def share(self) -> float:
        """The limit as a number."""
        return as_share(self.limit)


@dataclass(frozen=True)
class RulePolicy:
    """When an image counts as a copy."""

    threshold: str | float = "1/3"
    duplicate_rms: float = 8.0
    flips: bool = False
    """Whether mirror images must be searched as well; if false, they may be."""
    features: bool = False
    """Whether features of an encoder may be compared in the place of pixels."""
    match: tuple[str, ...] = ("pixels",)
    """Rules that must count, and no others."""

    @property
    def fraction(self) -> Fraction:
        """The threshold, exact."""
        return parse_fraction(str(self.threshold))


@dataclass(frozen=True)
class SourcePolicy:
    """What was audited."""

    kind: Literal["checkpoint", "images", "any"] = "any"
    sha256: str | None = None
    """SHA-256 of the checkpoint's file, or of the images' pixels."""
    trained_on_data: bool = False
    """Whether the checkpoint must say that it was trained on exactly the images searched."""


@dataclass(frozen=True)
class SamplingPolicy:
    """How a model's images were generated."""

    seeds: Literal["contiguous", "nonce", "any"] = "contiguous"
    """Seeds that follow each other, seeds drawn from the auditor's nonce, or any."""
    first_seed: int = 0
    """The first of contiguous seeds."""
    nonce: str | None = None
    """The nonce that seeds must be drawn from."""
    class_index: int | None = None
    """The one class that must be generated; by default it is drawn from each seed."""
    class_frequencies: Literal["uniform", "data"] = "uniform"
    kept_samples: bool = False
    """Whether images of an earlier run may be among those judged."""
    screened: bool = False
    """Whether seeds may have been screened, so that only some were sampled in full. Such a report
    never says PASS."""


@dataclass(frozen=True)
class ImagesPolicy:
    """Training or held-out images."""

    fingerprint: str | None = None
    """SHA-256 of their pixels, as `memaudit dataset inspect` prints it."""
    least_images: int = 2
    part: bool = False
    """Whether only a part of a source may be taken; with a fingerprint it always may."""
    split: str | None = None
    """The split of a divided source that must be taken, or `all`; by default, one may only be taken
    where it is all there is, or with a fingerprint."""
    labels_from: str | None = None
    """Where the labels must come from, as a report names it; by default from the source itself."""
    groups_from: str | None = None
    """Where the groups must come from, as a report names it; by default there may be none."""


@dataclass(frozen=True)
class HoldoutPolicy:
    """Held-out images."""

    required: bool = False
    fingerprint: str | None = None
    """SHA-256 of their pixels."""
    least_images: int = 1
    """A number above 1 requires held-out images, as `required` does."""


@dataclass(frozen=True)
class Policy:
    """Which reports are accepted."""

    gate: GatePolicy
    rule: RulePolicy = RulePolicy()
    source: SourcePolicy = SourcePolicy()
    sampling: SamplingPolicy = SamplingPolicy()
    sampler: SamplerConfig = SamplerConfig()
    """Options of the sampler, named as in report.json."""
    data: ImagesPolicy = ImagesPolicy()
    preparation: Preparation = AS_STORED
    """How images must be prepared, named as in report.json."""
    holdout: HoldoutPolicy = HoldoutPolicy()
    memaudit: str = ""
    """Versions of memaudit, such as ">=0.9, <0.10"; empty: any."""
    without: tuple[str, ...] = ()
    """Diagnostics that may be left out."""
    choices: tuple[str, ...] = ()
    """Further choices, as a report words them, that are accepted."""


def read_policy(path: str | Path) -> Policy:
    """Read a policy.

    Raises:
        ConfigError: it is malformed; says which key, and which one may have been meant.
    """
    path = Path(path)
    try:
        content = tomllib.loads(read_regular(path, LARGEST_POLICY).decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. Name a policy, a file in TOML."
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path} is not TOML: {_said(error)}.") from error
    return as_policy(content, str(path))


def as_policy(content: Mapping[str, Any], name: str = "the policy") -> Policy:
    """A policy from the tables of a TOML file.

    Raises:
        ConfigError: a key is unknown, or has a value that cannot be.
    """
    _check_keys(content, Policy, "", name)
    if "limit" not in content.get("gate", {}):
        raise ConfigError(f"{name} lacks gate.limit, the largest share of copies that is accepted.")
    try:
        policy = msgspec.convert(content, Policy)
    except MemauditError:
        raise
    except (msgspec.ValidationError, ArithmeticError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is not a policy: {_said(error)}.") from error
    for wrong in _impossible(policy):
        raise ConfigError(f"{name}: {wrong}")
    return policy


def check_policy(policy: Policy, report: Report) -> Iterator[Check]:
    """Compare a report with a policy: one check for each clause."""
    for name, problem in _clauses(policy, report):
        yield check(f"policy {name}", not problem, problem)


def _clauses(policy: Policy, report: Report) -> Iterator[tuple[str, str]]:
    """Every clause by its key, and what violates it, or an empty text."""
    yield from _gate(policy.gate, report)
    yield from _rule(policy.rule, report)
    yield from _source(policy.source, report)
    if report.sampling is not None:
        yield from _sampling(policy, report)
    else:
        agreed = policy.sampling != SamplingPolicy() or policy.sampler != SamplerConfig()
        yield "sampling", "images were given, not sampled as agreed" if agreed else ""
    yield from _images(policy, report)
    found = report.environment.memaudit
    wrong = policy.memaudit and not _in_range(found, policy.memaudit)
    yield "memaudit", f"version {short(found, 40)} is not {policy.memaudit}" if wrong else ""
    allowed = {each.replace("-", "_") for each in policy.without}
    left_out = sorted(set(report.without) - allowed)
    yield "without", f"left out: {_listed(left_out)}" if left_out else ""
    others = [each for each in report.conclusion.choices if not _is_agreed(each, policy)]
    yield "choices", f"not agreed: {_listed(others)}" if others else ""


def _gate(policy: GatePolicy, report: Report) -> Iterator[tuple[str, str]]:
    limit = report.fail_above
    if limit is None:
        yield "gate.limit", "there is no limit"
    else:
        said = f"the limit is {percent(limit)} %, not at most {percent(policy.share)} %"
        yield "gate.limit", said if limit > policy.share else ""
    low = report.confidence < policy.confidence
    yield "gate.confidence", f"{report.confidence:g} is below {policy.confidence:g}" if low else ""
    total = report.ratios.copies.total
    few = f"{total:,} images are fewer than {policy.least_samples:,}"
    yield "gate.least_samples", few if total < policy.least_samples else ""
    verdict = report.verdict or "none"
    refused = f"the verdict is {verdict}, not {' or '.join(policy.verdicts)}"
    yield "gate.verdicts", refused if verdict not in policy.verdicts else ""
    if policy.limit_groups is not None:
        share, limit = as_share(policy.limit_groups), report.fail_above_groups
        said = "there is no limit" if limit is None else f"the limit is {percent(limit)} %"
        above = limit is None or limit > share
        yield "gate.limit_groups", f"{said}, not at most {percent(share)} %" if above else ""
    missing = sorted({each.replace("-", "_") for each in policy.fail_on} - set(report.fail_on))
    yield "gate.fail_on", f"the gate lacks {_listed(missing)}" if missing else ""
    evidence = report.conclusion.evidence
    against = evidence and not policy.evidence
    yield "gate.evidence", f"there is evidence: {_listed(evidence)}" if against else ""


def _rule(policy: RulePolicy, report: Report) -> Iterator[tuple[str, str]]:
    found = report.threshold_fraction
    other = f"{found}, not {policy.fraction}"
    yield "rule.threshold", other if found != policy.fraction else ""
    radius = report.duplicate_rms
    other = f"{radius:g} gray levels, not {policy.duplicate_rms:g}"
    yield "rule.duplicate_rms", other if radius != policy.duplicate_rms else ""
    unsearched = policy.flips and not report.search.flips
    yield "rule.flips", "mirror images were not searched" if unsearched else ""
    counted = report.search.match or (PIXELS,)
    agreed = tuple(dict.fromkeys((PIXELS, *policy.match)))
    other = f"copies by {_listed(counted)}, not by {_listed(agreed)}"
    yield "rule.match", other if set(counted) != set(agreed) else ""
    by_features = report.space.name != "pixels" and not policy.features
    yield "rule.features", "features were compared, not pixels" if by_features else ""


def _source(policy: SourcePolicy, report: Report) -> Iterator[tuple[str, str]]:
    source = report.source
    other = policy.kind not in ("any", source.kind)
    yield "source.kind", f"the source is {source.kind}, not {policy.kind}" if other else ""
    differs = policy.sha256 is not None and policy.sha256 != source.sha256
    yield "source.sha256", f"{source.sha256}, not {policy.sha256}" if differs else ""
    confirmed = source.model is not None and source.model.trained_on_data is True
    unsure = policy.trained_on_data and not confirmed
    yield "source.trained_on_data", "the checkpoint does not say so" if unsure else ""


def _sampling(policy: Policy, report: Report) -> Iterator[tuple[str, str]]:
    sampling, agreed = report.sampling, policy.sampling
    assert sampling is not None
    screening = report.screening
    is_screened = screening is not None and not agreed.screened
    yield "sampling.screened", "not every seed was sampled in full" if is_screened else ""
    total = report.ratios.copies.total if screening is None else screening.num_seeds
    found_seeds = sampling.seeds if screening is None else screening.seeds
    wrong = ""
    if agreed.seeds == "contiguous":
        first = agreed.first_seed
        expected = _run(first, total)
        if found_seeds != expected:
            wrong = f"{short(found_seeds, 60)} is not {expected}"
    elif agreed.seeds == "nonce":
        # That the seeds are those of the nonce in the report is checked with the rows.
        if sampling.nonce is None or sampling.nonce != agreed.nonce:
            wrong = f"the nonce is {shown(sampling.nonce)}, not {shown(agreed.nonce)}"
    yield "sampling.seeds", wrong
    for name in ("class_index", "class_frequencies"):
        found, wanted = getattr(sampling, name), getattr(agreed, name)
        other = f"{_class(found)}, not {_class(wanted)}"
        yield f"sampling.{name}", other if found != wanted else ""
    kept = sampling.num_kept and not agreed.kept_samples
    yield "sampling.kept_samples", f"{sampling.num_kept:,} images were kept" if kept else ""
    found, sampler = sampling.sampler, policy.sampler
    if found.sampler == sampler.sampler == "own":
        # Which model it is decides the solver by default, and that the steps.
        solver = sampler.solver or (found.solver if found.solver in OWN_SOLVERS else None)
        steps = sampler.num_steps or (None if solver is None else OWN_STEPS.get(solver))
        sampler = replace(sampler, solver=solver, num_steps=steps)
    yield "sampler", _listed(_differing(found, sampler))


def _differing(found: Any, agreed: SamplerConfig | Preparation) -> list[str]:
    """The options that have other values than those agreed on."""
    wanted = agreed.resolved()
    return [
        f"{field.name} {_value(getattr(found, field.name))}, "
        f"not {_value(getattr(wanted, field.name))}"
        for field in fields(wanted)
        if getattr(found, field.name) != getattr(wanted, field.name)
    ]


def _value(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _images(policy: Policy, report: Report) -> Iterator[tuple[str, str]]:
    data, agreed = report.data, policy.data
    differs = agreed.fingerprint is not None and agreed.fingerprint != data.fingerprint
    yield "data.fingerprint", f"{data.fingerprint}, not {agreed.fingerprint}" if differs else ""
    few = f"{data.num_images:,} training images are fewer than {agreed.least_images:,}"
    yield "data.least_images", few if data.num_images < agreed.least_images else ""
    is_part = data.indices is not None and not agreed.part and agreed.fingerprint is None
    yield "data.part", "only a part of the source was searched" if is_part else ""
    is_choice = data.split == ALL_SPLITS or (data.split is not None and bool(data.other_splits))
    if agreed.split is not None:
        differs = data.split != agreed.split
    else:
        differs = is_choice and agreed.fingerprint is None
    wanted_split = agreed.split or "a set without splits"
    yield "data.split", f"{shown(data.split)}, not {wanted_split}" if differs else ""
    differs = data.labels_from != agreed.labels_from
    other = f"{data.labels_from or 'the source'}, not {agreed.labels_from or 'the source'}"
    yield "data.labels_from", f"labels from {other}" if differs else ""
    differs = data.groups_from != agreed.groups_from
    other = f"{data.groups_from or 'nowhere'}, not {agreed.groups_from or 'nowhere'}"
    yield "data.groups_from", f"groups from {other}" if differs else ""
    yield "preparation", _listed(_differing(data.preparation.resolved(), policy.preparation))
    holdout, wanted = report.diagnostics.holdout, policy.holdout
    missing = wanted.required and not report.controls.num_holdout
    yield "holdout.required", "there are no held-out images" if missing else ""
    found = None if holdout is None else holdout.fingerprint
    differs = wanted.fingerprint is not None and wanted.fingerprint != found
    other = (
        "there are no held-out images" if found is None else f"{found}, not {wanted.fingerprint}"
    )
    yield "holdout.fingerprint", other if differs else ""
    number = report.controls.num_holdout
    few = f"{number:,} held-out images are fewer than {wanted.least_images:,}"
    asked = wanted.required or wanted.least_images > 1
    yield "holdout.least_images", few if asked and number < wanted.least_images else ""


def _class(value: int | str | None) -> str:
    """A class that was generated, or how often each was."""
    return "drawn from each seed" if value is None else str(value)


def _run(first: int, total: int) -> str:
    """Seeds from `first` on, as a report writes them."""
    return f"{first}-{first + total - 1}" if total > 1 else str(first)


def _is_agreed(choice: str, policy: Policy) -> bool:
    """Whether a choice is covered by a clause, which judges it by itself, or is accepted."""
    covered = (
        "threshold ",
        "duplicate radius ",
        "confidence ",
        "also fails on ",
        "without ",
        "features of ",
        "copies by ",
        "mirror images ",
        "seeds ",
        "one class only",
        "screened in ",
        "class frequencies ",
        "images prepared: ",
        "training images of the split ",
        "labels from: ",
        "groups from: ",
        "also fails above ",
        *(f"{name.replace('_', '-')} " for name in (field.name for field in fields(SamplerConfig))),
        "steps ",
    )
    is_part = re.match(r"only [\d,]+ of the images in .* were searched", choice, re.DOTALL)
    is_whole = choice == "training images of all splits together"
    return bool(is_part) or is_whole or choice.startswith(covered) or choice in policy.choices


def _in_range(version: str, text: str) -> bool:
    """Whether a version meets every condition, such as `>=0.9, <0.10`."""
    found = re.match(r"\d{1,6}(?:\.\d{1,6}){0,3}", version, re.ASCII)
    if not found:
        return False
    compare = {
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    return all(
        compare[sign](_numbers(found.group()), _numbers(wanted))
        for sign, wanted in VERSION_RANGE.findall(text)
    )


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in version.split(".")]
    return tuple(numbers + [0] * (4 - len(numbers)))


# ------------------------------------------------------------------------------------------------
# Values


def as_share(value: float | str) -> float:
    """A share as `0.001`, `"0.1%"` or `"1/1000"`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str):
        number, sign, rest = value.partition("%")
        if rest.strip():
            raise ValueError(f"{shown(value)} is not a share")
        return float(parse_fraction(number.strip())) / (100 if sign else 1)
    return float(value)


def _impossible(policy: Policy) -> Iterator[str]:
    """What cannot be in a policy, although its type is right."""
    gate = policy.gate
    for name, convert in (
        ("gate.limit", lambda: gate.share),
        ("rule.threshold", lambda: policy.rule.fraction),
        (
            "gate.limit_groups",
            lambda: as_share(gate.limit if gate.limit_groups is None else gate.limit_groups),
        ),
    ):
        try:
            value = convert()
        except (ValueError, ArithmeticError) as error:
            yield f"{name}: {_said(error)}."
            return
        if not 0 < value < 1:
            yield f"{name} is {shown(float(value))}; a share between 0 and 1 is needed."
    if not 0.5 <= gate.confidence < 1:
        yield f"gate.confidence is {gate.confidence:g}; at least 0.5 and less than 1 is needed."
    if not gate.verdicts:
        yield "gate.verdicts is empty; name at least one, such as PASS."
    for name, given, known in (
        ("rule.match", policy.rule.match, (PIXELS, *(rule.name for rule in RULES))),
        ("gate.fail_on", gate.fail_on, FINDINGS),
        ("without", policy.without, tuple(DIAGNOSTICS)),
    ):
        for each in given:
            if each.replace("-", "_") not in known:
                meant = _nearest(each.replace("-", "_"), known)
                yield f"{name} names {shown(each)}, which is unknown{meant}"
    for name, digest in (
        ("source.sha256", policy.source.sha256),
        ("data.fingerprint", policy.data.fingerprint),
        ("holdout.fingerprint", policy.holdout.fingerprint),
    ):
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            yield f"{name} is {shown(digest)}; 64 digits 0-9 and a-f are needed."
    for name, number in (
        ("gate.least_samples", gate.least_samples),
        ("data.least_images", policy.data.least_images),
        ("holdout.least_images", policy.holdout.least_images),
        ("sampling.first_seed", policy.sampling.first_seed),
    ):
        if number < 0:
            yield f"{name} is {shown(number)}; it must not be below 0."
    rest = VERSION_RANGE.sub("", policy.memaudit).replace(",", "").strip()
    if rest:
        yield f"memaudit is {shown(policy.memaudit)}; write versions as >=0.9, <0.10."
    if policy.sampling.seeds == "nonce" and policy.sampling.nonce is None:
        yield "sampling.seeds is nonce, but there is no sampling.nonce."
    try:
        Rule(policy.rule.fraction, policy.rule.duplicate_rms, gate.confidence)
        policy.sampler.resolved()
    except MemauditError as error:
        yield str(error)


def _check_keys(content: Mapping[str, Any], kind: type, place: str, name: str) -> None:
    """Refuse unknown keys, and values in the place of tables.

    Raises:
        ConfigError: there is one; names the nearest key.
    """
    hints = get_type_hints(kind)
    for key, value in content.items():
        where = f"{place}{key}"
        if key not in hints:
            meant = _nearest(key, tuple(hints), place)
            raise ConfigError(f"{name} holds {shown(where)}, which is not a key{meant}")
        if is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"{name}: {where} is a table; write [{where}] and its keys.")
            _check_keys(value, hints[key], f"{where}.", name)


def _nearest(key: str, known: tuple[str, ...], place: str = "") -> str:
    """`; did you mean …?` or which ones there are."""
    near = difflib.get_close_matches(key[:100], known, n=1)
    if near:
        return f"; did you mean {place}{near[0]}?"
    return f"; there are {', '.join(place + each for each in known)}."


def _said(error: BaseException) -> str:
    return short(printable(str(error)), 300).rstrip(".") or type(error).__name__


def _listed(texts: tuple[str, ...] | list[str]) -> str:
    return short("; ".join(printable(short(each, 100)) for each in texts), 400)
