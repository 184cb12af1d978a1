"""The pretended device refuses and counts what a GPU refuses and waits for."""

import numpy as np
import pytest
import torch
from helpers.pretended_cuda import counted

from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.optimum.closed_form import ClosedFormOptimum

pytestmark = pytest.mark.emulated


def test_operands_on_two_devices_are_refused():
    x = torch.ones(3, device="cuda")
    assert (x.device.type, x.is_cuda) == ("cuda", True)
    with pytest.raises(RuntimeError, match="on the same device"):
        x + torch.ones(3)
    with pytest.raises(TypeError, match="convert cuda:0"):
        x.numpy()
    with pytest.raises(TypeError, match="convert cuda:0"):
        np.asarray(x)
    assert (x + torch.ones(3).cuda()).cpu().numpy().tolist() == [2, 2, 2]
    assert float((x + 1).sum()) == 6


def test_copies_and_synchronizations_are_counted():
    x = torch.zeros(256, 4, device="cuda")
    with counted() as counts:
        y = torch.ones(256, 4).to("cuda")
        assert counts.to_device.total() == 4096
        assert counts.synchronizations.total() == 1
        x.copy_(torch.ones(256, 4).pin_memory(), non_blocking=True)
        assert counts.synchronizations.total() == 1
        z = x + y
        assert counts.kernels == {"add": 1}
        assert counts.synchronizations.total() == 1
        z.cpu()
        assert counts.synchronizations.total() == 2
        z[z > 0]
        assert counts.synchronizations.total() == 3
    with counted() as counts:
        pass
    assert counts.synchronizations.total() == 0


def test_training_works_there():
    network = torch.nn.Linear(4, 4).to("cuda")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = network.weight.detach().cpu().clone()
    network(torch.ones(2, 4, device="cuda")).square().sum().backward()
    optimizer.step()
    assert network.weight.device.type == "cuda"
    assert not torch.equal(network.weight.detach().cpu(), before)


def test_sampling_gives_the_bytes_of_the_cpu():
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
    expected = next(generate_images(ClosedFormOptimum(images), range(8)))
    found = next(
        generate_images(
            ClosedFormOptimum(images, device="cuda"), range(8), execution=Execution(8, "cuda")
        )
    )
    np.testing.assert_array_equal(found.images, expected.images)
