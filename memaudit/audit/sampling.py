"""Generate images and judge them as they come, until all are there or the gate is certain."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmation import PROBE_SIZE
from memaudit.audit.confirmed_images import Confirmation, ConfirmedImages
from memaudit.audit.environment import Clock
from memaudit.audit.kept_images import check_kept
from memaudit.audit.memorization.findings import Gate, decide, first_decided
from memaudit.audit.memorization.matches import SEARCH_BATCH, Matches, match_images
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.regeneration import Recipe
from memaudit.audit.scan_state import Part, ScanState, missing_positions
from memaudit.audit.statistics.forecast import Forecast, GateTest, about, forecast_stop
from memaudit.audit.statistics.gate import Decision
from memaudit.audit.statistics.worst_class import judge_classes
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.denoiser import image_shape
from memaudit.models.execution import Precision
from memaudit.models.generate import GeneratedBatch, OnGroup, generate_images, ignore_group
from memaudit.models.group_size import group_size
from memaudit.progress import Progress
from memaudit.ranks.joined import num_sharing

REFRESH = 1.05
"""The stop is forecast anew after each copy, and when this many times as many images are judged."""
BY_CLASS = 64
"""Images after which the worst class is looked at, if it is part of the gate."""


@dataclass(frozen=True)
class JudgedSamples:
    """Images with what was found about them."""

    images: np.ndarray
    """uint8 [M, C, H, W]."""
    class_index: np.ndarray | None
    """int64 [M], or None for a model without classes."""
    matches: Matches
    num_kept: int = 0
    """How many of them an earlier run had generated."""
    num_regenerated: int = 0
    """How many kept images were generated again, and came out the same."""
    group_size: int | None = None
    """How many images made now were evaluated at a time, at the least."""
    confirmation: Confirmation | None = None
    """How images of a faster number format were confirmed; None: all were sampled in fp32."""


class _Judge:
    """Judges batch after batch, and knows when the gate is certain."""

    def __init__(self, config: ScanConfig, index: ImageSearch, gate: Gate | None) -> None:
        self._config, self._index, self._gate = config, index, gate
        self._forecast: Forecast | None = None
        self._num_forecast = 0
        self._matches: list[Matches] = []
        self._num_judged = self._num_copies = self._num_whole_images = 0
        self._by_class = gate is not None and "worst_class" in config.fail_on
        self._copies: list[np.ndarray] = []
        self._whole_images: list[np.ndarray] = []
        self._classes: list[np.ndarray] = []
        self.num_decisive: int | None = None
        """Number of images after which the gate is certain; None while it is not."""
        self._look_ahead()

    @property
    def is_waiting(self) -> bool:
        """Whether a gate waits for the verdict on every batch."""
        return self._gate is not None

    def judge(self, images: np.ndarray, class_index: np.ndarray | None) -> None:
        """Judge further images, in the order of sampling.

        Args:
            images: uint8 [B, C, H, W].
            class_index: int64 [B], or None for a model without classes.
        """
        found = match_images(self._index, images, self._config.rule)
        self._matches.append(found)
        hits = found.is_copy
        if self._gate is not None and self._by_class and class_index is not None:
            self._copies.append(hits)
            self._whole_images.append(found.is_pixel_copy)
            self._classes.append(class_index)
            self.num_decisive = self._first_decided_by_class(self._gate)
        elif self._gate is not None:
            position = first_decided(
                found,
                (self._num_judged, self._num_copies, self._num_whole_images),
                gate=self._gate,
                min_samples=self._config.min_samples,
            )
            self.num_decisive = None if position is None else self._num_judged + position
        self._num_judged += len(hits)
        self._num_copies += int(hits.sum())
        self._num_whole_images += int(found.is_pixel_copy.sum())
        if hits.any() or self._num_judged >= REFRESH * self._num_forecast:
            self._look_ahead()

    def _first_decided_by_class(self, gate: Gate) -> int | None:
        """After how many images both the gate and the worst class are decided, or None.

        Looked at after every BY_CLASS images, so that the result does not depend on the batch size.
        """
        copies, classes = np.concatenate(self._copies), np.concatenate(self._classes)
        whole_images = np.concatenate(self._whole_images)
        confidence = self._config.rule.confidence
        next_look = (self._num_judged // BY_CLASS + 1) * BY_CLASS
        for end in range(next_look, len(copies) + 1, BY_CLASS):
            if end < self._config.min_samples:
                continue
            overall = decide(
                int(copies[:end].sum()),
                end,
                gate=gate,
                confidence=confidence,
                whole_images=int(whole_images[:end].sum()),
            )
            worst = judge_classes(
                copies[:end],
                classes[:end],
                limit=gate.fail_above,
                confidence=confidence,
                sequential=True,
                floor=gate.floor,
            )
            passed = overall.verdict == worst.verdict == "PASS"
            if passed or "FAIL" in (overall.verdict, worst.verdict):
                return end
        return None

    def matches(self) -> Matches:
        """The matches of all images judged, up to the decisive one."""
        return Matches.concatenate(self._matches)[: self.num_decisive]

    @property
    def likely_stop(self) -> int | None:
        """Number of images after which the gate is likely to be certain; None: more than asked."""
        stop = None if self._forecast is None else self._forecast.median
        return None if stop is None or stop > len(self._config.seeds) else stop

    def note(self) -> str:
        """What to show beside the progress of sampling."""
        if not self._num_judged:
            if self.likely_stop is None:
                return ""
            return f"stops at about {about(self.likely_stop):,} if none is a copy"
        text = f"{self._num_copies:,} copies among {self._num_judged:,} judged"
        if self._gate is None:
            return text
        decision = self._decide(self._gate)
        test = decision.whole_images
        above = max(decision.evidence_above, 0.0 if test is None else test.evidence_above)
        share = max(above / decision.required_above, decision.evidence_below / decision.required)
        text += f", {max(0.0, share):.0%} of the evidence needed"
        if self._by_class:
            return f"{text}, by all classes together"
        if self.likely_stop is None:
            return f"{text}, not likely to decide within {len(self._config.seeds):,} images"
        return f"{text}, likely to stop at about {about(self.likely_stop):,} images"

    def _look_ahead(self) -> None:
        """Forecast the stop of the gate from what was judged so far."""
        if self._gate is None or self._by_class or self.num_decisive is not None:
            return
        self._num_forecast = self._num_judged
        decision = self._decide(self._gate)
        self._forecast = forecast_stop(
            decision.may_fail_by[0],
            self._num_judged,
            GateTest.of(decision),
            min_samples=self._config.min_samples,
        )

    def _decide(self, gate: Gate) -> Decision:
        """The decision on the images judged so far."""
        return decide(
            self._num_copies,
            self._num_judged,
            gate=gate,
            confidence=self._config.rule.confidence,
            whole_images=self._num_whole_images,
        )


def sample_and_match(
    checkpoint: Checkpoint,
    config: ScanConfig,
    *,
    index: ImageSearch,
    gate: Gate | None,
    class_weights: Sequence[float] | None = None,
    state: ScanState | None,
    clock: Clock,
    progress: Progress,
) -> JudgedSamples:
    """Generate and judge images until all seeds are done, or the gate is certain.

    Args:
        checkpoint: the model.
        config: how to sample and judge.
        index: searches the training images.
        gate: the limit on the share of copies and its floor, or None.
        class_weights: how often each class is drawn, or None for all alike.
        state: where batches are kept, or None.
        clock: told the time spent on sampling and on searching.
        progress: told the images done, and the copies among them.
    """
    judge = _Judge(config, index, gate if config.is_sequential else None)

    network = checkpoint.network
    kept = [] if state is None else state.load(image_shape(network), network.label_dim)
    kept = [part for part in kept if not _is_fast_probe(part)]
    if not config.execution.is_faster:
        kept = _standing(kept, [~part.batch.fast_rows for part in kept])
    num_regenerated = 0
    if state is not None and kept and config.fail_above is not None:
        recipe = Recipe(config.sampler, config.class_index, class_weights, config.execution)
        try:
            batches_kept = [part.batch for part in kept]
            num_regenerated = check_kept(checkpoint, batches_kept, recipe, progress=progress)
        except ConfigError:
            state.refuse()
            raise
        clock.lap("test of kept images")

    num_kept = 0

    def noted(task: str, done: int, total: int | None, note: str = "") -> None:
        if judge.likely_stop is not None and total is not None:
            # The time left is that to the likely stop, which may have been too early a guess.
            total = min(total, max(judge.likely_stop - num_kept, done + 1))
        progress(task, done, total, judge.note() or note)

    batches: list[GeneratedBatch] = []
    waiting: list[GeneratedBatch] = []
    confirmed, kept, made = _generate(
        checkpoint, config, class_weights, index, gate, kept, state, noted
    )
    num_kept = sum(len(part.batch.seeds) for part in kept)
    for batch in _in_order(kept, made, len(config.seeds)):
        batches.append(batch)
        waiting.append(batch)
        is_last = sum(len(made.seeds) for made in batches) == len(config.seeds)
        if judge.is_waiting or is_last or sum(len(made.seeds) for made in waiting) >= SEARCH_BATCH:
            clock.lap("sampling")
            judge.judge(np.concatenate([made.images for made in waiting]), _classes(waiting))
            waiting.clear()
            clock.lap("search")
        if judge.num_decisive is not None:
            break

    class_index = _classes(batches)
    return JudgedSamples(
        images=np.concatenate([batch.images for batch in batches])[: judge.num_decisive],
        class_index=None if class_index is None else class_index[: judge.num_decisive],
        matches=judge.matches(),
        num_kept=_num_kept_before(judge.num_decisive, kept),
        num_regenerated=num_regenerated,
        group_size=min(filter(None, (batch.group_size for batch in batches)), default=None),
        confirmation=None
        if confirmed is None
        else confirmed.describe(
            np.concatenate([batch.fast_rows for batch in batches])[: judge.num_decisive]
        ),
    )


def _is_fast_probe(part: Part) -> bool:
    """Whether a kept batch has fast images in the place of the probe's, which are all in fp32: the
    files may be anybody's."""
    return bool(part.batch.fast_rows[: max(0, PROBE_SIZE - part.position)].any())


