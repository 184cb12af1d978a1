"""denoising-diffusion-pytorch: its files say what their network predicts, and at which noise.

Numbers of the package itself are stored; `test_lucidrains_package.py` runs it, where installed.
"""

import pytest
import torch
from helpers.lucidrains_files import buffers, diffusion, save_trainer, unet_weights

from memaudit.audit.augmentation import augmentation_of
from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints import convert_checkpoint, inspect_checkpoint, open_checkpoint

SIZED = "img_resolution=8"
T = [3, 50, 99]

# D at the noise levels T of 100 (sigmoid), for x = linspace(-1, 1) (1 + σ), every 21·C-th number:
# denoising-diffusion-pytorch 2.3.4 with torch 2.15, `model_predictions`, weights as in the helper.
GOLDEN = {
    "pred_v": (
        {},
        [
            [-1.053077, -0.333471, 0.345437, 1.089195],
            [-0.902363, -0.48509, 0.83131, 1.023719],
            [-0.041437, -0.430475, 0.749028, -0.087967],
        ],
    ),
    "pred_x0": (  # self-conditioned: run twice
        {"self_condition": True},
        [
            [0.169594, -0.066665, 0.547415, -0.755677],
            [0.165832, 0.08027, 0.652661, -0.904425],
            [0.272575, 0.613462, 0.472785, -0.595265],
        ],
    ),
    "pred_noise": (
        {"full_attn": [1, 0], "channels": 1, "returned": 1},
        [
            [-1.039675, -0.245472, 0.422, 1.162675],
            [-2.61863, 0.174351, 0.545806, 2.329175],
            [-919.18396, 250.781021, -11.32254, 809.55249],
        ],
    ),
}


@pytest.mark.parametrize("objective", GOLDEN)
@torch.no_grad()
def test_denoised_images_are_those_of_the_package(tmp_path, objective):
    size, expected = GOLDEN[objective]
    torch.save(diffusion(unet_weights(**size), objective=objective), tmp_path / "model.pt")
    network = open_checkpoint(tmp_path / "model.pt", arch=SIZED).network
    C = network.img_channels
    for t, values in zip(T, expected, strict=True):
        sigma = buffers()["sqrt_recipm1_alphas_cumprod"][t]
        x = torch.linspace(-1, 1, C * 64).reshape(1, C, 8, 8) * (1 + sigma)
        D = network(x, sigma).flatten()[:: C * 21]
        found = torch.tensor(values)
        assert float((D - found).abs().max() / found.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("schedule", "gamma"),
    [("linear", torch.inf), ("cosine", 5.0), ("sigmoid", torch.inf), ("sigmoid", 2.0)],
)
@pytest.mark.parametrize(
    ("objective", "target"),
    [("pred_noise", "epsilon"), ("pred_x0", "sample"), ("pred_v", "v_prediction")],
)
def test_the_buffers_say_schedule_and_objective(tmp_path, objective, target, schedule, gamma):
    state = diffusion(unet_weights(), objective=objective, schedule=schedule, gamma=gamma)
    torch.save(state, tmp_path / "model.pt")
    network = inspect_checkpoint(tmp_path / "model.pt", arch=SIZED).network
    origins = {fact.name: (fact.value, fact.origin) for fact in network.facts}
    assert origins["target"] == (target, "file")
    assert origins["schedule"] == (schedule, "file")
    assert origins["num_steps"] == (100, "file")
    assert origins["img_resolution"] == (8, "user")


