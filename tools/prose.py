"""Check the project's English: set phrases, American spelling, and the width of Markdown.

    python tools/prose.py            every file that git knows or would add
    python tools/prose.py FILE ...   these files

Prints `file:line: found -> better` and exits with status 1 if anything was found. Phrases are found
across line ends. In Python, docstrings, other strings, comments and names are read; the code
between them is not. A line that has to quote a phrase ends in a comment `prose: allow`.
`make prose` runs codespell as well, which finds misspelled words.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENDINGS = {".py", ".md", ".j2", ".css", ".js", ".toml", ".yaml", ".yml", ".cff", ".ipynb"}
MAX_WIDTH = 100
ALLOW = "prose: allow"

_THINGS = (
    "rows?|lines?|seeds?|files?|folders?|images?|pictures?|calls?|pages?|names|numbers?|steps?"
    "|batch(?:es)?|results?|values?|entry|entries|evaluations?|pairs?|tests?|draws|process(?:es)?"
    "|threads?|reports?|bytes|units|cells?|columns?|histograms?|chances?|looks?"
)
_UNITS = (
    "row|line|seed|file|folder|image|picture|class|run|snapshot|model|step|batch|second|minute"
    "|point|size|level|format|reader|network|form|command|key|checkpoint|side|pixel|channel|thread"
    "|core|worker|process|item|test|copy|pair|entry|call|query|set|field|page|block"
)
PHRASES = {
    r"(?<!there )is no (?!longer|more than|more likely|less|fewer|better|worse|larger|smaller)"
    r"\w+": "is not a ...",
    r"(?:is|are) none of": "is not one of",
    r"(?:go|goes|gone|going|went)[ _]on(?! to\b)": "resume, continue",
    r"(?:within|in|of|for|at|by|to|with|from|after|under|below|over|than) so many": "n, that many",
    rf"(?<!many )(?:{_THINGS}) (?-i:an?) (?:generated |training |held-out )?(?:{_UNITS})"
    r"(?! is| of)": "per ...",
    r"hold(?:s|ing)? (?:\S+ ){1,6}?against": "compare with",
    r"held (?:\S+ ){0,3}?against": "compared with",
    r"at the latest": "say when it always happens",
    r"its place says|place says which": "the field that holds it says",
    r"to be had": "available",
    r"where there (?:is|are)": "if there is, with, without",
    r"(?:allow|white)[- ]lists?": "allowlist",
    r"set-ups?": "setup",
    r"reports? of memaudit": "memaudit report",
    r"\w*neighbour\w*": "neighbor",
    r"grey\w*|\w+_grey\w*": "gray",
    r"\w*colour\w*": "color",
    r"\w*(?:labell|modell|cancell)(?:ed|ing)(?!by)": "labeled, modeled, canceled",
    r"\w*cent(?:re|red)": "center",
    r"\w*licence\w*": "license",
    r"\w*artefact\w*": "artifact",
    r"\w*(?:normal|organ|real|summar|initial|optim|minim|maxim|recogn|vector|character|memor)is"
    r"(?:e|ed|es|ing|ation)\w*": "-ize, -ization",
    r"\w*behaviour\w*": "behavior",
}
"""What not to write, as a pattern whose spaces match any white space, and what to write."""

OPENINGS = {
    r"Of (?!course\b)": "a sentence that stands alone in hover help",
}
"""What no docstring begins with."""


def main() -> None:
    """Print the findings; exit with status 1 if there are any."""
    paths = [Path(name) for name in sys.argv[1:]] or tracked_files()
    found = [line for path in paths if path.suffix in ENDINGS for line in check(path)]
    print("\n".join(found) or "The prose is fine.")
    sys.exit(bool(found))


def tracked_files() -> list[Path]:
    """Every file that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file()]


def check(path: Path) -> Iterator[str]:
    """One `file:line: found -> better` for each finding in a file."""
    path = path.resolve()
    if path == Path(__file__).resolve():
        return
    text = path.read_text(encoding="utf-8")
    prose = _python_prose(text) if path.suffix == ".py" else text
    lines = text.splitlines()
    findings = list(_phrases(prose))
    if path.suffix == ".py":
        findings += _openings(text)
    if path.suffix == ".md":
        findings += _wide_lines(lines)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for number, what, better in sorted(findings):
        if ALLOW not in lines[number - 1]:
            yield f"{name}:{number}: {what} -> {better}"


def _phrases(prose: str) -> Iterator[tuple[int, str, str]]:
    for pattern, better in _COMPILED:
        for match in pattern.finditer(prose):
            yield _line_of(prose, match.start()), " ".join(match.group().split()), better


def _openings(text: str) -> Iterator[tuple[int, str, str]]:
    """Docstrings, of fields too: strings that are statements."""
    first = True
    for token in _tokens(text):
        if token.type == tokenize.STRING and first:
            words = re.sub(r"^\w*(\"\"\"|'''|\"|')", "", token.string)
            for pattern, better in OPENINGS.items():
                if match := re.match(pattern, words):
                    yield token.start[0], f"docstring: {match.group()}", better
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            first = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
            first |= token.type == tokenize.ENCODING


def _wide_lines(lines: list[str]) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(lines, 1):
        # A table's row is one line, and so is the target of a link.
        breakable = re.sub(r"\]\([^)]*\)|https?://\S+", "", line)
        if len(breakable) > MAX_WIDTH and not line.lstrip().startswith("|"):
            yield number, f"{len(line)} columns", f"at most {MAX_WIDTH}"


def _python_prose(text: str) -> str:
    """Strings, comments and names of a Python file, each where it was; the rest blank.

    Consecutive comments, and strings that Python joins, are separated by white space only; anything
    else is kept apart by a NUL, which no phrase matches.
    """
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    prose = ["\n" if char == "\n" else " " for char in text]
    previous = None
    strings = {tokenize.STRING, *_F_STRING}
    for token in _tokens(text):
        if token.type in (tokenize.NL, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT):
            continue
        begin = starts[token.start[0] - 1] + token.start[1]
        end = starts[token.end[0] - 1] + token.end[1]
        kind = "string" if token.type in strings else token.type
        shown = token.string
        if kind == "string":
            shown = re.sub(r"^\w*?(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')$", _blank, shown)
        elif kind == tokenize.COMMENT:
            shown = shown.replace("#", " ", 1)
        elif kind != tokenize.NAME:
            shown = re.sub(r"\S", "\0", shown)
        if kind != previous and begin < end and begin > 0 and prose[begin - 1] == " ":
            prose[begin - 1] = "\0"
        prose[begin:end] = shown
        previous = kind if kind in ("string", tokenize.COMMENT) else None
    return "".join(prose)


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(text).readline)


_F_STRING = {
    getattr(tokenize, name)
    for name in ("FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END")
    if hasattr(tokenize, name)
}
"""Since Python 3.12 an f-string is several tokens."""


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _compiled(pattern: str) -> re.Pattern[str]:
    start, end = r"(?<![^\W_])", r"(?![^\W_]|-\w)"
    spaced = pattern.replace(" )", r"\s)").replace(" ", r"\s+")
    return re.compile(f"{start}(?:{spaced}){end}", re.IGNORECASE)


_COMPILED = [(_compiled(pattern), better) for pattern, better in PHRASES.items()]

if __name__ == "__main__":
    main()
