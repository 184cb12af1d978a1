"""What a diagnostic is: a number, a test or a curve reported beside the memorization ratio.

A diagnostic never sets the verdict. It is one file of this package, which ends in a `Diagnostic`,
and one line in `registry.py`. These give it its place in a scan, in `report.json` and its schema,
in the terminal, on the page and in `memaudit verify`.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal, TypeVar

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.section import Block, Table
from memaudit.audit.memorization.controls import Controls
from memaudit.audit.memorization.findings import Findings
from memaudit.audit.memorization.matches import Matches
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.rules.features import FeaturesRule
from memaudit.audit.statistics.conformal import ConformalP
from memaudit.data.images import ImageSet
from memaudit.models.denoiser import Denoiser
from memaudit.progress import Progress, silent

Result = TypeVar("Result")

Need = Literal[
    "training", "images", "model", "pixels", "features", "holdout", "classes", "conformal", "groups"
]
"""What a diagnostic may need:

- `images`: the generated and the training images.
- `training`: the training images, but not the generated ones. A diagnostic that needs neither uses
  only matches.csv, and `memaudit verify` computes its result again from a report.
- `model`: a model, as opposed to images generated elsewhere.
- `pixels`: distances between pixels, as opposed to features.
- `features`: similarities of an encoder's features, by the cosine.
- `holdout`: images like the training images that the model never saw.
- `classes`: the class that each image was generated for.
- `groups`: training images whose groups count.
- `conformal`: each image's p-value among the held-out images, which is in matches.csv, too.
"""


@dataclass(frozen=True)
class Setting:
    """What a scan has before it samples."""

    config: ScanConfig
    data: ImageSet
    """The training images."""
    holdout: ImageSet | None
    """Images like them that the model never saw; where groups count, one of each."""
    model: Denoiser | None
    """The model, or None if the images were given."""
    open_index: Callable[[], NeighborIndex]
    """Opens the index of the training images' pixels without mirroring; opened only once."""
    progress: Progress = silent

    @cached_property
    def independent_data(self) -> ImageSet:
        """The training images; where groups count, one of each, as the held-out images are: what
        compares the two kinds takes images as independent of each other."""
        return self.data.one_per_group()

    @property
    def given_model(self) -> Denoiser:
        """The model, for a diagnostic that requires one."""
        if self.model is None:
            raise RuntimeError("the diagnostic must list `model` in what it requires")
        return self.model

    @property
    def given_holdout(self) -> ImageSet:
        """The held-out images, for a diagnostic that requires them."""
        if self.holdout is None:
            raise RuntimeError("the diagnostic must list `holdout` in what it requires")
        return self.holdout


@dataclass(frozen=True)
class Images:
    """The images of a scan, generated and given."""

    setting: Setting
    judged: np.ndarray | None
    """uint8 [M, C, H, W]: the images that were judged; None when a report on a model is verified,
    whose images were not kept."""
    index: ImageSearch
    """The index of the training images that the scan used."""

    controls: Controls
    """How often images are counted as copies that cannot be copies."""
    judged_holdout: Matches | None
    """All held-out images, judged by the scan's rule; None without any."""

    @property
    def features(self) -> FeatureIndex | None:
        """The index of the training images' features, if they are compared by the cosine: instead
        of pixels, or by a further rule."""
        beside = (rule.search for rule in self.index.rules if isinstance(rule, FeaturesRule))
        for search in (self.index, *beside):
            if isinstance(search, FeatureIndex) and search.metric == "cosine":
                return search
        return None

    @property
    def generated(self) -> np.ndarray:
        """The images that were judged, uint8 [M, C, H, W], for a diagnostic that requires them."""
        if self.judged is None:
            raise RuntimeError("the diagnostic must list `images` in what it requires")
        return self.judged

    @property
    def holdout_matches(self) -> Matches:
        """All held-out images, judged by the scan's rule, for a diagnostic that requires them."""
        if self.judged_holdout is None:
            raise RuntimeError("the diagnostic must list `holdout` in what it requires")
        return self.judged_holdout


