"""Images made by several ranks, here threads, are those of one process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch.distributed as dist
from helpers.rank_threads import workers

from memaudit.models.execution import Execution
from memaudit.models.generate import GeneratedBatch, generate_images
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.spread import MODEL, TASK, image_handler, spread_over_ranks
from memaudit.ranks import joined
from memaudit.ranks.board import Handler
from memaudit.ranks.leader import Leader
from memaudit.ranks.message import Message, pack, unpack


@pytest.fixture
def optimum() -> ClosedFormOptimum:
    """Of images with four classes."""
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), np.uint8)
    return ClosedFormOptimum(images, np.arange(20) % 4, label_dim=4)


@contextmanager
def ranks(
    monkeypatch: pytest.MonkeyPatch, optimum: ClosedFormOptimum, *handlers: Handler
) -> Iterator[Leader]:
    store = dist.HashStore()
    leader = Leader(store, 1 + len(handlers))
    monkeypatch.setattr(joined, "_leader", leader)
    with workers(store, *({TASK: handler} for handler in handlers)):
        with spread_over_ranks(MODEL, optimum):
            yield leader
        leader.end(0)


def together(batches: Iterator[GeneratedBatch]) -> tuple[list[int], bytes, list[int]]:
    whole = GeneratedBatch.concatenate(list(batches))
    assert whole.class_index is not None
    return whole.seeds.tolist(), whole.images.tobytes(), whole.class_index.tolist()


@pytest.mark.parametrize("asked", ["drawn", "given", "weights", "start"])
def test_ranks_make_what_one_process_makes(
    monkeypatch: pytest.MonkeyPatch, optimum: ClosedFormOptimum, asked: str
):
    seeds = [*range(100, 230), 7]
    options = {
        "drawn": {},
        "given": {"class_index": [seed % 3 for seed in seeds]},
        "weights": {"class_weights": [0, 1, 2, 0.1]},
        "start": {"start": np.random.default_rng(1).integers(0, 256, (131, 1, 4, 4), np.uint8)},
    }[asked]
    options |= {"config": SamplerConfig(num_steps=2, S_churn=1), "execution": Execution(10)}
    alone = together(generate_images(optimum, seeds, **options))
    groups: dict[int, int] = {}

    def note(place: int, group: GeneratedBatch) -> None:
        groups[place] = len(group.seeds)

    with ranks(monkeypatch, optimum, image_handler({MODEL: optimum})) as leader:
        assert joined.num_sharing() == leader.num_ranks == 2
        assert together(generate_images(optimum, seeds, on_group=note, **options)) == alone
    assert groups == {0: 64, 64: 64, 128: 3}
    assert joined.num_sharing() == 1


@pytest.mark.parametrize("wrong", ["seeds", "dtype", "shape", "classes", "nothing"])
def test_what_a_rank_may_not_send_is_refused(
    monkeypatch: pytest.MonkeyPatch, optimum: ClosedFormOptimum, wrong: str
):
    own = image_handler({MODEL: optimum})

    def lie(message: Message, look: Callable[[], None]) -> bytes:
        about, arrays = unpack(own(message, look))
        if wrong == "nothing":
            return b""
        if wrong == "classes":
            del arrays["class_index"]
        elif wrong == "seeds":
            arrays["seeds"] = arrays["seeds"] + 1
        elif wrong == "dtype":
            arrays["images"] = arrays["images"].astype(np.int16)
        else:
            arrays["images"] = arrays["images"][:, :, :2]
        return pack(about, **arrays)

    config = SamplerConfig(num_steps=1)
    with ranks(monkeypatch, optimum) as leader:
        leader.handlers[TASK] = lie  # as if another rank had sent it
        with pytest.raises(ValueError, match=r"a rank sent (other images than|0 bytes that)"):
            list(generate_images(optimum, range(3), config=config))


def test_another_denoiser_is_not_shared(
    monkeypatch: pytest.MonkeyPatch, optimum: ClosedFormOptimum
):
    other = ClosedFormOptimum(np.zeros((2, 1, 4, 4), np.uint8))
    with ranks(monkeypatch, optimum) as leader:
        leader.handlers.clear()
        assert len(list(generate_images(other, range(3), config=SamplerConfig(num_steps=1)))) == 1
