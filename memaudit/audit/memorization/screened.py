"""Screening: a cheap sampler says which seeds are worth the full one, and what both say of these.

Screened images only choose seeds. Images of the full sampler are counted, those of the candidates
and of a share of all seeds that chance drew; statistics/difference_estimator.py estimates the share
of copies from both, and whatever assumes a random sample is computed from the drawn seeds alone.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from memaudit.audit.memorization.matches import Matches
from memaudit.audit.memorization.rule import Rule, memorized
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.audit.statistics.difference_estimator import ScreenedShare, screened_share
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.wording import percent, ranges


def screening_key(nonce: str | None, checkpoint: str | None, data: str) -> str:
    """What draws seeds at random: 32 digits that whoever made the model could not know.

    From SHA-256 of the nonce with what it is about, so that anybody can draw the same seeds again;
    without a nonce, from the system's random numbers.

    Args:
        nonce: chosen by the auditor after the checkpoint was handed in, or None.
        checkpoint: SHA-256 of the checkpoint in hex, or None where it has none.
        data: fingerprint of the training images, in hex.
    """
    if nonce is None:
        return secrets.token_hex(16)
    text = json.dumps(["screening", nonce, checkpoint, data])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def drawn_positions(key: str, seeds: Sequence[int], number: int) -> np.ndarray:
    """Positions of the seeds that a key draws, ascending: those with the smallest SHA-256.

    Args:
        key: of `screening_key`.
        seeds: all seeds, each once.
        number: how many to draw, at most as many as there are.

    Returns:
        int64 [number].

    Examples:
        >>> drawn_positions("00", range(1000), 5).tolist()
        [72, 89, 676, 875, 964]
    """
    start = hashlib.sha256(f"{key}:".encode())
    digests = []
    for seed in seeds:
        digest = start.copy()
        digest.update(str(int(seed)).encode())
        digests.append(digest.digest()[:8])
    order = np.argsort(np.array(digests, dtype="S8").view(">u8"), kind="stable")
    return np.sort(order[:number])


@dataclass(frozen=True)
class ScreenedRows:
    """What screening said of the seeds that were sampled in full, in their order."""

    is_drawn: np.ndarray
    """bool [M]: drawn at random."""
    nn1: np.ndarray
    """int64 [M]: the training image nearest to the screened image."""
    squared_distance1: np.ndarray
    """[M]: S between the screened image and nn1."""
    squared_distance2: np.ndarray
    """[M]: S to the second nearest by the distinct rule, or to the second if there is none."""
    num_values: int | None
    """D, the values of an image; None where features are compared."""

    def __len__(self) -> int:
        return len(self.nn1)

    def __getitem__(self, rows: np.ndarray) -> "ScreenedRows":
        return ScreenedRows(
            self.is_drawn[rows],
            self.nn1[rows],
            self.squared_distance1[rows],
            self.squared_distance2[rows],
            self.num_values,
        )

    @staticmethod
    def concatenate(parts: "Sequence[ScreenedRows]") -> "ScreenedRows":
        """The rows of several parts, at least one."""
        return ScreenedRows(
            np.concatenate([part.is_drawn for part in parts]),
            np.concatenate([part.nn1 for part in parts]),
            np.concatenate([part.squared_distance1 for part in parts]),
            np.concatenate([part.squared_distance2 for part in parts]),
            parts[0].num_values,
        )

    def is_copy(self, rule: Rule, threshold: Fraction | None = None) -> np.ndarray:
        """Whether each screened image would be a copy, at the rule's threshold or another."""
        hits = memorized(
            self.squared_distance1, self.squared_distance2, threshold or rule.threshold
        )
        if self.num_values is not None:
            hits |= self.squared_distance1 <= largest_squared_distance(
                rule.duplicate_rms, (self.num_values,)
            )
        return hits

    @property
    def distance_ratio(self) -> np.ndarray:
        """float64 [M]: d1/d2 of the screened images; 1 where both are 0."""
        S1, S2 = self.squared_distance1, self.squared_distance2
        ratio: np.ndarray = np.sqrt(np.divide(S1, S2, out=np.ones(len(S1)), where=S2 > 0))
        return ratio


def screened_rows(matches: Matches, is_drawn: np.ndarray) -> ScreenedRows:
    """What to keep of the matches of screened images."""
    S2, distinct = matches.squared_distance2, matches.squared_distance2_distinct
    return ScreenedRows(
        is_drawn,
        matches.nn1,
        matches.squared_distance1,
        np.where(distinct < 0, S2, distinct),
        matches.neighbors.num_values,
    )


