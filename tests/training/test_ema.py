"""The average of the weights."""

import pytest
import torch
from torch import nn

from memaudit.training.ema import copy_for_average, ema_beta, update_average


def test_the_average_is_the_weighted_sum_of_all_weights():
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    average = copy_for_average(network)
    expected = network.weight.detach().double().clone()
    for beta in [0.1, 0.5, 0.9, 0.999]:
        with torch.no_grad():
            network.weight.normal_()
        update_average(list(average.parameters()), list(network.parameters()), beta)
        expected = beta * expected + (1 - beta) * network.weight.detach().double()
    torch.testing.assert_close(average.weight.double(), expected, rtol=0, atol=1e-7)


def test_without_decay_the_average_is_the_network_itself():
    network = nn.Linear(3, 2)
    average = copy_for_average(network)
    with torch.no_grad():
        network.weight.normal_()
    update_average(list(average.parameters()), list(network.parameters()), 0.0)
    assert torch.equal(average.weight, network.weight)


def test_the_average_is_a_copy_that_is_not_trained():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    average = copy_for_average(network)
    assert not any(module.training for module in average.modules())
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert network.training and network[0].weight.requires_grad
    assert average[0].weight.data_ptr() != network[0].weight.data_ptr()


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode9"):
        ema_beta(
            "mode9",
            images_seen=0,
            batch_size=1,
            halflife_images=1,
            num_images=1,
            decay=0.9,
            rampup_ratio=0.05,
        )
