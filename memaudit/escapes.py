"""Texts from files that nobody vouches for, in files that other programs interpret.

One function per medium. On top of `wording.printable`, which escapes what a person could not see:

- Markdown: `markdown` for a sentence, `markdown_code` for a name;
- CSV: `csv_text`, and `csv_rows`, which undoes it exactly;
- terminal and log: `terminal`, and `terminal_json` for what another program may read;
- XML: `xml`, since ElementTree escapes markup, but not what XML cannot hold;
- HTML: nothing. jinja2 escapes markup wherever a text enters, and passes it to `printable`.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from memaudit.wording import printable, short

LONGEST = 2000
"""Characters of one text that are shown: a file may hold a value of megabytes."""

# ------------------------------------------------------------------------------------------------
# Markdown

_PLAIN_WORD = re.compile(r"(?:[^\x00-\x7f]|[A-Za-z0-9.,;:%()\[\]'\"=+^?_<>*-])*")
"""Words whose signs mean nothing in a line, or nothing after a backslash."""
_REFERENCE = re.compile(r"gh-\d|www\.|%\w|:\w+:|[0-9a-f]{7}", re.IGNORECASE)
"""What GitHub or GitLab turn into a link or a picture: issues, addresses, milestones, commits."""
_WITH_BACKSLASH = re.compile(r"([\[\]_<>*])")


def markdown(text: str) -> str:
    """A sentence that Markdown shows as it is, on one line or in the cell of a table.

    Words that could be a mention, a link, a reference, HTML or markup become code, in which nothing
    is interpreted: an escape is undone before GitHub looks for mentions.
    """
    words = printable(short(text, LONGEST)).split(" ")
    return " ".join(
        _WITH_BACKSLASH.sub(r"\\\1", word)
        if _PLAIN_WORD.fullmatch(word) and not _REFERENCE.search(word)
        else _code_in_a_sentence(word)
        for word in words
    )


def _code_in_a_sentence(word: str) -> str:
    """A word as code, without the sentence's own punctuation around it."""
    before = "(" if word.startswith("(") else ""
    core = word[len(before) :].rstrip(").,;")
    return f"{before}{markdown_code(core)}{word[len(before) + len(core) :]}"


def markdown_code(text: str) -> str:
    """A name as code, on one line or in the cell of a table."""
    text = printable(short(text, LONGEST)).replace("`", r"\x60").replace("|", r"\x7c")
    return f"`{text}`" if text.strip(" ") else f"`'{text}'`"


# ------------------------------------------------------------------------------------------------
# XML


def xml(text: str) -> str:
    """A text for ElementTree: on one line, and without what XML cannot hold."""
    return str(printable(short(text, LONGEST)))


# ------------------------------------------------------------------------------------------------
# CSV

_CELL_STARTS = r"(?:\A|(?<=[;\t\r\n]))"
"""Where a spreadsheet may begin a cell: also at separators of other countries and programs."""
_FORMULA = re.compile(_CELL_STARTS + r"(?=['\"=+\-@\t\r\n＝＋－＠])")
_GUARDED = re.compile(_CELL_STARTS + "'")


def csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as CSV. A text that a spreadsheet would compute gets a `'` in front, as would a `'`.

    Args:
        header: names of the columns.
        rows: their cells; only those of type str are guarded.
    """
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")  # so that a "\r" in a cell is quoted, too
    writer.writerow(header)
    for row in rows:
        writer.writerow(
            [_FORMULA.sub("'", cell) if isinstance(cell, str) else cell for cell in row]
        )
    return "".join(f"{line[:-2]}\n" for line in lines)


class _Lines(list[str]):
    """A file to csv.writer, which writes a row at a time."""

    def write(self, line: str) -> None:
        self.append(line)


def csv_rows(text: str) -> Iterator[list[str]]:
    """The rows that `csv_text` wrote, its header first.

    Raises:
        csv.Error: the text is not CSV.
    """
    usual = csv.field_size_limit()
    csv.field_size_limit(max(usual, len(text)))  # a cell may list 10,000 names
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    finally:
        csv.field_size_limit(usual)  # it holds for every reader of the process
    for row in rows:
        yield [_GUARDED.sub("", cell) for cell in row]


# ------------------------------------------------------------------------------------------------
# Terminals, and the logs of CI systems


def terminal(text: str, length: int = LONGEST) -> str:
    """A text that steers neither a terminal nor the CI system that reads the log.

    A line `::set-output …` or `##vso[…]` is a command to GitHub, Azure or TeamCity.

    Args:
        text: any text.
        length: characters from which on its middle is left out.
    """
    text = printable(short(text, length))
    return text.replace("::", r":\x3a").replace("##", r"#\x23")


def terminal_json(content: Any) -> str:
    """Content as strict JSON in printable ASCII, which a terminal and a log show as it is.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=True)
    # All `#` are inside strings. A control character that JSON leaves as it is: DEL.
    return text.replace("\x7f", r"\u007f").replace("##", r"#\u0023")
