"""How numbers and names are written for people, in messages, in the terminal and on pages.

Names come from files that nobody vouches for. `printable` writes as an escape what could move a
cursor, hide, or turn the direction of writing; the files of escapes.py need more than that.
"""

import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

MAX_SHOWN = 80
"""Characters of a text from a file that a message quotes."""
MAX_NUMBERS = 10**7
"""Most integers that a text of ranges may stand for: a hostile one must not exhaust memory."""
_FRACTION = re.compile(
    r"[-+]?(\d{1,20}/0*[1-9]\d{0,19}|(\d{1,20}(\.\d{0,20})?|\.\d{1,20})(e[-+]?\d{1,2})?)",
    re.ASCII | re.IGNORECASE,
)
SHOWN_NAMES = 3
"""Names that a list gives before it says how many more there are."""
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0]")
"""Characters without a shape that Python counts as printable: fillers, joiners, variations."""


def printable(value: Any) -> Any:
    """Text with every character that has no shape of its own escaped; other values as they are.

    Control characters, line ends, marks of direction and of zero width, and what is not text at all
    (surrogates) become `\\x1b`, `\\n`, `\\u202e` and the like.
    """
    if type(value) is not str:  # markup that a template made is a subclass
        return value
    if value.isascii() and value.isprintable():  # a picture's data is a text of megabytes
        return value
    return "".join(
        char
        if char.isprintable() and not _BLANK.match(char)
        else char.encode("unicode_escape").decode()
        for char in value
    )


def short(text: Any, length: int = 100) -> str:
    """`text` with its middle left out where it is longer than `length`."""
    text = str(text)
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]} … {text[-half:]}"


def quoted(text: str) -> str:
    """The beginning of a text that may be long or hostile."""
    escaped = str(printable(text[:MAX_SHOWN]))
    return escaped if len(text) <= MAX_SHOWN else f"{escaped}…"


def shown(value: object) -> str:
    """A text in quotes, a number as it is; of other values, which may be huge, the kind alone."""
    if isinstance(value, str):
        return f"'{quoted(value)}'"
    if isinstance(value, int | float | None):
        return quoted(repr(value))
    return f"a {type(value).__name__}"


def listed(names: Iterable[str], limit: int = SHOWN_NAMES) -> str:
    """A few names in order, each in quotes, and how many more there are."""
    return some([shown(name) for name in sorted(names)], limit)


def some(names: Sequence[str], limit: int = SHOWN_NAMES) -> str:
    """The first names, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more:,} more" if more > 0 else "")


def joined(parts: Sequence[str]) -> str:
    """`a`, `a and b` or `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def plural(noun: str) -> str:
    """A noun for several, as `patients` or `identities`."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun if noun.endswith("s") else f"{noun}s"


def counted(number: int, one: str, many: str) -> str:
    """`1 image` or `2,000 images`."""
    return f"{number:,} {one if number == 1 else many}"


def percent(share: float) -> str:
    """A share in [0, 1] in percent, with at least two digits that tell it from 0 and 100."""
    nearest_end = 100 * min(share, 1 - share)
    if nearest_end <= 0:
        return f"{0 if share > -0.005 and share <= 0 else 100 * share:.0f}"
    return f"{100 * share:.{max(1, 1 - math.floor(math.log10(nearest_end)))}f}"


def p_text(p_value: float) -> str:
    """A p-value as `p = 0.013`, or `p < 1e-15` where its digits mean nothing."""
    return f"p = {p_value:.2g}" if p_value >= 1e-15 else "p < 1e-15"


def exponential(log: float) -> str:
    """exp(log) as `0.031`, `20` or `10^35`: also where a float cannot hold it."""
    if abs(log) < math.log(1e4):
        return f"{math.exp(log):.3g}"
    return f"10^{log / math.log(10):.0f}"


def duration(seconds: float) -> str:
    """`0.42 s`, `12 s`, `3 min 20 s`, `2 h 5 min` or, from 100 hours on, `16 days`: then it is
    a forecast, which deserves no more than two digits."""
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 1 else 0}f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{float(f'{hours / 24:.2g}'):,.10g} days"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def file_size(num_bytes: float) -> str:
    """A number of bytes in words: "12 kB", "31.2 MB".

    Examples:
        >>> file_size(480), file_size(12_288), file_size(31_200_000)
        ('480 bytes', '12 kB', '31.2 MB')
    """
    if num_bytes < 1e3:
        return f"{num_bytes:,.0f} bytes"
    return f"{num_bytes / 1e3:,.0f} kB" if num_bytes < 999_500 else f"{num_bytes / 1e6:,.1f} MB"


def parse_fraction(text: str) -> Fraction:
    """The exact number that a text such as `1/3`, `0.25`, `-2` or `1e-3` stands for.

    Raises:
        ValueError: it is not one of these, or has more digits than anybody means: Fraction would
            compute `1e999999999` for hours.

    Examples:
        >>> parse_fraction("1e-3")
        Fraction(1, 1000)
    """
    if not _FRACTION.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a fraction such as 1/3 or 0.25")
    return Fraction(text)


def ranges(numbers: Iterable[int]) -> str:
    """Integers in their order as `0-9999` or `3,7,20-29`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in runs)


def parse_ranges(text: str, *, most: int = MAX_NUMBERS) -> list[int]:
    """The integers that `ranges` wrote.

    Args:
        text: ranges, such as `0-9,12`.
        most: more integers than these are refused before there is a list of them.

    Raises:
        ValueError: the text is not a list of ranges, or stands for more than `most` integers.
    """
    runs = []
    total = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        run = range(int(first), int(last or first) + 1)
        total += max(0, run.stop - run.start)
        if total > most:
            raise ValueError(f"ranges of more than {most:,} numbers are not read")
        runs.append(run)
    return [number for run in runs for number in run]
