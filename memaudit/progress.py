"""How long jobs say where they are: a callback, which the command line turns into a bar."""

from typing import Protocol


class Progress(Protocol):
    """Called now and then with the task's name, the units done and the units in all.

    `total` is None where it is not known beforehand. `note` is a short text to show beside the
    numbers, such as the current loss.
    """

    def __call__(self, task: str, done: int, total: int | None, note: str = "") -> None: ...


def silent(task: str, done: int, total: int | None, note: str = "") -> None:
    """Say nothing: the default everywhere."""


def add_suffix(progress: Progress, suffix: str) -> Progress:
    """Return a callback that passes everything on, with a suffix to each task's name."""

    def call(task: str, done: int, total: int | None, note: str = "") -> None:
        progress(f"{task} {suffix}", done, total, note)

    return call
