"""The closed-form optimum against float64, closed forms, and itself under other circumstances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch.nn.functional import one_hot

from memaudit.data.images import float_to_uint8
from memaudit.errors import ConfigError, DataError
from memaudit.models.denoiser import Denoiser
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.optimum.definition import denoise_by_definition
from memaudit.models.sampler import heun_sampler, karras_sigmas

SIGMAS = karras_sigmas(18)
EDM_SIGMAS = SIGMAS.tolist()


def as_data(images):
    """uint8 → float64 in [-1, 1], without float32's rounding."""
    return torch.from_numpy(np.asarray(images, dtype=np.float64) / 127.5 - 1)


def relative_error(denoised, truth):
    return float((denoised.double() - truth).abs().max() / truth.abs().max())


def random_images(seed, *shape):
    """Images with smooth structure: blends of a few patterns, and noise."""
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(6, *shape[1:]))
    blends = np.tensordot(rng.normal(size=(shape[0], 6)), patterns, 1)
    return (127.5 + 40 * blends + 10 * rng.normal(size=shape)).clip(0, 255).astype(np.uint8)


def noised(images, sigma, seed=0):
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=images.shape))
    return as_data(images) + sigma * noise


@pytest.fixture(params=["integers", "float32"])
def products(request, monkeypatch):
    """How a machine multiplies: fast in integers, or not."""
    in_integers = request.param == "integers"
    monkeypatch.setattr(
        "memaudit.models.optimum.training_images.has_fast_int8", lambda device: in_integers
    )
    return request.param


def test_the_optimum_is_a_denoiser():
    assert isinstance(ClosedFormOptimum(random_images(0, 3, 1, 4, 4)), Denoiser)


def test_it_agrees_with_the_field_s_reference(golden, products):
    truth = load_file(golden / "optimal_denoiser.safetensors")
    denoiser = ClosedFormOptimum(truth["train_uint8"])
    for x, sigma, D in zip(truth["x"], truth["sigma"], truth["D_f64"], strict=True):
        denoised = denoiser(torch.from_numpy(x), sigma)
        assert relative_error(denoised, torch.from_numpy(D)) < 1e-6, sigma


def test_sampling_it_ends_where_the_field_s_reference_ends(golden):
    truth = load_file(golden / "optimal_denoiser.safetensors")
    denoiser = ClosedFormOptimum(truth["train_uint8"])
    x = heun_sampler(denoiser, torch.from_numpy(truth["heun18.latents"]), SIGMAS)
    assert relative_error(x, torch.from_numpy(truth["heun18.x"])) < 1e-5
    assert (float_to_uint8(x).numpy() == truth["train_uint8"][truth["heun18.nearest"]]).all()


@pytest.mark.parametrize("shape", [(400, 3, 32, 32), (2000, 1, 8, 8), (60, 3, 16, 16)])
def test_it_is_exact_at_every_sigma_of_the_sampler(shape):
    images = random_images(1, *shape)
    for sigma in EDM_SIGMAS:
        # A fresh optimum has nothing to remember.
        x = noised(images[:8], sigma)
        assert (
            relative_error(
                ClosedFormOptimum(images)(x, sigma), denoise_by_definition(x, sigma, images)
            )
            < 2e-6
        ), sigma


def test_it_is_exact_along_a_trajectory_where_it_remembers_its_last_search(products):
    images = random_images(2, 300, 3, 8, 8)
    images[100] = images[7]
    images[200] = images[7] ^ 1

    class Checked(ClosedFormOptimum):
        def __call__(self, x, sigma, class_labels=None):
            denoised = super().__call__(x, sigma, class_labels)
            errors.append(relative_error(denoised, denoise_by_definition(x, sigma, images)))
            return denoised

    errors: list[float] = []
    noise = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    denoiser = Checked(images)
    heun_sampler(denoiser, noise, SIGMAS)
    heun_sampler(denoiser, noise, SIGMAS, S_churn=10)  # off the rays
    assert len(errors) == 70
    assert max(errors) < 5e-6


