"""The settings of a scan, read back from its report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.registry import DIAGNOSTICS
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.report.schema import Report
from memaudit.audit.scanned import Keys
from memaudit.audit.unchosen_seeds import are_consecutive
from memaudit.models.execution import Execution
from memaudit.models.sampler_config import SIGMA_MAX, SIGMA_MIN, SamplerConfig
from memaudit.wording import parse_ranges


def config_of(report: Report, keys: Keys) -> ScanConfig:
    """The configuration that a report states, as far as a report holds it.

    Args:
        report: may be hostile.
        keys: the seeds of the images that were judged; names of given images do not matter.

    Raises:
        ConfigError: no scan could have had these settings.
    """
    sampling = report.sampling
    config = ScanConfig(
        rule=Rule(report.threshold_fraction, report.duplicate_rms, report.confidence),
        index=_index(report),
        fail_above=report.fail_above,
        fail_above_groups=report.fail_above_groups,
        fail_on=report.fail_on,
        without=report.without,
        also=tuple(
            name for name, each in DIAGNOSTICS.items() if each.by_request and _has(report, name)
        ),
    )
    if sampling is None:
        return config
    return replace(
        config,
        seeds=_as_range(_seeds(report, keys)),
        screening=_screening(report),
        nonce=sampling.nonce,
        sampler=as_given(sampling.sampler, report.conclusion.choices),
        class_index=sampling.class_index,
        class_frequencies=sampling.class_frequencies,
        min_samples=sampling.min_samples,
        execution=Execution(
            sampling.batch_size,
            sampling.device,
            sampling.precision,
            "on" if sampling.compiled else "off",
        ),
    )


def _index(report: Report) -> IndexConfig:
    search, encoder = report.search, report.search.encoder
    index = IndexConfig(flips=search.flips)
    if encoder is not None:
        path = encoder.path
        if encoder.is_program or path is None:
            index = replace(index, features=path or encoder.name)
        else:
            index = replace(index, features=encoder.name, encoder_weights=Path(path))
    return replace(index, match=search.match)


def _seeds(report: Report, keys: Keys) -> tuple[int, ...]:
    """All seeds that were screened, or those of the images that were judged."""
    if report.screening is not None:
        return tuple(parse_ranges(report.screening.seeds))
    return tuple(key for key in keys if isinstance(key, int))


def _screening(report: Report) -> ScreeningConfig | None:
    found = report.screening
    return None if found is None else ScreeningConfig(found.steps, found.below, found.share)


def as_given(sampler: SamplerConfig, choices: tuple[str, ...]) -> SamplerConfig:
    """The sampler as it was asked for: without the noise levels that a report fills in.

    Args:
        sampler: of a report.
        choices: what the report says was not left at its default.
    """
    given: dict[str, Any] = {}
    for name, usual in (("sigma_min", SIGMA_MIN), ("sigma_max", SIGMA_MAX)):
        is_usual = (
            sampler.sampler == "edm" and not sampler.is_ablation and getattr(sampler, name) == usual
        )
        if is_usual and f"{name.replace('_', '-')} {usual}" not in choices:
            given[name] = None
    return replace(sampler, **given)


def _as_range(seeds: tuple[int, ...]) -> Sequence[int]:
    return range(seeds[0], seeds[-1] + 1) if seeds and are_consecutive(seeds) else seeds


def _has(report: Report, diagnostic: str) -> bool:
    return getattr(report.diagnostics, diagnostic) is not None
