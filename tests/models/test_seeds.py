"""One stream per image, equal to the published CPU streams."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from memaudit.models.seeds import PerImageRandom, draw_classes


@pytest.fixture(scope="module")
def streams(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "rng_pixels.safetensors")


def test_streams_equal_the_published_ones_draw_by_draw(streams: dict[str, Tensor]) -> None:
    random = PerImageRandom(streams["seeds"].tolist())
    assert torch.equal(random.noise((3, 8, 8)), streams["latents_3x8x8"])
    assert torch.equal(random.class_index(10), streams["class_index_of_10"])
    x = torch.empty(8, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(random.randn_like(x), streams["noise0_f64"])
    assert torch.equal(random.randn_like(x), streams["noise1_f64"])


def test_streams_of_other_shapes_equal_the_published_ones(streams: dict[str, Tensor]) -> None:
    seeds = streams["seeds"][:2].tolist()
    assert torch.equal(PerImageRandom(seeds).noise((1, 2, 2)), streams["latents_1x2x2"])
    noise = PerImageRandom(seeds).noise((3, 32, 32))
    assert torch.equal(noise[:, :, :2, :8], streams["latents_3x32x32_head"])


def test_an_image_depends_on_its_seed_alone() -> None:
    together, alone = PerImageRandom([5, 17, 5]), PerImageRandom([17])
    x = torch.empty(3, 1, 4, 4, dtype=torch.float64)
    for _ in range(3):
        a, b = together.randn_like(x), alone.randn_like(x[:1])
        assert torch.equal(a[1], b[0])
        assert torch.equal(a[0], a[2])
        assert not torch.equal(a[0], a[1])


def test_seeds_count_modulo_2_to_the_32() -> None:
    a, b = PerImageRandom([7, -1]), PerImageRandom([7 + 2**32, 2**32 - 1])
    assert torch.equal(a.noise((1, 4, 4)), b.noise((1, 4, 4)))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    PerImageRandom([1]).noise((1, 4, 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_are_drawn_as_often_as_their_weights_say():
    drawn = draw_classes(range(4000), [1, 0, 3])
    counts = np.bincount(drawn, minlength=3)
    assert counts[1] == 0
    assert abs(counts[2] - 3000) < 4 * (4000 * 0.75 * 0.25) ** 0.5
    assert draw_classes([7, 9], [1, 0, 3]) == [drawn[7], drawn[9]]