def test_a_schedule_without_a_name_is_taken_in_numbers(tmp_path):
    state = diffusion(unet_weights(), schedule="linear")
    state |= {name: value for name, value in buffers(schedule="linear", num_steps=64).items()}
    betas = state["betas"].double() * 0.9
    state["betas"] = betas.float()
    sigma = (1 / (1 - betas).cumprod(0) - 1).sqrt()
    state["sqrt_recipm1_alphas_cumprod"] = sigma.float()
    state["alphas_cumprod"] = (1 / (1 + sigma**2)).float()
    state["loss_weight"] = state["alphas_cumprod"]  # pred_v
    torch.save(state, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt", arch=SIZED)
    assert "schedule" not in checkpoint.config and len(checkpoint.config["betas"]) == 64
    level = sigma[40].float()
    assert float(checkpoint.network.round_sigma(level)) == pytest.approx(float(level), rel=1e-6)
    convert_checkpoint(tmp_path / "model.pt", tmp_path / "native.safetensors", arch=SIZED)


@torch.no_grad()
def test_the_trainers_average_is_taken_and_its_absence_is_said(tmp_path):
    average, online = diffusion(unet_weights(seed=1)), diffusion(unet_weights(seed=2))
    save_trainer(tmp_path / "model-7.pt", average, online)
    found = open_checkpoint(tmp_path / "model-7.pt", arch=SIZED)
    x, sigma = torch.randn(1, 3, 8, 8), torch.tensor(1.0)
    torch.save(average, tmp_path / "average.pt")
    alone = open_checkpoint(tmp_path / "average.pt", arch=SIZED)
    assert torch.equal(found.network(x, sigma), alone.network(x, sigma))
    assert found.provenance["weights"] == "the moving average (EMA), under 'ema ema_model'"
    assert found.provenance["beside_the_weights"]["version"] == "2.3.4"
    assert not any("average" in warning for warning in found.warnings)

    save_trainer(tmp_path / "early.pt", average, online, initted=False)
    early = open_checkpoint(tmp_path / "early.pt", arch=SIZED)
    assert any("average had not begun" in warning for warning in early.warnings)
    torch.save(online, tmp_path / "online.pt")
    in_training = open_checkpoint(tmp_path / "online.pt", arch=SIZED)
    assert torch.equal(early.network(x, sigma), in_training.network(x, sigma))

    whole = {"step": 1, "model": online, "opt": {}, "ema": {}, "scaler": None}
    torch.save(whole, tmp_path / "online.pt")
    trained = open_checkpoint(tmp_path / "online.pt", arch=SIZED)
    assert any("network in training, not its moving average" in w for w in trained.warnings)
    assert not torch.equal(trained.network(x, sigma), found.network(x, sigma))


def test_mirrored_copies_are_searched_since_the_trainer_mirrors_by_default(tmp_path):
    torch.save(diffusion(unet_weights()), tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt", arch=SIZED)
    said = augmentation_of(checkpoint.config, checkpoint.provenance)
    assert said.mirrored and said.is_assumed
    assert any("mirrored copies are searched, too" in warning for warning in checkpoint.warnings)
    native = convert_checkpoint(tmp_path / "model.pt", tmp_path / "native.safetensors", arch=SIZED)
    assert augmentation_of(native.config, native.provenance) == said


@pytest.mark.parametrize(
    "size", [{}, {"self_condition": True}, {"fourier_dim": 6, "norm_groups": 2}]
)
@torch.no_grad()
def test_a_converted_file_denoises_to_the_same_bits(tmp_path, size):
    arch = SIZED + (",norm_groups=2" if "norm_groups" in size else "")
    torch.save(diffusion(unet_weights(**size)), tmp_path / "model.pt")
    found = open_checkpoint(tmp_path / "model.pt", arch=arch)
    native = convert_checkpoint(tmp_path / "model.pt", tmp_path / "native.safetensors", arch=arch)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 9.0])
    assert torch.equal(native.network(x, sigma), found.network(x, sigma))


@torch.no_grad()
def test_images_that_are_not_square_are_denoised(tmp_path):
    torch.save(diffusion(unet_weights()), tmp_path / "model.pt")
    network = open_checkpoint(tmp_path / "model.pt", arch="img_resolution=8x12").network
    assert network.img_resolution == (8, 12)
    assert network(torch.randn(1, 3, 8, 12), torch.tensor(1.0)).isfinite().all()


