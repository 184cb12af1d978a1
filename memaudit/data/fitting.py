"""Give an image the size of the set: the recipes of the tools that people train with.

All resize with PIL, whose bilinear filter is torchvision's with antialiasing. With height H and
width W of the image and R×S wanted:

- adm (ADM, DiT, SiT; R = S): halve with a box while min(H, W) ≥ 2R; resize by R/min(H, W), each
  side rounded; cut the center, offsets rounded down.
- short (lucidrains, diffusers): resize so that R×S is covered, the other side cut to an integer;
  cut the center, offsets rounded half to even, as torchvision's CenterCrop does.
- square (LDM, EDM; R = S): cut the center square, offsets rounded down, then resize.
- pad: resize so that it lies within R×S, the other side rounded; the margin has one color.
- none: resize if the proportions are right already.
"""

import numpy as np
from PIL import Image

from memaudit.data.preparation import MAX_RESOLUTION, Filter, Preparation
from memaudit.errors import DataError

MAX_PIXELS = MAX_RESOLUTION**2
"""Most pixels of one image. A few bytes can announce more than memory holds."""
_FILTERS: dict[Filter, Image.Resampling] = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
HOW_TO_FIT = (
    "Say how the model's trainer made them one size with {resolution} R and {fit}: adm (ADM, DiT, "
    "SiT), short (lucidrains, diffusers), square (LDM, EDM) or pad."
)
"""What to do with images of other proportions; the fields are `FIT_FIELDS`."""
FIT_FIELDS = ("resolution", "fit")


class UnlikeError(DataError):
    """An image that becomes one of a set only by a choice that was not made."""


def fit_image(image: np.ndarray, name: str, preparation: Preparation) -> np.ndarray:
    """The image at the resolution of `preparation`, or as it is where that says none.

    Args:
        image: uint8 [C, H, W], C = 1 or 3.
        name: its name in an error.
        preparation: resolution, fit and filter.

    Returns:
        uint8 [C, R, S].

    Raises:
        UnlikeError: it has other proportions, and no way to cut it was chosen.
        DataError: it is so narrow that the recipe makes it larger than an image may be.
    """
    used = preparation.resolved()
    if used.resolution is None or image.shape[1:] == used.resolution:
        return image
    assert used.filter is not None
    filter = _FILTERS[used.filter]
    R, S = used.resolution
    _, H, W = image.shape
    if used.fit == "none":
        check_proportions(name, H, W, used)
        return _resize(image, R, S, filter, name)
    if used.fit == "square":
        side = min(H, W)
        return _resize(_center(image, side, side), R, S, filter, name)
    if used.fit == "pad":
        return _pad(image, used, name)
    if used.fit == "short":
        # Cover: the side that is relatively shorter becomes exact.
        height, width = (R, int(R * W / H)) if H * S <= W * R else (int(S * H / W), S)
        covering = _resize(image, height, width, filter, name)
        top, left = round((height - R) / 2), round((width - S) / 2)
        return covering[:, top : top + R, left : left + S]
    # adm
    while min(image.shape[1:]) >= 2 * R:
        _, H, W = image.shape
        image = _resize(image, H // 2, W // 2, Image.Resampling.BOX, name)
    _, H, W = image.shape
    scale = R / min(H, W)
    return _center(_resize(image, round(H * scale), round(W * scale), filter, name), R, R)


def check_proportions(what: str, H: int, W: int, preparation: Preparation) -> None:
    """Refuse to distort an image of other proportions than those wanted.

    Raises:
        UnlikeError: with what to choose.
    """
    if preparation.fit != "none" or preparation.resolution is None:
        return
    R, S = preparation.resolution
    if H * S != W * R:
        raise UnlikeError(
            f"{what}: {H}×{W} pixels (height×width) cannot become {R}×{S} without a crop or a "
            f"margin. {HOW_TO_FIT}",
            field=FIT_FIELDS,
        )


def _center(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _resize(
    image: np.ndarray, height: int, width: int, filter: Image.Resampling, name: str
) -> np.ndarray:
    """uint8 [C, H, W] → uint8 [C, height, width]."""
    if image.shape[1:] == (height, width):
        return image
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{name}: {image.shape[1]}×{image.shape[2]} pixels (height×width) would become "
            f"{height}×{width}, more than the {MAX_PIXELS:,} that an image may have. Remove it."
        )
    if len(image) == 1:
        return np.asarray(Image.fromarray(image[0]).resize((width, height), filter))[None]
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return np.asarray(picture.resize((width, height), filter)).transpose(2, 0, 1)


def _pad(image: np.ndarray, used: Preparation, name: str) -> np.ndarray:
    assert used.resolution is not None and used.filter is not None and used.color is not None
    (R, S), (_, H, W) = used.resolution, image.shape
    scale = min(R / H, S / W)
    height, width = max(1, round(H * scale)), max(1, round(W * scale))
    inner = _resize(image, height, width, _FILTERS[used.filter], name)
    color = np.array(used.color, np.uint8)[:, None, None]
    margin = to_channels(color, len(image))
    padded = np.broadcast_to(margin, (len(image), R, S)).copy()
    top, left = (R - height) // 2, (S - width) // 2
    padded[:, top : top + height, left : left + width] = inner
    return padded


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Gray as RGB, or RGB as gray by PIL's rounding of 0.299 R + 0.587 G + 0.114 B.

    Args:
        image: uint8 [C, H, W], C = 1 or 3.
        channels: 1 or 3.

    Returns:
        uint8 [channels, H, W].
    """
    if len(image) == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return np.asarray(picture.convert("L"))[None]
