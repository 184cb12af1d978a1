"""A row of an annex."""

from dataclasses import dataclass

PROVENANCE = "provenance"
"""The section of report.html that names model, images and machine."""


@dataclass(frozen=True)
class Fact:
    """A row of the annex."""

    name: str
    text: str | None
    """None leaves a line to fill in."""
    field: str = ""
    """Its place in report.json, such as `ratios.copies`; empty if it holds none."""
    section: str = ""
    """The section of report.html that shows it."""
    href: str = ""
    is_heading: bool = False
