"""What a page shows of images. Imports nothing: the command line reads it here."""

from typing import Literal, get_args

Pictures = Literal["none", "blurred", "full"]
"""Training and generated images on a page: not at all, as a few areas of color, or as they are."""


def shows_no_more(pictures: Pictures, asked: Pictures) -> bool:
    """Whether a page with `pictures` gives away no more than one with those asked for."""
    order = get_args(Pictures)
    return bool(order.index(pictures) <= order.index(asked))
