"""Documents name only options, commands and files that exist."""

import re
import tomllib
from pathlib import Path

import click
import pytest

from memaudit.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = ("memaudit", "tests", "docs", "benchmarks", "examples", "tools")
OTHER_PROGRAMS = {
    "--nproc-per-node": "torchrun",
    "--nnodes": "torchrun",
    "--node-rank": "torchrun",
    "--master-addr": "torchrun",
    "--max-restarts": "torchrun",
    "--rdzv-backend": "torchrun",
    "--rdzv-endpoint": "torchrun",
    "--bundle": "cosign",
    "--certificate-identity": "cosign",
    "--certificate-oidc-issuer": "cosign",
    "--key": "cosign",
    "--tlog-upload": "cosign",
    "--yes": "cosign",
    "--repo": "gh",
    "--find-links": "pip",
    "--no-index": "pip",
    "--wheel-dir": "pip",
    "--torch-backend": "uv",
    "--build-arg": "docker",
    "--gpus": "docker",
    "--network": "docker",
    "--rm": "docker",
    "--shm-size": "docker",
    "--tag": "docker",
    "--target": "docker",
    "--user": "docker",
    "--volume": "docker",
}
BENCHMARKS = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
WRITTEN_BY_A_READER = {"mymodel.py"}


def commands() -> dict[str, click.Command]:
    """Every command by its words, such as `dataset build`."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": each for sub, each in command.commands.items()}
    return found


def options_of(command: click.Command) -> set[str]:
    """The names of a command's options, and the help that every command has."""
    names = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    return names | {"--help"}


ALL_OPTIONS = {option for command in commands().values() for option in options_of(command)}


def shell_commands(text: str) -> list[str]:
    """What follows `memaudit` in code, in one line each."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    spans = re.findall(r"`(memaudit [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.split(r"(?:^|[ /])memaudit (?=[a-z])", line, maxsplit=1) for line in lines]
    commands_in_blocks = [parts[1] for parts in found if len(parts) == 2 and "import" not in parts]
    return [*commands_in_blocks, *(span.removeprefix("memaudit ") for span in spans)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_is_one_of_a_command(document: Path):
    named = set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", document.read_text(encoding="utf-8")))
    unknown = {
        name
        for name in named - ALL_OPTIONS - OTHER_PROGRAMS.keys()
        if f'"{name}"' not in BENCHMARKS
    }
    assert unknown <= {"--editable", "--version"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_get_options_that_they_have(document: Path):
    known = commands()
    for line in shell_commands(document.read_text(encoding="utf-8")):
        words = line.split("#")[0].split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        if name not in known:
            assert not re.fullmatch(r"[a-z]+", name) or " " not in line, line
            continue
        given = {word.split("=")[0] for word in words if re.match(r"--[A-Za-z]", word)}
        own = ALL_OPTIONS if name == "torchrun" else options_of(known[name])
        assert given <= own | OTHER_PROGRAMS.keys(), line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_and_folder_exists(document: Path):
    text = document.read_text(encoding="utf-8")
    files = {path.name for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    paths = set(re.findall(rf"(?<![\w/.-])(?:{'|'.join(ROOMS)})/[\w./-]*\w/?", text))
    missing = {path for path in paths if not (ROOT / path).exists()}
    for path in set(re.findall(r"[\w/]*\w\.py\b", text)) - WRITTEN_BY_A_READER - missing:
        if path.rpartition("/")[2] not in files:
            missing.add(path)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        if not (document.parent / link).exists():
            missing.add(link)
    assert not missing


def test_the_glossary_has_every_term_that_a_page_defines():
    words = ROOT / "memaudit" / "audit" / "report" / "templates" / "words.en.toml"
    terms = set(tomllib.loads(words.read_text("utf-8"))["terms"])
    headings = re.findall(r"^### (.+)$", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.M)
    assert terms <= {heading.lower().replace(" ", "-") for heading in headings}


def test_the_tests_that_hold_a_promise_exist():
    text = (ROOT / "docs" / "threats.md").read_text("utf-8")
    sources = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named
    assert {test for test in named if not any(f"def {test}(" in one for one in sources)} == set()
    assert all((ROOT / path).is_file() for path in re.findall(r"`(tests/[\w/]+\.py)`", text))
