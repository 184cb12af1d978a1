"""Guidance where it is known in closed form: of a mixture of classes."""

import numpy as np
import pytest
import torch
from helpers.tiny_networks import tiny

from memaudit.errors import ConfigError
from memaudit.models.generate import generate_images
from memaudit.models.guidance import GuidedDenoiser, guided
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (12, 1, 4, 6), np.uint8)
LABELS = np.arange(12) % 3
OPTIMUM = ClosedFormOptimum(IMAGES, LABELS)


def posterior_mean(x: torch.Tensor, sigma: float, images: np.ndarray) -> torch.Tensor:
    y = torch.from_numpy(images).to(torch.float64).flatten(1) / 127.5 - 1
    S = (x.to(torch.float64).flatten(1)[:, None] - y).square().sum(2)
    return ((-S / (2 * sigma**2)).softmax(1) @ y).view(x.shape)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_guidance_of_the_optimum_is_that_of_its_two_posterior_means(sigma, weight):
    x = torch.randn(3, 1, 4, 6, generator=torch.Generator().manual_seed(1)) * (1 + sigma)
    found = guided(OPTIMUM, weight)(x, torch.tensor(sigma), torch.eye(3))
    of_all = posterior_mean(x, sigma, IMAGES)
    of_class = torch.cat([posterior_mean(x[[c]], sigma, IMAGES[c == LABELS]) for c in range(3)])
    expected = of_all + weight * (of_class - of_all)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def images_of(denoiser, **options) -> np.ndarray:
    config = SamplerConfig(num_steps=4, **options)
    return np.concatenate([b.images for b in generate_images(denoiser, range(6), config=config)])


def network(label_dropout: float):
    torch.manual_seed(0)
    made = tiny("EDMPrecond", label_dim=3, model_type="SongUNet", label_dropout=label_dropout)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def test_weight_1_is_the_model_itself_and_calls_it_once_per_step():
    model = network(0.1)
    assert guided(model, 1.0) is model
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    plain = images_of(model)
    assert len(calls) == 7  # 2N − 1 for one group
    np.testing.assert_array_equal(images_of(model, guidance=1.0), plain)
    calls.clear()
    assert not np.array_equal(images_of(model, guidance=2.0), plain)
    assert len(calls) == 14


def test_a_network_of_edm_is_guided_from_a_row_of_zeros():
    model, x, sigma = network(0.1), torch.randn(2, 3, 8, 8), torch.tensor(0.7)
    labels = torch.eye(3)[[0, 2]]
    with torch.no_grad():
        without, with_class = model(x, sigma, torch.zeros(2, 3)), model(x, sigma, labels)
        found = GuidedDenoiser(model, 2.5)(x, sigma, labels)
    torch.testing.assert_close(found, without + 2.5 * (with_class - without))


def test_a_model_that_knows_no_null_label_is_refused():
    with pytest.raises(ConfigError, match="guidance is 2, but .* not trained without classes"):
        guided(network(0.0), 2.0)
    with pytest.raises(ConfigError, match="it has no classes"):
        generate_images(ClosedFormOptimum(IMAGES), range(2), config=SamplerConfig(guidance=0.0))
    assert guided(network(0.0), 1.0).label_dim == 3


def test_the_optimum_without_a_class_does_not_remember_what_it_found_for_the_first():
    """Both begin at the first training image, and a guided sampler asks for them in turn."""
    images = np.random.default_rng(1).integers(0, 256, (12, 1, 4, 4), np.uint8)
    labels = np.arange(12) // 4
    used = ClosedFormOptimum(images, labels, label_dim=3)
    x, first = torch.randn(5, 1, 4, 4).double(), torch.eye(3)[[0] * 5]
    for given in (None, first, None, first):
        fresh = ClosedFormOptimum(images, labels, label_dim=3)
        sigma = torch.tensor(0.5)
        assert torch.equal(used(x, sigma, given), fresh(x, sigma, given))
