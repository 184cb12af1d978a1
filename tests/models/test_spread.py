"""Ranks, here threads, that share out the images of a model."""

import numpy as np
import pytest
import torch.distributed as dist
from helpers.rank_threads import workers

from memaudit.audit.source import optimum_of
from memaudit.data.images import ImageSet
from memaudit.errors import CheckpointError
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.spread import MODEL, TASK, identity_of, image_handler, spread_over_ranks
from memaudit.ranks import joined
from memaudit.ranks.leader import Leader

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
