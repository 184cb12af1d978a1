"""The recipes that give photographs one size, against Pillow and torchvision, to the pixel."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from memaudit.data.fitting import UnlikeError, fit_image, to_channels
from memaudit.data.preparation import AS_STORED, Preparation
from memaudit.errors import ConfigError, DataError

SIZES = [(67, 45), (45, 67), (133, 100), (129, 301), (16, 16), (9, 14), (64, 64), (1, 7)]
"""(height, width): odd and even, portrait and landscape, larger and smaller than what is wanted."""
EDGES = [8, 15, 16, 32]


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    shape = size if mode == "L" else (*size, 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def fitted(image: Image.Image, **options: Any) -> np.ndarray:
    """[H, W] or [H, W, 3] as Pillow has it."""
    pixels = np.asarray(image)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    found = fit_image(planes, "a.png", Preparation(**options))
    return found[0] if pixels.ndim == 2 else found.transpose(1, 2, 0)


def adm(image: Image.Image, R: int) -> np.ndarray:
    """The recipe in docs/data.md, written with Pillow."""
    while min(image.size) >= 2 * R:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = R / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - R) // 2, (image.height - R) // 2
    return np.asarray(image.crop((left, top, left + R, top + R)))


def square(image: Image.Image, R: int, filter: Image.Resampling) -> np.ndarray:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((R, R), filter))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("R", EDGES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_each_recipe_gives_the_pixels_of_its_tool(size: tuple[int, int], R: int, mode: str) -> None:
    image = picture(size, mode)
    short = transforms.Compose(
        [
            transforms.Resize(R, InterpolationMode.BILINEAR, antialias=True),
            transforms.CenterCrop(R),
        ]
    )
    lanczos, bicubic = Image.Resampling.LANCZOS, Image.Resampling.BICUBIC
    np.testing.assert_array_equal(fitted(image, resolution=R, fit="adm"), adm(image, R))
    np.testing.assert_array_equal(
        fitted(image, resolution=R, fit="short"), np.asarray(short(image))
    )
    np.testing.assert_array_equal(
        fitted(image, resolution=R, fit="square"), square(image, R, lanczos)
    )
    np.testing.assert_array_equal(
        fitted(image, resolution=R, fit="square", filter="bicubic"), square(image, R, bicubic)
    )


@pytest.mark.parametrize("R", EDGES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_padding_shows_the_whole_image_on_its_color(size: tuple[int, int], R: int) -> None:
    image = picture(size)
    found = fitted(image, resolution=R, fit="pad", background="#0a141e")
    scale = R / max(size)
    inner = image.resize(
        (max(1, round(size[1] * scale)), max(1, round(size[0] * scale))), Image.Resampling.LANCZOS
    )
    expected = Image.new("RGB", (R, R), (10, 20, 30))
    expected.paste(inner, ((R - inner.width) // 2, (R - inner.height) // 2))
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_two_sides_are_covered_and_cut() -> None:
    found = fitted(picture((50, 90)), resolution=(20, 40), fit="short")
    expected = picture((50, 90)).resize((40, 22), Image.Resampling.BILINEAR).crop((0, 1, 40, 21))
    np.testing.assert_array_equal(found, np.asarray(expected))
    padded = fitted(picture((50, 90)), resolution=(20, 40), fit="pad", background="white")
    assert padded.shape == (20, 40, 3) and (padded[:, :2] == 255).all()


def test_without_a_recipe_only_the_same_proportions_are_resized() -> None:
    found = fitted(picture((30, 60)), resolution=(10, 20))
    expected = picture((30, 60)).resize((20, 10), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(found, np.asarray(expected))
    with pytest.raises(
        UnlikeError, match="30×60 pixels .* cannot become 10×10 .* resolution R and"
    ):
        fitted(picture((30, 60)), resolution=10)
    assert AS_STORED.is_plain


def test_a_sliver_is_not_made_larger_than_an_image_may_be() -> None:
    for fit in ("adm", "short"):
        with pytest.raises(DataError, match="a.png: 1×60000 pixels .* would become 512×30720000"):
            fitted(picture((1, 60_000), "L"), resolution=512, fit=fit)


def test_gray_is_that_of_pillow() -> None:
    image = picture((7, 9))
    gray = to_channels(np.asarray(image).transpose(2, 0, 1), 1)
    np.testing.assert_array_equal(gray[0], np.asarray(image.convert("L")))
    np.testing.assert_array_equal(to_channels(gray, 3), np.repeat(gray, 3, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, "resolution is 0; at least 1 and at most 8,192 is needed"),
        ({"fit": "adm"}, "fit says how images get a size; give resolution, too"),
        ({"filter": "box"}, "filter says how images get a size; give resolution, too"),
        ({"resolution": (8, 9), "fit": "adm"}, "fit adm makes square images, but .* is 8x9"),
        ({"resolution": 8, "fit": "pad"}, "fit pad needs the color of the margin; give background"),
        ({"background": "pink"}, "background is 'pink'; white, gray, black or #rrggbb is needed"),
        ({"window": (5.0, 5.0)}, "window is 5.0,5.0; two numbers are needed, the smaller first"),
        ({"window": (1.0,)}, "window is 1.0; two numbers are needed"),
        ({"window": (0.0, float("inf"))}, "window is 0.0,inf; two numbers are needed"),
        ({"mode": "cmyk"}, "mode is 'cmyk'; one of rgb, gray is needed"),
    ],
)
def test_a_preparation_that_makes_no_sense_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Preparation(**options)


def test_a_preparation_names_itself() -> None:
    made = Preparation(resolution=8, fit="square", mode="rgb", background="#ffffff", exif="apply")
    assert str(made) == (
        "fit square to 8 x 8, lanczos filter; converted to RGB; on #ffffff; EXIF orientation "
        "applied"
    )
    assert str(AS_STORED) == "as stored"
    assert made.resolved().key == made.key != AS_STORED.key
    assert made.resolved().filter == "lanczos" and AS_STORED.resolved() == AS_STORED
