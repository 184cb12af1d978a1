"""How numbers and names are written in the terminal."""

from typing import TYPE_CHECKING

from memaudit import wording

if TYPE_CHECKING:
    from rich.text import Text

    from memaudit.audit.statistics.intervals import Proportion


def printable(name: str) -> "Text":
    """A file name as it is: no markup in it, and bytes that are no text as escapes."""
    from rich.text import Text

    return Text(name.encode(errors="backslashreplace").decode())


def percent(share: float) -> str:
    """A share in [0, 1] as `3.1 %`."""
    return f"{wording.percent(share)} %"


def interval(proportion: "Proportion") -> str:
    """Both ends of the interval."""
    return f"{percent(proportion.low)} to {percent(proportion.high)}"


def describe(proportion: "Proportion") -> str:
    """`3.1 % (95 % interval 2.8 % to 3.5 %)`; a count of 0 is an upper limit, not a zero."""
    level = f"{100 * proportion.confidence:g} %"
    if proportion.count == 0:
        return f"at most {percent(proportion.high)} ({level} interval)"
    return f"{percent(proportion.ratio)} ({level} interval {interval(proportion)})"
