"""Write what a check found: check.html to look at, check.csv for a spreadsheet, and check.json.

Its words are in templates/words.en.toml, its look in templates/report.css.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from memaudit.audit.image_check.config import REPORT
from memaudit.audit.image_check.result import CheckedImage, CheckResult, CloseImage
from memaudit.audit.report.folder import make_folder, write_texts
from memaudit.audit.report.html import (
    DEFINITIONS_MARK,
    LARGEST_PICTURE,
    Picture,
    embed,
    render_template,
    with_definitions,
)
from memaudit.audit.report.pictures import Pictures
from memaudit.audit.report.schema import json_text, plain
from memaudit.errors import ConfigError
from memaudit.escapes import csv_text
from memaudit.wording import duration, short

PAGE = "check.html"
TABLE = "check.csv"
OPEN_TABLES = 3
"""Images up to which the numbers of each stand open."""
OPEN_IMAGES = 10
"""Images up to which pictures stand open even where nothing was shown."""
SHOWN_IMAGES = 100
"""Images that the page shows, the worst ones; check.csv and check.json have all."""
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
    """Write the page, the table and the JSON.

    Args:
        result: what `check_images` found.
        folder: where to write; created if necessary.
        pictures: what the page shows of the images; as in `write_report`.

    Returns:
        Path of check.html.
    """
    texts = {
        PAGE: check_page(result, pictures),
        TABLE: check_csv(result),
        REPORT: json_text(result.report),
    }
    write_texts(folder, texts)
    return Path(folder) / PAGE


def check_csv(result: CheckResult) -> str:
    """The content of check.csv: a row per image asked about, the worst first."""
    columns = (
        "name finding copies generated_images closest distance distance_ratio p_value p_adjusted "
        "in_training answer"
    )
    return csv_text(columns.split(), (_row(result.images[q]) for q in result.worst_first))


def _row(image: CheckedImage) -> tuple[str | int | float | None, ...]:
    copies, place = image.copies, image.in_training
    close = copies.closest[0] if copies.closest else None
    return (
        image.name,
        image.finding,
        copies.share.count,
        copies.share.total,
        None if close is None else close.key,
        None if close is None else close.distance,
        None if close is None else close.distance_ratio,
        image.p_value,
        image.p_adjusted,
        None if place is None else place.kind,
        image.answer,
    )


def check_page(result: CheckResult, pictures: Pictures = "full") -> str:
    """Render check.html."""
    from markupsafe import Markup

    report = result.report
    page = render_template(
        "check.html.j2",
        definitions_mark=Markup(DEFINITIONS_MARK),
        report=report,
        checked=[_shown(result, q, pictures) for q in result.worst_first[:SHOWN_IMAGES]],
        folds_tables=len(result.images) > OPEN_TABLES,
        folds_all=len(result.images) > OPEN_IMAGES,
        found=any(image.finding in ("given-back", "returned-to") for image in result.images),
        by_seed=report.source.kind == "checkpoint",
        sampler_text="" if report.source.sampler is None else report.source.sampler.text,
        finished=datetime.fromisoformat(report.environment.finished),
        timings=[(step.step, duration(step.seconds)) for step in report.timings.steps],
        shown=pictures,
        reduced=pictures == "full" and max(result.asked.shape[2:]) > LARGEST_PICTURE,
    )
    return with_definitions(page)


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
