"""denoising-diffusion-pytorch itself: what it saves denoises here as it does there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from memaudit.audit.config import ScanConfig
from memaudit.audit.scan import scan
from memaudit.models.checkpoints import open_checkpoint

ddp = pytest.importorskip(
    "denoising_diffusion_pytorch", reason="needs the package denoising-diffusion-pytorch"
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

SIZE = {"dim": 8, "dim_mults": (1, 2, 4), "attn_heads": 2, "attn_dim_head": 8}
SCHEDULES = [("linear", 100), ("cosine", 100), ("sigmoid", 1000), ("sigmoid", 100)]


def randomized(diffusion: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in diffusion.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return diffusion.eval()


def predicted(diffusion: nn.Module, x_t: Tensor, t: Tensor) -> Tensor:
    """What the package takes for the clean images; the second time with the first estimate."""
    if isinstance(diffusion, ddp.LearnedGaussianDiffusion):
        return diffusion.p_mean_variance(x=x_t, t=t, clip_denoised=False)[3]
    if not diffusion.self_condition:
        return diffusion.model_predictions(x_t, t).pred_x_start
    first = diffusion.model_predictions(x_t, t, clip_x_start=True).pred_x_start
    return diffusion.model_predictions(x_t, t, first).pred_x_start


@torch.no_grad()
def relative_error(diffusion: nn.Module, path: Path, channels: int = 3) -> float:
    """The largest difference at seven noise levels, first and last among them."""
    torch.save(diffusion.state_dict(), path)
    network = open_checkpoint(path, arch="img_resolution=16").network
    T, worst = diffusion.num_timesteps, 0.0
    for t in (0, T // 20, T // 4, T // 2, 3 * T // 4, T - 2, T - 1):
        sigma = diffusion.sqrt_recipm1_alphas_cumprod[t]
        x = torch.randn(2, channels, 16, 16).clamp(-1, 1)
        x += sigma * torch.randn_like(x)
        expected = predicted(diffusion, x * diffusion.sqrt_alphas_cumprod[t], torch.tensor([t, t]))
        assert float(network.round_sigma(sigma)) == pytest.approx(float(sigma), rel=1e-5)
        difference = network(x, sigma) - expected
        worst = max(worst, float(difference.abs().max() / expected.abs().max()))
    return worst


@pytest.mark.parametrize("min_snr", [False, True])
@pytest.mark.parametrize(("schedule", "num_steps"), SCHEDULES)
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_gaussian_diffusion_is_opened_exactly(tmp_path, objective, schedule, num_steps, min_snr):
    diffusion = ddp.GaussianDiffusion(
        ddp.Unet(**SIZE),
        image_size=16,
        timesteps=num_steps,
        objective=objective,
        beta_schedule=schedule,
        min_snr_loss_weight=min_snr,
    )
    assert relative_error(randomized(diffusion), tmp_path / "model.pt") < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"self_condition": True},
        {"full_attn": (True, False, True), "attn_heads": (1, 2, 4), "attn_dim_head": (8, 4, 6)},
        {"init_dim": 12, "channels": 1, "flash_attn": True},
        {"channels": 2, "sinusoidal_pos_emb_theta": 10000, "dropout": 0.1},
    ],
)
def test_variants_of_the_unet_are_opened_exactly(tmp_path, options):
    diffusion = ddp.GaussianDiffusion(ddp.Unet(**{**SIZE, **options}), image_size=16)
    channels = options.get("channels", 3)
    assert relative_error(randomized(diffusion), tmp_path / "model.pt", channels) < 1e-5


@pytest.mark.parametrize("objective", ["pred_noise", "pred_v"])
def test_a_learned_variance_is_left_out(tmp_path, objective):
    unet = ddp.Unet(**SIZE, learned_variance=True)
    diffusion = ddp.LearnedGaussianDiffusion(unet, image_size=16, objective=objective)
    assert relative_error(randomized(diffusion), tmp_path / "model.pt") < 1e-5


@pytest.mark.parametrize(
    "make",
    [
        lambda unet: ddp.ElucidatedDiffusion(unet, image_size=16),
        lambda unet: ddp.ContinuousTimeGaussianDiffusion(unet, image_size=16),
        lambda unet: unet,
    ],
)
def test_diffusion_in_continuous_time_is_refused(tmp_path, make):
    state = make(ddp.Unet(**SIZE, random_fourier_features=True)).state_dict()
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(Exception, match="ElucidatedDiffusion"):
        open_checkpoint(tmp_path / "model.pt", arch="img_resolution=16")


def test_other_networks_of_the_package_are_refused(tmp_path):
    karras = ddp.KarrasUnet(
        image_size=16, dim=8, dim_max=16, num_downsamples=1, num_blocks_per_stage=1
    )
    unet1d = ddp.Unet1D(8, dim_mults=(1, 2), channels=3)
    for module, message in ((karras, "KarrasUnet"), (unet1d, "PreNorm")):
        torch.save({f"model.{n}": t for n, t in module.state_dict().items()}, tmp_path / "m.pt")
        with pytest.raises(Exception, match=message):
            open_checkpoint(tmp_path / "m.pt", arch="img_resolution=16")


@pytest.mark.slow
def test_the_trainers_model_copies_here_as_it_does_there(tmp_path, monkeypatch):
    """Six images, mirrored at random; its own DDIM and our sampler of it agree on the ratio."""
    module = ddp.denoising_diffusion_pytorch
    monkeypatch.setattr(module, "cpu_count", lambda: 0)
    monkeypatch.setattr(module, "tqdm", lambda *args, **options: _Quiet(*args, **options))
    train = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), np.uint8)
    (tmp_path / "train").mkdir()
    for i, image in enumerate(train):
        for copy in range(17):  # the Trainer wants a hundred files
            Image.fromarray(image[0]).save(tmp_path / "train" / f"{i}-{copy}.png")
    torch.manual_seed(0)
    unet = ddp.Unet(16, dim_mults=(1, 2), channels=1, attn_heads=2, attn_dim_head=8)
    diffusion = ddp.GaussianDiffusion(unet, image_size=8, timesteps=100, sampling_timesteps=50)
    trainer = ddp.Trainer(
        diffusion,
        str(tmp_path / "train"),
        train_batch_size=32,
        train_lr=2e-3,
        train_num_steps=1000,
        ema_decay=0.99,
        save_and_sample_every=1000,
        num_samples=4,
        results_folder=str(tmp_path / "results"),
        calculate_fid=False,
    )
    trainer.train()
    generated = trainer.ema.ema_model.sample(batch_size=256)
    theirs = (generated * 255 + 0.5).clamp(0, 255).to(torch.uint8).cpu().numpy()

    config = ScanConfig(seeds=range(256), without=("optimality",))
    checkpoint = open_checkpoint(tmp_path / "results" / "model-1.pt", arch="img_resolution=8")
    ours = scan(checkpoint, train, config=config)
    mirrored = replace(config, index=replace(config.index, flips=True))
    own = scan(theirs, train, config=mirrored)
    assert ours.config.index.flips
    assert own.ratios.copies.ratio > 0.3
    assert ours.ratios.copies.low <= own.ratios.copies.high
    assert own.ratios.copies.low <= ours.ratios.copies.high


class _Quiet:
    """tqdm without its bar."""

    def __init__(self, iterable=(), **options):
        self.iterable = iterable

    def __iter__(self):
        return iter(self.iterable)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def set_description(self, text):
        pass

    def update(self, count):
        pass
