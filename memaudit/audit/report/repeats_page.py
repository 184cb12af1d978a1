"""Write how often a generator repeats itself: repeats.html to look at, and repeats.json.

Its words are in templates/words.en.toml, its look in templates/report.css.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from memaudit.audit.diagnostics.repeats import repeat_blocks
from memaudit.audit.image_check.self_repeats import RepeatsResult
from memaudit.audit.report.blocks import rendered
from memaudit.audit.report.folder import write_texts
from memaudit.audit.report.html import (
    DEFINITIONS_MARK,
    LARGEST_PICTURE,
    render_template,
    with_definitions,
)
from memaudit.audit.report.pictures import Pictures
from memaudit.audit.report.schema import json_text, plain
from memaudit.audit.report.words import say

PAGE = "repeats.html"
REPORT = "repeats.json"


def repeats_dict(result: RepeatsResult) -> dict[str, Any]:
    """The content of repeats.json; strict JSON can hold it."""
    content: dict[str, Any] = plain(result.report)
    return content


def write_repeats(
    result: RepeatsResult, folder: str | Path, *, pictures: Pictures = "full"
) -> Path:
    """Write the page and the JSON.

    Args:
        result: what `check_repeats` found.
        folder: where to write; created if necessary.
        pictures: what the page shows of the images; as in `write_report`.

    Returns:
        Path of repeats.html.
    """
    texts = {PAGE: repeats_page(result, pictures), REPORT: json_text(result.report)}
    write_texts(folder, texts)
    return Path(folder) / PAGE


def repeats_page(result: RepeatsResult, pictures: Pictures = "full") -> str:
    """Render repeats.html."""
    from markupsafe import Markup

    report = result.report
    blocks = repeat_blocks(
        report.repeats,
        result.generated,
        result.keys,
        control="Held-out",
        controls=report.controls,
    )
    page = render_template(
        "repeats.html.j2",
        report=report,
        blocks=rendered(blocks, pictures, say("repeats.near_equal_images")),
        section_id="groups",
        section_title=say("repeats.near_equal_images"),
        sampler_text="" if report.source.sampler is None else report.source.sampler.text,
        finished=datetime.fromisoformat(report.environment.finished),
        shown=pictures,
        reduced=pictures == "full" and max(result.generated.shape[2:]) > LARGEST_PICTURE,
        definitions_mark=Markup(DEFINITIONS_MARK),
    )
    return with_definitions(page)
