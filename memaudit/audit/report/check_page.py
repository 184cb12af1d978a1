"""Write what a check found: check.html to look at, and check.json.

Its words are in templates/words.en.toml, its look in templates/report.css.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from memaudit.audit.image_check.result import CheckedImage, CheckResult, CloseImage
from memaudit.audit.report.folder import make_folder, write_texts
from memaudit.audit.report.html import LARGEST_PICTURE, Picture, embed, render_template
from memaudit.audit.report.pictures import Pictures
from memaudit.audit.report.schema import json_text, plain
from memaudit.errors import ConfigError
from memaudit.wording import duration, short

PAGE = "check.html"
REPORT = "check.json"
SHOWN_IMAGES = 100
"""Images that the page shows; check.json has all."""
FINDINGS = {
    "given-back": "given back",
    "returned-to": "known",
    "copied": "copied by the rule",
    "not-shown": "not shown",
}


@dataclass(frozen=True)
class ShownCheck:
    """An image asked about, ready to be shown."""

    number: int
    image: CheckedImage
    finding: str
    """In words."""
    picture: Picture | None
    nearest: Picture | None
    closest: tuple[tuple[CloseImage, Picture | None], ...]


def check_dict(result: CheckResult) -> dict[str, Any]:
    """The content of check.json; strict JSON can hold it."""
    content: dict[str, Any] = plain(result.report)
    return content


def check_folder(folder: str | Path, *, overwrite: bool) -> None:
    """Create the folder that a check is to be written into, or refuse it before any work is done.

    Raises:
        ConfigError: it cannot be written, or holds a check that may not be replaced.
    """
    make_folder(folder)
    if (Path(folder) / REPORT).exists() and not overwrite:
        raise ConfigError(
            f"{folder} already holds a check. Name another folder, or replace it "
            "with {overwrite}.",
            field="overwrite",
        )


def write_check(result: CheckResult, folder: str | Path, *, pictures: Pictures = "full") -> Path:
    """Write the page and the JSON.

    Args:
        result: what `check_images` found.
        folder: where to write; created if necessary.
        pictures: what the page shows of the images; as in `write_report`.

    Returns:
        Path of check.html.
    """
    texts = {PAGE: check_page(result, pictures), REPORT: json_text(result.report)}
    write_texts(folder, texts)
    return Path(folder) / PAGE


def check_page(result: CheckResult, pictures: Pictures = "full") -> str:
    """Render check.html."""
    report = result.report
    return render_template(
        "check.html.j2",
        report=report,
        checked=[_shown(result, q, pictures) for q in range(len(result.images))[:SHOWN_IMAGES]],
        found=any(image.finding in ("given-back", "returned-to") for image in result.images),
        by_seed=report.source.kind == "checkpoint",
        sampler_text="" if report.source.sampler is None else report.source.sampler.text,
        finished=datetime.fromisoformat(report.environment.finished),
        timings=[(step.step, duration(step.seconds)) for step in report.timings.steps],
        shown=pictures,
        reduced=pictures == "full" and max(result.asked.shape[2:]) > LARGEST_PICTURE,
    )


def _shown(result: CheckResult, q: int, pictures: Pictures) -> ShownCheck:
    image = result.images[q]
    nearest = None
    if result.nearest is not None and image.in_training is not None:
        alt = f"Nearest training image {short(image.in_training.nearest)}"
        nearest = embed(result.nearest[q], alt, pictures)
    return ShownCheck(
        number=q + 1,
        image=image,
        finding=FINDINGS[image.finding],
        picture=embed(result.asked[q], f"Image asked about, {short(image.name)}", pictures),
        nearest=nearest,
        closest=tuple(
            (close, embed(pixels, f"Generated image {short(close.key)}", pictures))
            for close, pixels in zip(image.copies.closest, result.closest[q], strict=True)
        ),
    )