def test_a_network_with_a_learned_variance_was_trained_on_the_noise(tmp_path):
    """LearnedGaussianDiffusion's loss is on the noise, whatever its objective says."""
    state = diffusion(unet_weights(returned=6), objective="pred_v")
    torch.save(state, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt", arch=SIZED)
    assert checkpoint.config["target"] == "epsilon" and checkpoint.config["learned_variance"]
    assert any("a variance, too" in warning for warning in checkpoint.warnings)


def test_a_unet_saved_alone_needs_what_its_diffusion_would_say(tmp_path):
    torch.save(unet_weights(), tmp_path / "unet.pt")
    with pytest.raises(CheckpointError, match="does not say the height and width of its images"):
        open_checkpoint(tmp_path / "unet.pt")
    with pytest.raises(CheckpointError, match="what it predicts: say it with arch, as target=eps"):
        open_checkpoint(tmp_path / "unet.pt", arch=SIZED)
    checkpoint = open_checkpoint(
        tmp_path / "unet.pt", arch=f"{SIZED},target=epsilon,schedule=cosine"
    )
    assert checkpoint.config["num_steps"] == 1000


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("img_resolution=8,target=epsilon", "target is epsilon, but the file shows v_prediction"),
        ("img_resolution=8,schedule=cosine", "schedule is cosine, but the file shows sigmoid"),
        ("img_resolution=8,num_steps=1000", "num_steps is 1000, but the file shows 100"),
        (
            "img_resolution=8,heads=4",
            "has no option 'heads'; its options are img_resolution, target",
        ),
        ("img_resolution=7", "cannot be halved for the 2 levels"),
    ],
)
def test_what_contradicts_the_file_is_refused(tmp_path, arch, message):
    torch.save(diffusion(unet_weights()), tmp_path / "model.pt")
    with pytest.raises((ConfigError, CheckpointError), match=message):
        open_checkpoint(
            tmp_path / "model.pt", arch=f"{SIZED},{arch}" if "img" not in arch else arch
        )


OTHERS = {
    "downs.0.0.ds_conv.weight": "ConvNeXt blocks, of January to May 2022",
    "downs.0.0.block1.block.0.weight": "GroupNorm, of before August 2022",
    "downs.0.2.fn.fn.to_qkv.weight": "PreNorm, of before June 2023",
    "null_classes_emb": "classifier_free_guidance.py",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_of_the_package_are_refused_by_name(tmp_path, name):
    state = diffusion(unet_weights()) | {f"model.{name}": torch.ones(2)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=f"{OTHERS[name]}.*since October 2023"):
        open_checkpoint(tmp_path / "model.pt", arch=SIZED)


def without_memory(state):
    for name in [name for name in state if name.endswith("mem_kv")]:
        del state[name]


def elucidated(state):
    for name in list(state):
        state[name.replace("model.", "net.", 1)] = state.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_memory, "without mem_kv, of before October 2023"),
        (
            lambda s: s.update({"model.mid_block1.block1.norm.weight": torch.ones(8)}),
            "for which its configuration has no place",
        ),
        (elucidated, "an ElucidatedDiffusion"),
        (lambda s: s.update({"model.final_conv.weight": torch.ones(8, 4, 1, 1)}), "Weighted"),
        (lambda s: s.update({"model.final_conv.weight": torch.ones(5, 4, 1, 1)}), "returns 5"),
        (lambda s: s.update({"model.init_conv.weight": torch.ones(4, 3, 7)}), "has 1 dimension"),
        (lambda s: s.pop("model.downs.1.3.weight"), "lacks the tensor 'downs.1.3.weight'"),
        (lambda s: s.pop("model.mid_block1.mlp.1.bias"), "lacks the tensor .*mid_block1.mlp.1.b"),
        (lambda s: s.update({"model.time_mlp.1.weight": torch.ones(3, 4)}), "multiples of 0"),
        (lambda s: s.update({"model.extra": torch.ones(1)}), "for which its configuration has no"),
        (lambda s: s["betas"].mul_(0.5), "is not what its betas make of it"),
        (lambda s: s["alphas_cumprod"].mul_(0.5), "alphas_cumprod is not what its betas make"),
        (lambda s: s["loss_weight"].mul_(2), "loss_weight is not what the package makes"),
        (lambda s: s["loss_weight"][50:].fill_(torch.nan), "loss_weight is not what the package"),
        (lambda s: s.update(betas=torch.full([100], torch.nan)), "betas that are not in"),
        (lambda s: s.update(betas=torch.zeros(100)), "betas that are not in"),
        (lambda s: s.update(betas=torch.ones(99) / 100), "buffers of different lengths"),
        (lambda s: s.update(betas=torch.ones([])), "buffers of different lengths"),
        (lambda s: s.update({n: torch.ones(1) for n in buffers()}), "has 1 levels"),
        (
            lambda s: [s.pop("betas"), s.update({"model.time_mlp.0.weights": torch.ones(3)})],
            "of continuous time",
        ),
    ],
)
def test_a_file_that_contradicts_itself_or_holds_a_variant_is_refused(tmp_path, change, message):
    state = diffusion(unet_weights())
    change(state)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "model.pt", arch=SIZED)
    info = inspect_checkpoint(tmp_path / "model.pt", arch=SIZED)
    assert info.safe and info.network is None and info.problem
