"""The answer about an image in one sentence, and about all images in another."""

from collections.abc import Sequence
from dataclasses import dataclass

from memaudit.audit.image_check.result import (
    CheckedImage,
    Copies,
    EarlierCopies,
    Finding,
    InTraining,
    Returns,
)
from memaudit.audit.statistics.intervals import level_text
from memaudit.wording import joined, percent, short, some

SHOWN_KEYS = 3
"""Seeds that an answer names."""


@dataclass(frozen=True)
class Ranking:
    """What an image's rank among the controls says."""

    p_value: float | None
    """For copies and returns together; None without controls."""
    p_adjusted: float | None
    """The same, corrected for the number of images."""
    num_controls: int
    num_images: int
    alpha: float
    """Chance of an error that is allowed, over all images."""
    objection: str
    """Why the rank says nothing, a clause; empty if it does."""

    @property
    def stands_out(self) -> bool:
        """Whether the image stands out by more than chance allows."""
        # 1 - 0.9 is a little less than 0.1, and p is a multiple of 1/(m + 1).
        is_small = self.p_adjusted is not None and self.p_adjusted <= self.alpha + 1e-9
        return is_small and not self.objection

    @property
    def text(self) -> str:
        """The controls with the p-value: `199 held-out images (p = 0.005)`."""
        if self.p_value is None or self.p_adjusted is None:
            return "no held-out images"
        text = f"{self.num_controls:,} held-out images (p = {self.p_value:.2g}"
        if self.num_images > 1:
            text += f", corrected for {self.num_images:,} images {self.p_adjusted:.2g}"
        return f"{text})"

    @property
    def doubt(self) -> str:
        """Why coincidence is not excluded, a clause."""
        return self.objection or f"it does not stand out among {self.text}"


def find(copies: Copies, earlier: EarlierCopies | None, ranking: Ranking) -> Finding:
    """What is said of an image, given its copies, now and in an earlier scan, and its rank."""
    if copies.share.count or (earlier is not None and earlier.count):
        return "given-back" if ranking.stands_out else "copied"
    return "returned-to" if ranking.stands_out else "not-shown"


def answer(
    finding: Finding,
    ranking: Ranking,
    *,
    in_training: InTraining | None,
    copies: Copies,
    earlier: EarlierCopies | None,
    returns: Returns | None,
    by_seed: bool,
    denoises: bool = True,
) -> str:
    """The finding about one image in one sentence, with its error rates.

    Args:
        finding: of `find`.
        ranking: where it stands among the controls.
        in_training: whether the training set holds it.
        copies: of it among the generated images.
        earlier: what the report of a scan says of it.
        returns: to it from noise; None where images were given.
        by_seed: whether a model was sampled.
        denoises: whether it denoises as it is configured.
    """
    who = "model" if by_seed else "generator"
    what, share = _what(in_training), copies.share
    generated = f"{'' if by_seed else 'the '}{share.total:,} generated images"
    verb = "copies" if share.count == 1 else "copy"
    seeds = _keys(copies.keys, share.count, by_seed=by_seed)
    number = f"{share.count:,} of {generated}"
    if earlier is not None and earlier.count:
        more = _keys(earlier.keys, earlier.count, by_seed=by_seed)
        seeds += f" and {earlier.count:,} of {earlier.total:,} in the report of a scan{more}"
    unseen = f"none of {generated} copies it"
    if finding == "given-back":
        return (
            f"The {who} gives back {what}: {number} {verb} it{seeds}, and it stands out among "
            f"{ranking.text}."
        )
    if finding == "returned-to":
        back = "it stands out" if returns is None else f"{_returned(returns)}, it stands out"
        return f"The {who} knows {what}: {back} among {ranking.text}, although {unseen}."
    if finding == "copied":
        return (
            f"By the rule, {number} {verb} {what}{seeds}; but that may be coincidence, since "
            f"{ranking.doubt}."
        )
    limit = f"at most {percent(share.high)} % of all do, {level_text(share.confidence)} interval"
    text = f"Not shown that the {who} gives back {what}: {unseen} ({limit}), and {ranking.doubt}"
    if not denoises:
        what = "" if in_training is not None else "the held-out images "
        text += f"; but it does not denoise {what}as it is configured, so that this means nothing"
    return f"{text}."


def _what(in_training: InTraining | None) -> str:
    if in_training is None:
        return "this image"
    names = some([short(name, 60) for name in in_training.names], 2)
    if in_training.kind == "equal":
        return f"this training image ({names})"
    if in_training.rule is not None:
        return f"the training image that this one copies by {in_training.rule} ({names})"
    if in_training.kind == "near":
        return f"the training image that this one is a near copy of ({names})"
    return "this image, which is not in the training set"


def _keys(keys: Sequence[int | str], number: int, *, by_seed: bool) -> str:
    """The seeds of the copies, which anybody can generate again."""
    if not by_seed or not keys:
        return ""
    named = [str(key) for key in keys[:SHOWN_KEYS]]
    more = f" and {number - len(named):,} more" if number > len(named) else ""
    return f" (seed{'s' if number > 1 else ''} {', '.join(named)}{more})"


def _returned(returns: Returns) -> str:
    """From how much noise sampling came back, a clause."""
    back = [level for level in returns.levels if level.returned]
    if not back:
        return "sampling from it with noise ends nearer to it than to others"
    most = back[-1]
    return (
        f"sampling returns to it from sigma {most.sigma:g} ({most.returned} of "
        f"{most.num_noises} noises)"
    )


def headline(images: Sequence[CheckedImage], ranking: Ranking, *, by_seed: bool) -> str:
    """The answer about all images in one sentence, with its error rate.

    Args:
        images: what was found about each, at least one.
        ranking: of any of them; its objection only if it holds for all.
        by_seed: whether a model was sampled.
    """
    who, number = "model" if by_seed else "generator", len(images)

    def count(finding: Finding) -> int:
        return sum(image.finding == finding for image in images)

    def of_all(some_: int) -> str:
        return "this image" if number == 1 else f"{some_:,} of {number:,} images"

    found = []
    if given := count("given-back"):
        found.append(f"gives back {of_all(given)}")
    if known := count("returned-to"):
        found.append(f"knows {of_all(known)} that it did not generate here")
    if found:
        text = (
            f"The {who} {joined(found)}; the chance that this is said of any image that it treats "
            f"like the {ranking.num_controls:,} held-out ones is at most {100 * ranking.alpha:.3g} "
            "%"
        )
    else:
        which = "this image" if number == 1 else f"any of the {number:,} images"
        text = f"Not shown that the {who} gives back {which}"
        if ranking.objection:
            text += f", since {ranking.objection}"
    if copied := count("copied"):
        are = "it is" if number == 1 else f"{copied:,} {'is' if copied == 1 else 'are'}"
        text += f"; {are} copied by the rule, which may be coincidence"
    return f"{text}."
