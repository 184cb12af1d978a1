"""When a graph of an evaluation pays, and that it computes what the network does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from memaudit.models.build import build_network
from memaudit.models.graphs import FEWEST, TRIED, Graphed, Timing, pays, takes_graphs
from memaudit.models.guidance import guided
from memaudit.models.sampler import heun_sampler, karras_sigmas
from tests.helpers.formula_weights import set_formula_weights


@pytest.mark.parametrize(
    ("host", "device", "remaining", "expected"),
    [
        (0.98e-3, 1.0e-3, 10_000, True),  # a small network: the device waits for the CPU
        (2.4e-3, 120e-3, 10_000, False),  # 4 blocks at 32×32, batch 512
        (2.4e-3, 3.0e-3, 10_000, True),
        (2.4e-3, 3.5e-3, 10_000, False),
        (0.98e-3, 1.0e-3, FEWEST - 1, False),  # over before it would have paid
    ],
)
def test_a_graph_pays_where_starting_kernels_takes_the_time(
    host: float, device: float, remaining: int, expected: bool
):
    assert pays(Timing(host, device), remaining) is expected


@pytest.fixture(scope="module")
def network() -> Any:
    made = build_network(
        {
            "class_name": "EDMPrecond",
            "model_type": "SongUNet",
            "img_resolution": 8,
            "img_channels": 1,
            "label_dim": 3,
            "label_dropout": 0.1,
            "model_channels": 8,
            "channel_mult": [1],
            "num_blocks": 1,
            "attn_resolutions": [],
        }
    )
    set_formula_weights(made, seed=1)
    return made.eval().requires_grad_(False)


class Recorder:
    """Records calls as a GPU does: the result stays where it is, and is computed anew there."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        output = call().clone()
        self.num_recorded += 1

        def replay() -> None:
            self.num_replayed += 1
            output.copy_(call())

        return output, replay


def clock(timing: Timing) -> Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], Timing]]]:
    return lambda call: (call(), lambda: timing)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@torch.inference_mode()
def test_a_graph_gives_the_bits_of_the_network(network: Any, guidance: float):
    """Without labels and with them, as guidance asks; for images of two batch sizes."""
    record = Recorder()
    graphed = Graphed(network, 10_000, record=record, clock=clock(Timing(1.0, 1.0)))
    for size, label in ((5, 0), (5, 1), (3, 2)):
        noise = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(size))
        labels = torch.eye(3)[torch.full([size], label)]
        found, expected = (
            heun_sampler(guided(each, guidance), noise, karras_sigmas(4), labels)
            for each in (graphed, network)
        )
        assert torch.equal(found, expected)
    calls_per_evaluation = 1 if guidance == 1 else 2
    assert record.num_recorded == 2 * calls_per_evaluation
    replays = 3 * 7 * calls_per_evaluation - (1 + TRIED)
    assert record.num_replayed == replays + record.num_recorded  # each is tried once


@torch.inference_mode()
def test_a_network_that_a_graph_would_not_make_faster_is_evaluated_as_it_is(network: Any):
    graphed = Graphed(network, 10_000, record=Recorder(), clock=clock(Timing(0.1, 1.0)))
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(1.0)
    for _ in range(8):
        assert torch.equal(graphed(x, sigma), network(x, sigma))
    assert graphed._record.num_recorded == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("fault", ["raises", "other bits", "computes nothing"])
@torch.inference_mode()
def test_a_graph_that_fails_or_gives_other_bits_is_not_used(network: Any, fault: str):
    def record(call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        if fault == "raises":
            raise RuntimeError("operation not permitted when stream is capturing")
        output = call() + (1e-6 if fault == "other bits" else 0)
        return output, lambda: output.copy_(call() + 1e-6) if fault == "other bits" else None

    graphed = Graphed(network, 10_000, record=record, clock=clock(Timing(1.0, 1.0)))
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(1.0)
    for _ in range(8):
        assert torch.equal(graphed(x, sigma), network(x, sigma))


@torch.inference_mode()
def test_a_few_evaluations_are_not_even_timed(network: Any):
    graphed = Graphed(network, FEWEST - 1, record=Recorder(), clock=None)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(1.0)
    assert torch.equal(graphed(x, sigma), network(x, sigma))


def test_code_of_others_is_never_recorded(network: Any):
    assert takes_graphs(network)
    assert not takes_graphs(lambda x, sigma, class_labels: x)
