"""A folder of diffusers denoises as diffusers' own U-Net and scheduler do, in every layout."""

import shutil
from functools import partial

import pytest
import torch
from helpers.diffusers_models import (
    STEM,
    denoised,
    largest_error,
    save_pipeline,
    tiny_unet,
    with_files_side_by_side,
    with_former_names,
    with_index,
)

from memaudit.models.checkpoints import inspect_checkpoint, open_checkpoint
from memaudit.models.checkpoints.diffusers.schedule import DISCRETE
from memaudit.models.resolution import height_and_width

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
# Of diffusers' own schedulers, with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
SLOW = pytest.mark.slow
TIMES = (0, 20, 200, 500, 800, 950, 999)
TOLERANCE = 1e-5
BETAS = torch.linspace(1e-4, 0.01, 4000).tolist()
"""A schedule in numbers, of four times the usual length."""


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def compare(network, unet, scheduler, labels=None, times=TIMES):
    """Largest relative error of denoised images over noise levels of a discrete scheduler."""
    torch.manual_seed(3)
    errors = []
    for t in times:
        alpha_bar = scheduler.alphas_cumprod[t].double()
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
        size = height_and_width(network.img_resolution)
        x = 0.5 * torch.randn(2, network.img_channels, *size)
        x = x + sigma.float() * torch.randn_like(x)
        one_hot = None
        if labels is not None:
            one_hot = torch.nn.functional.one_hot(labels, network.label_dim).float()
        expected = denoised(unet, scheduler, x, t, labels)
        errors.append(largest_error(network(x, sigma.float(), one_hot), expected))
    return max(errors)


LAYOUTS = {
    "a pipeline": lambda folder: folder,
    "its network": lambda folder: folder / "unet",
    "its weights": lambda folder: folder / "unet" / f"{STEM}.safetensors",
    "names of before 2023": lambda folder: with_former_names(folder) or folder,
    "several files": lambda folder: with_index(folder) or folder,
    "all side by side": lambda folder: with_files_side_by_side(folder) or folder,
}

FAST = ("several files", "all side by side")


@pytest.mark.parametrize(
    "layout",
    [layout if layout in FAST else pytest.param(layout, marks=SLOW) for layout in LAYOUTS],
)
def test_every_layout_denoises_as_diffusers_does(tmp_path, layout):
    unet, scheduler = tiny_unet(), diffusers.DDPMScheduler()
    path = LAYOUTS[layout](save_pipeline(tmp_path / "pipeline", unet, scheduler))
    network = open_checkpoint(path).network
    assert compare(network, unet, scheduler) < TOLERANCE


