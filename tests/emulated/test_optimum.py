"""What the optimum asks of a GPU: exact sums over all images, and to be waited for once."""

import numpy as np
import pytest
import torch
from helpers.pretended_cuda import counted
from torch.nn.functional import one_hot

from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.optimum.definition import denoise_by_definition
from memaudit.models.sampler import karras_sigmas

pytestmark = pytest.mark.emulated


def noised(images, sigma):
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=images.shape))
    return (torch.from_numpy(images.astype(np.float64) / 127.5 - 1) + sigma * noise).cuda()


@pytest.fixture
def images():
    images = np.random.default_rng(0).integers(0, 256, (150, 3, 5, 6), dtype=np.uint8)
    images[100], images[120] = images[3], images[3] ^ 1
    return images


@pytest.mark.parametrize("are_resident", [True, False])
def test_it_is_exact_and_waited_for_once_at_every_sigma(images, are_resident, monkeypatch):
    if not are_resident:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1000, 80 << 30))
        monkeypatch.setattr("memaudit.models.device_rows.COPY_BYTES", 64 * 90)
    optimum = ClosedFormOptimum(images, device="cuda")
    for sigma in karras_sigmas(18)[::3].tolist():
        x = noised(images[:8], sigma)
        with counted() as counts:
            denoised = optimum(x, sigma)
        # A streamed set also waits until a buffer has left, before it is filled again.
        assert counts.synchronizations.total() == (1 if are_resident else 1 + 3)
        assert counts.to_device.total() == (0 if are_resident else 150 * 90)
        truth = denoise_by_definition(x.cpu(), sigma, images)
        error = (denoised.cpu().double() - truth).abs().max() / truth.abs().max()
        assert error < 1e-6, sigma


def test_classes_are_read_together_with_everything_else(images):
    labels = np.arange(150) % 3
    optimum = ClosedFormOptimum(images, labels, device="cuda")
    x, classes = noised(images[:5], 0.5), torch.tensor([0, 2, 0, 1, 2])
    class_labels = one_hot(classes, 3).float().cuda()
    with counted() as counts:
        denoised = optimum(x, 0.5, class_labels)
    assert counts.synchronizations.total() == 1
    denoised = denoised.cpu().double()
    for row, c in enumerate(classes.tolist()):
        truth = denoise_by_definition(x[row : row + 1].cpu(), 0.5, images[labels == c])
        assert (denoised[row] - truth[0]).abs().max() < 1e-6
