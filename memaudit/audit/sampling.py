"""Generate images and judge them as they come, until all are there or the gate is certain."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.environment import Clock
from memaudit.audit.memorization.findings import Gate, decide, first_decided
from memaudit.audit.memorization.matches import SEARCH_BATCH, Matches, match_images
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.results import DistinctNeighbors
from memaudit.audit.scan_state import ScanState
from memaudit.data.images import ImageSet
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.generate import GeneratedBatch, generate_images
from memaudit.progress import Progress


@dataclass(frozen=True)
class JudgedSamples:
    """Generated images with what was found about them."""

    images: np.ndarray
    """uint8 [M, C, H, W]."""
    class_index: np.ndarray | None
    """int64 [M], or None for a model without classes."""
    matches: Matches


def sample_and_match(
    checkpoint: Checkpoint,
    config: ScanConfig,
    *,
    index: ImageSearch,
    state: ScanState | None,
    clock: Clock,
    progress: Progress,
) -> JudgedSamples:
    """Generate and judge images until all seeds are done, or the gate is certain.

    Args:
        checkpoint: the model.
        config: how to sample and judge.
        index: of the training images.
        state: where batches are kept, or None.
        clock: told the time spent on sampling and on searching.
        progress: told the images done, and the copies among them.
    """
    gate = gate_of(checkpoint, config)
    batches: list[GeneratedBatch] = []
    neighbors: list[DistinctNeighbors] = []
    waiting: list[np.ndarray] = []
    num_judged = num_copies = 0
    num_decisive = None  # images after which the gate is certain

    def noted(task: str, done: int, total: int | None, note: str = "") -> None:
        if num_judged:
            note = f"{num_copies:,} copies among {num_judged:,} judged"
        if num_judged and gate is not None:
            decision = decide(num_copies, num_judged, gate=gate, confidence=config.confidence)
            share = max(decision.evidence_above, decision.evidence_below) / decision.required
            note += f", {max(0.0, share):.0%} of the evidence needed"
        progress(task, done, total, note)

    def judge() -> None:
        nonlocal num_judged, num_copies, num_decisive
        clock.lap("sampling")
        found = match_images(index, np.concatenate(waiting), config.rule)
        waiting.clear()
        neighbors.append(found.neighbors)
        if gate is not None:
            before = (num_copies, num_judged)
            hits = found.memorized_distinct
            position = first_decided(
                hits,
                before,
                gate=gate,
                confidence=config.confidence,
                min_samples=config.min_samples,
            )
            num_decisive = None if position is None else num_judged + position
        num_judged += len(found)
        num_copies += int(found.memorized_distinct.sum())
        clock.lap("search")

    for batch in _batches(checkpoint, config, state, noted):
        batches.append(batch)
        waiting.append(batch.images)
        if gate is not None or sum(map(len, waiting)) >= SEARCH_BATCH:
            judge()
        if num_decisive is not None:
            break
    if waiting:
        judge()

    classes = [batch.class_index for batch in batches if batch.class_index is not None]
    return JudgedSamples(
        images=np.concatenate([batch.images for batch in batches])[:num_decisive],
        class_index=np.concatenate(classes)[:num_decisive] if classes else None,
        matches=Matches(DistinctNeighbors.concatenate(neighbors)[:num_decisive], config.rule),
    )


def gate_of(source: Checkpoint | ImageSet, config: ScanConfig) -> Gate | None:
    """The gate that the options ask for: sequential where images can be sampled one by one."""
    if config.fail_above is None:
        return None
    return Gate(config.fail_above, sequential=isinstance(source, Checkpoint))


def _batches(
    checkpoint: Checkpoint, config: ScanConfig, state: ScanState | None, progress: Progress
) -> Iterator[GeneratedBatch]:
    """Images of all seeds in their order: those kept by an earlier scan, then new ones."""
    position = 0
    if state is not None:
        for batch in state.load():
            yield batch
            position += len(batch.seeds)

    num_kept = position

    def after_kept(task: str, done: int, total: int | None, note: str = "") -> None:
        # Only what is made now counts, or the rate would be that of reading.
        kept = f" (going on after {num_kept:,} kept images)" if num_kept else ""
        progress(f"{task}{kept}", done, total, note)

    for batch in generate_images(
        checkpoint.network,
        config.seeds[position:],
        config=config.sampler,
        class_index=config.class_index,
        batch_size=config.batch_size,
        device=config.device,
        progress=after_kept,
    ):
        if state is not None:
            state.store(position, batch)
        yield batch
        position += len(batch.seeds)
