"""OpenAI's U-Net against torchcfm's own package, which has it from guided-diffusion (both MIT)."""

import itertools

import pytest
import torch
from torch import Tensor

from memaudit.models.checkpoints import convert_checkpoint, open_checkpoint

UNetModelWrapper = pytest.importorskip("torchcfm.models.unet.unet").UNetModelWrapper

SIGMAS = (0.01, 0.1, 0.5, 2.0, 10.0, 79.0)
LABELS = torch.tensor([1, 4])
COMBINATIONS = list(
    itertools.product(
        (False, True),  # use_new_attention_order
        (False, True),  # use_scale_shift_norm
        (False, True),  # resblock_updown
        ((4, -1), (1, -1), (4, 16)),  # num_heads, num_head_channels
        (False, True),  # classes
        (False, True),  # learned variance
        ((1, 2), (1, 2, 2), (2, 1)),  # channel_mult
    )
)


def reference(new_order, scale_shift, updown, heads, classes, learned, mult, blocks=1):
    torch.manual_seed(0)
    model = UNetModelWrapper(
        dim=(3, 16, 16),
        num_channels=32,
        num_res_blocks=blocks,
        channel_mult=mult,
        attention_resolutions="8",
        num_heads=heads[0],
        num_head_channels=heads[1],
        use_scale_shift_norm=scale_shift,
        resblock_updown=updown,
        use_new_attention_order=new_order,
        class_cond=classes,
        num_classes=5 if classes else None,
        learn_sigma=learned,
    ).eval()
    for parameter in model.parameters():  # what starts at 0 would hide the rest
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.requires_grad_(False)


def opened(path, model, new_order, heads, ema_prefix=""):
    ema = {f"{ema_prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"net_model": {n: t + 1 for n, t in ema.items()}, "ema_model": ema, "step": 9}, path)
    return open_checkpoint(path, arch=arch_of(new_order, heads))


def arch_of(new_order, heads):
    said = f"num_heads={heads[0]}" if heads[1] == -1 else f"num_head_channels={heads[1]}"
    order = "on" if new_order else "off"
    return f"torchcfm,img_resolution=16,{said},use_new_attention_order={order}"


def largest_error(network, model, labels) -> float:
    """The largest relative difference of D over all noise levels."""
    worst = 0.0
    one_hot = None if labels is None else torch.eye(5)[labels]
    for sigma in SIGMAS:
        torch.manual_seed(1)
        x = torch.rand(2, 3, 16, 16) * 2 - 1 + sigma * torch.randn(2, 3, 16, 16)
        t = 1 / (1 + sigma)
        D: Tensor = t * x + (1 - t) * model(torch.full((2,), t), t * x, labels)[:, :3]
        found = network(x, torch.tensor(sigma), one_hot)
        assert D.abs().max() > 0.01
        worst = max(worst, float((found - D).abs().max() / D.abs().max()))
    return worst


@pytest.mark.parametrize(
    "combinations",
    [COMBINATIONS[::48], pytest.param(COMBINATIONS, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_every_combination_denoises_as_the_package(tmp_path, combinations):
    for combination in combinations:
        new_order, *_, heads, classes, _, _ = combination
        model = reference(*combination)
        network = opened(tmp_path / "x_weights_step_9.pt", model, new_order, heads).network
        error = largest_error(network, model, LABELS if classes else None)
        assert error < 1e-5, combination


@pytest.mark.parametrize("prefix", [pytest.param("", marks=pytest.mark.slow), "module."])
def test_the_cifar_network_opens_without_a_word(tmp_path, prefix):
    """The example's options, narrower: levels 1, 2, 2, 2, attention at 16, 64 channels a head."""
    torch.manual_seed(0)
    model = UNetModelWrapper(
        dim=(3, 32, 32),
        num_channels=32,
        num_res_blocks=2,
        channel_mult=[1, 2, 2, 2],
        num_heads=4,
        num_head_channels=64,
        attention_resolutions="16",
        dropout=0.1,
    ).eval()
    path = tmp_path / "otcfm_cifar10_weights_step_9.pt"
    ema = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"net_model": ema, "ema_model": ema, "sched": {}, "optim": {}, "step": 9}, path)
    network = open_checkpoint(path).network
    assert network.img_resolution == 32
    assert largest_error(network, model.requires_grad_(False), None) < 1e-5
    native = convert_checkpoint(path, tmp_path / "native.safetensors")
    assert largest_error(native.network, model, None) < 1e-5
