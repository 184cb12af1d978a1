"""Ranks, here threads, that share out the images of a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch.distributed as dist
from helpers.rank_threads import workers

from memaudit.audit.source import optimum_of
from memaudit.data.images import ImageSet
from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.execution import Execution
from memaudit.models.generate import GeneratedBatch, generate_images
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.spread import MODEL, TASK, identity_of, image_handler, spread_over_ranks
from memaudit.ranks import joined
from memaudit.ranks.board import Handler
from memaudit.ranks.leader import Leader
from memaudit.ranks.message import Message, pack, unpack

STEPS = SamplerConfig(num_steps=2)


def training_images(seed: int, num_classes: int = 1) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (6, 1, 8, 8), np.uint8)
    return ImageSet.from_array(pixels, labels=rng.permutation(6) % num_classes)


@pytest.mark.parametrize("is_same", [True, False])
def test_a_rank_that_opened_another_model_is_refused(is_same: bool, monkeypatch):
    mine, theirs = (optimum_of(training_images(seed)) for seed in (0, 0 if is_same else 1))
    store = dist.HashStore()
    leader = Leader(store, 2)
    monkeypatch.setattr(joined, "_leader", leader)
    leader._next_of_mine = lambda: None  # the other rank makes everything
    with workers(store, {TASK: image_handler({MODEL: theirs})}):
        with spread_over_ranks(MODEL, mine):
            made = generate_images(
                mine.network, range(3), config=STEPS, execution=Execution(None, "cpu")
            )
            if is_same:
                assert [len(batch.images) for batch in made] == [3]
            else:
                with pytest.raises(CheckpointError, match="opened another model than rank 0"):
                    list(made)
        leader.end(0)


def test_models_are_told_apart_by_their_labels_and_weights():
    images = training_images(0, num_classes=3)
    by_class = optimum_of(images, conditional=True)
    relabeled = ImageSet.from_array(images.images, labels=(images.labels + 1) % 3)
    others = [optimum_of(images), optimum_of(relabeled, conditional=True)]
    assert len({identity_of(each) for each in (by_class, *others)}) == 3
    assert identity_of(optimum_of(images, conditional=True)) == identity_of(by_class)


def optimum_by_class() -> Checkpoint:
    """Optimum of images with four classes; each rank has its own, as threads may not share it."""
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), np.uint8)
    return optimum_of(ImageSet.from_array(images, labels=np.arange(20) % 4), conditional=True)


@pytest.fixture
def optimum() -> Checkpoint:
    return optimum_by_class()


@contextmanager
def ranks(
    monkeypatch: pytest.MonkeyPatch, optimum: Checkpoint, *handlers: Handler
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
    monkeypatch: pytest.MonkeyPatch, optimum: Checkpoint, asked: str
):
    seeds = [*range(100, 230), 7]
    options = {
        "drawn": {},
        "given": {"class_index": [seed % 3 for seed in seeds]},
        "weights": {"class_weights": [0, 1, 2, 0.1]},
        "start": {"start": np.random.default_rng(1).integers(0, 256, (131, 1, 4, 4), np.uint8)},
    }[asked]
    options |= {"config": SamplerConfig(num_steps=2, S_churn=1), "execution": Execution(10)}
    alone = together(generate_images(optimum.network, seeds, **options))
    groups: dict[int, int] = {}

    def note(place: int, group: GeneratedBatch) -> None:
        groups[place] = len(group.seeds)

    with ranks(monkeypatch, optimum, image_handler({MODEL: optimum_by_class()})) as leader:
        assert joined.num_sharing() == leader.num_ranks == 2
        assert together(generate_images(optimum.network, seeds, on_group=note, **options)) == alone
    assert groups == {0: 64, 64: 64, 128: 3}
    assert joined.num_sharing() == 1


@pytest.mark.parametrize("wrong", ["seeds", "dtype", "shape", "classes", "nothing"])
def test_what_a_rank_may_not_send_is_refused(
    monkeypatch: pytest.MonkeyPatch, optimum: Checkpoint, wrong: str
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
            list(generate_images(optimum.network, range(3), config=config))


def test_another_denoiser_is_not_shared(monkeypatch: pytest.MonkeyPatch, optimum: Checkpoint):
    other = ClosedFormOptimum(np.zeros((2, 1, 4, 4), np.uint8))
    with ranks(monkeypatch, optimum) as leader:
        leader.handlers.clear()
        assert len(list(generate_images(other, range(3), config=SamplerConfig(num_steps=1)))) == 1
