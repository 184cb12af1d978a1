"""Building denoisers from configurations, and what is said of those that do not fit."""

from typing import Any

import pytest
import torch
from helpers.tiny_networks import TINY, tiny

from memaudit.errors import ConfigError
from memaudit.models.build import PRECONDITIONERS, build_network

SAME = {"ConsistencyPrecond", "SelfConditionedPrecond"}  # EDMPrecond's, DiscretePrecond's
CLASSES = [name for name in PRECONDITIONERS if name not in SAME]


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_network_can_be_laid_out_without_memory(class_name: str):
    """A checkpoint's names and shapes are compared before anything of that size is allocated."""
    with torch.device("meta"):
        network = tiny(class_name)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert network.sigma_min == tiny(class_name).sigma_min


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_name": None}, "class_name is None.*VPPrecond, VEPrecond"),
        ({"class_name": "CTPrecond"}, "class_name is 'CTPrecond'"),
        ({"class_name": ["VPPrecond"]}, "class_name is a list"),
        ({"model_type": "ToyUNet"}, "model_type must be one of SongUNet, .*; got 'ToyUNet'"),
        ({"depth": 3}, "VPPrecond .* unknown keyword 'depth'; accepted are .*num_blocks"),
        ({"in_channels": 3}, "unknown keyword 'in_channels'"),
        ({"sigma_data": 0.5}, "unknown keyword 'sigma_data'"),
        ({"model_channels": "128"}, "model_channels must be an integer, at least 1 .*, got '128'"),
        ({"channel_mult": 2}, "channel_mult must be a list of integers, each at .*, got 2"),
        ({"dropout": "none"}, "dropout must be a number"),
        ({"num_blocks": -4}, "num_blocks must be an integer, at least 1 and at most 256, got -4"),
    ],
)
def test_a_bad_configuration_is_named(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build_network({"class_name": "VPPrecond"} | TINY | change)


def test_a_missing_keyword_is_named():
    with pytest.raises(ConfigError, match="img_channels"):
        build_network({"class_name": "VPPrecond", "img_resolution": 8})


def test_keywords_follow_the_model_type():
    config = {"class_name": "EDMPrecond"} | TINY
    assert build_network(config | {"model_type": "SongUNet", "encoder_type": "skip"})
    with pytest.raises(ConfigError, match="unknown keyword 'encoder_type'"):
        build_network(config | {"model_type": "DhariwalUNet", "encoder_type": "skip"})
