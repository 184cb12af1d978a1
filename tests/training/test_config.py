"""Options of a training run, and the network they make."""

import dataclasses
import json

import numpy as np
import pytest

from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.training.config import TrainingConfig


def image_set(num: int = 4, *, shape=(3, 32, 32), labels=None) -> ImageSet:
    images = np.zeros((num, *shape), np.uint8)
    return ImageSet(images, [str(i) for i in range(num)], labels=labels, source="train.npz")


def test_the_default_is_the_papers_base_network():
    assert TrainingConfig().network_config(image_set()) == {
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
    assert TrainingConfig().network_config(images)["attn_resolutions"] == [attention]


def test_ncsnpp_and_adm_are_the_published_architectures():
    ncsnpp = TrainingConfig(arch="ncsnpp", precond="ve").network_config(image_set())
    assert ncsnpp["class_name"] == "VEPrecond"
    assert ncsnpp["embedding_type"] == "fourier"
    assert ncsnpp["encoder_type"] == "residual"
    assert ncsnpp["channel_mult_noise"] == 2
    assert ncsnpp["resample_filter"] == [1, 3, 3, 1]
    adm = TrainingConfig(arch="adm", precond="edm").network_config(image_set())
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
    network = config.network_config(image_set(shape=(1, 16, 16)))
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
    assert TrainingConfig(conditional=True).network_config(images)["label_dim"] == 3
    assert TrainingConfig().network_config(images)["label_dim"] == 0


def test_a_conditional_network_without_labels_is_refused():
    with pytest.raises(DataError, match=r"train\.npz holds no labels"):
        TrainingConfig(conditional=True).network_config(image_set())


def test_attention_where_the_network_has_no_level_is_refused():
    config = TrainingConfig(channel_mult=(1, 2), attn_resolutions=(8, 4))
    with pytest.raises(ConfigError, match="is 8,4, but the network's levels have 16,8 at"):
        config.network_config(image_set(shape=(3, 16, 16)))


def test_images_that_no_network_takes_are_refused():
    with pytest.raises(DataError, match="16x32"):
        TrainingConfig().network_config(image_set(shape=(3, 16, 32)))
    with pytest.raises(DataError, match="no image"):
        TrainingConfig().network_config(image_set(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "unet"}, "arch is 'unet'; one of ddpmpp, ncsnpp, adm is needed"),
        ({"precond": "iddpm"}, "precond is 'iddpm'; one of vp, ve, edm"),
        ({"optimizer": "adamw"}, "optimizer is 'adamw'; one of adam, sgd"),
        ({"ema_mode": "mode5"}, "ema_mode is 'mode5'"),
        ({"embedding": "sine"}, "embedding is 'sine'"),
        ({"batch_size": 0}, "batch_size is 0; at least 1 is needed"),
        ({"lr": 0.0}, "lr is 0.0; more than 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"epochs": -1}, "epochs is -1; more than 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"betas": (0.9, 1.0)}, "betas is 0.9,1.0"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001; 0 or more"),
        ({"channel_mult": (1, 0)}, "channel_mult is 1,0"),
        ({"channel_mult": ()}, "channel_mult"),
        ({"model_channels": 0}, "model_channels is 0"),
        ({"augment": 1.5}, "augment is 1.5; a probability from 0 to 1 is needed"),
        ({"precision": "fp8"}, "precision is 'fp8'; one of fp32, bf16, fp16"),
        ({"batch_gpu": 0}, "batch_gpu is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"duration_images": 0}, "duration_images is 0"),
        ({"num_snapshots": 0}, "num_snapshots is 0"),
        ({"snapshot_epochs": 2, "snapshot_images": 100}, "every 2 epochs and every 100 images"),
        ({"arch": "adm", "embedding": "fourier"}, "the arch is adm"),
        ({"arch": "adm", "skip_connections": (1,)}, "the arch is adm"),
    ],
)
def test_a_bad_option_is_named_with_what_is_needed(options: dict, message: str):
    with pytest.raises(ConfigError) as raised:
        TrainingConfig(**options)
    assert message in str(raised.value)


def test_a_configuration_survives_json():
    config = TrainingConfig(channel_mult=(1, 2), skip_connections=(1, 0, 0, 1), num_blocks=1)
    written = config.as_dict()
    assert json.loads(json.dumps(written)) == written
    assert set(written) == {field.name for field in dataclasses.fields(TrainingConfig)}