def test_memory_spares_the_search_and_changes_nothing(monkeypatch):
    """At small sigma the images of one trajectory are searched for no more."""
    images = random_images(3, 300, 3, 8, 8)
    searches = []
    search = ClosedFormOptimum._search

    def counted(self, x, *others, **options):
        searches.append(len(x))
        return search(self, x, *others, **options)

    monkeypatch.setattr(ClosedFormOptimum, "_search", counted)
    noise = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    denoiser = ClosedFormOptimum(images)
    x = heun_sampler(denoiser, noise, SIGMAS)
    assert sum(searches) < 16 * 35 * 0.7
    again = heun_sampler(denoiser, noise.flip(0), SIGMAS).flip(0)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 0.002, 0.5, 80.0])
def test_the_optimum_of_one_image_is_that_image(sigma):
    """With one training image the posterior is a point mass (EDM Eq. 57, N = 1)."""
    images = random_images(4, 1, 3, 4, 4)
    x = noised(images.repeat(5, axis=0), sigma)
    denoised = ClosedFormOptimum(images)(x, sigma)
    torch.testing.assert_close(denoised, as_data(images).float().expand(5, -1, -1, -1))


@pytest.mark.parametrize("sigma", [0.05, 0.3, 2.0, 80.0])
def test_the_optimum_of_two_images_is_a_logistic_blend(sigma, products):
    """w₁ = 1 / (1 + exp((‖x − y₁‖² − ‖x − y₂‖²)/2σ²))."""
    images = random_images(5, 2, 1, 4, 4)
    y1, y2 = as_data(images)
    t = torch.tensor([-0.2, 0.0, 0.4, 0.5, 0.51, 1.0], dtype=torch.float64)[:, None, None, None]
    x = y1 + t * (y2 - y1)
    w1 = torch.sigmoid(-(2 * t - 1) * (y2 - y1).square().sum() / (2 * sigma**2))
    denoised = ClosedFormOptimum(images)(x, sigma)
    torch.testing.assert_close(denoised.double(), w1 * y1 + (1 - w1) * y2, rtol=1e-6, atol=1e-6)


def test_the_optimum_of_many_gaussian_images_is_the_wiener_filter():
    """y ~ N(m, s²) in each pixel: D(x; σ) = m + (x − m) s²/(s² + σ²), up to 1/√N and rounding."""
    rng = np.random.default_rng(6)
    images = np.clip(128 + 20 * rng.normal(size=(200_000, 1, 1, 1)), 0, 255).astype(np.uint8)
    y = as_data(images)
    mean, s = y.mean(), y.std()
    sigma = 0.2
    x = torch.linspace(-0.3, 0.3, 7, dtype=torch.float64).view(7, 1, 1, 1)
    wiener = mean + (x - mean) * s**2 / (s**2 + sigma**2)
    denoised = ClosedFormOptimum(images)(x, sigma)
    torch.testing.assert_close(denoised.double(), wiener, rtol=0, atol=2e-3)


@pytest.mark.parametrize("sigma", [1e6, 1e30, 1e100, float("inf")])
def test_at_huge_sigma_it_is_the_mean_image(sigma, products):
    images = random_images(7, 300, 3, 8, 8)
    mean = as_data(images).mean(0, keepdim=True)
    x = noised(images[:2], min(sigma, 1e100))
    denoised = ClosedFormOptimum(images)(x, sigma)
    torch.testing.assert_close(denoised.double(), mean.expand(2, -1, -1, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.0, 1e-9, 0.002])
