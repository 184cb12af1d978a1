"""What a verification found: checks, and what was left unproven."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    passed: bool
    detail: str
    """What is wrong; empty if the check passed."""


@dataclass(frozen=True)
class Unproven:
    """Something that a report states and that was not checked."""

    text: str
    """What it is, and why."""
    needs: tuple[str, ...] = ()
    """What `verify_report` would have to be given to check it: names of its arguments."""


def check(name: str, passed: bool, otherwise: str) -> Check:
    """A check that says what is wrong only where something is."""
    return Check(name, bool(passed), "" if passed else otherwise)
