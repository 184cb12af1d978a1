"""What all pages have in common: HTML from templates/, and pictures inside it."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from memaudit.audit.report.pictures import Pictures
from memaudit.audit.report.words import (
    link_terms,
    links_once,
    meaning_html,
    say,
    say_html,
    terms_used,
)
from memaudit.data.writers import png, to_picture
from memaudit.wording import exponential, percent, printable, short

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

Item = TypeVar("Item")

LARGEST_PICTURE = 64
"""Pixels of the longer edge of a picture, if nothing else is said."""
BLURRED = 4
"""Areas along an edge of a blurred picture, and at least so many pixels along one of an area."""


@dataclass(frozen=True)
class Picture:
    """An image of a page."""

    uri: str
    """A PNG as a data: URI."""
    alt: str
    width: int
    """Pixels of the picture."""
    height: int


def embed(
    pixels: np.ndarray, alt: str, pictures: Pictures = "full", largest: int = LARGEST_PICTURE
) -> Picture | None:
    """A picture for a page, with the words for those who cannot see it.

    Args:
        pixels: uint8 [C, H, W].
        alt: the words.
        pictures: `blurred` embeds the mean colors of at most 4 by 4 areas and nothing else of the
            image, `none` embeds nothing.
        largest: pixels of the longer edge; larger images are averaged down.

    Returns:
        The picture, or None for `none`.
    """
    if pictures == "none":
        return None
    picture = to_picture(pixels)
    shown = picture.reduce(max(1, math.ceil(max(picture.size) / largest)))
    if pictures == "blurred":
        width, height = (max(1, min(BLURRED, size // BLURRED)) for size in picture.size)
        areas = picture.resize((width, height), Image.Resampling.BOX)
        shown = areas.resize(shown.size, Image.Resampling.NEAREST)
    uri = f"data:image/png;base64,{base64.b64encode(png(shown)).decode()}"
    return Picture(uri=uri, alt=alt, width=shown.width, height=shown.height)


def unbroken(text: str) -> "Markup":
    """Text in which no line ends between a number and its percent sign."""
    from markupsafe import Markup, escape

    return escape(printable(text)).replace(" %", Markup("&nbsp;%"))


def in_words(value: Any) -> str:
    """A value of a checkpoint or a configuration, without the signs of a programming language."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def fold_after(items: Sequence[Item], number: int) -> tuple[Sequence[Item], Sequence[Item]]:
    """The first items of a list, which a page shows, and the others, which it folds away. There is
    no fold for a single one.
    """
    if len(items) <= number + 1:
        return items, items[:0]
    return items[:number], items[number:]


def render_template(template: str, **values: Any) -> str:
    """The text of a page.

    Args:
        template: file in templates/, which takes its sentences from the file of words by `say` (as
            HTML) and `say_text`.
        values: what the template names; a name that it does not get is an error.
    """
    return _environment().get_template(template).render(**values)


DEFINITIONS_MARK = "<!-- the definitions of the terms that the page uses -->"
"""Where they go once the rest of a page is rendered."""


def with_definitions(page: str) -> str:
    """A page with the definitions of the terms that it links to, once in each section."""
    page = links_once(page)
    definitions = render_template("definitions.html.j2", terms=terms_used(page))
    return page.replace(DEFINITIONS_MARK, definitions)


@cache
def _environment() -> "Environment":
    """What renders templates; they are compiled once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # many scans write no page

    environment = Environment(
        loader=PackageLoader("memaudit.audit.report"),
        autoescape=True,
        finalize=printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        grouped="{:,}".format,
        exponential=exponential,
        short=short,
        unbroken=unbroken,
        in_words=in_words,
        fold_after=fold_after,
        link_terms=link_terms,
        meaning=meaning_html,
    )
    environment.globals.update(say=say_html, say_text=say)
    return environment
