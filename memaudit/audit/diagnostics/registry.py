"""The table of diagnostics.

To add one, write a file in this folder that ends in a `Diagnostic`, and add one line to
`Diagnostics`: the name of its result in report.json, the type of the result, and the diagnostic.
"""

# A field may have the name of its file: annotations must not look names up in the class.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

from memaudit.audit.diagnostics import (
    authpct,
    blind_baseline,
    c_t,
    classes,
    discoveries,
    exposure,
    feature_similarity,
    groups,
    holdout,
    label_test,
    leak_coverage,
    membership_inference,
    noise_and_return,
    optimality,
    recall,
    repeats,
    worst_class,
)
from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, Setting
from memaudit.audit.statistics.intervals import Proportion
from memaudit.audit.statistics.per_class import ClassRatio
from memaudit.audit.statistics.species_richness import SpeciesRichness
from memaudit.audit.statistics.worst_class import WorstClass
from memaudit.errors import ConfigError
from memaudit.wording import listed

CONFIRMING = 0.01
"""p of a finding that always confirms another one, which has shown itself at its own level: the
label test has no p below 1/1000, however high a confidence is asked for."""


@dataclass(frozen=True)
class Diagnostics:
    """The results of all diagnostics. A result is None if its diagnostic did not run."""

    recall: Annotated[recall.Recall | None, recall.DIAGNOSTIC] = None
    holdout: Annotated[holdout.HoldoutFloor | None, holdout.DIAGNOSTIC] = None
    label_test: Annotated[label_test.LabelTest | None, label_test.DIAGNOSTIC] = None
    blind_baseline: Annotated[blind_baseline.BlindBaseline | None, blind_baseline.DIAGNOSTIC] = None
    feature_similarity: Annotated[
        feature_similarity.FeatureSimilarity | None, feature_similarity.DIAGNOSTIC
    ] = None
    discoveries: Annotated[discoveries.Discoveries | None, discoveries.DIAGNOSTIC] = None
    copying: Annotated[c_t.CopyingStatistic | None, c_t.DIAGNOSTIC] = None
    authentic: Annotated[Proportion | None, authpct.DIAGNOSTIC] = None
    richness: Annotated[SpeciesRichness | None, leak_coverage.DIAGNOSTIC] = None
    repeats: Annotated[repeats.ScanRepeats | None, repeats.DIAGNOSTIC] = None
    groups: Annotated[groups.CopiedGroups | None, groups.DIAGNOSTIC] = None
    exposure: Annotated[exposure.ExposureCheck | None, exposure.DIAGNOSTIC] = None
    classes: Annotated[tuple[ClassRatio, ...] | None, classes.DIAGNOSTIC] = None
    worst_class: Annotated[WorstClass | None, worst_class.DIAGNOSTIC] = None
    noise_and_return: Annotated[noise_and_return.ReturnTest | None, noise_and_return.DIAGNOSTIC] = (
        None
    )
    membership: Annotated[
        membership_inference.Membership | None, membership_inference.DIAGNOSTIC
    ] = None
    optimality: Annotated[optimality.Optimality | None, optimality.DIAGNOSTIC] = None

    def results(self) -> Iterator[tuple[str, Diagnostic[Any], Any]]:
        """Yield name, diagnostic and result of each that ran, in the order of the table."""
        for name, diagnostic in DIAGNOSTICS.items():
            result = getattr(self, name)
            if result is not None:
                yield name, diagnostic, result

    def evidence(self, alpha: float) -> tuple[str, ...]:
        """Findings that speak for memorization at level α, corrected for the number of diagnostics
        that could have found some (Bonferroni), in the order of the table.

        Differences between training and held-out images do not count where a classifier that never
        saw the model tells the two apart, nor does what another diagnostic was to confirm and did
        not.
        """
        sets_differ = self.blind_baseline is not None and self.blind_baseline.differs
        looked = [
            (name, diagnostic, result)
            for name, diagnostic, result in self.results()
            if diagnostic.gives_evidence and not (sets_differ and diagnostic.assumes_exchangeable)
        ]
        results = {name: result for name, _, result in looked}

        def is_confirmed(by: str | None) -> bool:
            if by is None or by not in results:
                return True
            level = max(alpha / len(looked), CONFIRMING)
            return any(True for _ in DIAGNOSTICS[by].evidence(results[by], level))

        return tuple(
            clause
            for _, diagnostic, result in looked
            if is_confirmed(diagnostic.confirmed_by)
            for clause in diagnostic.evidence(result, alpha / len(looked))
        )


def _read_table() -> dict[str, Diagnostic[Any]]:
    hints = get_type_hints(Diagnostics, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(Diagnostics)}


DIAGNOSTICS: Mapping[str, Diagnostic[Any]] = _read_table()
"""Every diagnostic by the name of its field in `Diagnostics`."""

NEEDS = {"model": "a model", "holdout": "a holdout", "classes": "a model with classes"}
"""What a diagnostic may require that a scan need not be given, in words."""


def check_diagnostics(setting: Setting) -> None:
    """Refuse unknown names and settings that a diagnostic cannot work with, before sampling.

    Raises:
        ConfigError: a name is unknown, or a diagnostic asked for cannot run.
        DataError: the images do not suit a diagnostic.
    """
    config, model = setting.config, setting.model
    given = {
        "model": model is not None,
        "holdout": setting.holdout is not None,
        "classes": model is None or model.label_dim > 0,  # given images may have them
    }
    for field, names in (("also", config.also), ("without", config.without)):
        unknown = [name for name in names if name not in DIAGNOSTICS]
        if unknown:
            raise ConfigError(
                f"{{{field}}} names {listed(unknown)}, which is not a diagnostic; choose among "
                f"{', '.join(DIAGNOSTICS)}.",
                field=field,
            )
    for name, diagnostic in DIAGNOSTICS.items():
        if not _is_wanted(name, diagnostic, setting):
            continue
        diagnostic.check(setting)
        missing = [NEEDS[need] for need in NEEDS if need in diagnostic.requires and not given[need]]
        for field, asked in (("also", config.also), ("fail_on", config.fail_on)):
            if name in asked and missing:
                raise ConfigError(
                    f"{{{field}}} names {name}, which needs {' and '.join(missing)}; none is "
                    "given.",
                    field=field,
                )


def run_diagnostics(
    context: Context, *, on_done: Callable[[str], None] = lambda name: None
) -> Diagnostics:
    """Run every diagnostic that is wanted and possible.

    Args:
        context: the inputs.
        on_done: called with the name of each diagnostic after it ran.
    """
    results = {}
    for name, diagnostic in DIAGNOSTICS.items():
        if diagnostic.is_possible(context) and _is_wanted(name, diagnostic, context.setting):
            results[name] = diagnostic.run(context)
            on_done(name)
    return Diagnostics(**results)


def recompute(context: Context) -> dict[str, Any]:
    """The results that follow from the matches alone, by name."""
    return {
        name: diagnostic.run(context)
        for name, diagnostic in DIAGNOSTICS.items()
        if diagnostic.follows_from_matches and diagnostic.is_possible(context)
    }


def _is_wanted(name: str, diagnostic: Diagnostic[Any], setting: Setting) -> bool:
    config = setting.config
    if name in config.without:
        return False
    return not diagnostic.by_request or name in config.also
