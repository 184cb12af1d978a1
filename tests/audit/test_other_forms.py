"""Given images in another form than the training images: said, and no PASS."""

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit import Rule, ScanConfig, check_images, scan
from memaudit.audit import other_forms
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.other_forms import find_other_form
from memaudit.data.images import ImageSet
from memaudit.errors import DataError

TRAIN = ImageSet.from_array(smooth_images(60, 8, seed=0), source="train")
NEW = smooth_images(90, 8, seed=1)
GENERATED = np.concatenate([TRAIN.images[:30], NEW])
FORMS = {
    "reversed channels": lambda x: x[:, ::-1],
    "inverted values": lambda x: 255 - x,
    "mirrored": lambda x: x[..., ::-1],
    "upside down": lambda x: x[:, :, ::-1],
    "transposed": lambda x: x.transpose(0, 1, 3, 2),
    "turned left": lambda x: np.rot90(x, 3, (2, 3)),
    "turned around": lambda x: x[:, :, ::-1, ::-1],
}


@pytest.mark.parametrize("name", FORMS)
def test_images_that_copy_in_another_form_are_named_and_do_not_pass(name: str):
    given = np.ascontiguousarray(FORMS[name](GENERATED))
    result = scan(given, TRAIN)
    assert result.ratios.copies.count <= 2
    (said,) = (text for text in result.source.warnings if "in another form" in text)
    assert said.startswith("Of 120 of the given images, 30 copy a training image in another form")
    assert f"({name}: " in said
    with pytest.raises(DataError, match="the images as they are cannot pass"):
        scan(given, TRAIN, config=ScanConfig(fail_above=0.1))


def test_what_others_copy_is_no_reason_where_the_limit_allows_it():
    given = np.ascontiguousarray(GENERATED[..., ::-1])
    result = scan(given, TRAIN, config=ScanConfig(fail_above=0.4))
    assert result.conclusion.verdict == "PASS"
    assert any("in another form" in text for text in result.source.warnings)


@pytest.mark.parametrize("given", [GENERATED, NEW], ids=["copies", "new"])
def test_images_as_they_should_be_are_not_doubted(given: np.ndarray):
    result = scan(given, TRAIN)
    assert not any("in another form" in text for text in result.source.warnings)


def test_a_model_that_mirrors_is_not_doubted():
    both = np.concatenate([TRAIN.images[:30], TRAIN.images[30:58, ..., ::-1], NEW])
    assert not any("in another form" in text for text in scan(both, TRAIN).source.warnings)


def test_an_owner_who_asks_is_told_of_the_other_form():
    asked = ImageSet(TRAIN.images[:12], TRAIN.names[:12], source="mine")
    found = check_images(GENERATED[:, ::-1], asked, holdout=smooth_images(40, 8, seed=2))
    assert any(
        "12 copy one of the images in another form" in text for text in found.report.warnings
    )
    found = check_images(GENERATED, asked, holdout=smooth_images(40, 8, seed=2))
    assert not any("in another form" in text for text in found.report.warnings)


@pytest.mark.parametrize("number", [5, 300])
def test_forecasts_count_what_is_searched_for(number: int, monkeypatch: pytest.MonkeyPatch):
    searched: list[int] = []

    def none_copies(_index: object, images: np.ndarray, _rule: Rule) -> np.ndarray:
        searched.append(len(images))
        return np.zeros(len(images), bool)

    monkeypatch.setattr(other_forms, "_copies", none_copies)
    given = ImageSet.from_array(smooth_images(number, 8, seed=3))
    assert other_forms.find_other_form(NeighborIndex(TRAIN.images), given, Rule()) is None
    assert sum(searched) == other_forms.num_searched(number)


def test_few_copies_in_another_form_do_not_pass_among_many_images():
    """1 % of 4,000: of the first 256 that are tried, two or three."""
    rng = np.random.default_rng(0)
    train, given = (rng.integers(0, 256, (number, 3, 8, 8), np.uint8) for number in (200, 4000))
    given[::100] = train[:40, ::-1]
    with pytest.raises(DataError, match="Of 4,000 of the given images, 40 copy") as error:
        scan(given, train, config=ScanConfig(fail_above=0.002))
    assert "mirrored" not in str(error.value)


def test_forms_are_tried_in_blocks_of_images(monkeypatch: pytest.MonkeyPatch):
    given = np.ascontiguousarray(GENERATED[..., ::-1])
    index, images = NeighborIndex(TRAIN.images), ImageSet.from_array(given)
    whole = find_other_form(index, images, Rule())
    monkeypatch.setattr(other_forms, "BYTES_AT_A_TIME", 20 * given[:1].nbytes)
    assert find_other_form(index, images, Rule()) == whole is not None


def test_whoever_gives_mirrored_copies_may_search_for_them():
    given = np.ascontiguousarray(GENERATED[..., ::-1])
    with pytest.raises(DataError, match="or search for mirrored images as well"):
        scan(given, TRAIN, config=ScanConfig(fail_above=0.1))
