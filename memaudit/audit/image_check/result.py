"""What a check found, as data: what its page, its JSON and the terminal are made of."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from memaudit.audit.diagnostics.blind_baseline import BlindBaseline
from memaudit.audit.environment import Environment, Timings
from memaudit.audit.image_check.likeness import Likeness
from memaudit.audit.neighbors.units import Space
from memaudit.audit.statistics.intervals import Proportion
from memaudit.data.images import ImageSet
from memaudit.models.sampler_config import SamplerConfig

SCHEMA: Literal["memaudit.check/1"] = "memaudit.check/1"
Finding = Literal["given-back", "returned-to", "copied", "not-shown"]
"""What is said of an image:

- `given-back`: generated images copy it, and it stands out among the controls.
- `returned-to`: it stands out among the controls, but no generated image copies it.
- `copied`: generated images copy it by the rule, and coincidence is not excluded.
- `not-shown`: neither.
"""
_WORST_FIRST: tuple[Finding, ...] = ("given-back", "returned-to", "copied", "not-shown")


@dataclass(frozen=True)
class InTraining:
    """Whether the training set holds an image."""

    kind: Literal["equal", "near", "no"]
    """`equal` in every pixel; `near`, a copy of a training image by the rule of a scan, or closer
    to it than held-out images are, by more than chance; or `no`. Of an image that is near,
    everything else is asked about that training image, which is what the model saw."""
    nearest: str
    """Name of the training image that it equals or is a copy of, or else of the nearest one."""
    index: int
    """Its position in the training set."""
    rule: str | None
    """The further rule by which alone the image is a copy of it, such as `tiles`; null if whole
    images show it, or if it is not a copy."""
    where: str
    """Which part, or how it was changed, in that rule's words; empty without one."""
    distance: float
    """Distance of whole images, to the nearest training image, in the unit of `space`."""
    distance_ratio: float
    """Distance to the nearest training image over that to the nearest one that is not its
    duplicate; below the threshold, the image is a copy of it by the rule."""
    names: tuple[str, ...]
    """Training images that it equals or is near to."""
    p_value: float | None
    """Chance that a held-out image has such a distance ratio, by rank; null without any."""
    p_adjusted: float | None
    """The same with Holm's correction for the number of images."""


@dataclass(frozen=True)
class CloseImage:
    """A generated image near an image asked about."""

    key: int | str
    """Its seed, or its name where images were given."""
    distance: float
    """In the unit of `space`."""
    distance_ratio: float
    """Distance to the image over that to the nearest reference; infinite if it equals that one."""
    is_copy: bool
    rules: str
    """The rules by which alone it is a copy, and how it was changed in their words; empty if whole
    images show it, or if it is none."""

    @property
    def ratio_words(self) -> str:
        """The ratio as a reader is told it, or which rule finds a copy that it does not show."""
        if self.rules:
            return f"by {self.rules}"
        if np.isinf(self.distance_ratio):
            return "equal to another image"
        return f"ratio {self.distance_ratio:.2f}"


@dataclass(frozen=True)
class Copies:
    """What the generated images say of an image."""

    share: Proportion
    """Generated images that copy it."""
    keys: tuple[int | str, ...]
    """Seeds or names of the first 1,000 copies."""
    closest: tuple[CloseImage, ...]
    """By distance ratio, equal ones by distance."""
    p_value: float | None
    """Chance of a generated image with such a distance ratio, by rank among the controls."""


@dataclass(frozen=True)
class EarlierCopies:
    """What the report of a scan says of an image, or of the training image that it is near to."""

    count: int
    """Generated images of that scan that copy it."""
    total: int
    """Generated images that the scan judged."""
    keys: tuple[int | str, ...]
    """Seeds or names of the first 1,000 copies, closest first."""


@dataclass(frozen=True)
class ReturnsFrom:
    """Samplings that started at an image with noise."""

    sigma: float
    """The noise level that they started from."""
    returned: int
    """Those that ended in a copy of the image."""
    num_noises: int
    controls: Proportion | None
    """The same of all controls; null without any."""


@dataclass(frozen=True)
class Returns:
    """Noise and return: whether sampling that starts near an image leads back to it."""

    levels: tuple[ReturnsFrom, ...]
    """In ascending order of sigma."""
    score: float
    """Mean over levels and noises of the distance ratio of the result, at most 1: 0 if every
    sampling ended in the image, 1 if each ended as near to another one."""
    p_value: float | None
    """Chance of a score as low, by rank among the controls."""


@dataclass(frozen=True)
class MembershipRank:
    """Where the model's loss on an image stands among its losses on the controls."""

    loss: float
    """Mean over noise levels of ‖D(y + σn; σ) − y‖² / (σ²D)."""
    percentile: float
    """Share of the controls whose loss is higher, in percent."""
    p_value: float
    """Chance of a loss as low, by rank."""
    p_adjusted: float
    """The same with Holm's correction for the number of images."""


