"""How numbers are written in the terminal."""

from typing import TYPE_CHECKING

from memaudit import wording

if TYPE_CHECKING:
    from memaudit.audit.statistics.intervals import Estimate, Proportion


def percent(share: float) -> str:
    """A share in [0, 1] as `3.1 %`."""
    return f"{wording.percent(share)} %"


def interval(proportion: "Proportion | Estimate") -> str:
    """Both ends of the interval, as `2.8 % to 3.5 %`."""
    from memaudit.audit.statistics.intervals import interval_text

    return interval_text(proportion)


def describe(proportion: "Proportion") -> str:
    """`3.1 % (95 % interval 2.8 % to 3.5 %)`; a count of 0 is an upper limit, not a zero."""
    from memaudit.audit.statistics.intervals import describe

    return describe(proportion)
