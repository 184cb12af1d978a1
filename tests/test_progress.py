"""Progress as lines of text, with a clock that the tests set."""

import io
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from memaudit import progress
from memaudit.progress import EVERY, WIDTH, LineProgress, automatic, describe_progress

At = Callable[[float], None]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Sets the clock, in seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return lambda now: setattr(clock, "now", now)


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(at: At) -> None:
    log = io.StringIO()
    show = LineProgress(log, overwrite=False)
    for now in range(26):
        at(now)
        show("Sampling", 4 * now, 100, "3 copies")
    assert log.getvalue().splitlines() == [
        "Sampling: 40/100, 4.0/s, 10 s, 15 s left, 3 copies",
        "Sampling: 80/100, 4.0/s, 20 s, 5 s left, 3 copies",
        "Sampling: 100/100, 4.0/s, 25 s, 3 copies",
    ]


def test_a_terminal_gets_one_line_that_is_written_over(at: At) -> None:
    terminal = io.StringIO()
    show = LineProgress(terminal, overwrite=True)
    for now in (0, 0.5, 1, 1.05, 2):
        at(now)
        show("Searching", round(50 * now), 100)
    assert (
        terminal.getvalue()
        == "".join(
            f"\r{text:{WIDTH}}"
            for text in (
                "Searching: 50/100, 50.0/s, 1 s, 1 s left",
                "Searching: 100/100, 50.0/s, 2 s",
            )
        )
        + "\n"
    )


def test_a_line_that_is_written_over_stays_within_its_width(at: At) -> None:
    terminal = io.StringIO()
    show = LineProgress(terminal, overwrite=True)
    show("A" * 200, 0, 2)
    at(1)
    show("A" * 200, 1, 2)
    assert terminal.getvalue() == f"\r{'A' * (WIDTH - 1)}…"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_over_at_once_says_nothing(at: At, overwrite: bool) -> None:
    stream = io.StringIO()
    show = LineProgress(stream, overwrite=overwrite)
    show("Indexing", 0, 2)
    at(0.5)
    show("Indexing", 1, 2)
    at(0.9)
    show("Indexing", 2, 2)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("first_end", [0.5, 20.0])
def test_a_task_that_starts_again_has_a_clock_of_its_own(at: At, first_end: float) -> None:
    log = io.StringIO()
    show = LineProgress(log, overwrite=False)
    show("Sampling", 0, 10)
    at(first_end)
    show("Sampling", 10, 10)
    shown = len(log.getvalue().splitlines())
    for now, done in ((1000, 1), (1001, 2), (1004, 10)):
        at(now)
        show("Sampling", done, 10)
    assert log.getvalue().splitlines()[shown:] == ["Sampling: 10/10, 2.2/s, 4 s"]


def test_a_task_that_broke_off_starts_again_with_a_clock_of_its_own(at: At) -> None:
    log = io.StringIO()
    show = LineProgress(log, overwrite=False)
    show("Sampling", 5, 10)
    for now, done in ((500, 0), (502, 10)):
        at(now)
        show("Sampling", done, 10)
    assert log.getvalue() == "Sampling: 10/10, 5.0/s, 2 s\n"


def test_the_end_is_said_once(at: At) -> None:
    log = io.StringIO()
    show = LineProgress(log, overwrite=False)
    show("Sampling", 0, 10)
    for now in (5, 6, 60):
        at(now)
        show("Sampling", 10, 10)
    assert log.getvalue() == "Sampling: 10/10, 2.0/s, 5 s\n"


def test_a_task_without_a_total(at: At) -> None:
    log = io.StringIO()
    show = LineProgress(log, overwrite=False)
    show("Reading", 0, None)
    at(EVERY)
    show("Reading", 5000, None)
    assert log.getvalue() == "Reading: 5,000, 500.0/s, 10 s\n"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_hostile_name_cannot_move_the_cursor(at: At, overwrite: bool) -> None:
    stream = io.StringIO()
    show = LineProgress(stream, overwrite=overwrite)
    name = "Scoring \x1b[2J\r\nPASS\u202e"
    show(name, 0, 2, "\x1b[1A")
    at(EVERY)
    show(name, 1, 2, "\x1b[1A")
    text = stream.getvalue().removeprefix("\r").removesuffix("\n")
    assert text.startswith("Scoring ")
    assert text.isprintable()


def test_nothing_is_divided_by_a_time_of_zero() -> None:
    assert "left" not in describe_progress("Sampling", 0, 10, 0.0)
    assert describe_progress("Sampling", 1, 10, 0.0).startswith("Sampling: 1/10")


def test_automatic_progress_is_silent_outside_notebooks(
    at: At, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not progress.is_notebook()
    for now in (0, 20, 40):
        at(now)
        automatic("Sampling", now, 40)
    assert capsys.readouterr() == ("", "")


def test_automatic_progress_shows_in_a_notebook(
    at: At, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(progress, "_in_notebook", None)
    for now in (0, 40):
        at(now)
        automatic("Sampling", now, 40)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"\r{'Sampling: 40/40, 1.0/s, 40 s':{WIDTH}}\n"


def test_a_resumed_task_is_as_fast_as_what_it_does_now(at: At) -> None:
    log = io.StringIO()
    show = LineProgress(log, overwrite=False)
    for now, done in ((0.0, 900), (10.0, 910), (20.0, 920)):
        at(now)
        show("Training", done, 1000)
    assert log.getvalue().splitlines() == [
        "Training: 910/1,000, 1.0/s, 10 s, 90 s left",
        "Training: 920/1,000, 1.0/s, 20 s, 80 s left",
    ]
