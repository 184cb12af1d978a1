"""Checks of single images, on models of which it is known what they copy."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.images import smooth_images

import memaudit
from memaudit import CheckConfig, ImageSet, SamplerConfig, check_images
from memaudit.audit.image_check.config import least_controls
from memaudit.audit.image_check.result import CheckResult
from memaudit.audit.image_check.sampled import try_returns
from memaudit.audit.source import optimum_of
from memaudit.errors import ConfigError, DataError
from memaudit.models.generate import generate_images
from memaudit.models.optimum.closed_form import ClosedFormOptimum

SAMPLER = SamplerConfig(num_steps=8)
CONFIG = CheckConfig(
    seeds=range(200), sampler=SAMPLER, num_controls=99, sigmas=(0.5, 2.0), num_noises=2
)


def with_noise(image: np.ndarray, levels: float) -> np.ndarray:
    noise = np.random.default_rng(3).normal(0, levels, image.shape)
    return (image + noise).clip(0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def asked(train: ImageSet, holdout: ImageSet) -> np.ndarray:
    """A training image, a near copy of another, a held-out image, and one of another kind."""
    unrelated = np.random.default_rng(5).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    near = with_noise(train.images[3], 9)
    return np.stack([train.images[2], near, holdout.images[0], unrelated])


@pytest.fixture(scope="module")
def of_copier(asked: np.ndarray, train: ImageSet, holdout: ImageSet) -> CheckResult:
    return check_images("optimum", asked, data=train, holdout=holdout, config=CONFIG)


def test_a_model_that_copies_gives_training_images_back_and_no_others(of_copier: CheckResult):
    images = of_copier.images
    assert [one.finding for one in images] == ["given-back", "given-back", "not-shown", "not-shown"]
    places = [one.in_training for one in images]
    assert [place.kind for place in places if place] == ["equal", "near", "no", "no"]
    assert [place.names for place in places if place] == [
        ("train/2.png",),
        ("train/3.png",),
        (),
        (),
    ]
    assert [one.p_value for one in images[:2]] == [0.01, 0.01]
    assert [one.p_adjusted for one in images[:2]] == [0.04, 0.04]
    assert all(one.membership and one.membership.percentile == 100 for one in images[:2])
    assert images[2].p_value is not None and images[2].p_value > 0.1
    assert of_copier.report.controls is not None
    assert of_copier.report.controls.copied.count == 0


def test_the_answers_have_their_error_rates(of_copier: CheckResult):
    assert of_copier.report.headline == (
        "The model gives back 2 of 4 images; the chance that this is said of any image that it "
        "treats like the 99 held-out ones is at most 5 %."
    )
    given, near, held, unrelated = (one.answer for one in of_copier.images)
    assert given.startswith("The model gives back this training image (train/2.png): ")
    assert "of 200 generated images copy it (seeds " in given
    assert given.endswith("99 held-out images (p = 0.01, corrected for 4 images 0.04).")
    assert "the training image that this one is a near copy of (train/3.png)" in near
    assert "none of 200 generated images copies it (at most 1.8 % of all do, 95 %" in held
    assert "it is not of the kind of the held-out images, by its " in unrelated
    assert of_copier.summary().startswith(of_copier.report.headline)


def test_the_seeds_named_give_the_image_again(of_copier: CheckResult, train: ImageSet):
    copies = of_copier.images[0].copies
    assert len(copies.keys) == copies.share.count > 0
    seeds = [int(key) for key in copies.keys]
    batches = generate_images(ClosedFormOptimum(train.images), seeds, config=SAMPLER)
    images = np.concatenate([batch.images for batch in batches])
    assert np.abs(images.astype(int) - train.images[2]).max() <= 8
    assert (of_copier.closest[0][0] == images[seeds.index(int(copies.closest[0].key))]).all()


def test_among_copies_of_others_the_nearest_are_shown(
    of_copier: CheckResult, asked: np.ndarray, train: ImageSet
):
    """Their ratios are all infinite, since each equals another image."""
    batches = generate_images(ClosedFormOptimum(train.images), range(200), config=SAMPLER)
    images = np.concatenate([batch.images for batch in batches]).astype(float)
    shown = of_copier.images[2].copies.closest
    assert np.isinf(shown[0].distance_ratio) and shown[0].ratio_words == "equal to another image"
    away = np.sqrt(((images - asked[2]) ** 2).mean((1, 2, 3)))
    equal = (images[:, None] == train.images[None]).all((2, 3, 4)).any(1)
    expected = np.sort(away[equal])[: len(shown)]
    np.testing.assert_allclose([one.distance for one in shown], expected)


def test_an_image_asked_about_is_not_its_own_control(of_copier: CheckResult):
    controls = of_copier.report.controls
    assert controls is not None
    assert controls.set_apart == ("held/0.png",)
    assert controls.num_controls == 99


def test_a_model_that_does_not_copy_is_not_said_to(
    never_copies: memaudit.Denoiser, train: ImageSet, holdout: ImageSet
):
    """As many of 40 training images and 60 others have small ranks as chance gives."""
    others = smooth_images(60, 8, seed=20)
    asked = np.concatenate([train.images, others])
    found = check_images(never_copies, asked, data=train, holdout=holdout, config=CONFIG)
    assert {one.finding for one in found.images} <= {"not-shown", "copied"}
    p_values = np.array([one.p_value for one in found.images])
    assert (p_values <= 0.1).mean() <= 0.2
    assert (p_values <= 0.5).mean() <= 0.65
    losses = np.array([one.membership.p_value for one in found.images if one.membership])
    assert (losses <= 0.1).mean() <= 0.2
    assert "99 held-out images are too few: at least 1,999 are needed" in found.report.headline


def test_an_owner_without_the_training_images_is_answered_by_controls_alone(
    asked: np.ndarray, train: ImageSet, holdout: ImageSet
):
    model = optimum_of(train)
    found = check_images(model, asked[[0, 2]], holdout=holdout, config=CONFIG)
    assert [one.finding for one in found.images] == ["given-back", "not-shown"]
    assert all(one.in_training is None for one in found.images)
    assert found.report.data is None
    assert "gives back this image:" in found.images[0].answer


def test_without_held_out_images_coincidence_is_not_excluded(asked: np.ndarray, train: ImageSet):
    found = check_images("optimum", asked, data=train, config=CONFIG)
    assert [one.finding for one in found.images] == ["copied", "copied", "not-shown", "not-shown"]
    assert all(one.p_value is None and one.membership is None for one in found.images)
    assert "since there are no held-out images to rank it among" in found.images[0].answer
    assert "gives back any of the 4 images" in found.report.headline
    assert "2 are copied by the rule, which may be coincidence" in found.report.headline


def test_generated_images_are_searched_without_a_model(
    asked: np.ndarray, train: ImageSet, holdout: ImageSet
):
    copy = with_noise(train.images[2], 4)
    images = np.concatenate([smooth_images(50, 8, seed=30), copy[None]])
    generated = ImageSet(images, [f"generated/{i}.png" for i in range(51)], source="generated")
    found = check_images(generated, asked[[0, 2]], holdout=holdout, config=CONFIG)
    given, other = found.images
    assert (given.finding, other.finding) == ("given-back", "not-shown")
    assert given.copies.keys == ("generated/50.png",)
    assert given.returns is None and given.membership is None
    assert given.answer.startswith(
        "The generator gives back this image: 1 of the 51 generated images copies it, and"
    )


def test_a_flat_image_among_photographs_does_not_stand_out_for_being_flat(holdout: ImageSet):
    """Whatever generates a flat image copies every other one of that color by the rule."""
    flat = np.full((1, 3, 8, 8), 90, dtype=np.uint8)
    generated = np.concatenate([smooth_images(50, 8, seed=30), flat + 2])
    found = check_images(generated, flat, holdout=holdout, config=CONFIG).images[0]
    assert found.finding == "copied"
    assert found.p_value == 0.01
    assert found.likeness is not None and not found.likeness.is_alike
    assert "it is not of the kind of the held-out images" in found.answer


def test_images_of_the_kind_of_the_controls_are_said_to_be_so(holdout: ImageSet):
    fresh = smooth_images(150, 8, seed=40)
    found = check_images(fresh[:20], fresh[20:], holdout=holdout, config=CONFIG)
    alike = [one.likeness.is_alike for one in found.images if one.likeness]
    assert len(alike) == 130
    assert np.mean(alike) >= 0.88


def test_leaks_that_sampling_never_shows_are_known_by_returning(train: ImageSet, holdout: ImageSet):
    """The model knows an image by heart, but its weight is too small to be sampled."""
    rare = np.concatenate([train.images[:1], np.repeat(smooth_images(30, 8, seed=50), 40, axis=0)])
    config = replace(CONFIG, seeds=range(20), num_controls=59)
    found = check_images(
        ClosedFormOptimum(rare), train.images[0][None], holdout=holdout, config=config
    )
    assert found.images[0].finding == "returned-to"
    assert "sampling returns to it from sigma " in found.images[0].answer


def test_near_training_images_among_the_held_out_are_set_apart(train: ImageSet, holdout: ImageSet):
    images = np.concatenate([with_noise(train.images[9], 5)[None], holdout.images[1:]])
    mixed = ImageSet(images, list(holdout.names), source="mixed")
    found = check_images(
        train.images[:5], train.images[:1], data=train, holdout=mixed, config=CONFIG
    )
    controls = found.report.controls
    assert controls is not None and controls.near_training is not None
    assert controls.near_training.count == 1
    assert controls.set_apart == ("held/0.png",)
    assert found.report.warnings == ()


def test_where_near_images_are_common_that_is_said(train: ImageSet):
    near = np.stack([with_noise(image, 5) for image in train.images])
    images = np.concatenate([near, smooth_images(60, 8, seed=60)])
    found = check_images(
        train.images[:5], with_noise(train.images[7], 5)[None], data=train, holdout=images,
        config=CONFIG,
    )  # fmt: skip
    assert any(
        "Near copies of training images are common" in text for text in found.report.warnings
    )


def test_too_few_controls_are_said_to_be_too_few(train: ImageSet, holdout: ImageSet):
    config = replace(CONFIG, num_controls=18)
    found = check_images(
        train.images[:5], train.images[:1], data=train, holdout=holdout, config=config
    )
    assert found.images[0].finding == "copied"
    assert "18 held-out images are too few: at least 19 are needed" in found.images[0].answer


def test_many_images_have_as_many_controls_as_they_need(train: ImageSet):
    held = ImageSet.from_array(smooth_images(300, 8, seed=11), source="held")
    config = replace(CONFIG, num_controls=None)
    found = check_images(
        train.images[:5], train.images[:12], data=train, holdout=held, config=config
    )
    assert found.report.controls is not None and found.report.controls.num_controls == 239
    assert [image.finding for image in found.images].count("given-back") == 5
    assert config.controls_for(10) == 199 and config.controls_for(1000) == 10_000


@pytest.mark.parametrize(("confidence", "num_asked"), [(0.9, 1), (0.9, 2), (0.95, 2), (0.99, 1)])
def test_the_least_number_of_controls_is_enough(
    confidence: float, num_asked: int, train: ImageSet, holdout: ImageSet
):
    for missing, finding in ((0, "given-back"), (1, "copied")):
        number = least_controls(num_asked, confidence) - missing
        config = replace(CONFIG, num_controls=number, rule=memaudit.Rule(confidence=confidence))
        asked = train.images[:num_asked]
        found = check_images(train.images[:5], asked, data=train, holdout=holdout, config=config)
        assert {image.finding for image in found.images} == {finding}


def test_a_model_with_classes_is_asked_by_class(train: ImageSet, holdout: ImageSet):
    labeled = replace(train, labels=np.arange(40) % 2)
    held = replace(holdout, labels=np.arange(160) % 2)
    model = optimum_of(labeled, conditional=True)
    asked = train.images[[3]]
    # An image that is in the training set has its class from there.
    few = replace(CONFIG, seeds=range(60), num_controls=29)
    found = check_images(model, asked, data=labeled, holdout=held, config=few)
    assert found.images[0].finding == "given-back"
    with pytest.raises(ConfigError, match=r"the class of array\[0\] is not known"):
        check_images(model, asked, holdout=held, config=CONFIG)
    of_class = replace(few, class_index=1)
    found = check_images(model, asked, holdout=held, config=of_class)
    assert found.images[0].finding == "given-back"
    assert found.report.controls is not None
    assert found.report.controls.num_examined == 80  # controls are of the class, too
    with pytest.raises(DataError, match="has no labels, and images of other classes"):
        check_images(model, asked, holdout=holdout, config=of_class)


def test_an_image_has_its_own_class_and_not_that_of_others_of_its_patient(
    train: ImageSet, holdout: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    tried, patients = [], [f"p{i // 2}" for i in range(40)]
    labeled = replace(train, labels=np.arange(40) % 2).grouped(patients)
    held = replace(holdout, labels=np.arange(160) % 2).grouped([f"h{i}" for i in range(160)])

    def remember(denoiser, pool, labels, config, *, progress):  # type: ignore[no-untyped-def]
        tried.append(labels)
        return try_returns(denoiser, pool, labels, config, progress=progress)

    monkeypatch.setattr("memaudit.audit.image_check.check.try_returns", remember)
    few = replace(CONFIG, seeds=range(2), num_controls=19, sigmas=(0.5,), num_noises=1)
    model = optimum_of(labeled, conditional=True)
    check_images(model, train.images[[3, 4]], data=labeled, holdout=held, config=few)
    assert tried[0][:2].tolist() == [1, 0]


def test_mirrored_copies_count_where_they_are_asked_for(train: ImageSet, holdout: ImageSet):
    mirrored = train.images[:3, ..., ::-1].copy()
    config = replace(CONFIG, index=memaudit.IndexConfig(flips=True))
    for how, finding in ((CONFIG, "not-shown"), (config, "given-back")):
        found = check_images(mirrored, train.images[:1], holdout=holdout, config=how)
        assert found.images[0].finding == finding


@pytest.mark.slow
def test_the_same_check_gives_the_same_numbers(of_copier: CheckResult, asked, train, holdout):
    again = check_images("optimum", asked, data=train, holdout=holdout, config=CONFIG)
    assert again.images == of_copier.images


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"data": None, "holdout": None}, ConfigError, "Neither training nor held-out images"),
        ({"data": None}, ConfigError, "The optimum is that of training images"),
        ({"images": np.zeros((0, 3, 8, 8), np.uint8)}, DataError, "holds 0 images; a check is"),
        ({"images": np.zeros((1, 3, 4, 4), np.uint8)}, DataError, "They must be alike"),
        ({"holdout": smooth_images(3, 8, seed=10)}, DataError, "occur in the training set"),
        ({"data": smooth_images(1, 8, seed=10)}, DataError, "at least 2 training images"),
        ({"images": []}, DataError, "No image was given"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    change: dict, error: type, said: str, train: ImageSet, holdout: ImageSet
):
    given = {"images": train.images[:1], "data": train, "holdout": holdout} | change
    with pytest.raises(error, match=said):
        check_images("optimum", given.pop("images"), config=CONFIG, **given)


def test_images_like_all_controls_leave_none(train: ImageSet, holdout: ImageSet):
    with pytest.raises(DataError, match="so that none is left as a control"):
        check_images(train.images, holdout.images[:2], holdout=holdout.images[:2], config=CONFIG)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sigmas": ()}, "at least one noise level"),
        ({"sigmas": (0.0,)}, "more than 0"),
        ({"num_noises": 0}, "at least 1"),
        ({"num_controls": 0}, "at least 1"),
        ({"seeds": ()}, "at least 1"),
    ],
)
def test_a_config_refuses_what_makes_no_sense(options: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        CheckConfig(**options)


def test_images_of_the_same_patient_are_no_references(train: ImageSet, holdout: ImageSet):
    """A noisy copy of a slice has another slice of its patient nearby."""
    slices = np.concatenate(
        [train.images[:20], np.stack([with_noise(x, 14) for x in train.images[:20]])]
    )
    patients = [f"p{i % 20}" for i in range(40)]
    data = ImageSet.from_array(slices, source="slices")
    generated = np.concatenate([with_noise(slices[0], 10)[None], smooth_images(30, 8, seed=70)])
    held = holdout.grouped([f"h{i // 2}" for i in range(160)])
    plain = check_images(generated, slices[:1], data=data, holdout=holdout, config=CONFIG)
    assert plain.images[0].copies.share.count == 0
    grouped = data.grouped(patients, kind="patient")
    found = check_images(generated, slices[:1], data=grouped, holdout=held, config=CONFIG)
    assert found.images[0].finding == "given-back"
    assert found.report.controls is not None and found.report.controls.num_controls == 80


def test_that_a_broken_network_gives_nothing_back_means_nothing(train: ImageSet, holdout: ImageSet):
    class Broken(ClosedFormOptimum):
        def __call__(self, x, sigma, class_labels=None):  # type: ignore[no-untyped-def]
            return -super().__call__(x, sigma, class_labels)

    found = check_images(
        Broken(train.images), train.images[:1], data=train, holdout=holdout, config=CONFIG
    )
    assert found.images[0].finding == "not-shown"
    assert "it does not denoise as it is configured, so that this means nothing" in (
        found.images[0].answer
    )
    assert found.report.warnings


def test_a_model_that_knows_its_own_images_alone_is_not_said_to_be_broken(
    train: ImageSet, holdout: ImageSet
):
    few = ImageSet(train.images[:4], train.names[:4], source="few")
    asked = np.concatenate([train.images[:1], smooth_images(1, 8, seed=90)])
    found = check_images(ClosedFormOptimum(few.images), asked, holdout=holdout, config=CONFIG)
    assert [image.finding for image in found.images] == ["given-back", "not-shown"]
    assert "it does not denoise the held-out images as it is configured" in found.images[1].answer
    (said,) = found.report.warnings
    assert "it knows little but its own training images" in said


def test_copies_of_a_held_out_image_are_one_control(train: ImageSet, holdout: ImageSet):
    """Else an image below five different ones would seem to be below a hundred."""
    five = np.repeat(holdout.images[:5], 30, axis=0)
    generated = smooth_images(50, 8, seed=13)
    config = replace(CONFIG, num_controls=100)
    found = check_images(generated, train.images[:1], data=train, holdout=five, config=config)
    assert found.report.controls is not None
    assert found.report.controls.num_controls == 5
    assert "5 held-out images are too few" in found.images[0].answer
    assert any("145 are duplicates of others" in text for text in found.report.warnings)
    noisy = np.concatenate([holdout.images, with_noise(holdout.images[0], 3)[None]])
    found = check_images(generated, train.images[:1], data=train, holdout=noisy)
    assert found.report.controls is not None
    assert found.report.controls.num_controls == len(holdout)


def test_images_of_one_person_are_of_the_kind_of_the_controls(train: ImageSet, holdout: ImageSet):
    """They are near to each other, which says nothing of their kind."""
    first, other = (image - 128.0 for image in (train.images[5], smooth_images(1, 8, seed=14)[0]))
    later = (128 + 0.96 * first + 0.28 * other).clip(0, 255).astype(np.uint8)
    burst = np.stack([later, train.images[5]])
    data = np.concatenate([burst, train.images[6:]])
    generated = np.concatenate([burst, smooth_images(50, 8, seed=13)])
    found = check_images(generated, burst, data=data, holdout=holdout, config=CONFIG)
    assert [image.finding for image in found.images] == ["given-back", "given-back"]
    assert all(image.likeness and image.likeness.is_alike for image in found.images)
