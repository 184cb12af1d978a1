"""Images as the pages show them: inside the HTML, small, each with its words."""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np

from memaudit.data.writers import to_picture

LARGEST_PICTURE = 64
"""Pixels; pictures of larger images are averaged down."""


@dataclass(frozen=True)
class Picture:
    """An image of a page."""

    uri: str
    """data: URI of a PNG."""
    alt: str
    width: int
    """In pixels of the picture."""
    height: int


def embed(pixels: np.ndarray, alt: str) -> Picture:
    """uint8 [C, H, W] as a picture of a page, with the words for who cannot see it."""
    picture = to_picture(pixels)
    picture = picture.reduce(max(1, math.ceil(max(picture.size) / LARGEST_PICTURE)))
    png = io.BytesIO()
    picture.save(png, format="png")
    uri = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return Picture(uri=uri, alt=alt, width=picture.width, height=picture.height)
