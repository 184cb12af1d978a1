"""The options of a training run, and what is refused."""

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from memaudit.errors import ConfigError
from memaudit.options import config_fields
from memaudit.training.config import TrainingConfig


def test_every_field_is_an_option_and_none_needs_torch():
    assert all(field.option for field in config_fields(TrainingConfig).values())
    program = "import sys, memaudit.training.config; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "False\n", ended.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "unet"}, "arch is 'unet'; one of ddpmpp, ncsnpp, adm is needed"),
        ({"precond": "iddpm"}, "precond is 'iddpm'; one of vp, ve, edm"),
        ({"optimizer": "adamw"}, "optimizer is 'adamw'; one of adam, sgd"),
        ({"ema_mode": "mode5"}, "ema_mode is 'mode5'"),
        ({"embedding": "sine"}, "embedding is 'sine'"),
        ({"batch_size": 0}, "batch_size is 0; at least 1 is needed"),
        ({"lr": 0.0}, "lr is 0.0; more than 0 and finite is needed"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"epochs": -1}, "epochs is -1; more than 0 and finite"),
        ({"dropout": 1.0}, "dropout is 1.0; at least 0 and less than 1"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"betas": (0.9, 1.0)}, "betas is 0.9,1.0"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001; at least 0"),
        ({"channel_mult": (1, 0)}, "channel_mult is 1,0"),
        ({"channel_mult": ()}, "channel_mult is empty"),
        ({"model_channels": 0}, "model_channels is 0"),
        ({"augment": 1.5}, "augment is 1.5; at least 0 and at most 1 is needed"),
        ({"precision": "fp8"}, "precision is 'fp8'; one of fp32, bf16, fp16"),
        ({"batch_gpu": 0}, "batch_gpu is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296; at least 0 and at most 4,294,967,295"),
        ({"lr": float("inf")}, "lr is inf; more than 0 and finite"),
        ({"betas": (0.9,)}, "betas is 0.9; two numbers"),
        ({"skip_connections": (0, 2)}, "skip_connections is 0,2"),
        ({"duration_images": 0}, "duration_images is 0"),
        ({"num_snapshots": 0}, "num_snapshots is 0"),
        ({"snapshot_epochs": 2, "snapshot_images": 100}, "every 2 epochs and every 100 images"),
        ({"arch": "adm", "embedding": "fourier"}, "but arch is adm"),
        ({"arch": "adm", "skip_connections": (1,)}, "but arch is adm"),
    ],
)
def test_a_bad_option_is_named_with_what_is_needed(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as raised:
        TrainingConfig(**options)
    assert message in str(raised.value)


def test_a_configuration_survives_json():
    config = TrainingConfig(channel_mult=(1, 2), skip_connections=(1, 0, 0, 1), num_blocks=1)
    written = config.as_dict()
    assert json.loads(json.dumps(written)) == written
    assert set(written) == {field.name for field in dataclasses.fields(TrainingConfig)}
