"""Whatever a source of images is or says, it is refused with one message, and in bounds."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.hostile_images import HOSTILE as HOSTILE_IMAGES
from helpers.hostile_images import PIXELS
from helpers.hostile_stores import HOSTILE_STORES
from helpers.limited import run_python

HOSTILE = HOSTILE_IMAGES | HOSTILE_STORES
SECONDS = 60
"""What one source may take. The slowest takes about 3 s, and the first waits for torch."""

OPEN_ALL = """
import json, signal, sys
from memaudit.data.sources import open_images
from memaudit.errors import MemauditError

class Late(BaseException):
    pass

def late(*_):
    raise Late

signal.signal(signal.SIGALRM, late)
for line in open(sys.argv[1]):
    name, path = json.loads(line)
    signal.alarm(int(sys.argv[2]))
    try:
        found = f"opened: {open_images(path, cache_dir=sys.argv[3])}"
    except MemauditError as error:
        found = f"refused: {error}"
    except BaseException as error:
        found = f"{type(error).__name__}: {str(error)[:300]}"
    signal.alarm(0)
    print(json.dumps([name, found]), flush=True)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every hostile source."""
    found = {}
    for name, (make, _) in HOSTILE.items():
        found[name] = make(tmp_path_factory.mktemp("hostile"))
    return found


def test_every_hostile_source_is_refused_with_a_reason(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    """One test, since two workers would each open all of them."""
    lines = [json.dumps([name, str(path)]) for name, path in sources.items()]
    (tmp_path / "sources").write_text("\n".join(lines))
    done = run_python(OPEN_ALL, tmp_path / "sources", str(SECONDS), tmp_path / "cache", timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list((tmp_path / "cache").glob("**/*.npy"))
    answers = dict(json.loads(line) for line in done.stdout.splitlines())
    assert set(answers) == set(HOSTILE)
    wrong = {
        name: answer
        for name, answer in answers.items()
        if not (
            answer.startswith("refused: ") and HOSTILE[name][1] in answer and len(answer) < 1000
        )
    }
    assert not wrong


RUN_ALL = """
import contextlib, io, json, signal, sys
from memaudit.cli.main import main

class Late(BaseException):
    pass

def late(*_):
    raise Late

signal.signal(signal.SIGALRM, late)
sources, seconds, *command = sys.argv[1:]
for line in open(sources):
    name, path = json.loads(line)
    said = io.StringIO()
    sys.argv = ["memaudit", *(path if word == "SOURCE" else word for word in command)]
    signal.alarm(int(seconds))
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main()
        except SystemExit as error:
            status = error.code
        except BaseException as error:
            status = f"{type(error).__name__}: {str(error)[:300]}"
    signal.alarm(0)
    print(json.dumps([name, status, said.getvalue()[-1000:]]), flush=True)
"""

COMMANDS = {
    "inspect": ["dataset", "inspect", "SOURCE"],
    "build": ["dataset", "build", "--data", "SOURCE", "--out", "OUT/set.zip"],
    "mix": "dataset build --data FINE --mix SOURCE --share 0.5 --size 2 --out OUT/set.zip".split(),
    "duplicates": ["dataset", "duplicates", "SOURCE"],
    "scan": ["scan", "SOURCE", "--data", "FINE", "--out", "OUT/report"],
    "scan --data": ["scan", "FINE", "--data", "SOURCE", "--out", "OUT/report"],
    "scan --holdout": ["scan", "FINE", "--data", "FINE", "--holdout", "SOURCE"],
    "train": ["train", "--data", "SOURCE", "--out", "OUT/run"],
    "verify --data": ["verify", "REPORT", "--data", "SOURCE"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fine source, a report on it, and a folder for whatever is written."""
    folder = tmp_path_factory.mktemp("places")
    np.save(folder / "fine.npy", np.concatenate([PIXELS] * 3))
    fine = folder / "fine.npy"
    done = run_python(
        "import sys; from memaudit.cli.main import main; main()",
        *("scan", fine, "--data", fine, "--out", folder / "report"),
        memory=16 << 30,
    )
    assert done.returncode == 0, done.stderr
    return {"FINE": fine, "REPORT": folder / "report", "OUT": folder / "out"}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_every_hostile_source(
    command: str, sources: dict[str, Path], places: dict[str, Path], tmp_path: Path
) -> None:
    lines = [json.dumps([name, str(path)]) for name, path in sources.items()]
    (tmp_path / "sources").write_text("\n".join(lines))
    words = COMMANDS[command]
    for name, path in places.items():
        words = [word.replace(name, str(path)) for word in words]
    arguments = (tmp_path / "sources", str(SECONDS), *words)
    done = run_python(RUN_ALL, *arguments, memory=6 << 30, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    wrong = {}
    for line in done.stdout.splitlines():
        name, status, said = json.loads(line)
        if status != 2 or said.count("Error: ") != 1 or "Traceback" in said:
            wrong[name] = (status, said)
    assert not wrong
