"""What a scan does: how images are generated, judged and compared. Imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import index
from typing import Annotated, Literal

from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.unchosen_seeds import (
    LONGEST_NONCE,
    MOST_FROM_NONCE,
    SEED_LIMIT,
    are_consecutive,
)
from memaudit.errors import ConfigError
from memaudit.models.execution import Execution
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import Option, check_options
from memaudit.wording import listed, ranges

FINDINGS = ("label_test", "worst_class")
"""Findings that may fail a gate besides the count of copies."""
ClassFrequencies = Literal["uniform", "data"]


@dataclass(frozen=True, repr=False)
class ScanConfig:
    """How a scan generates and judges images. The defaults are the published ones.

    Raises:
        ConfigError: a value outside its range, or two that contradict each other.
    """

    seeds: Sequence[int] = range(10_000)
    """One seed per generated image. Ignored when the images are given; with a nonce, only their
    number counts."""
    sampler: SamplerConfig = SamplerConfig()
    """EDM's Algorithm 2 with 18 steps."""
    nonce: Annotated[
        str | None,
        Option(
            "Draw the first seed from SHA-256 of checkpoint, training images and this text, which "
            "the auditor chooses after the checkpoint was handed in; the others follow it.",
            metavar="TEXT",
            default_text="the seeds begin at 0",
        ),
    ] = None
    class_index: Annotated[
        int | None,
        Option(
            "Generate one class only.",
            at_least=0,
            flag="--class",
            metavar="CLASS",
            default_text="drawn from each seed",
        ),
    ] = None
    class_frequencies: Annotated[
        ClassFrequencies,
        Option(
            "How often each class of a model is generated: uniform (all classes alike, also those "
            "without training images), or data (as often as in the training images).",
        ),
    ] = "uniform"
    rule: Rule = Rule()
    """When a generated image counts as a copy."""
    index: IndexConfig = IndexConfig()
    """How the nearest training images are searched."""
    fail_above: Annotated[
        float | None,
        Option(
            "Set a gate: PASS if at most this share of images are copies (0.001 or 0.1%), else "
            "FAIL. Sampling stops when the verdict is certain.",
            above=0,
            below=1,
            metavar="SHARE",
            is_share=True,
            at_zero="No number of samples proves 0; 0.001 shows at most 0.1 %, with about 3,800 "
            "images if none of them is a copy.",
            beyond="A limit of all images passes every model: 0.99 is a limit, and without "
            "{fail_above} the share is measured and nothing is decided.",
        ),
    ] = None
    fail_above_groups: Annotated[
        float | None,
        Option(
            "Also FAIL if images of more than this share of the groups (--group) are copied; then "
            "PASS needs fewer. All samples are judged, since more of them copy more groups.",
            above=0,
            below=1,
            metavar="SHARE",
            is_share=True,
        ),
    ] = None
    fail_on: Annotated[
        tuple[str, ...],
        Option(
            "Also FAIL on this finding: label-test (generated images are nearer to the training "
            "images than to held-out ones by more than chance; needs --holdout), or worst-class "
            "(one class is above the limit by itself; then PASS needs every class below it).",
            metavar="FINDING",
        ),
    ] = ()
    min_samples: Annotated[
        int,
        Option(
            "Images that the gate looks at first, so that an early verdict has pairs to show.",
            at_least=1,
            metavar="N",
        ),
    ] = 64
    also: Annotated[
        tuple[str, ...],
        Option(
            "Also run this diagnostic: noise-and-return (which training images does sampling "
            "return to?) or membership (does the loss tell training from held-out images?).",
            metavar="NAME",
        ),
    ] = ()
    without: Annotated[
        tuple[str, ...],
        Option(
            "Leave this diagnostic out, such as optimality, the comparison with the optimum.",
            metavar="NAME",
        ),
    ] = ()
    optimum_images: Annotated[
        int,
        Option(
            "Training images on which model and closed-form optimum are compared; at most one per "
            "seed.",
            at_least=2,
            metavar="N",
        ),
    ] = 256
    optimum_trajectories: Annotated[
        int,
        Option(
            "Images to sample from both, from the same noise; at most one per seed.",
            at_least=2,
            metavar="N",
        ),
    ] = 64
    screening: ScreeningConfig | None = None
    """Screen all seeds with a cheap sampler, and sample in full only those that it finds and a few
    that chance draws. None: sample every seed in full."""
    execution: Execution = Execution()
    """Where the model is evaluated, and how many images at a time."""

    def __post_init__(self) -> None:
        for name in ("also", "without", "fail_on"):
            given = getattr(self, name)
            names = (given,) if isinstance(given, str) else tuple(given)
            object.__setattr__(self, name, tuple(str(each).replace("-", "_") for each in names))
        if not isinstance(self.seeds, range):
            object.__setattr__(self, "seeds", _as_seeds(self.seeds))
        check_options(self)
        both = set(self.also) & set(self.without)
        if both:
            raise ConfigError(
                f"{{also}} and {{without}} both name {listed(both)}; name it in one of them.",
                field=("also", "without"),
            )
        if self.class_index is not None and self.class_frequencies != "uniform":
            raise ConfigError(
                f"{{class_index}} {self.class_index} generates one class only, but "
                f"{{class_frequencies}} is {self.class_frequencies}; leave out one of them.",
                field=("class_index", "class_frequencies"),
            )
        if self.screening is not None:
            _check_screening(self.screening, self.sampler, self.rule)
            if self.index.match:
                raise ConfigError(
                    f"{{match}} counts by {', '.join(self.index.match)}, but {{screen}} chooses "
                    "seeds by whole images, and would not sample what other rules see. Leave one "
                    "of them out.",
                    field=("match", "screen"),
                )
        if not self.seeds:
            raise ConfigError("0 samples were asked for; at least 1 is needed.")
        if self.nonce is not None:
            _check_nonce(self.nonce, self.seeds)
        lowest, highest = _ends(self.seeds)
        if lowest < 0 or highest >= SEED_LIMIT:
            raise ConfigError(
                f"The {{seeds}} must be from 0 to {SEED_LIMIT - 1:,}; got {lowest:,} to "
                f"{highest:,}.",
                field="seeds",
            )
        if not isinstance(self.seeds, range) and len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(
                "The {seeds} repeat themselves, which would count an image twice; give each once.",
                field="seeds",
            )
        unknown = [name for name in self.fail_on if name not in FINDINGS]
        if unknown:
            raise ConfigError(
                f"{{fail_on}} names {listed(unknown)}; choose among "
                f"{', '.join(name.replace('_', '-') for name in FINDINGS)}.",
                field="fail_on",
            )
        if self.fail_above_groups is not None and self.fail_above is None:
            raise ConfigError(
                "{fail_above_groups} adds to a gate; give the limit on the share of copies with "
                "{fail_above}.",
                field=("fail_above_groups", "fail_above"),
            )
        if self.fail_above_groups is not None and (self.screening or "groups" in self.without):
            raise ConfigError(
                "{fail_above_groups} needs every seed sampled in full, and the groups counted; "
                "leave {screen} and {without} out.",
                field=("fail_above_groups", "screen", "without"),
            )
        if self.fail_on and self.fail_above is None:
            raise ConfigError(
                "{fail_on} adds to a gate; give the limit of the gate with {fail_above}.",
                field=("fail_on", "fail_above"),
            )
        both = set(self.fail_on) & set(self.without)
        if both:
            raise ConfigError(
                f"{{fail_on}} and {{without}} both name {listed(both)}; name it in one of them.",
                field=("fail_on", "without"),
            )
        if self.fail_above is not None and self.rule.confidence < 0.5:
            raise ConfigError(
                f"{{confidence}} is {self.rule.confidence}; a gate needs at least 0.5.",
                field="confidence",
            )

    @property
    def is_sequential(self) -> bool:
        """Whether a gate on a model stops as soon as it is certain. More images copy more groups,
        so that a limit on their share needs a number of images that is fixed."""
        return self.fail_above_groups is None

    @property
    def is_by_class(self) -> bool:
        """Whether images are generated by class, so that the optimum needs one for each."""
        return (
            self.class_index is not None
            or self.class_frequencies == "data"
            or self.sampler.guidance != 1
        )

    def __repr__(self) -> str:
        default = {field.name: field.default for field in fields(self)}
        changed = {
            name: getattr(self, name)
            for name in default
            if name != "seeds" and getattr(self, name) != default[name]
        }
        given = [f"seeds={ranges(self.seeds)!r}", *(f"{k}={v!r}" for k, v in changed.items())]
        return f"ScanConfig({', '.join(given)})"


