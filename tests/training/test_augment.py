"""Transformations of training images, and what the network is told about them."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from helpers.tiny_training import TINY, noise_images
from torch import Tensor

from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.generate import generate_images
from memaudit.training.augment import AUGMENT_DIM, SCALE, Augmentation, augment, draw_augmentation
from memaudit.training.loop import train

CPU = torch.device("cpu")


def transformation(**parameters: float | bool | tuple[float, float]) -> Augmentation:
    """The transformation of one image."""
    zeros = draw_augmentation(1, 0.0, CPU)._replace(stretch_axis=torch.zeros(1))
    return zeros._replace(**{name: torch.tensor([value]) for name, value in parameters.items()})


def blob(center: tuple[float, float], widths: tuple[float, float]) -> Tensor:
    """A smooth spot, [1, 1, 32, 32]; center and widths (x, y) in image widths."""
    at = (torch.arange(32) + 0.5) / 32 - 0.5
    x, y = at[None, :] - center[0], at[:, None] - center[1]
    return torch.exp(-((x / widths[0]) ** 2 + (y / widths[1]) ** 2))[None, None]


ROUND = (0.1, 0.1)


@pytest.mark.parametrize(
    ("parameters", "before", "after"),
    [
        ({"flip_x": True}, ((0.2, 0.1), ROUND), ((-0.2, 0.1), ROUND)),
        ({"flip_y": True}, ((0.2, 0.1), ROUND), ((0.2, -0.1), ROUND)),
        ({"shift": (1.0, -2.0)}, ((0.0, 0.0), ROUND), ((0.125, -0.25), ROUND)),
        ({"rotation": math.pi / 2}, ((0.2, 0.0), (0.1, 0.05)), ((0.0, 0.2), (0.05, 0.1))),
        ({"scale": 2.0}, ((0.1, -0.1), ROUND), ((0.1 * SCALE**2, -0.1 * SCALE**2), (0.132, 0.132))),
        ({"stretch": 1.0}, ((0.1, 0.1), ROUND), ((0.1149, 0.08706), (0.1149, 0.08706))),
        (
            {"stretch": 1.0, "stretch_axis": math.pi / 2},
            ((0.1, 0.1), ROUND),
            ((0.08706, 0.1149), (0.08706, 0.1149)),
        ),
        # Rotation comes before stretch and shift.
        (
            {"rotation": math.pi / 2, "stretch": 1.0, "shift": (0.0, 1.0)},
            ((0.1, 0.0), ROUND),
            ((0.0, 0.08706 + 0.125), (0.1149, 0.08706)),
        ),
    ],
)
def test_a_spot_goes_where_the_transformation_says(parameters: dict, before: tuple, after: tuple):
    moved = augment(blob(*before), transformation(**parameters))
    assert (moved - blob(*after)).abs().max() < 0.03


def test_a_turn_of_images_that_are_not_square_distorts_nothing():
    """A quarter turn, seen through a window of 32 by 64 pixels."""
    square = blob((0.1, 0.05), (0.1, 0.05))
    wide = torch.nn.functional.pad(square, (16, 16), mode="constant")
    turned = augment(wide, transformation(rotation=math.pi / 2))
    expected = augment(square, transformation(rotation=math.pi / 2))
    assert (turned[..., 16:48] - expected).abs().max() < 0.03
    moved = augment(wide, transformation(shift=(1.0, 0.0)))
    assert (moved[..., 8:] - wide[..., :-8]).abs().max() < 0.03


def test_flips_are_exact_and_nothing_else_is_resampled():
    y = torch.rand(1, 3, 8, 8)
    assert torch.equal(augment(y, transformation()), y)
    assert torch.equal(augment(y, transformation(flip_x=True)), y.flip(3))


def test_labels_are_the_published_functions_of_the_parameters():
    by = transformation(
        flip_x=True, scale=0.3, rotation=0.5, stretch=-1.2, stretch_axis=2.0, shift=(0.7, -0.4)
    )
    expected = [1.0, 0.0, 0.3, math.cos(0.5) - 1, math.sin(0.5)]
    expected += [-1.2 * math.cos(2.0), -1.2 * math.sin(2.0), 0.7, -0.4]
    torch.testing.assert_close(by.labels, torch.tensor([expected]))
    assert by.labels.shape == (1, AUGMENT_DIM)
    assert not transformation().labels.any()


def test_each_transformation_is_chosen_with_the_probability_given():
    torch.manual_seed(0)
    labels = draw_augmentation(20_000, 0.12, CPU).labels
    share = (labels != 0).double().mean(0)
    expected = torch.tensor([0.06, 0.06] + [0.12] * 7, dtype=torch.float64)
    torch.testing.assert_close(share, expected, rtol=0, atol=0.01)
    chosen = labels[labels[:, 7] != 0]
    assert chosen[:, 7].std() == pytest.approx(1.0, abs=0.05)


def test_an_augmented_network_is_trained_and_sampled_without_labels(tmp_path: Path):
    config = dataclasses.replace(TINY, duration_images=40, num_snapshots=1, augment=0.5, xflip=True)
    network = open_checkpoint(train(noise_images(), config, out=tmp_path / "run").model).network
    assert network.model.map_augment.weight.shape[1] == AUGMENT_DIM
    (batch,) = generate_images(network, [0, 1])
    assert batch.images.shape == (2, 1, 4, 4)

    half = dataclasses.replace(config, duration_images=20)
    train(noise_images(), half, out=tmp_path / "parts")
    resumed = train(noise_images(), config, out=tmp_path / "parts", resume=True)
    a, b = network.state_dict(), open_checkpoint(resumed.model).network.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
