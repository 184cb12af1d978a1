"""How the pixels of one image are prepared; imports neither numpy nor torch.

What a model was trained on are not photographs but what its trainer made of them. The recipes are
those of the tools that people train with, equal to the pixel; docs/data.md has them.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from memaudit.errors import ConfigError
from memaudit.options import Option, check_options, shown

MAX_RESOLUTION = 8192
"""Largest height and width that images are resized to: those of the largest that are decoded."""
Fit = Literal["none", "adm", "short", "square", "pad"]
Filter = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]
Mode = Literal["rgb", "gray"]
Exif = Literal["ignore", "apply"]

OWN_FILTER: dict[Fit, Filter] = {
    "none": "lanczos",
    "adm": "bicubic",
    "short": "bilinear",
    "square": "lanczos",
    "pad": "lanczos",
}
"""The filter of each recipe, where no other is asked for."""
ORIENTED = "EXIF orientation"
"""The kind of an image whose EXIF says to turn or mirror it."""
DEEP = "16-bit or floating"
"""The kind of an image of other numbers than bytes, which a window made bytes."""
CLIPPED = "clipped"
"""The kind of an image with numbers outside the window, which became 0 or 255."""
COLORS = {"black": (0, 0, 0), "gray": (128, 128, 128), "white": (255, 255, 255)}


@dataclass(frozen=True)
class Preparation:
    """How each image becomes pixels of one size, before anything is compared or trained on."""

    resolution: Annotated[
        tuple[int, int] | None,
        Option(
            "Size of the prepared images: R for RxR, or HxW (height x width).",
            at_least=1,
            at_most=MAX_RESOLUTION,
            metavar="R",
            default_text="as stored",
            is_size=True,
        ),
    ] = None
    """(height, width); a single number R means (R, R)."""
    fit: Annotated[
        Fit,
        Option(
            "How images of other proportions get that size: adm as ADM, DiT and SiT crop; short as "
            "lucidrains and diffusers do (short side, then the center); square as LDM and EDM do "
            "(the center, then resized); pad within a margin; none refuses them."
        ),
    ] = "none"
    filter: Annotated[
        Filter | None,
        Option(
            "Filter that resizes; LDM's square is bicubic.",
            default_text="bicubic for adm, bilinear for short, else lanczos",
        ),
    ] = None
    mode: Annotated[
        Mode | None,
        Option(
            "Convert all images to RGB or to gray: gray, palette, CMYK and RGB among each other.",
            default_text="as stored",
        ),
    ] = None
    background: Annotated[
        str | None,
        Option(
            "Color behind transparent pixels and of the margin of pad: white, gray, black or "
            "#rrggbb.",
            metavar="COLOR",
            default_text="transparent pixels are refused",
        ),
    ] = None
    window: Annotated[
        tuple[float, float] | None,
        Option(
            "Numbers that become 0 and 255, of images with 16 bits or floating numbers.",
            alias="--range",
            metavar="LOW,HIGH",
            default_text="such images are refused",
        ),
    ] = None
    """(low, high): x becomes floor(255·(x - low)/(high - low) + ½), clipped to 0…255."""
    exif: Annotated[
        Exif,
        Option("Whether to turn images upright that have an EXIF orientation."),
    ] = "ignore"

    def __post_init__(self) -> None:
        if isinstance(self.resolution, int):
            object.__setattr__(self, "resolution", (self.resolution, self.resolution))
        check_options(self)
        for name in ("fit", "filter"):
            if self.resolution is None and getattr(self, name) not in ("none", None):
                raise ConfigError(
                    f"{{{name}}} says how images get a size; give {{resolution}}, too.",
                    field=(name, "resolution"),
                )
        if self.background is not None:
            parse_color(self.background)
        if self.fit == "pad" and self.background is None:
            raise ConfigError(
                "{fit} pad needs the color of the margin; give {background}.",
                field=("fit", "background"),
            )
        if self.window is not None:
            self._check_window(self.window)
        if self.resolution is not None:
            self._check_resolution(*self.resolution)

    def _check_window(self, window: tuple[float, ...]) -> None:
        if len(window) != 2 or not all(map(math.isfinite, window)) or window[0] >= window[1]:
            raise ConfigError(
                f"{{window}} is {shown(window)}; two numbers are needed, the smaller first.",
                field="window",
            )

    def _check_resolution(self, height: int, width: int) -> None:
        if self.fit in ("adm", "square") and height != width:
            raise ConfigError(
                f"{{fit}} {self.fit} makes square images, but {{resolution}} is {height}x{width}; "
                "give one number, or choose short or pad.",
                field=("fit", "resolution"),
            )

    def resolved(self) -> "Preparation":
        """The same with the filter that is used, where one is."""
        if self.resolution is None or self.filter is not None:
            return self
        return replace(self, filter=OWN_FILTER[self.fit])

    def at(self, height: int, width: int) -> "Preparation":
        """The same for another size."""
        return replace(self, resolution=(height, width))

    def at_stored_size(self) -> "Preparation":
        """The same without a size."""
        return replace(self, resolution=None, fit="none", filter=None)

    @property
    def channels(self) -> int | None:
        """1 (gray) or 3 (RGB), or None where images keep what they have."""
        return None if self.mode is None else {"gray": 1, "rgb": 3}[self.mode]

    @property
    def color(self) -> tuple[int, int, int] | None:
        """The background as RGB in 0…255."""
        return None if self.background is None else parse_color(self.background)

    @property
    def is_plain(self) -> bool:
        """Whether images are taken as they are stored."""
        return self == AS_STORED

    @property
    def key(self) -> str:
        """A text that differs where prepared images may differ."""
        return json.dumps(asdict(self.resolved()), sort_keys=True)

    @property
    def choices(self) -> dict[str, Any]:
        """Every choice by its name, as values that JSON has."""
        found = asdict(self.resolved())
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}

    def __str__(self) -> str:
        used = self.resolved()
        parts = []
        if used.resolution is not None:
            height, width = used.resolution
            recipe = "resized" if used.fit == "none" else f"fit {used.fit}"
            parts.append(f"{recipe} to {height} x {width}, {used.filter} filter")
        if used.mode is not None:
            parts.append(f"converted to {'RGB' if used.mode == 'rgb' else 'gray'}")
        if used.background is not None:
            parts.append(f"on {used.background}")
        if used.window is not None:
            parts.append(f"values from {used.window[0]:g} to {used.window[1]:g}")
        if used.exif == "apply":
            parts.append("EXIF orientation applied")
        return "; ".join(parts) or "as stored"


def parse_color(text: str) -> tuple[int, int, int]:
    """RGB in 0…255 of `white`, `gray`, `black` or `#rrggbb`.

    Raises:
        ConfigError: it is another text.
    """
    color = COLORS.get(text.lower())
    if color is not None:
        return color
    if not re.fullmatch("#[0-9A-Fa-f]{6}", text):
        raise ConfigError(
            f"{{background}} is {shown(text)}; white, gray, black or #rrggbb is needed.",
            field="background",
        )
    r, g, b = bytes.fromhex(text[1:])
    return r, g, b


AS_STORED = Preparation()
"""Pixels as the files have them."""