def _check_screening(screening: ScreeningConfig, sampler: SamplerConfig, rule: Rule) -> None:
    """Refuse samplers of which another solver does not find the images."""
    why, field = "", "sampler"
    if sampler.sampler == "own":
        why = "{sampler} is own, and screening takes the steps of EDM's sampler"
    elif sampler.is_ablation or sampler.solver is not None:
        why, field = "{solver} or another choice of EDM's ablations is given", "solver"
    elif sampler.S_churn:
        why, field = (
            "{S_churn} adds noise on the way, which leads a seed to another image",
            "S_churn",
        )
    if why:
        raise ConfigError(
            f"Screening is for EDM's deterministic Heun sampler, but {why}. Leave it out, or "
            "{screen}.",
            field=(field, "screen"),
        )
    if screening.screen_below < rule.threshold:
        raise ConfigError(
            f"{{screen_below}} is {screening.screen_below}, below the {{threshold}}, "
            f"{rule.threshold}: copies would not be candidates. Raise it.",
            field=("screen_below", "threshold"),
        )


def _check_nonce(nonce: str, seeds: Sequence[int]) -> None:
    if not 1 <= len(nonce) <= LONGEST_NONCE or not nonce.isprintable():
        raise ConfigError(
            f"{{nonce}} has {len(nonce):,} characters; 1 to {LONGEST_NONCE} printable ones are "
            "needed.",
            field="nonce",
        )
    if not are_consecutive(seeds):
        raise ConfigError(
            "{nonce} draws seeds that follow one another, but {seeds} gives others. Leave one out.",
            field=("nonce", "seeds"),
        )
    if len(seeds) > MOST_FROM_NONCE:
        raise ConfigError(
            f"{len(seeds):,} {{samples}} were asked for; {{nonce}} draws at most "
            f"{MOST_FROM_NONCE:,}.",
            field=("nonce", "samples"),
        )


def _as_seeds(seeds: object) -> tuple[int, ...]:
    """Seeds given in any order that can be kept, as Python's integers."""
    if isinstance(seeds, str | bytes | set | frozenset) or not isinstance(seeds, Iterable):
        raise ConfigError(
            f"{{seeds}} is a {type(seeds).__name__}; a range or a list of integers is needed.",
            field="seeds",
        )
    try:
        return tuple(map(index, seeds))
    except TypeError as error:
        raise ConfigError(f"The {{seeds}} must be integers: {error}.", field="seeds") from error


def _ends(seeds: Sequence[int]) -> tuple[int, int]:
    """The smallest and the largest of at least one seed."""
    if isinstance(seeds, range):
        return min(seeds[0], seeds[-1]), max(seeds[0], seeds[-1])
    return min(seeds), max(seeds)