@dataclass(frozen=True)
class Context:
    """The inputs of a diagnostic."""

    matches: Matches
    """The generated images with their nearest training images."""
    findings: Findings
    """Ratios, verdict and leaks."""
    class_index: np.ndarray | None
    """int64 [M]: the class that each image was generated for, or None without classes."""
    num_train: int
    """N, the number of training images."""
    fail_above: float | None
    """The gate's limit, or None without a gate."""
    images: Images | None = None
    """The images, or None when a report is verified, which has only the matches."""
    conformal: ConformalP | None = None
    """The p-value of each distance ratio among those of the held-out images, if there are any."""
    num_groups: int | None = None
    """Number of groups of the training images, or None where they do not count."""
    group_kind: str = "group"
    """What a group is: `patient`."""
    fail_above_groups: float | None = None
    """The gate's limit on the share of groups, or None without one."""

    @property
    def given_num_groups(self) -> int:
        """Number of groups, for a diagnostic that requires them."""
        if self.num_groups is None:
            raise RuntimeError("the diagnostic must list `groups` in what it requires")
        return self.num_groups

    @property
    def given_images(self) -> Images:
        """The images, for a diagnostic that requires them."""
        if self.images is None:
            raise RuntimeError("the diagnostic must list `images` in what it requires")
        return self.images

    @property
    def given_conformal(self) -> ConformalP:
        """The p-values, for a diagnostic that requires them."""
        if self.conformal is None:
            raise RuntimeError("the diagnostic must list `conformal` in what it requires")
        return self.conformal

    @property
    def setting(self) -> Setting:
        """What the scan held before it sampled, for a diagnostic that requires images."""
        return self.given_images.setting


@dataclass(frozen=True)
class PageContext:
    """What a diagnostic's section may use besides its own result."""

    data: ImageSet
    """The training images."""
    findings: Findings
    rule: Rule
    fail_above: float | None
    """The gate's limit, or None without a gate."""
    generated: np.ndarray
    """uint8 [M, C, H, W]: the images that were judged."""
    keys: Sequence[int | str]
    """Their seeds or names."""
    is_explained: bool
    """Whether the floor explains as many copies as there are: then nothing is said to leak."""


def _nothing_to_check(setting: Setting) -> None:
    """Accept every setting."""


def _no_lines(result: object) -> Iterable[str | Table]:
    return ()


def _no_evidence(result: object, alpha: float) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Diagnostic(Generic[Result]):
    """How a result is computed and shown."""

    title: str
    """Heading of the section that shows it. Diagnostics with the same title share a section."""
    requires: frozenset[Need]
    """What must be available for it to run."""
    run: Callable[[Context], Result | None]
    """Computes the result, or None if there is nothing to report."""
    section: Callable[[Result, PageContext], Iterable[Block]]
    """Blocks to show on the page."""
    lines: Callable[[Result], Iterable[str | Table]] = _no_lines
    """Sentences and tables to show in the terminal."""
    evidence: Callable[[Result, float], Iterable[str]] = _no_evidence
    """Findings that speak for memorization at level α although the rule may not count them, each a
    clause such as `C_T z = -14`. They stand beside the verdict and take the word from a PASS."""
    assumes_exchangeable: bool = False
    """Whether its evidence presupposes that training and held-out images are of one kind. Where the
    blind baseline tells them apart, such evidence does not count."""
    confirmed_by: str | None = None
    """Name of a diagnostic that excludes another explanation of its findings. Where that one ran
    and found nothing, its own findings do not count as evidence."""
    by_request: bool = False
    """Whether it runs only if the scan's `also` names it, because it is expensive."""
    check: Callable[[Setting], None] = _nothing_to_check
    """Raises ConfigError or DataError for a setting it cannot work with, before sampling."""

    @property
    def gives_evidence(self) -> bool:
        """Whether it may find something that speaks for memorization."""
        return self.evidence is not _no_evidence

    @property
    def about(self) -> str:
        """What it measures: the first line of its file."""
        return (inspect.getdoc(inspect.getmodule(self.run)) or "").partition("\n")[0]

    @property
    def follows_from_matches(self) -> bool:
        """Whether the result can be computed again from matches.csv."""
        return self.requires <= {"classes", "conformal", "groups"}

    def is_possible(self, context: Context) -> bool:
        """Whether everything that it requires is available."""
        images = context.images
        at_hand: set[Need] = set()
        if context.class_index is not None:
            at_hand.add("classes")
        if context.conformal is not None:
            at_hand.add("conformal")
        if context.num_groups is not None:
            at_hand.add("groups")
        if images is not None:
            at_hand.add("training")
            if images.judged is not None:
                at_hand.add("images")
            if images.setting.model is not None:
                at_hand.add("model")
            if images.setting.holdout is not None:
                at_hand.add("holdout")
            if images.index.exact:
                at_hand.add("pixels")
            if images.features is not None:
                at_hand.add("features")
        return self.requires <= at_hand
