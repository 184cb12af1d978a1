"""Say which images of a set are unlike the others, and which choice makes them alike."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from memaudit.data.fitting import FIT_FIELDS, HOW_TO_FIT, UnlikeError
from memaudit.data.preparation import DEEP, Preparation
from memaudit.data.readers.decoding import describe_picture
from memaudit.errors import DataError
from memaudit.wording import some

_NAMED = 3
"""Images that are named of those that differ."""
_SECONDS = 30.0
"""How long headers are read for an error."""
_NEEDS = {
    "transparent": (
        "{background} COLOR says what is behind transparent pixels, such as white.",
        "background",
    ),
    DEEP: (
        "{window} LOW,HIGH gives the numbers that become 0 and 255.",
        "window",
    ),
}
_MODE = ("{mode} rgb (or gray) converts all images.", "mode")


def explain_unlike(
    source: str,
    names: Sequence[str],
    read: Callable[[str], bytes],
    preparation: Preparation,
    error: UnlikeError,
) -> DataError:
    """An error that names all images which are unlike the others, by their headers.

    Args:
        source: the set, in the error.
        names: of all images.
        read: name → the file's bytes.
        preparation: what was chosen.
        error: what the first of them raised, which is returned if nothing more is found.
    """
    sizes: dict[str, tuple[int, int]] = {}
    kinds: dict[str, str] = {}
    deadline = time.monotonic() + _SECONDS
    for name in names:
        try:
            sizes[name], kinds[name] = describe_picture(read(name), preparation)
        except Exception:  # a broken one is named when it is decoded
            continue
        if time.monotonic() > deadline:
            break
    parts: list[str] = []
    fields: list[str] = []
    total = f"{len(kinds):,} images"
    if len(sizes) < len(names):
        total = f"the {len(kinds):,} images looked at (there are {len(names):,})"
    if preparation.resolution is None:
        common, _ = Counter(sizes.values()).most_common(1)[0] if sizes else ((0, 0), 0)
        odd = [name for name in sizes if sizes[name] != common]
        said = f"{_are(len(odd))} not {_in_words(common)} pixels (height×width) as the others are"
    else:
        R, S = preparation.resolution
        fits = preparation.fit != "none"
        odd = [n for n, (H, W) in sizes.items() if not fits and H * S != W * R]
        said = f"cannot become {R}×{S} pixels (height×width) without a crop or a margin"
    if odd:
        shown = some([f"{name} {_in_words(sizes[name])}" for name in odd], _NAMED)
        parts.append(f"{len(odd):,} of {total} {said}: {shown}. {HOW_TO_FIT}")
        fields += FIT_FIELDS
    usual = Counter(k for k in kinds.values() if k in ("gray", "RGB")).most_common(1)
    for kind, count in Counter(kinds.values()).most_common():
        if (usual and kind == usual[0][0]) or _is_chosen(kind, preparation):
            continue
        advice, field = _NEEDS.get(kind, _MODE)
        named = some([name for name in kinds if kinds[name] == kind], _NAMED)
        parts.append(f"{count:,} of {total} {_are(count)} {kind}: {named}. {advice}")
        fields.append(field)
    if not parts:
        return error
    return DataError(f"{source}: {' '.join(parts)}", field=tuple(dict.fromkeys(fields)))


def _is_chosen(kind: str, preparation: Preparation) -> bool:
    """Whether the preparation says what becomes of images of a kind."""
    if kind == "transparent":
        return preparation.background is not None
    if kind == DEEP:
        return preparation.window is not None
    return preparation.mode is not None


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _in_words(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
