"""The words of pages for people, which all come from one file: words.en.toml.

A translation is another such file. What it holds is text with three marks: `**strong**`,
`` `code` `` and `[floor](#floor)`, which links to the definition of a term. `{count:,}` is filled
with a value, `{share:percent}` with a share as `1.0 %`, `{share:number}` with the same as `1.0`. A
sentence with the forms `one` and `other` is chosen by the value of `count`.
"""

import re
import string
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from memaudit.wording import percent, printable

if TYPE_CHECKING:
    from markupsafe import Markup

FILE = "words.en.toml"
ANCHOR = "word-"
"""Before a term's id where a page defines it."""
_LINK = re.compile(r"\[([^\]]+)\]\(#([a-z0-9_-]+)\)")
_MARKS = (
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"`(.+?)`"), r"<code>\1</code>"),
    (_LINK, rf'<a class="term" href="#{ANCHOR}\2">\1</a>'),
)
_TERM = re.compile(rf'<a class="term" href="#{ANCHOR}([a-z0-9_-]+)">([^<]*)</a>')
_TAG = re.compile(r"(<[^>]*>)")
_USED = re.compile(rf'href="#{ANCHOR}([a-z0-9_-]+)"')


@dataclass(frozen=True)
class Term:
    """A word that needs to be explained."""

    id: str
    """As in docs/glossary.md."""
    term: str
    meaning: str
    """In plain words, with marks."""
    also: tuple[str, ...] = ()
    """Other forms of it, such as headings of tables."""
    is_plain: bool = False
    """Whether its words are so common that only a mark links them."""


def say(key: str, /, **values: Any) -> str:
    """A sentence as plain text.

    Args:
        key: path in the file, such as `next.fail`.
        values: what it is filled with.

    Examples:
        >>> say("numbers.images", count=1), say("numbers.images", count=2000)
        ('1 image', '2,000 images')
    """
    text = _LINK.sub(r"\1", _sentence(key, values)).replace("**", "").replace("`", "")
    return _Plain().vformat(text, (), values)


def say_html(key: str, /, **values: Any) -> "Markup":
    """A sentence as HTML, with its marks; values are escaped, and no line ends before a %."""
    from markupsafe import Markup

    filled = _Escaped().vformat(_marked(_sentence(key, values)), (), values)
    return Markup(filled.replace(" %", "&nbsp;%"))


def link_terms(text: Any) -> "Markup":
    """Text, or HTML, whose known terms are links to their definitions, each at its first place."""
    from markupsafe import Markup, escape

    html = str(escape(text if hasattr(text, "__html__") else printable(str(text))))
    done = set(_USED.findall(html))

    def link(found: re.Match[str]) -> str:
        id = _forms()[found[0].lower()]
        if id in done:
            return found[0]
        done.add(id)
        return f'<a class="term" href="#{ANCHOR}{id}">{found[0]}</a>'

    parts, inside = [], 0
    for number, part in enumerate(_TAG.split(html.replace(" %", "&nbsp;%"))):
        if number % 2:
            inside += (part.startswith(("<a ", "<code"))) - part.startswith(("</a", "</code"))
        parts.append(part if number % 2 or inside else _any_form().sub(link, part))
    return Markup("".join(parts))


def without_links(page: str) -> str:
    """A page whose terms are plain text."""
    return _TERM.sub(r"\2", page)


def links_once(page: str) -> str:
    """A page that links a term at its first place in each section.

    Whoever goes from link to link by keys then has few to pass.
    """

    def first(section: str) -> str:
        done: set[str] = set()

        def link(found: re.Match[str]) -> str:
            is_first = found[1] not in done
            done.add(found[1])
            return found[0] if is_first else found[2]

        return _TERM.sub(link, section)

    return "".join(map(first, re.split("(?=<section )", page)))


def terms_used(page: str) -> tuple[Term, ...]:
    """The terms that a page links to, and those that their definitions link to, by name."""
    known = terms()
    found = {id for id in _USED.findall(page) if id in known}
    todo = list(found)
    while todo:
        linked = {id for _, id in _LINK.findall(known[todo.pop()].meaning)} - found
        found |= linked
        todo += linked
    return tuple(sorted((known[id] for id in found), key=lambda term: term.term.lower()))


def meaning_html(term: Term) -> "Markup":
    """What a term means, as HTML."""
    from markupsafe import Markup

    return Markup(_marked(term.meaning).replace(" %", "&nbsp;%"))


@cache
def words() -> dict[str, Any]:
    """What the file holds."""
    return tomllib.loads(
        files("memaudit.audit.report").joinpath("templates", FILE).read_text("utf-8")
    )


@cache
def terms() -> dict[str, Term]:
    """All terms by id."""
    return {
        id: Term(
            id, each["term"], each["meaning"], tuple(each.get("also", ())), each.get("plain", False)
        )
        for id, each in words()["terms"].items()
    }


def sentences() -> Iterator[tuple[str, str]]:
    """Every sentence of the file with its key."""

    def walk(path: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(f"{path}.{name}" if path else name, inner)
        elif isinstance(value, str):
            yield path, value

    yield from walk("", words())


def _sentence(key: str, values: dict[str, Any]) -> str:
    found: Any = words()
    for part in key.split("."):
        found = found[part]
    if isinstance(found, dict):
        found = found["one" if values["count"] == 1 else "other"]
    return str(found)


@cache
def _marked(text: str) -> str:
    """A sentence whose marks are HTML, with its places for values as they are."""
    from markupsafe import escape

    html = str(escape(text))
    for mark, tag in _MARKS:
        html = mark.sub(tag, html)
    return html


@cache
def _forms() -> dict[str, str]:
    """The id of each form of a term, in lower case."""
    return {
        form.lower(): term.id
        for term in terms().values()
        if not term.is_plain
        for form in (term.term, *term.also)
    }


@cache
def _any_form() -> re.Pattern[str]:
    # The longest first, so that "distance ratio" is not taken for "distance".
    forms = sorted(_forms(), key=len, reverse=True)
    return re.compile(
        rf"(?<![\w&-])(?:{'|'.join(map(re.escape, forms))})(?![\w=-]|\.\w)", re.IGNORECASE
    )


class _Plain(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec == "percent":
            return f"{percent(value)} %"
        if format_spec == "number":
            return percent(value)
        return str(super().format_field(printable(value), format_spec))


class _Escaped(_Plain):
    def format_field(self, value: Any, format_spec: str) -> str:
        from markupsafe import escape

        if hasattr(value, "__html__"):
            return str(value)
        return str(escape(super().format_field(value, format_spec)))
