"""Images in a faster number format, of which those that may be judged otherwise are sampled again.

The first images of a scan are in fp32 and are the probe (confirmation.py). Of the others, those
within its margin are gathered until they fill a group and sampled again; an image is handed on only
when it is final, and in the order of seeds.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmation import (
    PROBE_SIZE,
    Margins,
    Probe,
    evaluate_probe,
    match_with_margins,
)
from memaudit.audit.memorization.matches import Matches, match_images
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.execution import Precision
from memaudit.models.generate import GeneratedBatch
from memaudit.models.precision import resolve_precision
from memaudit.wording import counted, percent, ranges, shown

MOST_WAITING = 4096
"""Images that wait at most until those to be sampled again fill a group."""
MOST_WAITING_FOR_GATE = 1024
"""The same under a gate, which may be decided by them."""


_RANGES = re.compile(r"\d{1,10}(-\d{1,10})?(,\d{1,10}(-\d{1,10})?)*", re.ASCII)


class Generate(Protocol):
    """Makes the images of some seeds in a number format, in the order of the seeds."""

    def __call__(
        self, seeds: Sequence[int], precision: Precision, task: str | None = None
    ) -> Iterator[GeneratedBatch]: ...


@dataclass(frozen=True)
class Confirmation:
    """How images of a faster number format were confirmed."""

    precision: Precision
    """The faster format."""
    probe: Probe | None
    """What the first images say of it; None if all images judged are among them."""
    fast_seeds: str | None
    """Seeds whose image was judged in the faster format, as ranges; null for none. All others were
    judged in fp32."""
    num_resampled: int
    """Images after the probe that were judged in fp32, since their verdict might have differed."""
    num_changed: int
    """How many of those sampled again in this run then had another verdict."""

    def __post_init__(self) -> None:
        if self.fast_seeds is not None and not _RANGES.fullmatch(self.fast_seeds):
            raise ValueError(
                f"fast_seeds is {shown(self.fast_seeds)}, which are no ranges of seeds"
            )

    def is_fast(self, seed: int | str) -> bool:
        """Whether the image of a seed was judged in the faster format."""
        if self.fast_seeds is None or isinstance(seed, str):
            return False
        parts = (part.partition("-") for part in self.fast_seeds.split(","))
        return any(int(first) <= seed <= int(last or first) for first, _, last in parts)

    @property
    def text(self) -> str:
        """What is said of it wherever the verdict is."""
        name = self.precision
        if self.probe is None:
            return f"All images were sampled in fp32: {name} begins after the first {PROBE_SIZE:,}."
        probe = self.probe
        text = (
            f"The first {probe.num_images:,} seeds were sampled in fp32 and {name}: "
            f"{probe.agree.count:,} verdicts agree (95 % interval {percent(probe.agree.low)} % to "
            f"{percent(probe.agree.high)} %)."
        )
        if not probe.pays:
            return (
                f"{text} {percent(probe.forecast)} % of the images would have had to be sampled "
                f"again, so all were sampled in fp32."
            )
        again = counted(self.num_resampled, "image was", "images were")
        changed = counted(self.num_changed, "verdict", "verdicts")
        return (
            f"{text} The others were sampled in {name}; where a distance of "
            f"{probe.rms_margin:.2g} gray levels could change the verdict, again in fp32, which "
            f"counts: {again}, and {changed} changed. With 95 % confidence, fewer than "
            f"{percent(probe.share_unseen)} % of the images lie beyond that margin and move by "
            "more than half of their own."
        )


def choose_precision(
    config: ScanConfig, checkpoint: Checkpoint, *, compares_features: bool, has_groups: bool = False
) -> ScanConfig:
    """The configuration with the number format that its images may be made in.

    Under a gate a faster one has to be asked for: a network could be made so that half precision
    hides its copies, on a share of the seeds that a probe overlooks and a PASS would exclude.

    Args:
        config: of a scan of a model.
        checkpoint: the model.
        compares_features: whether an encoder's features are compared instead of pixels.
        has_groups: whether second neighbors come from another group than the first ones.

    Raises:
        ConfigError: a format was asked for that the model or the device does not have, or one that
            cannot be confirmed.
    """
    precision = resolve_precision(checkpoint.network, config.execution)
    if (compares_features or has_groups) and precision != "fp32":
        if config.execution.precision != "auto":
            why = (
                "an encoder's features are compared: how far they move between number formats has "
                "no bound"
                if compares_features
                else "second neighbors come from another group: which one that is may change with "
                "the first, and the margin of a faster format is not proven for it"
            )
            raise ConfigError(
                f"{{precision}} is {precision}, but {why}. Choose fp32.", field="precision"
            )
        precision = "fp32"
    if config.index.match and precision != "fp32":
        if config.execution.precision != "auto":
            raise ConfigError(
                f"{{precision}} is {precision}, but {{match}} counts by "
                f"{', '.join(config.index.match)}: how far a verdict is from another one is known "
                "of pixels alone. Choose fp32.",
                field=("precision", "match"),
            )
        precision = "fp32"
    if config.screening is not None and precision != "fp32":
        if config.execution.precision != "auto":
            raise ConfigError(
                f"{{precision}} is {precision}, but {{screen}} samples few images in full, which "
                "leaves a faster format nothing to save. Leave one of them out.",
                field=("precision", "screen"),
            )
        precision = "fp32"
    if config.fail_above is not None and config.execution.precision == "auto":
        precision = "fp32"
    return replace(config, execution=replace(config.execution, precision=precision))


def precision_that_pays(config: ScanConfig) -> ScanConfig:
    """The configuration with fp32 where a faster format saves nothing: for no more than twice as
    many images as the probe has. More seeds may follow later, and begin in the faster one."""
    if len(config.seeds) > 2 * PROBE_SIZE:
        return config
    return replace(config, execution=replace(config.execution, precision="fp32"))


class ConfirmedImages:
    """The images of a scan whose model is evaluated in a faster format."""

    def __init__(
        self,
        generate: Generate,
        seeds: Sequence[int],
        precision: Precision,
        *,
        index: ImageSearch,
        rule: Rule,
        gated: bool,
        group_size: int,
    ) -> None:
        """Say what is sampled, and how it is judged.

        Args:
            generate: makes images.
            seeds: of all images of the scan.
            precision: the faster format.
            index: searches the training images by pixels.
            rule: what counts as a copy.
            gated: whether a gate is set. It also looks at the other thresholds and radii of the
                sensitivity table, whose counts may keep a PASS, so that these are confirmed, too.
            group_size: images that are evaluated at a time.
        """
        self._generate, self._seeds, self._precision = generate, seeds, precision
        self._index, self._rule, self._gated = index, rule, gated
        self._group_size = group_size
        self._probe: Probe | None = None
        self._margin = 0.0
        self._num_changed = 0

    def are_certain(self, kept: Sequence[tuple[int, GeneratedBatch]]) -> list[np.ndarray]:
        """Which kept images stand: not those of the faster format that would be sampled again here.

        The files may be anybody's, or of a machine on which the margin was another one.

        Args:
            kept: as for `batches`.

        Returns:
            bool [B] for each batch.
        """
        certain = [~batch.fast_rows for _, batch in kept]
        if all(each.all() for each in certain):
            return certain
        probe = [batch.images[: max(0, PROBE_SIZE - place)] for place, batch in kept]
        if sum(map(len, probe)) < PROBE_SIZE:
            return certain
        self._compare(np.concatenate(probe))
        assert self._probe is not None
        if self._probe.pays:
            for (_, batch), rows in zip(kept, certain, strict=True):
                if not rows.all():
                    rows |= self._stand(*self._margins(batch.images))
        return certain

    def batches(
        self, missing: Sequence[int], kept: Sequence[tuple[int, GeneratedBatch]]
    ) -> Iterator[tuple[Sequence[int], GeneratedBatch]]:
        """The images at some positions, ascending, with these positions.

        Args:
            missing: positions among the seeds, ascending.
            kept: images at the other positions, and the position of the first of each batch.
        """
        num_probed = min(PROBE_SIZE, len(self._seeds))
        exact: dict[int, np.ndarray] = {}
        for position, batch in kept:
            exact |= {position + i: image for i, image in enumerate(batch.images)}
        in_probe = [position for position in missing if position < num_probed]
        for positions, batch in self._plain(in_probe):
            exact |= dict(zip(positions, batch.images, strict=True))
            yield positions, batch
        rest = list(missing[len(in_probe) :])
        if not rest:
            return
        if self._probe is None:
            self._compare(np.stack([exact[position] for position in range(num_probed)]))
        assert self._probe is not None
        yield from self._confirmed(rest) if self._probe.pays else self._plain(rest)

    def describe(self, is_fast: np.ndarray) -> Confirmation:
        """How the images judged were confirmed.

        Args:
            is_fast: whether each is of the faster format, bool [M].
        """
        fast = [self._seeds[row] for row in np.flatnonzero(is_fast).tolist()]
        pays = self._probe is not None and self._probe.pays
        num_after = max(0, len(is_fast) - PROBE_SIZE) if pays else 0
        return Confirmation(
            precision=self._precision,
            probe=self._probe if len(is_fast) > PROBE_SIZE else None,
            fast_seeds=ranges(fast) if fast else None,
            num_resampled=max(0, num_after - len(fast)),
            num_changed=self._num_changed,
        )

    def _plain(self, positions: Sequence[int]) -> Iterator[tuple[Sequence[int], GeneratedBatch]]:
        """Images in fp32."""
        done = 0
        for batch in self._generate([self._seeds[position] for position in positions], "fp32"):
            yield positions[done : done + len(batch.seeds)], batch
            done += len(batch.seeds)

    def _compare(self, exact: np.ndarray) -> None:
        """Sample the probe in the faster format, and learn the margin from it."""
        task = f"Probe in {self._precision}"
        made = self._generate(self._seeds[: len(exact)], self._precision, task)
        images = np.concatenate([batch.images for batch in made])
        fast, slow = (self._margins(each) for each in (images, exact))
        self._probe, self._margin = evaluate_probe(fast[1], slow[1], images, exact)

    def _margins(self, images: np.ndarray) -> tuple[Matches, Margins]:
        return match_with_margins(self._index, images, self._rule, every_cell=self._gated)

    def _stand(self, matches: Matches, margins: Margins) -> np.ndarray:
        """Which fast images count as they are, bool [M].

        Under a gate no copy does, so that a FAIL rests on images of fp32 alone.
        """
        stand: np.ndarray = margins.certain > self._margin
        return stand & ~matches.is_copy if self._gated else stand

    def _confirmed(
        self, positions: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], GeneratedBatch]]:
        """Images in the faster format, or in fp32 where the verdict might differ."""
        queue: deque[_Waiting] = deque()
        unsure: deque[tuple[_Waiting, int]] = deque()
        most = MOST_WAITING_FOR_GATE if self._gated else MOST_WAITING
        done = 0
        seeds = [self._seeds[position] for position in positions]
        for batch in self._generate(seeds, self._precision):
            matches, margins = self._margins(batch.images)
            final = replace(batch, images=batch.images.copy(), is_fast=np.array(batch.fast_rows))
            places = positions[done : done + len(batch.seeds)]
            waiting = _Waiting(places, final, matches.is_copy)
            done += len(batch.seeds)
            rows = np.flatnonzero(batch.fast_rows & ~self._stand(matches, margins))
            waiting.num_unsure = len(rows)
            queue.append(waiting)
            unsure.extend((waiting, int(row)) for row in rows)
            if sum(len(each.positions) for each in queue) >= most:
                self._confirm(unsure, len(unsure))
            else:
                self._confirm(unsure, len(unsure) // self._group_size * self._group_size)
            while queue and not queue[0].num_unsure:
                yield queue[0].positions, queue.popleft().batch
        self._confirm(unsure, len(unsure))
        for waiting in queue:
            yield waiting.positions, waiting.batch

    def _confirm(self, unsure: "deque[tuple[_Waiting, int]]", number: int) -> None:
        """Sample the first of the unsure images again in fp32, and put them in their places."""
        if not number:
            return
        places = [unsure.popleft() for _ in range(number)]
        seeds = [int(waiting.batch.seeds[row]) for waiting, row in places]
        made = self._generate(seeds, "fp32", "Sampling again in fp32")
        images = np.concatenate([batch.images for batch in made])
        copies = match_images(self._index, images, self._rule).is_copy
        for (waiting, row), image, is_copy in zip(places, images, copies, strict=True):
            self._num_changed += int(waiting.is_copy[row] != is_copy)
            waiting.batch.images[row] = image
            waiting.batch.fast_rows[row] = False
            waiting.num_unsure -= 1


@dataclass
class _Waiting:
    """A batch some of whose images are still to be sampled again, into their places."""

    positions: Sequence[int]
    batch: GeneratedBatch
    is_copy: np.ndarray
    num_unsure: int = 0
