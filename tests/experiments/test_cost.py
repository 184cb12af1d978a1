"""Operations are counted without computing them, exactly as torch counts them."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memaudit.data.images import ImageSet
from memaudit.experiments.cost import count_forward_flops
from memaudit.models.build import build_network
from memaudit.training.config import TrainingConfig
from memaudit.training.network import configure_network


@pytest.mark.skipif(
    torch.__version__.startswith("2.7."), reason="torch 2.7 counts some operations otherwise"
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"arch": "ncsnpp", "precond": "ve", "num_blocks": 1},
        {"arch": "adm", "precond": "edm"},
        {"conditional": True, "channel_mult": (1,)},
    ],
)
def test_operations_are_those_that_torch_counts_while_it_computes(options: dict[str, object]):
    config = TrainingConfig(**{"model_channels": 8, "channel_mult": (1, 2), **options})
    images = ImageSet(np.zeros([3, 3, 8, 8], np.uint8), list("abc"), labels=np.arange(3))
    network = build_network(configure_network(config, images)).eval()
    labels = torch.eye(3)[:1] if config.conditional else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 8, 8), torch.ones(1), labels)
    assert count_forward_flops(config, images) == counter.get_total_flops() > 1e6