def _classes(batches: Sequence[GeneratedBatch]) -> np.ndarray | None:
    """The class of each image, int64 [M], or None for a model without classes."""
    classes = [batch.class_index for batch in batches if batch.class_index is not None]
    return np.concatenate(classes) if classes else None


def _in_order(
    kept: Sequence[Part], made: Iterator[Part], num_images: int
) -> Iterator[GeneratedBatch]:
    """What was kept and what is made now, in the order of seeds."""
    position, waiting = 0, deque(kept)
    while position < num_images:
        is_next = waiting and waiting[0].position == position
        part = waiting.popleft() if is_next else next(made)
        yield part.batch
        position = part.end


def _num_kept_before(end: int | None, kept: Sequence[Part]) -> int:
    """How many of the first `end` images, or of all, were kept."""
    ends = (part.end if end is None else min(part.end, end) for part in kept)
    return sum(max(0, stop - part.position) for part, stop in zip(kept, ends, strict=True))


def _generate(
    checkpoint: Checkpoint,
    config: ScanConfig,
    class_weights: Sequence[float] | None,
    index: ImageSearch,
    gate: Gate | None,
    kept: Sequence[Part],
    state: ScanState | None,
    progress: Progress,
) -> tuple[ConfirmedImages | None, list[Part], Iterator[Part]]:
    """How images are confirmed, the kept ones that stand, and those of all other seeds.

    The latter are in the order of seeds, and each is stored before it is handed on, if there is a
    state.
    """
    execution = config.execution
    num_kept = 0

    def generate(
        seeds: Sequence[int],
        precision: Precision,
        task: str | None = None,
        on_group: OnGroup = ignore_group,
    ) -> Iterator[GeneratedBatch]:
        named = task

        def told(task: str, done: int, total: int | None, note: str = "") -> None:
            # Only what is made now counts, or the rate would be that of reading.
            beside = f" (after {num_kept:,} kept images)" if num_kept else ""
            progress(named or f"{task}{beside}", done, total, note)

        return generate_images(
            checkpoint.network,
            seeds,
            config=config.sampler,
            class_index=config.class_index,
            class_weights=class_weights,
            execution=replace(execution, precision=precision),
            progress=told,
            on_group=on_group,
        )

    if not execution.is_faster:
        missing = missing_positions(kept, len(config.seeds))
        num_kept = len(config.seeds) - len(missing)
        seeds = [config.seeds[position] for position in missing]
        if state is None or num_sharing() == 1:
            return None, list(kept), _stored(_placed(missing, generate(seeds, "fp32")), state)

        def store(place: int, group: GeneratedBatch) -> None:
            for part in _runs(missing[place : place + len(group.seeds)], group):
                state.store(part.position, part.batch)

        # Ranks end groups in any order: what waits for its turn is to outlive this process, too.
        return None, list(kept), _placed(missing, generate(seeds, "fp32", on_group=store))
    confirmed = ConfirmedImages(
        generate,
        config.seeds,
        execution.precision,
        index=index,
        rule=config.rule,
        gated=gate is not None,
        group_size=group_size(checkpoint.network, execution),
    )
    kept = _standing(kept, confirmed.are_certain(kept))
    missing = missing_positions(kept, len(config.seeds))
    num_kept = len(config.seeds) - len(missing)
    made = confirmed.batches(missing, kept)
    parts = (part for positions, batch in made for part in _runs(positions, batch))
    return confirmed, kept, _stored(parts, state)


def _standing(kept: Sequence[Part], rows: Sequence[np.ndarray]) -> list[Part]:
    """The images of some rows of each part, bool [B]."""
    found: list[Part] = []
    for part, chosen in zip(kept, rows, strict=True):
        if chosen.any():
            places = part.position + np.flatnonzero(chosen)
            found.extend(_runs(places.tolist(), part.batch[chosen]))
    return found


def _placed(positions: Sequence[int], batches: Iterator[GeneratedBatch]) -> Iterator[Part]:
    done = 0
    for batch in batches:
        yield from _runs(positions[done : done + len(batch.seeds)], batch)
        done += len(batch.seeds)


def _stored(parts: Iterator[Part], state: ScanState | None) -> Iterator[Part]:
    """Parts, each stored before it is handed on."""
    for part in parts:
        if state is not None:
            state.store(part.position, part.batch)
        yield part


def _runs(positions: Sequence[int], batch: GeneratedBatch) -> Iterator[Part]:
    """A batch in parts whose images follow one another."""
    gaps = [i for i in range(1, len(positions)) if positions[i] != positions[i - 1] + 1]
    for first, end in pairwise([0, *gaps, len(positions)]):
        yield Part(positions[first], batch[first:end])
