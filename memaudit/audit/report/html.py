"""What all pages have in common: HTML from templates/, and pictures inside it."""

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from memaudit.data.writers import to_picture
from memaudit.wording import exponential, percent, printable, short

if TYPE_CHECKING:
    from markupsafe import Markup

LARGEST_PICTURE = 64
"""Pixels of the longer edge; pictures of larger images are averaged down."""


@dataclass(frozen=True)
class Picture:
    """An image of a page."""

    uri: str
    """A PNG as a data: URI."""
    alt: str
    width: int
    """Pixels of the picture."""
    height: int


def embed(pixels: np.ndarray, alt: str) -> Picture:
    """A picture of uint8 [C, H, W] for a page, with the words for those who cannot see it."""
    picture = to_picture(pixels)
    picture = picture.reduce(max(1, math.ceil(max(picture.size) / LARGEST_PICTURE)))
    png = io.BytesIO()
    picture.save(png, format="png")
    uri = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return Picture(uri=uri, alt=alt, width=picture.width, height=picture.height)


def unbroken(text: str) -> "Markup":
    """Text in which no line ends between a number and its percent sign."""
    from markupsafe import Markup, escape

    return escape(printable(text)).replace(" %", Markup("&nbsp;%"))


def render_template(template: str, **values: Any) -> str:
    """The text of a page.

    Args:
        template: file in templates/, whose filters are `percent`, `grouped`, `exponential`,
            `short` and `unbroken`.
        values: what the template names; a name that it does not get is an error.
    """
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
    )
    return environment.get_template(template).render(**values)
