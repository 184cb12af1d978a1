"""`memaudit repeats`: from a model or a folder to groups of near-equal images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import Result
from helpers.images import smooth_images

Run = Callable[..., Result]


def test_repeats_of_given_images_are_listed(run: Run, tmp_path: Path):
    images = np.repeat(smooth_images(4, 8, seed=0), [3, 1, 1, 1], axis=0)
    np.save(tmp_path / "generated.npy", images)
    np.save(tmp_path / "held.npy", smooth_images(5, 8, seed=1))
    given = ("repeats", tmp_path / "generated.npy", "--holdout", tmp_path / "held.npy")
    result = run(*given, "--out", tmp_path / "repeats")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(
        "3 of 6 generated images are near-equal to another one, in 1 group of up to 3; of 5 "
        "held-out images, none is.\n"
    )
    assert "group of 3                generated.npy[0], generated.npy[1], generated.npy[2]" in (
        result.stdout
    )
    assert (tmp_path / "repeats" / "repeats.html").exists()
    content = json.loads(run(*given, "--json").stdout)
    assert content["repeats"]["count"]["num_repeated"] == 3
    refused = run(*given, "--steps", 3)
    assert refused.exit_code == 2
    assert "--steps is for a model; SOURCE holds images" in refused.stderr


def test_repeats_of_a_model_are_named_by_their_seeds(run: Run, checkpoint: Path):
    given = ("repeats", checkpoint, "--samples", 6, "--steps", 2, "--duplicate-rms", 255)
    result = run(*given)
    assert result.exit_code == 0, result.stderr
    assert "group of 6                0, 1, 2, 3, 4, 5" in result.stdout


def test_the_optimum_is_refused_without_advice_that_cannot_be_taken(run: Run):
    refused = run("repeats", "optimum")
    assert refused.exit_code == 2
    assert "name a checkpoint or generated images" in " ".join(refused.stderr.split())
    assert "--data" not in refused.stderr
