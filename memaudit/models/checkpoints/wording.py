"""Text from a file that is not trusted, made fit to be shown."""

from collections.abc import Iterable

MAX_SHOWN = 80
"""Characters."""


def printable(text: str) -> str:
    """`text` cut short, with what could move a cursor or hide in it written as escapes."""
    escaped = text[:MAX_SHOWN].encode("unicode_escape").decode("ascii")
    return escaped if len(text) <= MAX_SHOWN else f"{escaped}…"


def shown(value: object) -> str:
    """A text in quotes, a number as it is; of other values, which may be huge, the kind alone."""
    if isinstance(value, str):
        return f"'{printable(value)}'"
    if isinstance(value, int | float | None):
        return printable(repr(value))
    return f"a {type(value).__name__}"


def listed(names: Iterable[str], limit: int = 3) -> str:
    """A few names in order, and how many more."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(shown(name) for name in ordered[:limit]) + more
