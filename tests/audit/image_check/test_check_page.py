"""The page and the JSON of a check."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from memaudit import CheckConfig, ImageSet, SamplerConfig, check_images, write_check
from memaudit.audit.image_check.result import CheckReport, CheckResult
from memaudit.audit.report.check_page import check_dict, check_page
from memaudit.audit.report.json_schema import check_schema, field_docs

SCHEMA = Path(__file__).parents[3] / "docs/check.schema.json"
CONFIG = CheckConfig(
    seeds=range(40),
    sampler=SamplerConfig(num_steps=6),
    num_controls=29,
    sigmas=(0.5, 2.0),
    num_noises=1,
)


class Pictures(HTMLParser):
    """The elements of a page, and the words of its pictures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.alts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.alts.append(dict(attrs)["alt"] or "")


@pytest.fixture(scope="module")
def of_model(train: ImageSet, holdout: ImageSet) -> CheckResult:
    asked = ImageSet(train.images[:1], ["<script>alert(1)</script>\x1b[2J.png"], source="asked")
    return check_images("optimum", asked, data=train, holdout=holdout, config=CONFIG)


@pytest.fixture(scope="module")
def of_images(train: ImageSet) -> CheckResult:
    return check_images(train.images[:9], train.images[2:4], data=train, config=CONFIG)


@pytest.fixture(params=["of_model", "of_images"])
def result(request: pytest.FixtureRequest) -> CheckResult:
    found: CheckResult = request.getfixturevalue(request.param)
    return found


def test_the_schema_in_the_documents_is_that_of_the_code():
    """python -m memaudit.audit.report.json_schema check > docs/check.schema.json"""
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == check_schema()
    jsonschema.Draft202012Validator.check_schema(check_schema())


def test_the_json_is_valid_by_its_schema(result: CheckResult, tmp_path: Path):
    write_check(result, tmp_path)
    content = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, check_schema())
    assert content == json.loads(json.dumps(check_dict(result)))


def test_a_number_that_json_lacks_is_valid(of_images: CheckResult):
    image = of_images.images[0]
    close = replace(image.copies.closest[0], distance_ratio=np.inf)
    image = replace(image, copies=replace(image.copies, closest=(close,)))
    content = check_dict(replace(of_images, report=replace(of_images.report, images=(image,))))
    jsonschema.validate(content, check_schema())
    assert content["images"][0]["copies"]["closest"][0]["distance_ratio"] == "inf"


def test_every_field_of_the_report_that_needs_words_has_some():
    assert {"headline", "warnings", "space", "threshold"} <= field_docs(CheckReport).keys()


def test_the_page_shows_each_image_with_what_was_generated(of_model: CheckResult):
    page = Pictures(check_page(of_model))
    assert len(page.alts) == 8
    assert page.alts[0].startswith("Image asked about, <script>")
    assert page.alts[1] == "Nearest training image train/0.png"
    assert page.alts[2].startswith("Generated image ")


def test_nothing_in_a_name_runs(of_model: CheckResult):
    text = check_page(of_model)
    assert "script" not in Pictures(text).tags
    assert "\x1b" not in text
    assert "script" not in of_model.report.headline


def test_every_term_of_the_page_is_defined_on_it(result: CheckResult):
    page = check_page(result)
    linked = set(re.findall(r'href="#(word-[a-z-]+)"', page))
    assert {"word-copy", "word-p-value", "word-held-out"} <= linked
    assert all(f'id="{word}"' in page for word in linked)


def test_the_page_leaves_pictures_out_on_request(result: CheckResult):
    text = check_page(result, "none")
    assert "img" not in Pictures(text).tags
    assert "data:" not in text
    assert "Pictures are left out on request" in text
    assert "base64" in check_page(result, "blurred")


def test_the_page_says_what_can_be_concluded(of_model: CheckResult, of_images: CheckResult):
    with_controls, without = check_page(of_model), check_page(of_images)
    assert "Each image was ranked among 29 images" in with_controls
    assert "Without held-out images, nothing says how near" in without
    assert "no model was asked" in without
    assert "Does sampling return to it" in with_controls
    assert "Does sampling return to it" not in without