def test_former_names_are_those_that_diffusers_itself_reads(tmp_path):
    folder = save_pipeline(tmp_path, tiny_unet(), diffusers.DDPMScheduler())
    with_former_names(folder)
    theirs = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    checkpoint = open_checkpoint(folder)
    assert compare(checkpoint.network, theirs, diffusers.DDPMScheduler()) < TOLERANCE
    assert checkpoint.provenance["weights"].endswith("by names of before 2023")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"beta_schedule": "squaredcos_cap_v2"}, marks=SLOW),
        pytest.param(
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, marks=SLOW
        ),
        pytest.param({"beta_schedule": "sigmoid"}, marks=SLOW),
        pytest.param({"trained_betas": BETAS, "num_train_timesteps": 4000}, marks=SLOW),
        pytest.param({"trained_betas": BETAS, "num_train_timesteps": 1000}, marks=SLOW),
        pytest.param({"rescale_betas_zero_snr": True}, marks=SLOW),
    ],
    ids=["linear", "cosine", "scaled", "sigmoid", "long betas", "betas cut short", "zero SNR"],
)
def test_targets_and_schedules_are_those_of_diffusers(tmp_path, prediction, options):
    unet = tiny_unet()
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, **options)
    network = open_checkpoint(save_pipeline(tmp_path, unet, scheduler)).network
    last = len(network.noise_levels) - 1
    assert last >= scheduler.config.num_train_timesteps - 2
    assert compare(network, unet, scheduler, times=(*TIMES[:6], last)) < TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        name if name.startswith(("DEIS", "Heun")) else pytest.param(name, marks=SLOW)
        for name in DISCRETE
    ],
)
def test_schedulers_with_discrete_levels_have_the_same(tmp_path, name):
    """Whatever the scheduler, a DDPM network is opened with its levels; defaults are its own."""
    scheduler_class = getattr(diffusers, name)
    try:
        scheduler = scheduler_class()
    except ImportError as error:
        pytest.skip(str(error).splitlines()[0])
    unet = tiny_unet()
    folder = save_pipeline(tmp_path, unet, scheduler)
    checkpoint = open_checkpoint(folder)
    levels = checkpoint.network.noise_levels
    alpha_bar = scheduler.alphas_cumprod.double()[: len(levels)]
    torch.testing.assert_close(levels, ((1 - alpha_bar) / alpha_bar).sqrt().float())
    (folder / "scheduler/scheduler_config.json").write_text(f'{{"_class_name": "{name}"}}')
    assert torch.equal(open_checkpoint(folder).network.noise_levels, levels)


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"num_class_embeds": 4}, [3, 0]),
        pytest.param({"num_class_embeds": 4, "class_embed_type": "timestep"}, [3, 0], marks=SLOW),
    ],
)
def test_classes_are_those_of_diffusers(tmp_path, options, labels):
    unet, scheduler = tiny_unet(**options), diffusers.DDPMScheduler()
    network = open_checkpoint(save_pipeline(tmp_path, unet, scheduler)).network
    assert network.label_dim == 4
    assert compare(network, unet, scheduler, torch.tensor(labels)) < TOLERANCE


@SLOW
def test_what_a_class_embedding_does_not_show_is_said(tmp_path):
    scheduler = diffusers.DDPMScheduler()
    unet = tiny_unet(class_embed_type="identity")
    folder = save_pipeline(tmp_path, unet, scheduler)
    network = open_checkpoint(folder, arch="num_classes=4").network
    vectors = torch.eye(32)[[3, 0]]
    x, sigma = torch.randn(2, 3, 8, 8), network.noise_levels[500]
    scaled = x / (1 + sigma**2).sqrt()
    expected = x - sigma * unet(scaled, 500, class_labels=vectors).sample
    assert largest_error(network(x, sigma, torch.eye(4)[[3, 0]]), expected) < TOLERANCE


def test_the_last_class_may_stand_for_none(tmp_path):
    unet, scheduler = tiny_unet(num_class_embeds=4), diffusers.DDPMScheduler()
    folder = save_pipeline(tmp_path, unet, scheduler)
    network = open_checkpoint(folder, arch="null_label=last").network
    assert (network.label_dim, network.null_label) == (3, "last")
    x, sigma = torch.randn(2, 3, 8, 8), network.noise_levels[500]
    scaled = x / (1 + sigma**2).sqrt()
    for given, index in ((None, [3, 3]), (torch.tensor([[0.0, 1, 0], [0, 0, 0]]), [1, 3])):
        F_x = unet(scaled, 500, class_labels=torch.tensor(index)).sample
        assert largest_error(network(x, sigma, given), x - sigma * F_x) < TOLERANCE


SIGMAS = (0.01, 0.1, 0.5, 2.0, 10.0, 60.0)