@dataclass(frozen=True)
class CheckedImage:
    """What was found about one image."""

    name: str
    finding: Finding
    answer: str
    """The finding in one sentence, with its error rates."""
    in_training: InTraining | None
    """Null without training images."""
    copies: Copies
    earlier: EarlierCopies | None
    """Null without the report of a scan, and for an image that is not in the training set."""
    returns: Returns | None
    """Null where the generated images were given."""
    p_value: float | None
    """Chance that copies and returns set it apart as much, if the model treats it as it treats the
    controls; corrected for there being two tests. Null without held-out images."""
    p_adjusted: float | None
    """The same with Holm's correction for the number of images."""
    membership: MembershipRank | None
    """Null without a model or without held-out images."""
    likeness: Likeness | None
    """Whether it is of the kind of the controls; null if there are fewer than 19."""


@dataclass(frozen=True)
class CheckedSource:
    """What was asked."""

    kind: Literal["checkpoint", "images"]
    path: str
    sha256: str | None
    """SHA-256 of the checkpoint's bytes or of the images' pixels."""
    num_images: int
    """Images generated, or given."""
    seeds: str | None
    """Seeds as ranges, or null where images were given."""
    sampler: SamplerConfig | None
    class_index: int | None


@dataclass(frozen=True)
class CheckedSet:
    """Training or held-out images."""

    path: str
    fingerprint: str
    """SHA-256 of their pixels."""
    num_images: int

    @classmethod
    def of(cls, images: ImageSet) -> "CheckedSet":
        """What is said of a set."""
        return cls(images.source, images.fingerprint, len(images))


@dataclass(frozen=True)
class ControlFacts:
    """The held-out images that the images are ranked among."""

    num_controls: int
    num_examined: int
    """Held-out images that were compared with the training set and the images."""
    near_training: Proportion | None
    """Examined images that are copies of a training image by the rule; null without any."""
    num_set_apart: int
    """Held-out images left out of the controls: like an image asked about, or copies of a training
    image."""
    set_apart: tuple[str, ...]
    """Names of the first of them."""
    copied: Proportion
    """Controls that at least one generated image copies by the rule."""
    blind: BlindBaseline | None
    """Whether training and held-out images differ by themselves; null without training images."""


@dataclass(frozen=True)
class CheckReport:
    """The content of check.json."""

    schema: Literal["memaudit.check/1"]
    headline: str
    """The answer in one sentence, with its error rate."""
    images: tuple[CheckedImage, ...]
    source: CheckedSource
    earlier_scan: str | None
    """Folder of a scan's report, or null without one."""
    data: CheckedSet | None
    holdout: CheckedSet | None
    controls: ControlFacts | None
    space: Space
    """What distances are distances of."""
    flips: bool
    """Whether mirror images count as copies."""
    match: tuple[str, ...]
    """Rules that count, `pixels` first; empty where only whole images do."""
    threshold: float
    """A generated image copies another where the ratio of its two distances is below this."""
    duplicate_rms: float
    """Or where it is within this many RMS gray levels of it."""
    confidence: float
    preparation: str
    """How images became pixels: those asked about, training, held-out and given generated ones."""
    warnings: tuple[str, ...]
    """What a reader must know before trusting the answers."""
    timings: Timings
    environment: Environment


@dataclass(frozen=True, repr=False)
class CheckResult:
    """What a check found, with the images that a page shows."""

    report: CheckReport
    asked: np.ndarray
    """uint8 [Q, C, H, W]: the images asked about."""
    nearest: np.ndarray | None
    """uint8 [Q, C, H, W]: the nearest training image of each; None without training images."""
    closest: tuple[np.ndarray, ...]
    """uint8 [k, C, H, W] for each image: the generated images of `Copies.closest`."""

    @property
    def images(self) -> tuple[CheckedImage, ...]:
        """What was found about each image."""
        return self.report.images

    @property
    def worst_first(self) -> tuple[int, ...]:
        """Positions of the images in the order in which a reader wants them: by what was found,
        then by rank, then by how near a generated image comes."""
        return tuple(sorted(range(len(self.images)), key=lambda q: _severity(self.images[q])))

    def summary(self) -> str:
        """The answers, the worst first, in a few lines of text."""
        lines = [self.report.headline]
        for q in self.worst_first:
            lines.append(f"{self.images[q].name}: {self.images[q].answer}")
        return "\n".join([*lines, *(f"Warning: {text}" for text in self.report.warnings)])

    def __repr__(self) -> str:
        return f"CheckResult({self.report.headline})"


def _severity(image: CheckedImage) -> tuple[int, float, int, float]:
    """What an image is sorted by: the worst has the smallest."""
    closest = image.copies.closest
    return (
        _WORST_FIRST.index(image.finding),
        1.0 if image.p_adjusted is None else image.p_adjusted,
        -image.copies.share.count,
        closest[0].distance_ratio if closest else float("inf"),
    )
