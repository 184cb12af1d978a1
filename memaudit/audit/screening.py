"""Screen all seeds with a cheap sampler, and sample those in full that it finds, and a few others.

DPM-Solver++(2M) with eight evaluations comes near the image for which Heun's method takes 35. Where
few images are copies, that finds nearly all of them with a third of the evaluations. Its own
verdicts lean towards no copy and are never counted (memorization/screened.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.environment import Clock
from memaudit.audit.memorization.matches import SEARCH_BATCH, match_images
from memaudit.audit.memorization.screened import (
    ScreenedRows,
    Screening,
    drawn_positions,
    screened_rows,
    summarize_screening,
)
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.sampling import JudgedSamples, sample_and_match
from memaudit.audit.scan_state import ScanState
from memaudit.audit.screening_state import ScreeningState
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.generate import generate_images
from memaudit.models.sampler_config import SamplerConfig
from memaudit.progress import Progress
from memaudit.wording import ranges


@dataclass(frozen=True)
class ScreenedSamples:
    """What a screened scan sampled in full, and the seeds of it."""

    samples: JudgedSamples
    seeds: tuple[int, ...]
    rows: ScreenedRows
    """What screening said of the same seeds."""
    screening: Screening


def screening_sampler(sampler: SamplerConfig, config: ScreeningConfig) -> SamplerConfig:
    """What screens the seeds that `sampler` would sample: the same noise and range of levels."""
    return replace(sampler, solver="multistep", num_steps=config.screen_steps)


def refuse_screening_of_images() -> NoReturn:
    """Refuse to screen images that were given.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        "{screen} is for models, but images were given. Leave it out.", field="screen"
    )


def screening_identity(config: ScanConfig, data: ImageSet) -> dict[str, Any]:
    """What the candidates of a screening depend on besides the images, as JSON values."""
    if config.screening is None:
        return {"screening": None}
    rule = config.rule
    return {
        "screening": {
            **{name: str(value) for name, value in asdict(config.screening).items()},
            "seeds": ranges(config.seeds),
            "rule": [str(rule.threshold), rule.duplicate_rms],
            "search": config.index.identity,
            "training set": data.fingerprint,
        }
    }


def screen_and_match(
    checkpoint: Checkpoint,
    config: ScanConfig,
    *,
    index: ImageSearch,
    class_weights: Sequence[float] | None,
    key: str,
    folder: Path | None,
    identity: dict[str, Any],
    clock: Clock,
    progress: Progress,
) -> ScreenedSamples:
    """Screen all seeds of a scan, and sample candidates and drawn ones in full.

    Args:
        checkpoint: the model.
        config: with a screening.
        index: searches the training images.
        class_weights: how often each class is drawn, or None for all alike.
        key: what draws seeds at random, unless an earlier run of this scan began with another. With
            a nonce it is the same at every run, whatever the folder says.
        folder: where an open `ScanState` of this identity keeps what was done, or None.
        identity: what the images of the full sampler, and the screening, depend on.
        clock: told the time spent.
        progress: told the images done.
    """
    screening = config.screening
    assert screening is not None
    screening_state = None
    if folder is not None:
        screening_state = ScreeningState(folder, config.seeds)
        if config.nonce is None:
            key = screening_state.key(key)
    drawn = drawn_positions(key, config.seeds, screening.num_drawn(len(config.seeds)))
    is_drawn = np.zeros(len(config.seeds), dtype=bool)
    is_drawn[drawn] = True
    kept: list[ScreenedRows] = []
    positions: list[np.ndarray] = []
    position = 0
    for part in _screen(
        checkpoint,
        config,
        index=index,
        class_weights=class_weights,
        is_drawn=is_drawn,
        state=screening_state,
        progress=progress,
    ):
        chosen = np.flatnonzero(part.is_drawn | part.is_copy(config.rule, screening.screen_below))
        kept.append(part[chosen])
        positions.append(position + chosen)
        position += len(part)
    clock.lap("screening")
    rows = ScreenedRows.concatenate(kept)
    seeds = tuple(int(config.seeds[at]) for at in np.concatenate(positions).tolist())

    def in_full(task: str, done: int, total: int | None, note: str = "") -> None:
        progress(f"{task}, in full", done, total, note)

    samples = sample_and_match(
        checkpoint,
        replace(config, seeds=seeds, nonce=None, screening=None),
        index=index,
        gate=None,
        class_weights=class_weights,
        state=None if folder is None else ScanState(folder, identity, seeds),
        clock=clock,
        progress=in_full,
    )
    found = summarize_screening(rows, samples.matches, config.seeds, screening, key)
    return ScreenedSamples(samples, seeds, rows, found)


def _screen(
    checkpoint: Checkpoint,
    config: ScanConfig,
    *,
    index: ImageSearch,
    class_weights: Sequence[float] | None,
    is_drawn: np.ndarray,
    state: ScreeningState | None,
    progress: Progress,
) -> Iterator[ScreenedRows]:
    """What screening says of all seeds, part by part, those of an earlier run first."""
    assert config.screening is not None
    kept = [] if state is None else state.load(is_drawn, index)
    yield from kept
    position = sum(map(len, kept))
    if position == len(config.seeds):
        return

    def named(task: str, done: int, total: int | None, note: str = "") -> None:
        progress("Screening seeds", done, total, note)

    waiting: list[np.ndarray] = []
    for batch in generate_images(
        checkpoint.network,
        config.seeds[position:],
        config=screening_sampler(config.sampler, config.screening),
        class_index=config.class_index,
        class_weights=class_weights,
        execution=config.execution,
        progress=named,
    ):
        waiting.append(batch.images)
        number = sum(map(len, waiting))
        if number >= SEARCH_BATCH or position + number == len(config.seeds):
            matches = match_images(index, np.concatenate(waiting), config.rule)
            part = screened_rows(matches, is_drawn[position : position + number])
            if state is not None:
                state.store(position, part)
            yield part
            position += number
            waiting.clear()