@pytest.mark.parametrize(
    ("name", "shift"),
    [
        ("FlowMatchEulerDiscreteScheduler", 3.0),
        pytest.param("FlowMatchEulerDiscreteScheduler", 1.0, marks=SLOW),
        pytest.param("DPMSolverMultistepScheduler", 3.0, marks=SLOW),
    ],
)
def test_flow_matching_denoises_as_its_scheduler_integrates(tmp_path, name, shift):
    """One Euler step to time 0, of diffusers' own scheduler, gives the clean image."""
    unet = tiny_unet()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    saved = scheduler
    if name != "FlowMatchEulerDiscreteScheduler":
        saved = getattr(diffusers, name)(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
        )
    network = open_checkpoint(save_pipeline(tmp_path, unet, saved)).network
    assert network.sigma_max > 1e5 and network.noise_levels is None
    for sigma in SIGMAS:
        t = sigma / (1 + sigma)
        x = torch.randn(2, 3, 8, 8) * (1 + sigma)
        scheduler.set_timesteps(sigmas=[t / (shift - (shift - 1) * t)])
        time = scheduler.timesteps[0]
        assert float(time) == pytest.approx(1000 * t)
        x_t = (1 - t) * x
        F_x = unet(x_t, time).sample
        expected = scheduler.step(F_x, time, x_t).prev_sample
        assert largest_error(network(x, torch.tensor(sigma)), expected) < TOLERANCE


