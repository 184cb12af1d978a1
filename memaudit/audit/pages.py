"""What all pages have in common: HTML from templates/, and text from strangers made harmless."""

import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from memaudit.audit.statistics import percent


def render_template(template: str, **values: Any) -> str:
    """The text of a page.

    Args:
        template: file in templates/, whose filters are `percent`, `grouped`, `exponential` and
            `short`.
        values: what the template names; a name that it does not get is an error.
    """
    environment = Environment(
        loader=PackageLoader("memaudit.audit"),
        autoescape=True,
        finalize=printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, grouped="{:,}".format, exponential=exponential, short=short
    )
    return environment.get_template(template).render(**values)


def exponential(log: float) -> str:
    """exp(log) as `0.031`, `20` or `10^35`: also where a float cannot hold it."""
    if abs(log) < math.log(1e4):
        return f"{math.exp(log):.3g}"
    return f"10^{log / math.log(10):.0f}"


def short(text: Any, length: int = 100) -> str:
    """`text` with its middle left out where it is longer than `length`."""
    text = str(text)
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]} … {text[-half:]}"


def printable(value: Any) -> Any:
    """Text with everything that has no shape of its own escaped; other values as they are.

    Names come from strangers: bytes that are no text (surrogates) could not be encoded, and marks
    that turn the direction of writing would show a name that is not there.
    """
    if type(value) is not str:  # a Markup was made by the template itself
        return value
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in value
    )
