"""Whatever a source of images is or says, it is refused with one message, and in bounds."""

import json
import sys
from pathlib import Path

import pytest
from helpers.hostile_images import HOSTILE, PIXELS
from helpers.limited import run_python

import numpy as np

SECONDS = 20
"""What one source may take; the slowest takes about 3 s."""

OPEN_ALL = """
import json, signal, sys, time
from memaudit.data.sources import open_images
from memaudit.errors import MemauditError

class Late(BaseException):
    pass

def late(*_):
    raise Late

signal.signal(signal.SIGALRM, late)
for line in open(sys.argv[1]):
    name, path = json.loads(line)
    start = time.perf_counter()
    signal.alarm(int(sys.argv[2]))
    try:
        found = f"opened: {open_images(path, cache_dir=sys.argv[3])}"
    except MemauditError as error:
        found = f"refused: {error}"
    except BaseException as error:
        found = f"{type(error).__name__}: {str(error)[:300]}"
    signal.alarm(0)
    print(json.dumps([name, found]), flush=True)
    print(round(time.perf_counter() - start, 2), name, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every hostile source."""
    found = {}
    for name, (make, _) in HOSTILE.items():
        found[name] = make(tmp_path_factory.mktemp("hostile"))
    return found


@pytest.fixture(scope="module")
def answers(
    sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What came of opening each."""
    folder = tmp_path_factory.mktemp("answers")
    lines = [json.dumps([name, str(path)]) for name, path in sources.items()]
    (folder / "sources").write_text("\n".join(lines))
    done = run_python(OPEN_ALL, folder / "sources", str(SECONDS), folder / "cache", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list((folder / "cache").glob("**/*.npy"))
    print(done.stderr)
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_source_is_refused_with_a_reason(name: str, answers: dict[str, str]) -> None:
    answer = answers[name]
    assert answer.startswith("refused: ") and HOSTILE[name][1] in answer
    assert len(answer) < 1000
