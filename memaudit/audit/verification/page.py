"""Does the page say what report.json and the tables say?

The page is rendered again from them and compared word for word, down to the sizes and texts of its
pictures. Their pixels are taken out of both first: a report does not hold the images. Names of
training images that it does not hold either may be any text without markup.
"""

import html
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

import memaudit
from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import PAGE
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import Report
from memaudit.audit.scanned import Scanned
from memaudit.audit.verification.check import Check, Unproven, check
from memaudit.audit.verification.findings import Recomputed
from memaudit.data.images import ImageSet

PAGE_WORDS = "words of report.html"
UNKNOWN = f"unknown{secrets.token_hex(12)}x"
"""Stands before the number of a name that is not known, while the page is rendered. It is secret:
a report that held it could have any text there."""
_PIXELS = re.compile(r'(?<=<img src="data:image/png;base64,)[A-Za-z0-9+/=]*(?=")')
_TITLE = re.compile(r"<title>([^<>]*)</title>")
_HEADLINE = re.compile(r"<h1>([^<>]*)</h1>")
LONGEST_NAME = 2_000
"""Characters that stand for an unknown name, or for a list of some, at most."""
LARGEST_IMAGE = 1 << 22
"""Pixel values of an image of which a page is rendered."""


class _Names(Sequence[str]):
    """Names of training images: those in leaks.csv, and for others a mark."""

    def __init__(self, known: dict[int, str], total: int) -> None:
        self._known, self._total = known, total

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._known.get(int(index), f"{UNKNOWN}{int(index)}")


def check_page(
    page: str,
    report: Report,
    again: Recomputed,
    config: ScanConfig,
) -> tuple[Check, Unproven | None]:
    """Compare report.html with a page rendered from report.json and the tables.

    Args:
        page: report.html.
        report: what report.json holds.
        again: the tables, and what follows from them.
        config: the report's settings.
    """
    is_of_this_version = report.environment.memaudit == memaudit.__version__
    tables = tuple(file for file in report.files if file.name != PAGE)  # no page holds its own hash
    result = _scanned(report, again, config)
    rendered = render_page(result, replace(report, files=tables))
    if not is_of_this_version:
        wrong = [
            name
            for name, pattern in (("title", _TITLE), ("headline", _HEADLINE))
            if pattern.findall(page) != pattern.findall(rendered)
        ]
        unproven = Unproven(
            f"Only title and headline of report.html were compared with report.json: memaudit "
            f"{report.environment.memaudit} made it, and this is {memaudit.__version__}."
        )
        return check(PAGE_WORDS, not wrong, f"has another {' and '.join(wrong)}"), unproven
    difference = _difference(_words(page), _words(rendered))
    detail = ""
    if difference is not None:
        detail = f"are not those that report.json gives, first at {difference}"
    return check(PAGE_WORDS, difference is None, detail), None


def _scanned(report: Report, again: Recomputed, config: ScanConfig) -> Scanned:
    """The result that a page is made from, with empty pictures."""
    table, findings = again.table, again.context.findings
    shape = report.data.image_shape
    if np.prod(shape, dtype=object) > LARGEST_IMAGE:
        raise ValueError(f"images of {shape} are not shown")
    black = np.zeros((1, *shape), np.uint8)
    total = report.data.num_images
    data = ImageSet(
        np.broadcast_to(black, (total, *shape)),
        _Names(again.known.names, total),
        class_names=report.data.class_names,
        source=report.data.path,
        captions=None if again.known.captions is None else _Names(again.known.captions, total),
        preparation=report.data.preparation,
    )
    return Scanned(
        source=report.source,
        denoising=report.denoising,
        generated=np.broadcast_to(black, (len(table.keys), *shape)),
        keys=table.keys,
        class_index=table.class_index,
        data=data,
        config=config,
        space=report.space,
        search=report.search,
        matches=table.matches,
        conformal=table.conformal,
        controls=report.controls,
        findings=findings,
        duplicates=again.known.duplicates,
        diagnostics=report.diagnostics,
        conclusion=report.conclusion,
        timings=report.timings,
        environment=report.environment,
        sampler_control=report.sampler_control,
        screening=report.screening,
        screened=again.screened,
        num_kept=0 if report.sampling is None else report.sampling.num_kept,
        num_regenerated=0 if report.sampling is None else report.sampling.num_regenerated,
        confirmation=None if report.sampling is None else report.sampling.confirmation,
    )


def _words(page: str) -> str:
    """A page without the pixels of its pictures."""
    return _PIXELS.sub("", page)


def _difference(page: str, rendered: str) -> str | None:
    """Where a page leaves what was rendered: the words there; None if it does not."""
    mark = f"{UNKNOWN}[0-9]+"
    position = 0
    for number, part in enumerate(re.split(f"{mark}(?:, {mark})*", rendered)):
        # What follows a name begins with a character that no escaped name has.
        start = page.find(part, position, position + len(part) + LONGEST_NAME)
        name = page[position:start]
        if start < 0 or (number == 0 and start) or any(char in '<>"' for char in name):
            return _first_difference(page[position:], part)
        position = start + len(part)
    return None if position == len(page) else _text(page[position:])


def _first_difference(page: str, part: str) -> str:
    """The words of a page where it differs from a part that it should begin with."""
    page = page[max(0, page.find(part[:20], 0, LONGEST_NAME)) :]
    same = next(
        (at for at, pair in enumerate(zip(page, part, strict=False)) if pair[0] != pair[1]), 0
    )
    return _text(page[max(0, same - 40) : same + 80])


def _text(markup: str) -> str:
    return repr(html.unescape(re.sub(r"<[^<>]*>", " ", markup[:120])).strip())
