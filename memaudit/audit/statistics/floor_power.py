"""What a number of held-out images allows a gate to show.

FAIL is tested above p₀ + (1 − p₀)·u, where u is an upper limit of the floor: the share of images
like these that the rule flags although nothing was copied. Few held-out images mean a high u.
"""

import math
from dataclasses import dataclass

from memaudit.audit.statistics.forecast import GateTest
from memaudit.audit.statistics.gate import Control, FloorCount
from memaudit.audit.statistics.intervals import check_proportion, clopper_pearson
from memaudit.wording import percent

ENOUGH = 0.1
"""Held-out images suffice where u exceeds the floor seen by at most this part of the limit."""
TOO_FEW = 0.5
"""They do not where u is more than this part of the limit."""
MOST_HELD_OUT = 10**9
"""No larger number of held-out images is recommended."""


@dataclass(frozen=True)
class FloorPower:
    """A gate beside `count` flagged images of `total` held out."""

    count: int
    total: int
    limit: float
    upper: float
    """u, with a chance of α/2 that the floor is higher."""
    width: float
    """Width of the two-sided interval of the floor, at 1 − α."""
    test: GateTest
    """PASS at the limit at level α, FAIL above p₀ + (1 − p₀)·u at level α/2."""
    num_needed: int | None
    """Held-out images that would suffice, if the same share of them is flagged. None: more than
    can be had."""

    @property
    def is_enough(self) -> bool:
        """Whether the limit can be told from the floor."""
        return self.upper <= TOO_FEW * self.limit


def floor_power(count: int, total: int, *, limit: float, confidence: float = 0.95) -> FloorPower:
    """What a gate can show beside `count` flagged images of `total` held out.

    u = Beta(1 − α/2; c+1, m−c), the upper end of the two-sided interval of Clopper and Pearson.

    Args:
        count: c, held-out images that the rule flags, 0 … total; 0 before they are searched.
        total: m, held-out images, ≥ 1.
        limit: p₀, in (0, 1).
        confidence: 1 − α, in [0.5, 1).

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> found = floor_power(0, 4_000, limit=0.001)
        >>> f"{found.upper:.3%}", f"{found.test.fail_limit:.3%}", found.num_needed
        ('0.092%', '0.192%', 40000)
    """
    check_proportion(count, total, confidence)
    interval = clopper_pearson(count, total, confidence)
    upper = min(interval.high, 1 - 1e-12)
    test = GateTest(limit, confidence, limit + (1 - limit) * upper, (1 + confidence) / 2)
    return FloorPower(
        count,
        total,
        limit,
        interval.high,
        interval.high - interval.low,
        test,
        _num_needed(interval.ratio, limit, confidence),
    )


def gate_power_text(
    limit: float,
    confidence: float,
    count: int,
    total: int,
    control: Control = "held-out images",
    *,
    whole_images: FloorCount | None = None,
) -> str:
    """What a gate can and cannot show, in a sentence to say before sampling.

    Args:
        limit: p₀, in (0, 1).
        confidence: 1 − α, in [0.5, 1).
        count: held-out images that the rule flags; 0 before they are searched.
        total: held-out images, 0 without any.
        control: what gives the floor; by leave-one-out, `total` are training images.
        whole_images: the control's count by whole images alone, where further rules count as well
            and α is shared between both.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> gate_power_text(0.001, 0.95, 0, 40_000)[:56]
        '40,000 held-out images put the floor at 0.0092 % or less'
    """
    stated = f"{percent(limit)} %"
    if not total:
        return (
            f"Without held-out images a limit of {stated} cannot be told from the floor, the share "
            f"that is flagged without copying; {_num_needed(0.0, limit, confidence):,} would do."
        )
    if whole_images is not None:
        confidence = (1 + confidence) / 2
        whole = floor_power(
            whole_images.count, max(1, whole_images.total), limit=limit, confidence=confidence
        )
        of_all = gate_power_text(limit, confidence, count, total, control)
        if not whole_images.total:
            return of_all
        return (
            f"{of_all} Whole images are tested by themselves as well: more than "
            f"{percent(whole.test.ends[1])} % of such copies can FAIL, too."
        )
    power = floor_power(count, total, limit=limit, confidence=confidence)
    fails = f"{percent(power.test.ends[1])} %"
    flagged = f" ({count:,} of them flagged)" if count else ""
    whose = f"held-out images{flagged}"
    if control == "leave-one-out":
        whose = f"training images{flagged}, each judged among the others,"
    if power.is_enough:
        return (
            f"{total:,} {whose} put the floor at {percent(power.upper)} % or "
            f"less: at a limit of {stated}, a ratio above {fails} can FAIL."
        )
    text = (
        f"With {total:,} {whose} a limit of {stated} cannot be told from the floor (their "
        f"own interval is {percent(power.width)} % wide): a PASS does not need it, but only a "
        f"ratio above {fails} can FAIL"
    )
    if control == "leave-one-out":
        return f"{text}. Held-out images may give a lower floor."
    if count / total > TOO_FEW * limit:
        return f"{text}. More of them would not help, since the floor itself is that high."
    if power.num_needed is None:
        return f"{text}."
    return f"{text}; {power.num_needed:,} would do."


def _num_needed(floor: float, limit: float, confidence: float) -> int | None:
    """The number of held-out images that suffices, rounded up to one digit, at this floor."""
    allowed = floor + ENOUGH * limit
    if allowed >= 1:
        return 1
    too_few, enough = 0, 1
    while clopper_pearson(round(floor * enough), enough, confidence).high > allowed:
        too_few, enough = enough, 2 * enough
        if enough > MOST_HELD_OUT:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if clopper_pearson(round(floor * middle), middle, confidence).high > allowed:
            too_few = middle
        else:
            enough = middle
    step: int = 10 ** int(math.log10(enough))
    return -(-enough // step) * step