@dataclass(frozen=True)
class Agreement:
    """How both samplers judge the seeds that were sampled in full."""

    both: int
    """Seeds whose image is a copy by both samplers."""
    only_full: int
    """A copy by the full sampler alone."""
    only_screened: int
    """A copy by the screening sampler alone, which is not counted."""
    neither: int
    same_nearest: int
    """Seeds whose image has the same nearest training image by both."""
    of_drawn: Proportion
    """Seeds drawn at random of which both say the same, with its Clopper–Pearson interval."""


@dataclass(frozen=True)
class Screening:
    """Which seeds were screened, which of them sampled in full, and the share of copies."""

    seeds: str
    """All seeds screened, as ranges."""
    num_seeds: int
    steps: int
    """Evaluations of the model per screened image, by DPM-Solver++(2M)."""
    below: Fraction
    """Candidates are the seeds whose screened image has a distance ratio below this, or lies within
    the duplicate radius."""
    share: float
    """Share of the seeds that chance drew."""
    key: str
    """What drew them: those with the smallest SHA-256 of `key:seed`."""
    num_candidates: int
    num_drawn: int
    num_sampled: int
    """Seeds sampled in full: candidates and drawn ones, some of which are both."""
    candidate_copies: int
    """Candidates whose image by the full sampler is a copy."""
    missed_copies: int
    """Drawn seeds that are not candidates, and whose image by the full sampler is a copy."""
    copies: ScreenedShare
    """The estimated share of copies among all that the model makes."""
    agreement: Agreement

    @property
    def found(self) -> int:
        """Copies by the full sampler that were found: there are at least as many."""
        return self.candidate_copies + self.missed_copies

    @property
    def share_text(self) -> str:
        """`an estimated 1.2 % (95 % interval 0.8 % to 2.5 %)`."""
        share = self.copies
        return (
            f"an estimated {percent(share.value)} % ({100 * share.confidence:g} % interval "
            f"{percent(share.low)} % to {percent(share.high)} %)"
        )

    @property
    def sentence(self) -> str:
        """What was sampled, for readers who see that not every seed was."""
        return (
            f"{self.num_seeds:,} seeds were screened with {self.steps} evaluations of the model "
            f"each, and {self.num_sampled:,} of them sampled in full: {self.num_candidates:,} "
            f"candidates, and {self.num_drawn:,} drawn at random, some of which may be both. Only "
            "images sampled in full are counted and shown."
        )

    @property
    def agreement_text(self) -> str:
        """What both samplers say of the same seeds, in one sentence."""
        found = self.agreement
        return (
            f"Of the seeds drawn at random, both samplers judge {found.of_drawn}, alike. Of all "
            f"{self.num_sampled:,} sampled in full, {found.both:,} are copies by both, "
            f"{found.only_full:,} by the full sampler alone, {found.only_screened:,} by the "
            f"screening one alone, and {found.same_nearest:,} have the same nearest training image."
        )


def summarize_screening(
    rows: ScreenedRows, matches: Matches, seeds: Sequence[int], config: ScreeningConfig, key: str
) -> Screening:
    """Estimate the share of copies from what both samplers say.

    Args:
        rows: of the seeds sampled in full, which are all candidates and all that were drawn.
        matches: of the images of the same seeds by the full sampler, in the same order.
        seeds: all seeds that were screened.
        config: how.
        key: what drew the seeds.
    """
    rule = matches.rule
    is_candidate = rows.is_copy(rule, config.screen_below)
    by_full, by_screening, is_drawn = matches.is_copy, rows.is_copy(rule), rows.is_drawn
    candidate_copies = int((by_full & is_candidate).sum())
    missed_copies = int((by_full & ~is_candidate).sum())  # only drawn ones were sampled at all
    alike = by_full == by_screening
    num_drawn = int(is_drawn.sum())
    return Screening(
        seeds=ranges(seeds),
        num_seeds=len(seeds),
        steps=config.screen_steps,
        below=config.screen_below,
        share=config.screen_share,
        key=key,
        num_candidates=int(is_candidate.sum()),
        num_drawn=num_drawn,
        num_sampled=len(matches),
        candidate_copies=candidate_copies,
        missed_copies=missed_copies,
        copies=screened_share(
            candidate_copies, len(seeds), missed_copies, num_drawn, confidence=rule.confidence
        ),
        agreement=Agreement(
            both=int((by_full & by_screening).sum()),
            only_full=int((by_full & ~by_screening).sum()),
            only_screened=int((by_screening & ~by_full).sum()),
            neither=int((~by_full & ~by_screening).sum()),
            same_nearest=int((matches.nn1 == rows.nn1).sum()),
            of_drawn=clopper_pearson(int(alike[is_drawn].sum()), num_drawn, rule.confidence),
        ),
    )