def test_toward_0_it_is_the_nearest_image_and_the_mean_of_ties(sigma, products):
    images = random_images(8, 50, 3, 8, 8)
    images[31] = images[4]
    images[1, 0, 0, 0], images[4, 0, 0, 0], images[31, 0, 0, 0] = 0, 100, 104
    tie = as_data(images[4:5])
    tie[0, 0, 0, 0] = 102 / 127.5 - 1
    x = torch.cat([as_data(images[1:2]), tie])
    denoised = ClosedFormOptimum(images)(x, sigma)
    torch.testing.assert_close(denoised, x.float(), rtol=1e-5, atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_it_is_exact_with_duplicates_and_near_duplicates(data):
    """Whatever the sizes, the sigmas, the duplicates, the blocks and the length of the memory."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    num_images = data.draw(st.sampled_from([1, 2, 5, 64, 65, 66, 300]))
    side, channels = data.draw(st.sampled_from([1, 4, 8])), data.draw(st.sampled_from([1, 3]))
    images = random_images(seed, num_images, channels, side, side)
    for _ in range(data.draw(st.integers(0, 3))):  # families of near-duplicates, some large
        size = data.draw(st.sampled_from([2, 3, 100]))
        family = rng.integers(num_images, size=size)
        change = rng.integers(0, data.draw(st.sampled_from([1, 2, 4])), size=(size, 1, 1, 1))
        images[family] = images[family[0]] ^ change.astype(np.uint8)
    sigmas = st.floats(-3, 3).map(lambda power: 10.0**power)
    with pytest.MonkeyPatch.context() as patch:
        in_integers = data.draw(st.booleans())
        patch.setattr(
            "memaudit.models.optimum.training_images.has_fast_int8", lambda device: in_integers
        )
        resident_bytes = data.draw(st.sampled_from([0, 4 << 30]))
        denoiser = ClosedFormOptimum(images, resident_bytes=resident_bytes)
    picks = rng.integers(num_images, size=4)
    noise = torch.from_numpy(rng.normal(size=(4, *images.shape[1:])))
    for _ in range(3):  # the later calls may remember the earlier ones
        sigma = torch.tensor(data.draw(st.lists(sigmas, min_size=4, max_size=4)))
        x = as_data(images[picks]) + sigma.double().view(4, 1, 1, 1) * noise
        truth = denoise_by_definition(x, sigma, images)
        # Of a gray image next to nothing is left to be relative to.
        error = float((denoiser(x, sigma).double() - truth).abs().max())
        assert error <= 1e-5 * max(float(truth.abs().max()), 0.1)


@pytest.mark.parametrize("sigma", [0.002, 0.05])
def test_more_equal_images_than_it_remembers_share_the_posterior_equally(sigma, products):
    images = random_images(9, 400, 3, 32, 32)
    images[100:300] = images[100]
    images[100:200, 0, 0, 0], images[200:300, 0, 0, 0] = 10, 11
    x = noised(images[100:101], sigma)
    denoised = ClosedFormOptimum(images)(x, sigma)
    assert relative_error(denoised, denoise_by_definition(x, sigma, images)) < 1e-6


@pytest.mark.parametrize("constant", ["training_images.CPU_BLOCK_BYTES", "closed_form.LOGIT_BYTES"])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 10.0])
def test_the_size_of_blocks_changes_nothing(monkeypatch, constant, sigma, products):
    images = random_images(10, 333, 3, 8, 8)
    x = noised(images[:20], sigma)
    whole = ClosedFormOptimum(images)(x, sigma)
    monkeypatch.setattr(f"memaudit.models.optimum.{constant}", 5000)
    in_blocks = ClosedFormOptimum(images)(x, sigma)
    torch.testing.assert_close(in_blocks, whole, rtol=0, atol=1e-6)


def test_images_may_stay_in_a_memory_map(tmp_path, products):
    images = random_images(11, 200, 3, 8, 8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for sigma in (0.01, 1.0, 10.0):
        x = noised(images[:5], sigma)
        streamed = ClosedFormOptimum(mapped, resident_bytes=0)(x, sigma)
        assert (streamed == ClosedFormOptimum(images)(x, sigma)).all()


@pytest.mark.gpu
def test_a_gpu_gives_the_same():
    images = random_images(12, 500, 3, 32, 32)
    on_gpu = ClosedFormOptimum(images, device="cuda")
    for sigma in EDM_SIGMAS:
        x = noised(images[:8], sigma)
        denoised = on_gpu(x.cuda(), sigma).cpu()
        assert relative_error(denoised, denoise_by_definition(x, sigma, images)) < 2e-6, sigma


def test_a_class_is_denoised_among_its_own_images(products):
    images = random_images(13, 90, 1, 8, 8)
    labels = np.random.default_rng(13).integers(3, size=90)
    denoiser = ClosedFormOptimum(images, labels, label_dim=5)
    assert denoiser.label_dim == 5
    classes = torch.tensor([2, 0, 1, 0, 2, 2])
    for sigma in (20.0, 2.0, 0.5, 0.1):
        x = noised(images[:6], sigma)
        denoised = denoiser(x, sigma, one_hot(classes, 5).float())
        for row, c in enumerate(classes):
            truth = denoise_by_definition(x[row : row + 1], sigma, images[labels == int(c)])
            assert relative_error(denoised[row : row + 1], truth) < 2e-6
        without = denoiser(x, sigma, None)
        assert relative_error(without, denoise_by_definition(x, sigma, images)) < 2e-6


def test_with_unique_labels_it_is_the_labeled_image_at_every_sigma():
    images = random_images(14, 20, 3, 8, 8)
    denoiser = ClosedFormOptimum(images, np.arange(20))
    classes = torch.tensor([3, 19, 0, 3])
    for sigma in (80.0, 1.0, 0.0):
        x = torch.randn(4, 3, 8, 8) * sigma
        denoised = denoiser(x, sigma, one_hot(classes, 20).float())
        assert (denoised == as_data(images)[classes].float()).all()


def test_it_serves_calls_inside_and_outside_of_inference_mode():
    images = random_images(15, 100, 1, 8, 8)
    denoiser = ClosedFormOptimum(images)
    x = noised(images[:4], 0.3)
    with torch.inference_mode():
        inside = denoiser(x, 0.3)
    outside = denoiser(x, 0.29)
    outside += 1  # an ordinary tensor
    assert inside.dtype == outside.dtype == torch.float32


def test_it_keeps_full_precision_where_the_caller_gave_some_up():
    images = random_images(16, 300, 3, 32, 32)
    x = noised(images[:4], 5.0)
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        denoised = ClosedFormOptimum(images)(x, 5.0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(allowed)
    assert relative_error(denoised, denoise_by_definition(x, 5.0, images)) < 2e-6


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros([2, 3, 4], np.uint8), r"uint8 \[2, 3, 4\]; uint8 \[N, C, H, W\]"),
        (np.zeros([2, 3, 4, 4]), r"float64 \[2, 3, 4, 4\]"),
        (np.zeros([0, 3, 4, 4], np.uint8), "no training images"),
    ],
)
def test_images_it_cannot_serve_are_refused(images, message):
    with pytest.raises(DataError, match=message):
        ClosedFormOptimum(images)


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_the_optimum_of_images_that_are_not_square_is_that_of_the_definition(sigma):
    images = random_images(3, 40, 3, 4, 6)
    optimum = ClosedFormOptimum(images)
    assert optimum.img_resolution == (4, 6)
    x = noised(images[:10], sigma)
    assert relative_error(optimum(x, sigma), denoise_by_definition(x, sigma, images)) < 1e-5


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 9], [-1, 0, 1]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="labels are"):
        ClosedFormOptimum(np.zeros([3, 1, 4, 4], np.uint8), np.array(labels), label_dim=3)


def test_calls_that_make_no_sense_are_refused():
    denoiser = ClosedFormOptimum(np.zeros([3, 1, 4, 4], np.uint8), np.array([0, 0, 2]))
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"x is \[2, 3, 4, 4\]; \[B, 1, 4, 4\]"):
        denoiser(torch.zeros(2, 3, 4, 4), 1.0)
    with pytest.raises(ValueError, match="not finite"):
        denoiser(x / 0, 1.0)
    with pytest.raises(ValueError, match="sigma"):
        denoiser(x, -1.0)
    for labels in (torch.ones(2, 3), torch.zeros(2, 3), torch.eye(2), torch.eye(3)):
        with pytest.raises(ValueError, match="one-hot"):
            denoiser(x, 1.0, labels)
    with pytest.raises(ConfigError, match="Class 1 has no training images"):
        denoiser(x, 1.0, torch.eye(3)[[0, 1]])


@pytest.mark.parametrize("sigma", [0.002, 0.1, 0.5, 2.0, 80.0])
def test_the_effective_number_is_one_over_the_sum_of_squared_weights(sigma, products):
    images = random_images(17, 300, 1, 8, 8)
    images[5] = images[6]
    x = noised(images[:10], sigma)
    S = (x.flatten(1)[:, None] - as_data(images).flatten(1)).square().sum(2)
    w = (-(S - S.min(1, keepdim=True).values) / (2 * sigma**2)).softmax(1)
    denoiser = ClosedFormOptimum(images)
    for _ in range(2):  # searched for, then remembered
        evaluation = denoiser.evaluate(x, sigma)
        torch.testing.assert_close(
            evaluation.num_effective, 1 / w.square().sum(1), rtol=1e-5, atol=0
        )
