"""Text from a file that is not trusted, made fit to be shown."""

from collections.abc import Iterable


def shown(value: object, limit: int = 80) -> str:
    """`value` in quotes, without control characters and cut to `limit` characters.

    Only texts and numbers are shown by their value: another one may be as large as its file.
    """
    if isinstance(value, str):
        text = ascii(value[:limit])
        return text if len(value) <= limit else f"{text}…"
    if (
        value is None
        or isinstance(value, bool | float)
        or (type(value) is int and -1e18 < value < 1e18)
    ):
        return repr(value)
    return f"a {type(value).__name__}"


def listed(names: Iterable[str], limit: int = 3) -> str:
    """A few names in order, and how many more."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(shown(name) for name in ordered[:limit]) + more
