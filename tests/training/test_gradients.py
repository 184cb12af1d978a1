"""All gradients in one tensor."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from memaudit.training import gradients
from memaudit.training.distributed import Ranks
from memaudit.training.gradients import Gradients, _buckets

ONE = Ranks(0, 1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2), nn.SiLU(), nn.Linear(2, 1))


def add_rounds(all_gradients: Gradients, model: nn.Module, x: torch.Tensor) -> None:
    all_gradients.clear()
    for part in (slice(0, 2), slice(2, 6)):
        loss = model(x[part]).square().sum()
        all_gradients.add(loss, 2 * loss, is_last=part.stop == 6)
    all_gradients.finish()


def autograds_own(x: torch.Tensor) -> list[torch.Tensor]:
    model = network()
    for part in (slice(0, 2), slice(2, 6)):
        (2 * model(x[part]).square().sum()).backward()
    return [p.grad for p in model.parameters()]


def test_rounds_add_up_as_autograd_adds_them_and_the_next_step_begins_anew():
    model, x = network(), torch.randn(6, 3)
    all_gradients = Gradients(model.parameters(), ONE)
    for _ in range(2):
        add_rounds(all_gradients, model, x)
        found = [p.grad for p in model.parameters()]
        assert all(map(torch.equal, found, autograds_own(x)))
        assert torch.equal(torch.cat([grad.flatten() for grad in found]), all_gradients.numbers)
    torch.testing.assert_close(all_gradients.loss, model(x).square().sum())


def test_what_is_not_finite_is_replaced_as_published_but_not_the_loss():
    weight = nn.Parameter(torch.zeros(4))
    all_gradients = Gradients([weight], ONE)
    all_gradients.numbers.copy_(torch.tensor([math.nan, math.inf, -math.inf, 0.5]))
    all_gradients.loss.fill_(math.nan)
    all_gradients.sanitize()
    assert all_gradients.numbers.tolist() == [0.0, 1e5, -1e5, 0.5]
    assert all_gradients.loss.isnan()


@pytest.mark.parametrize("largest", [1, 10, 100])
def test_several_ranks_sum_every_gradient_and_the_loss_once(
    monkeypatch: pytest.MonkeyPatch, largest: int
):
    sent: list[int] = []

    class Message:
        def wait(self) -> None:
            pass

    def doubled(part: torch.Tensor, *, async_op: bool) -> Any:
        sent.append(part.storage_offset())
        part.mul_(2)
        return Message()

    monkeypatch.setattr(gradients, "BUCKET", largest)
    monkeypatch.setattr(gradients.dist, "all_reduce", doubled)
    model, x = network(), torch.randn(6, 3)
    all_gradients = Gradients(model.parameters(), Ranks(0, 2))
    model[0].bias.requires_grad_(False)  # no gradient arrives
    add_rounds(all_gradients, model, x)
    assert sent == sorted(sent, reverse=True)
    assert len(sent) == {1: 6, 10: 4, 100: 1}[largest]
    torch.testing.assert_close(all_gradients.loss, 2 * model(x).square().sum())
    assert not model[0].bias.grad.any()
    for number, expected in enumerate(autograds_own(x)):
        if number != 1:
            assert torch.equal(list(model.parameters())[number].grad, 2 * expected)


def test_buckets_hold_every_parameter_once_the_last_first():
    assert _buckets([5, 5, 20, 1, 1], 10) == [slice(3, 5), slice(2, 3), slice(0, 2)]
    assert _buckets([5], 10) == [slice(0, 1)]
