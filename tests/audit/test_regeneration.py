"""Images generated again are those of the scan, and the rows to look at are nobody's choice."""

import numpy as np
import pytest
from helpers.tiny_networks import SMALLEST

from memaudit.audit.regeneration import (
    Recipe,
    catch_chance,
    caught_share,
    draw_rows,
    regenerate,
)
from memaudit.models.build import build_network
from memaudit.models.checkpoints import Checkpoint, open_checkpoint, save_checkpoint
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.sampler_config import SamplerConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    config = SMALLEST | {"label_dim": 4}
    save_checkpoint(path, build_network(config), config)
    return open_checkpoint(path)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(SamplerConfig(num_steps=3), None, None, Execution()),
        Recipe(SamplerConfig(num_steps=3, S_churn=5.0), 2, None, Execution()),
        Recipe(SamplerConfig(num_steps=3), None, (0.0, 1.0, 3.0, 0.0), Execution(batch_size=7)),
    ],
)
def test_any_seeds_give_the_same_bytes_and_classes_again(checkpoint: Checkpoint, recipe: Recipe):
    first = list(
        generate_images(
            checkpoint.network,
            range(100),
            config=recipe.sampler,
            class_index=recipe.class_index,
            class_weights=recipe.class_weights,
        )
    )
    images = np.concatenate([batch.images for batch in first])
    classes = np.concatenate([batch.class_index for batch in first])
    rows = [3, 17, 64, 99, 98, 4, 5, 6, 7, 8]
    again = regenerate(checkpoint, rows, recipe)
    assert again.seeds.tolist() == rows
    assert np.array_equal(again.images, images[rows])
    assert again.class_index is not None and np.array_equal(again.class_index, classes[rows])


def test_rows_are_drawn_anew_each_time_and_each_once():
    draws = [tuple(draw_rows(1000, 16)) for _ in range(5)]
    assert len(set(draws)) == 5
    assert all(len(set(rows)) == 16 and list(rows) == sorted(rows) for rows in draws)
    assert draw_rows(5, 16).tolist() == [0, 1, 2, 3, 4]


def test_the_chance_of_catching_is_that_of_drawing_a_forged_row():
    rng = np.random.default_rng(0)
    tries = rng.random((20_000, 16)) < 0.1
    assert catch_chance(0.1, 16) == pytest.approx(tries.any(1).mean(), abs=0.01)
    assert catch_chance(caught_share(16), 16) == pytest.approx(0.95)
    caught = np.mean([(draw_rows(50, 8) < 5).any() for _ in range(2_000)])
    assert caught >= catch_chance(0.1, 8) - 0.03  # without repeats it is more
