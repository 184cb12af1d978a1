"""Would images that were given copy training images in another form: mirrored, turned, as BGR?

Where the model is at hand, it tells how its training images were prepared
(`denoising/preprocessing.py`). Images that somebody else generated and saved may have their
channels, rows or values exchanged, and then hardly any of them counts. So some are searched for in
every such form. Of those that are copies in one of the two forms alone, as many should be copies as
given (sign test); if there are more in the other form, by more than chance, the images were
probably saved or read otherwise than the training images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import bdtrc

from memaudit.audit.denoising.preprocessing import ISOMETRIES
from memaudit.audit.memorization.rule import Rule, memorized
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import DataError
from memaudit.progress import Progress, silent
from memaudit.wording import percent

_TURNED = "was an EXIF orientation, or the direction of a medical image, treated otherwise?"
FORMS = {
    **ISOMETRIES,
    "turned around": (lambda y: y.rot90(2, (2, 3)), _TURNED),
    "transposed along the other diagonal": (lambda y: y.rot90(2, (2, 3)).transpose(2, 3), _TURNED),
}
"""Those that a model is asked about, and the other turns of medical slices."""
NUM_IMAGES = 256
"""Most of the given images that are tried in every form."""
MOST_IMAGES = 4096
"""Most of them that are tried in the forms in which more of the first are copies than as given."""
BYTES_AT_A_TIME = 256 << 20
"""Most bytes of images that are searched for at a time; every search takes some time to begin."""
ALPHA = 0.05
"""Level of the sign test, corrected for the number of forms (Bonferroni)."""


@dataclass(frozen=True)
class OtherForm:
    """A form in which more of the given images are copies than as they are."""

    name: str
    """`reversed channels`, one of `FORMS`."""
    share: Proportion
    """Copies in that form."""
    as_given: int
    """Copies among the same images as they are."""

    @property
    def text(self) -> str:
        """What was found by a scan, for a reader."""
        return self.text_about("a training image")

    def text_about(self, compared: str) -> str:
        """What was found, where images were compared with others than training images."""
        hint = FORMS[self.name][1]
        return (
            f"Of {self.share.total:,} of the given images, {self.share.count:,} copy {compared} "
            f"in another form ({self.name}: {hint}), and {self.as_given:,} as they are. Such "
            "copies are not counted before both are prepared alike."
        )


def num_searched(number: int) -> int:
    """The most images that are searched for, if `number` are given and none copies in any form."""
    return min(number, NUM_IMAGES) * (1 + len(FORMS))


def find_other_form(
    index: ImageSearch,
    images: ImageSet,
    rule: Rule,
    *,
    flips: bool = False,
    progress: Progress = silent,
) -> OtherForm | None:
    """The form in which most images are copies, if there are more than as given, beyond chance.

    An image counts by its two nearest images alone, without a look at duplicates of the first.

    Args:
        index: of the training images, by pixels; at least 2.
        images: those that were given.
        rule: what counts as a copy.
        flips: whether mirrored copies are found anyway.
        progress: told how many images were tried.

    Returns:
        None if the images are best as they are, if features are compared, or if there is one image
        to compare with.
    """
    if not index.exact or not len(images) or len(index.images) < 2:
        return None
    names = [name for name in _other_forms(images) if not (flips and name == "mirrored")]
    as_given, *in_forms = _copies_in(index, images, NUM_IMAGES, names, rule, progress)
    promising = {
        name: copies
        for name, copies in zip(names, in_forms, strict=True)
        if (copies & ~as_given).sum() > (as_given & ~copies).sum()
    }
    if promising and len(images) > NUM_IMAGES:
        # However the forms were chosen, each is tested once, and corrected for all.
        chosen = list(promising)
        as_given, *in_forms = _copies_in(index, images, MOST_IMAGES, chosen, rule, progress)
        promising = dict(zip(chosen, in_forms, strict=True))
    best = None
    for name, copies in promising.items():
        more, fewer = int((copies & ~as_given).sum()), int((as_given & ~copies).sum())
        if not more or (best is not None and copies.sum() <= best.share.count):
            continue
        p = float(bdtrc(more - 1, more + fewer, 0.5))
        if p * len(names) <= ALPHA:
            share = clopper_pearson(int(copies.sum()), len(copies), rule.confidence)
            best = OtherForm(name, share, int(as_given.sum()))
    return best


def check_form(form: OtherForm | None, limit: float) -> None:
    """Refuse a PASS of images of which more than the limit are copies in another form.

    Args:
        form: what `find_other_form` found.
        limit: the largest share of copies that passes.

    Raises:
        DataError: the lower end of the share in that form is above the limit.
    """
    if form is None or form.share.low <= limit:
        return
    also = ", or search for mirrored images as well ({flips})" if form.name == "mirrored" else ""
    raise DataError(
        f"{form.text} In that form, at least {percent(form.share.low)} % are copies, which is "
        f"above the limit of {percent(limit)} %, so that the images as they are cannot pass. Save "
        f"them again as the training images are, or prepare the training images so{also}.",
        field="flips" if also else (),
    )


def _copies_in(
    index: ImageSearch,
    images: ImageSet,
    most: int,
    names: Sequence[str],
    rule: Rule,
    progress: Progress,
) -> np.ndarray:
    """Which of up to `most` of the images are copies, as given and in these forms: bool [F, B]."""
    rows = np.unique(np.linspace(0, len(images) - 1, most).round().astype(int))
    in_a_block = max(1, BYTES_AT_A_TIME // ((1 + len(names)) * images.images[:1].nbytes))
    found: list[np.ndarray] = []
    for start in range(0, len(rows), in_a_block):
        given = np.array(images.images[rows[start : start + in_a_block]])
        together = np.concatenate([given, *(_changed(given, name) for name in names)])
        found.append(_copies(index, together, rule).reshape(-1, len(given)))
        progress("Trying other forms of the images", start + len(given), len(rows))
    return np.concatenate(found, axis=1)


def _copies(index: ImageSearch, images: np.ndarray, rule: Rule) -> np.ndarray:
    """Which images copy one of the index by the published rule or within the radius, bool [B]."""
    near = index.nearest(images, 2).squared_distance
    radius = largest_squared_distance(rule.duplicate_rms, images.shape[1:])
    found: np.ndarray = memorized(near[:, 0], near[:, 1], rule.threshold) | (near[:, 0] <= radius)
    return found


def _other_forms(images: ImageSet) -> list[str]:
    """The forms that images of this shape can have."""
    C, H, W = images.image_shape
    first = np.zeros((1, C, H, W), np.uint8)
    fitting = [name for name in FORMS if _changed(first, name).shape == first.shape]  # not turned
    return [name for name in fitting if C > 1 or name != "reversed channels"]


def _changed(images: np.ndarray, name: str) -> np.ndarray:
    """Images uint8 [B, C, H, W] in another form."""
    # Odd numbers from -255 to 255: inverting a value changes its sign, as of numbers in [-1, 1].
    signed = 2 * torch.from_numpy(images).to(torch.int16) - 255
    changed = FORMS[name][0](signed)
    values: np.ndarray = ((changed + 255) // 2).to(torch.uint8).contiguous().numpy()
    return values
