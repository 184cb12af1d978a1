"""The network that the options of a training run make."""

import numpy as np
import pytest

from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.training.config import TrainingConfig
from memaudit.training.network import configure_network


def image_set(
    num: int = 4, *, shape: tuple[int, ...] = (3, 32, 32), labels: np.ndarray | None = None
) -> ImageSet:
    images = np.zeros((num, *shape), np.uint8)
    return ImageSet(images, [str(i) for i in range(num)], labels=labels, source="train.npz")


def test_the_default_is_the_papers_base_network():
    assert configure_network(TrainingConfig(), image_set()) == {
        "class_name": "VPPrecond",
        "img_resolution": 32,
        "img_channels": 3,
        "label_dim": 0,
        "use_fp16": False,
        "model_type": "SongUNet",
        "embedding_type": "positional",
        "encoder_type": "standard",
        "decoder_type": "standard",
        "channel_mult_noise": 1,
        "resample_filter": [1, 1],
        "model_channels": 128,
        "channel_mult": [2, 2, 2],
        "num_blocks": 2,
        "attn_resolutions": [16],
        "dropout": 0.13,
    }


@pytest.mark.parametrize(("resolution", "attention"), [(32, 16), (16, 8), (8, 4)])
def test_attention_is_at_half_the_resolution(resolution: int, attention: int):
    images = image_set(shape=(3, resolution, resolution))
    assert configure_network(TrainingConfig(), images)["attn_resolutions"] == [attention]


def test_images_need_not_be_square():
    network = configure_network(TrainingConfig(), image_set(shape=(3, 32, 48)))
    assert (network["img_resolution"], network["attn_resolutions"]) == ([32, 48], [16])
    transposed = configure_network(TrainingConfig(), image_set(shape=(3, 48, 32)))
    assert (transposed["img_resolution"], transposed["attn_resolutions"]) == ([48, 32], [16])


def test_ncsnpp_and_adm_are_the_published_architectures():
    ncsnpp = configure_network(TrainingConfig(arch="ncsnpp", precond="ve"), image_set())
    assert ncsnpp["class_name"] == "VEPrecond"
    assert ncsnpp["embedding_type"] == "fourier"
    assert ncsnpp["encoder_type"] == "residual"
    assert ncsnpp["channel_mult_noise"] == 2
    assert ncsnpp["resample_filter"] == [1, 3, 3, 1]
    adm = configure_network(TrainingConfig(arch="adm", precond="edm"), image_set())
    assert adm["class_name"] == "EDMPrecond"
    assert adm["model_type"] == "DhariwalUNet"
    assert (adm["model_channels"], adm["channel_mult"]) == (192, [1, 2, 3, 4])
    assert "embedding_type" not in adm


def test_options_of_the_network_reach_its_configuration():
    config = TrainingConfig(
        model_channels=16,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(16, 8),
        embedding="fourier",
        skip_connections=(1, 0, 0, 1),
        dropout=0.0,
    )
    network = configure_network(config, image_set(shape=(1, 16, 16)))
    assert network["model_channels"] == 16
    assert network["channel_mult"] == [1, 2]
    assert network["num_blocks"] == 1
    assert network["attn_resolutions"] == [16, 8]
    assert network["embedding_type"] == "fourier"
    assert network["channel_mult_noise"] == 1
    assert network["skip_connections"] == [1, 0, 0, 1]
    assert network["dropout"] == 0.0
    assert network["img_channels"] == 1


def test_a_conditional_network_has_a_label_for_each_class():
    labels = np.array([0, 1, 2, 1])
    images = image_set(labels=labels)
    assert configure_network(TrainingConfig(conditional=True), images)["label_dim"] == 3
    assert configure_network(TrainingConfig(), images)["label_dim"] == 0


def test_a_conditional_network_without_labels_is_refused():
    with pytest.raises(DataError, match=r"train\.npz holds no labels"):
        configure_network(TrainingConfig(conditional=True), image_set())


def test_attention_where_the_network_has_no_level_is_refused():
    config = TrainingConfig(channel_mult=(1, 2), attn_resolutions=(8, 4))
    with pytest.raises(ConfigError, match="is 8,4, but the network's levels have 16,8 for"):
        configure_network(config, image_set(shape=(3, 16, 16)))


def test_images_that_no_network_takes_are_refused():
    with pytest.raises(ConfigError, match="16x30, but each side must be a multiple of 4"):
        configure_network(TrainingConfig(), image_set(shape=(3, 16, 30)))
    with pytest.raises(DataError, match="no images to train on"):
        configure_network(TrainingConfig(), image_set(0))
