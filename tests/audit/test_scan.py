"""Scans of sources whose answer is known."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.matches import match_images
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.scan import scan
from memaudit.audit.source import optimum_of
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import CheckpointError, ConfigError, DataError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import Checkpoint, open_checkpoint, save_checkpoint
from memaudit.models.execution import Execution

rng = np.random.default_rng(0)


def image_set(images: np.ndarray, source: str = "train") -> ImageSet:
    return ImageSet(images, [f"{source}/{i:05d}.png" for i in range(len(images))], source=source)


def noise_images(num_images: int, shape: tuple[int, int, int] = (3, 8, 8)) -> np.ndarray:
    return rng.integers(0, 256, (num_images, *shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A small untrained network, saved and opened again."""
    config = {
        "class_name": "EDMPrecond",
        "img_resolution": 8,
        "img_channels": 3,
        "label_dim": 0,
        "model_type": "SongUNet",
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
    }
    torch.manual_seed(0)
    network = build_network(config)
    path = tmp_path_factory.mktemp("checkpoint") / "net.safetensors"
    save_checkpoint(path, network, config)
    return open_checkpoint(path)


def test_a_planted_share_of_copies_is_found_exactly():
    train = image_set(noise_images(200))
    copied = rng.choice(200, 30, replace=True)
    generated = np.concatenate([train.images[copied], noise_images(170)])
    order = rng.permutation(200)

    result = scan(image_set(generated[order], "generated"), train)

    for ratio in (result.ratios.paper, result.ratios.distinct, result.ratios.distinct_at_0):
        assert ratio == clopper_pearson(30, 200)
    hits = {leak.index: leak.hits for leak in result.leaks}
    assert hits == {int(i): int((copied == i).sum()) for i in set(copied)}
    assert all(leak.name == f"train/{leak.index:05d}.png" for leak in result.leaks)
    assert all(leak.squared_distance == 0 for leak in result.leaks)
    assert [leak.hits for leak in result.leaks] == sorted(hits.values(), reverse=True)


def test_held_out_images_are_no_copies():
    result = scan(image_set(noise_images(100), "generated"), image_set(noise_images(100)))
    assert result.ratios.distinct.count == 0
    assert result.ratios.distinct.high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert result.leaks == ()


def test_copies_of_duplicated_images_count_as_distinct_though_the_paper_misses_them():
    once = noise_images(50)
    train = image_set(np.concatenate([once, once]))
    result = scan(image_set(once, "generated"), train)
    assert result.ratios.paper.count == 0
    assert result.findings.num_degenerate == 50
    assert result.ratios.distinct.count == result.ratios.distinct_at_0.count == 50
    assert [leak.index for leak in result.leaks] == list(range(50))  # ties: the lower index


def test_near_duplicates_are_set_aside_within_the_radius_only():
    once = noise_images(20).clip(2, 253)
    train = image_set(np.concatenate([once, once + 1]))  # 1 gray level RMS away
    result = scan(image_set(once, "generated"), train)
    assert result.ratios.paper.count == result.ratios.distinct.count == 20
    nearby = scan(image_set(once + 1 - (once % 2), "generated"), train)
    # Between two near-duplicates the paper's rule sees no copy.
    assert nearby.ratios.paper.count < nearby.ratios.distinct.count == 20


def test_a_set_of_nothing_but_duplicates_is_judged_by_the_paper_rule():
    images = np.repeat(noise_images(1), 3, axis=0)
    result = scan(image_set(images, "generated"), image_set(images))
    assert result.ratios.distinct.count == 0
    assert result.matches.nn2_distinct.tolist() == [-1, -1, -1]


