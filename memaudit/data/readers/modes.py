"""From PIL's modes to 8-bit gray or RGB."""

import io

from PIL import Image, ImageCms

from memaudit.data.fitting import UnlikeError
from memaudit.data.preparation import Preparation
from memaudit.errors import DataError

GRAY, RGB = "L", "RGB"
_WITHOUT_CHOICE = {
    **dict.fromkeys(("1", "L", "LA"), GRAY),
    **dict.fromkeys(("P", "PA", "RGB", "RGBA"), RGB),
}
_BY_CHOICE = ("CMYK", "YCbCr")


def plain(mode: str) -> str:
    """`L` or `RGB` for a mode that becomes it without a choice, else the mode itself."""
    return _WITHOUT_CHOICE.get(mode, mode)


def to_gray_or_rgb(
    image: Image.Image, name: str, preparation: Preparation
) -> tuple[Image.Image, tuple[str, ...]]:
    """The image in mode `L` or `RGB`, and what it was if that was converted on request.

    Raises:
        UnlikeError: it needs a mode or a background that was not chosen.
        DataError: it is in another mode.
    """
    kinds: tuple[str, ...] = ()
    mode = plain(image.mode)
    if image.mode in _BY_CHOICE and preparation.mode is not None:
        return _to_rgb(image, name), (image.mode,)
    if mode not in (GRAY, RGB):
        if image.mode in _BY_CHOICE:
            raise UnlikeError(
                f"{name} is in mode {image.mode}; 8-bit gray or RGB is needed. Convert it with "
                "{mode} rgb or gray.",
                field="mode",
            )
        raise DataError(
            f"{name} is in mode {image.mode}; 8-bit gray or RGB is needed. Convert it first."
        )
    if preparation.mode is not None and image.mode in ("P", "PA"):
        kinds = ("palette",)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        drawn = image.convert("RGBA")
        if drawn.getchannel("A").getextrema() != (255, 255):
            if preparation.color is None:
                raise UnlikeError(
                    f"{name} is transparent in places. Say on which color it is drawn with "
                    "{background}, such as white.",
                    field="background",
                )
            canvas = Image.new("RGBA", image.size, (*preparation.color, 255))
            canvas.alpha_composite(drawn)
            return canvas.convert(mode), (*kinds, "transparent")
    return (image if image.mode == mode else image.convert(mode)), kinds


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """CMYK by its embedded color profile, or by PIL's formulas without one."""
    profile = image.info.get("icc_profile")
    if image.mode != "CMYK" or not profile:
        return image.convert(RGB)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode=RGB)
    except (ImageCms.PyCMSError, OSError) as error:
        raise DataError(
            f"{name} has a color profile that cannot be used: {error}. Convert it to RGB first."
        ) from error
    assert converted is not None
    return converted
