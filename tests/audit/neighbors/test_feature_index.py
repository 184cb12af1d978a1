"""Neighbors by features of a toy encoder, against all distances in float64."""

import warnings

import numpy as np
import pytest
import torch
from helpers.all_distances import all_distances, near_duplicates, noise, smooth
from torch import Tensor, nn

from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.preprocessing import PREPROCESSING
from memaudit.audit.neighbors.published_encoders import open_encoder
from memaudit.errors import CheckpointError, DataError

SHAPE = (3, 8, 8)
D = 3 * 8 * 8


class Bands(nn.Module):
    """Features: 12 fixed linear functions of the pixels, and their absolute values."""

    def __init__(self, num_values: int = D) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(12, num_values, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.weight.T
        return torch.cat([z, z.abs()], 1)


class Means(nn.Module):
    """The mean of each channel, whatever the size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Several(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).log()


@pytest.fixture
def saved(tmp_path):
    """Save a module as TorchScript; its path."""

    def save(module: nn.Module):
        path = tmp_path / "encoder.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.script(module).save(str(path))
        return path

    return save


def features_of(images, metric, module=None):
    """float64 [N, F], from the module itself, of values in [0, 1]."""
    with torch.no_grad():
        f = (module or Bands())(torch.from_numpy(images.copy()).float() / 255).double().numpy()
    return f if metric == "l2" else f / np.linalg.norm(f, axis=1, keepdims=True)


def feature_distances(x, y, metric, *, flips=False):
    """All squared distances, float64 [B, N]; with flips the smaller of both orientations of x."""
    if flips:
        both = (feature_distances(o, y, metric) for o in (x, x[..., ::-1]))
        return np.minimum(*both)
    x, y = features_of(x, metric), features_of(y, metric)
    return np.square(x[:, None] - y).sum(2)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("num_images", [2, 90, 700])
def test_nearest_equals_all_distances(saved, metric, flips, num_images):
    rng = np.random.default_rng(0)
    images = noise(rng, num_images, SHAPE)
    queries = np.concatenate([noise(rng, 20, SHAPE), images[:10]])
    index = FeatureIndex(images, open_encoder(saved(Bands())), metric=metric, flips=flips)
    found = index.nearest(queries, 2)
    truth = feature_distances(queries, images, metric, flips=flips)
    np.testing.assert_array_equal(found.index, np.argsort(truth, 1, kind="stable")[:, :2])
    np.testing.assert_allclose(
        found.squared_distance, np.sort(truth, 1)[:, :2], atol=1e-6, rtol=1e-5
    )
    assert found.squared_distance.dtype == np.float64
    assert (found.squared_distance[20:, 0] == 0).all()
    assert not index.exact and index.backend == "faiss-cpu"
    assert index.num_bytes == num_images * 24 * 4


def test_the_squared_cosine_distance_is_2_less_twice_the_cosine(saved):
    rng = np.random.default_rng(0)
    images, queries = smooth(rng, 50, SHAPE), noise(rng, 5, SHAPE)
    found = FeatureIndex(images, open_encoder(saved(Bands()))).nearest(queries, 1)
    cosine = features_of(queries, "cosine") @ features_of(images, "cosine").T
    np.testing.assert_allclose(found.squared_distance[:, 0], (2 - 2 * cosine).min(1), atol=1e-6)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("copies", [1, 5, 60])
def test_duplicates_are_judged_in_pixels(saved, copies, flips):
    """With 60 near-copies of each image none of the 16 nearest is distinct."""
    rng = np.random.default_rng(0)
    images = near_duplicates(rng, 3 * copies, SHAPE)
    images[1::3] = images[1::3, ..., ::-1]
    queries = np.concatenate([images[:5], noise(rng, 10, SHAPE)])
    index = FeatureIndex(images, open_encoder(saved(Bands())), flips=flips)
    radii = [0, 2, 300]
    found = index.distinct_nearest(queries, duplicate_rms=radii)

    truth = feature_distances(queries, images, "cosine", flips=flips)
    order = np.argsort(truth, 1, kind="stable")
    np.testing.assert_array_equal(found.index, order[:, :2])
    apart = all_distances(images[order[:, 0]], images, flips=flips)
    for row, radius in enumerate(radii):
        outside = np.where(apart > radius**2 * D, truth, np.inf)
        expected = np.where(np.isinf(outside).all(1), -1, outside.argmin(1))
        np.testing.assert_array_equal(found.index_distinct[row], expected)
        S = np.where(expected < 0, -1, np.take_along_axis(truth, expected[:, None], 1)[:, 0])
        np.testing.assert_allclose(found.squared_distance_distinct[row], S, atol=1e-6, rtol=1e-5)
    assert (found.index_distinct[2] == -1).all()


def test_no_image_is_encoded_twice():
    images = noise(np.random.default_rng(0), 40, SHAPE)
    queries = noise(np.random.default_rng(1), 10, SHAPE)
    encoded = []

    def pixels(part: np.ndarray) -> np.ndarray:
        encoded.extend(image.tobytes() for image in part)
        return part.reshape(len(part), -1).astype(np.float32)

    index = FeatureIndex(images, pixels)
    encoded.clear()  # of the encoder's test and of the training images
    index.leave_one_out(np.arange(40), duplicate_rms=[8])
    assert encoded == []
    for _ in range(2):
        index.distinct_nearest(np.concatenate([queries, queries, images]), duplicate_rms=[8])
    assert sorted(encoded) == sorted(image.tobytes() for image in queries)


def test_ties_go_to_the_lower_index(saved):
    images = np.repeat(noise(np.random.default_rng(0), 4, SHAPE), 3, 0)
    found = FeatureIndex(images, open_encoder(saved(Bands()))).nearest(images[[4, 11]], 4)
    assert found.index[:, :3].tolist() == [[3, 4, 5], [9, 10, 11]]


def test_features_see_a_copy_that_pixels_do_not(saved):
    """Rolled by half its width an image has the same channel means, and other pixels."""
    images = noise(np.random.default_rng(0), 60, SHAPE)
    moved = np.roll(images[:20], 4, axis=3)
    found = FeatureIndex(images, open_encoder(saved(Means())), metric="l2").nearest(moved, 1)
    assert found.index[:, 0].tolist() == list(range(20))
    assert (found.squared_distance == 0).all()
    assert (all_distances(moved, images).argmin(1) != np.arange(20)).any()


def test_encoding_tells_how_far_it_is(saved):
    told = []
    images = noise(np.random.default_rng(0), 30, SHAPE)
    FeatureIndex(
        images,
        open_encoder(saved(Bands())),
        progress=lambda task, done, total, note="": told.append((task, done, total)),
    )
    assert told == [("Encoding training images", 30, 30)]


@pytest.mark.parametrize(
    ("preprocessing", "black", "white"),
    [
        ("unit", [0, 0, 0], [1, 1, 1]),
        ("signed", [-1, -1, -1], [1, 1, 1]),
        ("imagenet", [-2.1179, -2.0357, -1.8044], [2.2489, 2.4286, 2.64]),
        ("sscd", [-2.1179, -2.0357, -1.8044], [2.2489, 2.4286, 2.64]),
    ],
)
def test_preprocessing_is_the_published_one(saved, preprocessing, black, white):
    images = np.stack([np.full(SHAPE, value, dtype=np.uint8) for value in (0, 255)])
    features = open_encoder(saved(Means()), preprocessing=preprocessing)(images)
    np.testing.assert_allclose(features, [black, white], atol=1e-4)


def test_images_are_resized_to_the_shorter_edge(saved):
    images = noise(np.random.default_rng(0), 2, (3, 8, 12))
    assert open_encoder(saved(Bands(3 * 4 * 6)), resize=4)(images).shape == (2, 24)
    assert PREPROCESSING["sscd"].resize == 288


def test_batches_are_encoded_as_single_images_are(saved):
    encoder = open_encoder(saved(Bands()))
    images = noise(np.random.default_rng(0), 150, SHAPE)
    alone = np.concatenate([encoder(images[i : i + 1]) for i in range(150)])
    np.testing.assert_allclose(encoder(images), alone, rtol=1e-4, atol=1e-5)
    assert encoder(images[:0]).shape == (0, 24)


def test_a_file_that_is_no_torchscript_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        open_encoder(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pt")
    for name in ("text.pt", "weights.pt"):
        with pytest.raises(CheckpointError, match=rf"{name} is not a TorchScript .*jit.trace"):
            open_encoder(tmp_path / name)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Maps(), r"returns float32 \[64, 3, 8, 8\] for 64 images; .* \[64, F\]"),
        (Several(), "returns a tuple for 64 images"),
        (Bands(77), r"cannot encode images of float32 \[64, 3, 8, 8\]: .*shapes"),
        (Logarithm(), "not finite"),
    ],
)
def test_an_encoder_that_gives_no_vectors_is_refused(saved, module, message):
    images = np.zeros((4, *SHAPE), dtype=np.uint8)
    with pytest.raises(CheckpointError, match=message):
        open_encoder(saved(module))(images)


def test_the_cosine_of_a_zero_vector_is_refused(saved):
    images = np.zeros((4, *SHAPE), dtype=np.uint8)
    encoder = open_encoder(saved(Means()))
    with pytest.raises(DataError, match="zero vector.* metric l2"):
        FeatureIndex(images, encoder)
    assert FeatureIndex(images, encoder, metric="l2").nearest(images, 1).index.max() == 0


def test_gray_images_are_refused_where_the_preprocessing_is_for_color(saved):
    encoder = open_encoder(saved(Means()), preprocessing="imagenet")
    with pytest.raises(DataError, match=r"1 channel\(s\), .* 3\. Use unit or signed"):
        encoder(np.zeros((1, 1, 8, 8), dtype=np.uint8))


def test_options_that_do_not_exist_are_refused(saved):
    path = saved(Means())
    with pytest.raises(ValueError, match="preprocessing must be one of unit, signed"):
        open_encoder(path, preprocessing="clip")
    with pytest.raises(ValueError, match="resize must be at least 1"):
        open_encoder(path, resize=0)
    with pytest.raises(ValueError, match="metric must be one of cosine, l2"):
        FeatureIndex(np.zeros((1, *SHAPE), dtype=np.uint8), open_encoder(path), metric="l1")
