"""What a scan found, as data: what reports are made of."""

from dataclasses import dataclass

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmed_images import Confirmation
from memaudit.audit.denoising.loss_test import DenoisingTest
from memaudit.audit.diagnostics.diagnostic import PageContext
from memaudit.audit.diagnostics.registry import Diagnostics
from memaudit.audit.environment import Environment, Timings
from memaudit.audit.kept_images import kept_text
from memaudit.audit.memorization.controls import Controls
from memaudit.audit.memorization.findings import Findings, Ratios
from memaudit.audit.memorization.matches import Leak, Matches
from memaudit.audit.memorization.screened import ScreenedRows, Screening
from memaudit.audit.neighbors.results import SearchFacts
from memaudit.audit.neighbors.units import Space
from memaudit.audit.sampler_control import SamplerControl
from memaudit.audit.source import Source
from memaudit.audit.statistics.conformal import ConformalP
from memaudit.audit.statistics.gate import Decision
from memaudit.audit.verdict import Conclusion
from memaudit.audit.verdict_reasons import Verdict
from memaudit.data.images import ImageSet

FEW_IMAGES = 100
"""Below this many images given as training images, they may be a person's own few."""

Keys = tuple[int, ...] | tuple[str, ...]
"""One per generated image: its seed, or its name where images were given."""


@dataclass(frozen=True, repr=False)
class Scanned:
    """What a scan found, with everything that is needed to redo it."""

    source: Source
    """What was audited."""
    denoising: DenoisingTest | None
    """Whether the model denoises the training images, or None where images were given."""
    generated: np.ndarray
    """uint8 [M, C, H, W]: the images that were judged."""
    keys: Keys
    """One per generated image: its seed, or its name where images were given."""
    class_index: np.ndarray | None
    """int64 [M]: the class that each image was generated for, or None without classes."""
    data: ImageSet
    """The training images."""
    config: ScanConfig
    space: Space
    """What distances are distances of."""
    search: SearchFacts
    """How the nearest training images were found."""
    matches: Matches
    conformal: ConformalP | None
    """The p-value of each distance ratio among those of the held-out images, if there are any."""
    controls: Controls
    """How often images are counted as copies that cannot be copies."""
    findings: Findings
    """Ratios, decision and leaks: everything that follows from the matches and the controls."""
    duplicates: dict[int, tuple[int, ...]]
    """Positions of the duplicates of each leaking training image, by its position; empty where
    features were searched."""
    diagnostics: Diagnostics
    """What stands beside the ratio."""
    conclusion: Conclusion
    """The verdict in words that can be quoted, and what it is about."""
    timings: Timings
    environment: Environment
    sampler_control: SamplerControl | None = None
    """What the published sampler shows, where a gate judged images of another one."""
    screening: Screening | None = None
    """Which seeds were sampled in full and what they estimate, where the others were not."""
    screened: ScreenedRows | None = None
    """What screening said of the images."""
    num_kept: int = 0
    """How many of the generated images were kept from an earlier run."""
    num_regenerated: int = 0
    """How many kept images were generated again, and came out the same."""
    confirmation: Confirmation | None = None
    """How images of a faster number format were confirmed; None: all were sampled in fp32."""

    @property
    def sample(self) -> Matches:
        """Matches of a random sample of what the source makes: all, but for screened scans."""
        if self.screened is None:
            return self.matches
        drawn = np.flatnonzero(self.screened.is_drawn)
        return self.matches[drawn]

    @property
    def ratios(self) -> Ratios:
        """Shares of the generated images that are copies, by each rule."""
        return self.findings.ratios

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """Training images that leaked, most copied first."""
        return self.findings.leaks

    @property
    def decision(self) -> Decision | None:
        """The gate's decision by the count alone, or None if no gate was set."""
        return self.findings.decision

    @property
    def verdict(self) -> Verdict | None:
        """PASS, FAIL or INCONCLUSIVE, or None if no gate was set."""
        return self.conclusion.verdict

    @property
    def is_explained_by_floor(self) -> bool:
        """Whether as many images are counted as would be without any copying."""
        return self.conclusion.is_explained_by_floor

    @property
    def leaks_text(self) -> str:
        """How many training images leak, or are nearest to what coincidence may have made."""
        counted = f"{len(self.leaks):,} of {len(self.data):,} training images"
        if self.leaks and self.is_explained_by_floor:
            verb = "is" if len(self.leaks) == 1 else "are"
            return f"{counted} {verb} nearest to an image that was counted"
        return f"{counted} leak"

    @property
    def left_out(self) -> str:
        """Names of the diagnostics that were left out on request, or an empty text."""
        return ", ".join(name.replace("_", "-") for name in self.config.without)

    @property
    def kept_text(self) -> str:
        """What is said of images kept from an earlier run, or an empty text."""
        return kept_text(self.num_kept, self.num_regenerated)

    @property
    def confirmation_text(self) -> str:
        """What is said of images of a faster number format, or an empty text."""
        return "" if self.confirmation is None else self.confirmation.text

    @property
    def few_searched(self) -> str:
        """What must be said where only a few images were searched, or an empty text."""
        model, num_images = self.source.model, len(self.data)
        if num_images >= FEW_IMAGES or (model is not None and model.trained_on_data):
            return ""
        return (
            f"Only these {num_images:,} images were searched, and the second neighbor of a "
            "generated image is another of them. If the model was trained on more, this says which "
            "of these were copied, not what share of its images are copies."
        )

    @property
    def page_context(self) -> PageContext:
        """What the sections of diagnostics refer to."""
        generated, keys = self.generated, self.keys
        if self.screened is not None:
            drawn = np.flatnonzero(self.screened.is_drawn)
            generated, keys = generated[drawn], tuple(keys[row] for row in drawn.tolist())  # type: ignore[assignment]
        return PageContext(
            self.data,
            self.findings,
            self.config.rule,
            self.config.fail_above,
            generated,
            keys,
            self.is_explained_by_floor,
        )

    def __repr__(self) -> str:
        verdict = "" if self.verdict is None else f"{self.verdict}, "
        ratio = self.ratios.copies
        copies = f"{ratio.count:,} of {ratio.total:,} generated images copy a training image"
        if self.screening is not None:
            copies = f"{self.screening.share_text} of generated images copy a training image"
        return f"{type(self).__name__}({verdict}{copies}, {self.leaks_text})"
