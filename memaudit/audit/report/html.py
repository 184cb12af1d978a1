"""What all pages have in common: HTML from templates/, and text from strangers made harmless."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from memaudit.wording import exponential, percent, printable, short


def render_template(template: str, **values: Any) -> str:
    """The text of a page.

    Args:
        template: file in templates/, whose filters are `percent`, `grouped`, `exponential` and
            `short`.
        values: what the template names; a name that it does not get is an error.
    """
    environment = Environment(
        loader=PackageLoader("memaudit.audit.report"),
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
