"""Hostile texts in Markdown, CSV, logs and XML, each read by a program that is not ours."""

import csv
import io
import json
import random
import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from memaudit.escapes import csv_rows, csv_text, markdown, markdown_code, terminal, terminal_json
from memaudit.wording import listed, printable, shown

NAMES = [
    "a.png",
    "x\n## PASS: 0 of 10,000 generated images copy\n---\n~~~",
    "x\nPASS\n====\n```\n",
    "~~~",
    "```",
    "``` `` `",
    "`code` and `",
    "|---|",
    "a|b\\|c\\",
    "\\",
    "ends in \\",
    "- item",
    "1. item",
    "> quote",
    "    indented",
    "\tindented",
    "***",
    "**bold** _it_ ~~gone~~",
    "@octocat",
    "mail@example.org",
    "#12",
    "GH-12",
    "owner/repo#12",
    "!12 &12 %12 $12 ^12 ~label",
    "d6cd1e2bd19e03a81132a23b2025920577f84e37",
    "http://evil.example/",
    "www.evil.example",
    "[click](javascript:alert(1))",
    "![](http://evil.example/x.png)",
    "[a]: http://evil.example",
    "[^1]",
    "<https://evil.example>",
    "<script>alert(1)</script>",
    "<!-- -->",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; &amp; &#64;octocat",
    ":tada:",
    "$x^2$ $`x`$",
    "\x1b[2J\u202e\u200b\x00\udcff",
    "x" * 10**6,
    "",
    " ",
    "  two  spaces  ",
    "::error::PASS",
    "##vso[task.complete]",
]
ALIVE = re.compile(
    r"@\w|#\d|gh-\d|[!&%$~]\w|:\w+:|\b[0-9a-f]{7,40}\b|://|www\.|\$.*\$", re.IGNORECASE
)
"""What GitHub or GitLab make something of outside code, once Markdown is undone."""


def parsed(text: str) -> list[Any]:
    return MarkdownIt("gfm-like", {"linkify": False}).parse(text)


def plain_text(tokens: list[Any]) -> str:
    """The text outside code, as a later filter sees it."""
    children = (child for token in tokens for child in token.children or ())
    return "".join(child.content if child.type == "text" else "\0" for child in children)


@pytest.mark.parametrize("escape", [markdown, markdown_code])
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_markdown_makes_nothing_of_a_name(name: str, escape: Any):
    page = "## memaudit: {0}\n\n| a | b |\n|---|---:|\n| {0} | 1 |\n\nend\n"
    table = page.format(escape(name))
    tokens = parsed(table)
    assert [token.type for token in tokens] == [token.type for token in parsed(page.format("x"))]
    children = {child.type for token in tokens for child in token.children or ()}
    assert children <= {"text", "text_special", "code_inline"}
    assert not ALIVE.search(plain_text(tokens))
    cells = [t.content for t in tokens if t.type == "inline"]
    assert len(cells) == 6 and cells[3:] == [cells[3], "1", "end"]
    assert len(table) < 10_000 and printable(table.replace("\n", "")) == table.replace("\n", "")
    if len(name) < 100:  # and a reader sees it, with nothing but escapes in it
        shown = "".join(
            child.content for token in tokens[1:2] for child in token.children or ()
        ).removeprefix("memaudit:")
        seen = shown.replace(r"\x60", "`").replace(r"\x7c", "|").replace("'", "")
        assert seen.split() == printable(name).replace("'", "").split()


def test_a_sentence_stays_a_sentence_in_markdown():
    said = "PASS: 0.0 % [0.0 %, 0.1 %] (0 of 3,812), p < 1e-15; e-value 10^35 of C_T = -1"
    assert markdown(said) == said.replace("[", r"\[").replace("]", r"\]").replace(
        "<", r"\<"
    ).replace("_", r"\_")
    assert markdown("report of a/b.png (SHA-256)") == "report of `a/b.png` (SHA-256)"


FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "a;=1",
    "a\t=1",
    "a\n=1",
    "a\r\n=1",
    "a;-1;+2;'@3",
    "\uff1d1",
    '"=1',
    ',;"=1;,',
    '";=1',
    "'=1",
    "''",
    "'",
    ";'",
    ";;==",
    "=",
]


@pytest.mark.parametrize("name", FORMULAS + NAMES, ids=range(len(FORMULAS + NAMES)))
def test_a_spreadsheet_computes_no_name_and_it_reads_back_exactly(name: str):
    rows = [[0, name, -1, 2.5], [1, f"{name};{name}", -1, name]]
    text = csv_text(["i", "name", "n", "x"], rows)
    assert list(csv_rows(text)) == [["i", "name", "n", "x"], *([str(c) for c in r] for r in rows)]
    # However the table is split into cells, in this country or another.
    usual = csv.field_size_limit(1 << 30)
    for separator in ",;\t":
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            for cell in row:
                assert not re.match(r"\n*([=+@\t\r＝＋－＠]|-(?!1$|1,))", cell), (separator, row)
    csv.field_size_limit(usual)


def test_any_cells_read_back_exactly():
    rng = random.Random(0)
    for _ in range(3000):
        cells = ["".join(rng.choices("a'=+-@;,\t\r\n\" \0\\", k=rng.randrange(8))) for _ in "abc"]
        assert list(csv_rows(csv_text("abc", [cells]))) == [[*"abc"], cells]


def test_a_cell_that_lists_many_names_reads_back():
    names = ";".join(f"generated/{i:06d}.png" for i in range(20_000))
    assert list(csv_rows(csv_text(["names"], [[names]])))[1] == [names]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_log_holds_no_command_to_a_ci_system(name: str):
    shown = terminal(f"::{name}::")
    assert printable(shown) == shown and len(shown) < 2 * 2100
    assert not re.search("::|##", shown)
    text = terminal_json({name: [name]})
    assert text.isascii() and "##" not in text and not re.search(r"[^\x20-\x7e\n]", text)
    assert not re.search(r"^\s*::", text, re.M)
    assert json.loads(text) == {name: [name]}


def test_a_message_quotes_names_of_every_script_and_nothing_that_steers():
    assert listed(["猫", "חתול", "größe"]) == "'größe', 'חתול', '猫'"
    assert shown("\x1b[2J\u202e\n" * 10**6).startswith(r"'\x1b[2J\u202e\n")
    assert len(shown("\x1b" * 10**6)) < 400
    assert printable("a\u3164b\ufe0f") == r"a\u3164b\ufe0f"


def test_code_in_a_sentence_leaves_the_sentences_punctuation_outside():
    digest = "f0bb2c164c91cf61"
    assert markdown(f"model (SHA-256 {digest}).") == f"model (SHA-256 `{digest}`)."
    assert markdown(f"({digest}, twice)") == f"(`{digest}`, twice)"


def test_reading_a_long_cell_leaves_the_limit_of_other_readers_alone():
    usual = csv.field_size_limit()
    cell = "x" * (usual + 1)
    assert list(csv_rows(f"a\n{cell}\n")) == [["a"], [cell]]
    assert csv.field_size_limit() == usual