def test_eulers_continuous_times_are_those_of_diffusers(tmp_path):
    unet = tiny_unet()
    options = {"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0}
    options |= {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    scheduler = diffusers.EulerDiscreteScheduler(**options)
    network = open_checkpoint(save_pipeline(tmp_path, unet, scheduler)).network
    assert (network.sigma_min, network.sigma_max) == (0.002, 700.0)
    scheduler.set_timesteps(7)
    for i, time in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        x = torch.randn(2, 3, 8, 8) * sigma
        F_x = unet(scheduler.scale_model_input(x, time), time).sample
        expected = scheduler.step(F_x, time, x).pred_original_sample
        assert largest_error(network(x, sigma), expected) < TOLERANCE
        assert network.round_sigma(sigma) == sigma


@SLOW
def test_euler_with_discrete_times_or_another_target_is_discrete(tmp_path):
    for options in ({"timestep_type": "continuous"}, {"prediction_type": "v_prediction"}):
        scheduler = diffusers.EulerDiscreteScheduler(sigma_min=0.1, sigma_max=9.0, **options)
        network = open_checkpoint(save_pipeline(tmp_path, tiny_unet(), scheduler)).network
        assert len(network.noise_levels) == 1000


@SLOW
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edms_scalings_are_those_of_diffusers(tmp_path, prediction):
    unet = tiny_unet()
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_data=0.7)
    network = open_checkpoint(save_pipeline(tmp_path, unet, scheduler)).network
    for sigma in map(torch.tensor, SIGMAS):
        x = torch.randn(2, 3, 8, 8) * sigma
        noise = scheduler.precondition_noise(sigma)
        F_x = unet(scheduler.precondition_inputs(x, sigma), noise).sample
        expected = scheduler.precondition_outputs(x, F_x, sigma)
        assert largest_error(network(x, sigma), expected) < TOLERANCE


@SLOW
def test_a_learned_variance_is_left_out(tmp_path):
    unet, scheduler = tiny_unet(out_channels=6), diffusers.DDPMScheduler()
    network = open_checkpoint(save_pipeline(tmp_path, unet, scheduler)).network
    assert compare(network, unet, scheduler) < TOLERANCE


@SLOW
def test_half_precision_is_read_as_it_is_stored(tmp_path):
    unet, scheduler = tiny_unet().half(), diffusers.DDPMScheduler()
    folder = save_pipeline(tmp_path, unet, scheduler, variant="fp16")
    assert (folder / f"unet/{STEM}.fp16.safetensors").exists()
    checkpoint = open_checkpoint(folder)
    assert compare(checkpoint.network, unet.float(), scheduler) < TOLERANCE
    assert "(variant fp16)" in checkpoint.provenance["weights"]
    assert inspect_checkpoint(folder).network.dtypes.keys() == {"float16"}


@pytest.mark.parametrize("size", [pytest.param((8, 8), marks=SLOW), (8, 16)])
def test_a_size_may_be_a_pair(tmp_path, size):
    unet, scheduler = tiny_unet(sample_size=size), diffusers.DDPMScheduler()
    network = open_checkpoint(save_pipeline(tmp_path, unet, scheduler)).network
    assert network.img_resolution == (8 if size == (8, 8) else size)
    assert compare(network, unet, scheduler) < TOLERANCE


@pytest.mark.parametrize("parent", [pytest.param("with a scheduler above", marks=SLOW), "without"])
def test_a_training_checkpoint_is_opened_by_its_average(tmp_path, parent):
    unet, average, scheduler = tiny_unet(0), tiny_unet(1), diffusers.DDPMScheduler(beta_end=0.03)
    checkpoint = tmp_path / "checkpoint-500"
    save_pipeline(checkpoint, unet)
    average.save_pretrained(checkpoint / "unet_ema")
    (checkpoint / "optimizer.bin").write_bytes(b"")
    (checkpoint / "scheduler.bin").write_bytes(b"")
    if parent == "without":
        scheduler = diffusers.DDPMScheduler()
    else:
        scheduler.save_pretrained(tmp_path / "scheduler")
    for path in (checkpoint, checkpoint / "unet_ema"):
        opened = open_checkpoint(path)
        assert compare(opened.network, average, scheduler) < TOLERANCE
        assert opened.provenance["weights"].startswith("the moving average (EMA)")
        assumed = "Assumed by default"
        assert any(assumed in warning for warning in opened.warnings) == (parent == "without")
    opened = open_checkpoint(checkpoint / "unet")
    assert compare(opened.network, unet, scheduler) < TOLERANCE
    assert any("lies beside it in unet_ema" in warning for warning in opened.warnings)
    shutil.rmtree(checkpoint / "unet_ema")
    opened = open_checkpoint(checkpoint)
    assert compare(opened.network, unet, scheduler) < TOLERANCE
    assert "does not say" in opened.provenance["weights"]


@SLOW
def test_a_schedule_that_is_not_there_is_said_by_the_user(tmp_path):
    unet = tiny_unet()
    scheduler = diffusers.DDPMScheduler(
        prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", num_train_timesteps=500
    )
    folder = save_pipeline(tmp_path / "checkpoint-1", unet)
    given = "target=v_prediction,beta_schedule=squaredcos_cap_v2,num_train_timesteps=500"
    network = open_checkpoint(folder, arch=given).network
    assert compare(network, unet, scheduler, times=(0, 20, 100, 250, 400, 499)) < TOLERANCE
    info = inspect_checkpoint(folder, arch=given)
    origins = {fact.name: fact.origin for fact in info.network.facts}
    assert origins["target"] == "user" and origins["beta_end"] == "default"
    assert origins["resolution"] == "file"


@SLOW
def test_the_average_of_diffusers_training_is_the_one_it_saves(tmp_path):
    """EMAModel's own save_pretrained writes unet_ema with options of its own in config.json."""
    from diffusers.training_utils import EMAModel

    unet, scheduler = tiny_unet(), diffusers.DDPMScheduler()
    ema = EMAModel(
        tiny_unet(5).parameters(),
        model_cls=diffusers.UNet2DModel,
        model_config=unet.config,
    )
    ema.save_pretrained(tmp_path / "unet_ema")
    save_pipeline(tmp_path, unet, scheduler)
    network = open_checkpoint(tmp_path).network
    assert compare(network, tiny_unet(5), scheduler) < TOLERANCE


@SLOW
def test_saved_as_a_pickle_it_denoises_alike(tmp_path):
    unet, scheduler = tiny_unet(), diffusers.DDPMScheduler()
    save = partial(save_pipeline, tmp_path, unet, scheduler)
    network = open_checkpoint(save(safe_serialization=False)).network
    assert compare(network, unet, scheduler) < TOLERANCE