def test_the_threshold_is_strict():
    zero = np.zeros((1, 1, 1, 1), dtype=np.uint8)
    train = image_set(np.array([1, 4], dtype=np.uint8).reshape(2, 1, 1, 1))  # d1 = 1, d2 = 4
    for threshold, copies in ((Fraction(1, 4), 0), (Fraction(1, 3), 1)):
        config = ScanConfig(rule=Rule(threshold, duplicate_rms=0))
        assert scan(image_set(zero), train, config=config).ratios.paper.count == copies
    train = image_set(np.array([1, 3], dtype=np.uint8).reshape(2, 1, 1, 1))  # exactly 1/3
    config = ScanConfig(rule=Rule(duplicate_rms=0))
    assert scan(image_set(zero), train, config=config).ratios.paper.count == 0


def test_the_report_does_not_depend_on_the_batch_size(checkpoint: Checkpoint):
    train = image_set(noise_images(40))
    results = [
        scan(
            checkpoint,
            train,
            config=ScanConfig(
                seeds=range(23),
                without=("optimality",),
                execution=Execution(batch_size=batch_size),
            ),
        )
        for batch_size in (23, 5, 1)
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(other.generated, results[0].generated)
        assert other.findings == results[0].findings
        np.testing.assert_array_equal(
            other.matches.neighbors.squared_distance_distinct,
            results[0].matches.neighbors.squared_distance_distinct,
        )


def test_a_seed_gives_the_same_row_whichever_seeds_stand_beside_it(checkpoint: Checkpoint):
    train = image_set(noise_images(40))
    alone = scan(checkpoint, train, config=ScanConfig(seeds=(17,)))
    among = scan(checkpoint, train, config=ScanConfig(seeds=(3, 17, 5)))
    assert alone.matches.squared_distance1[0] == among.matches.squared_distance1[1]


def test_two_shapes_are_refused_with_both_named(checkpoint: Checkpoint):
    with pytest.raises(DataError, match=r"\[3, 8, 8\].*\[3, 16, 16\].*resolution 8"):
        scan(checkpoint, image_set(noise_images(4, (3, 16, 16))))
    with pytest.raises(DataError, match=r"\[1, 8, 8\].*alike with mode gray"):
        scan(image_set(noise_images(4, (1, 8, 8))), image_set(noise_images(4)))


def test_one_training_image_is_refused():
    with pytest.raises(DataError, match="holds 1 image.*at least 2"):
        scan(image_set(noise_images(4)), image_set(noise_images(1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "0 samples"),
        ({"seeds": (1, 2, 1)}, "repeat"),
        ({"fail_above": 1.0}, "fail_above is 1.0; between 0 and 1"),
        ({"min_samples": 0}, "min_samples is 0; at least 1"),
        ({"class_index": -1}, "class_index is -1; at least 0"),
        ({"fail_above": 0.1, "rule": Rule(confidence=0.4)}, "confidence is 0.4; a gate"),
        ({"seeds": (-1, 2)}, "from 0 to 4,294,967,295; got -1 to 2"),
        ({"seeds": (2**32,)}, "from 0 to 4,294,967,295"),
        ({"seeds": (1.5,)}, "must be integers"),
        ({"seeds": "0-9"}, "seeds is a str"),
        ({"seeds": {1, 2}}, "seeds is a set"),
        ({"seeds": 5}, "seeds is a int"),
        ({"also": "membership", "without": ("membership",)}, "both name 'membership'"),
        ({"optimum_images": 1}, "optimum_images is 1; at least 2"),
        ({"optimum_trajectories": 0}, "optimum_trajectories is 0; at least 2"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        ScanConfig(**options)


def test_cifar_images_and_their_copies(shared_data: Path):
    """Real images: a fixed share of exact copies, the rest held out, gives that share."""
    from memaudit.data.selection import Selection
    from memaudit.data.sources import open_images
    from memaudit.data.subsets import select_images

    whole = open_images(shared_data / "cifar10-jpeg-test.zip")
    images = select_images(whole, Selection(size=3000, subset="random"))
    train, held_out = images.take(np.arange(2000)), images.take(np.arange(2000, 2900))
    copies = train.take(np.arange(0, 2000, 20))
    generated = image_set(np.concatenate([copies.images, held_out.images]), "generated")
    result = scan(generated, train)
    assert result.ratios.distinct.count == 100
    assert {leak.name for leak in result.leaks} == set(copies.names)


def test_a_scan_holds_the_model_against_the_optimum(checkpoint: Checkpoint):
    train, held = image_set(noise_images(40)), image_set(noise_images(30), "holdout")
    config = ScanConfig(seeds=tuple(range(8)))
    optimality = scan(checkpoint, train, holdout=held, config=config).diagnostics.optimality
    assert optimality is not None
    assert len(optimality.at_sigma) == config.sampler.num_steps
    # No more work than the scan itself: one image per seed.
    assert optimality.num_train == optimality.num_holdout == optimality.agreement.total == 8


def test_the_optimum_against_itself_agrees_on_every_seed():
    train = image_set(noise_images(40))
    result = scan(optimum_of(train), train, config=ScanConfig(seeds=tuple(range(8))))
    assert result.diagnostics.optimality is not None
    assert result.diagnostics.optimality.agreement.count == 8
    assert result.ratios.distinct.count == 8


def test_there_is_no_comparison_without_a_model_or_when_it_is_left_out(checkpoint: Checkpoint):
    train = image_set(noise_images(40))
    assert scan(image_set(noise_images(5)), train).diagnostics.optimality is None
    config = ScanConfig(seeds=(0,), without=("optimality",))
    assert scan(checkpoint, train, config=config).diagnostics.optimality is None
    labeled = dataclasses.replace(train, labels=np.arange(40) % 4)
    conditional = optimum_of(labeled, conditional=True)
    # A model with classes has no counterpart in training images without labels.
    assert scan(conditional, train, config=ScanConfig(seeds=(0, 1))).diagnostics.optimality is None
    assert (
        scan(conditional, labeled, config=ScanConfig(seeds=(0, 1))).diagnostics.optimality
        is not None
    )


def test_the_second_at_radius_0_is_that_of_a_search_of_its_own():
    """Where the two nearest tie without being copies, where they are, and where they do not tie."""
    base = np.full((1, 1, 1, 4), 100, dtype=np.uint8)
    train = np.repeat(base, 5, axis=0)
    train[0, ..., 0] += 2  # as far from the query as the next, but no copy of it
    train[1, ..., 1] += 2
    train[2] = train[3] = 140  # copies of each other
    train[4] = 10
    queries = np.concatenate([base, train[2:3], train[4:5], noise_images(50, (1, 1, 4))])
    index = NeighborIndex(train)
    near = match_images(index, queries).neighbors
    alone = index.distinct_nearest(queries, duplicate_rms=(0,))
    assert near.radii[0] == 0
    np.testing.assert_array_equal(near.index_distinct[0], alone.index_distinct[0])
    np.testing.assert_array_equal(
        near.squared_distance_distinct[0], alone.squared_distance_distinct[0]
    )
    assert near.index_distinct[0, :2].tolist() == [1, 0]


def test_a_control_that_is_part_of_the_training_set_is_refused_whatever_is_left_out():
    train = image_set(noise_images(12))
    config = ScanConfig(without=("holdout",))
    with pytest.raises(DataError, match="occur in the training set"):
        scan(image_set(noise_images(4), "generated"), train, holdout=train, config=config)


def test_a_diagnostic_asked_for_that_cannot_run_is_refused():
    train = image_set(noise_images(12))
    with pytest.raises(ConfigError, match="also names holdout, which needs a holdout"):
        scan(train, train, config=ScanConfig(also=("holdout",)))


def test_a_denoiser_of_another_shape_is_refused():
    class Narrow:
        img_channels, img_resolution, label_dim = 3, 8, 0
        sigma_min, sigma_max = 0.0, float("inf")

        def round_sigma(self, sigma):
            return sigma

        def __call__(self, x, sigma, class_labels=None):
            return x[:, :1]

    with pytest.raises(CheckpointError, match=r"to \[\d+, 1, 8, 8\]"):
        scan(Narrow(), image_set(noise_images(12)), config=ScanConfig(seeds=range(2)))
