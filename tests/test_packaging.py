"""What is installed: the extras, and the wheel that is built from the source archive."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.checkout import ROOT, copy_checkout, tracked_files

import memaudit

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
BUILD = (
    "from setuptools import build_meta; import sys; getattr(build_meta, sys.argv[1])(sys.argv[2])"
)
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
"""With a checkout on the path, nothing would be installed, and it would be run instead."""


def test_all_is_everything_but_what_is_chosen_and_what_developers_use():
    (everything,) = EXTRAS["all"]
    named = everything.removeprefix("memaudit-diffusion[").removesuffix("]").split(",")
    assert set(named) == EXTRAS.keys() - {"all", "cpu", "gpu", "dev", "docs"}


def test_only_the_extras_bring_faiss():
    assert not any(requirement.startswith("faiss") for requirement in PROJECT["dependencies"])
    bringing = {
        name for name, needed in EXTRAS.items() if any(each.startswith("faiss") for each in needed)
    }
    assert bringing == {"cpu", "gpu"}


def test_the_demo_needs_no_tools_of_developers():
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    command = ["make", "--dry-run", "--always-make", "demo"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installed = [line for line in said.splitlines() if "pip install" in line]
    assert len(installed) == 2 and "dev" not in " ".join(installed)


def test_the_containers_are_made_of_what_there_is():
    """What can be said without a daemon: sources, stages, extras, and the user that runs."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    known = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "USER", "WORKDIR"}
    assert {line[0] for line in lines} == known
    stages: dict[str, list[list[str]]] = {}
    for line in lines:
        if line[0] == "FROM":
            assert line[1] in stages or line[1] == "python:3.12-slim"
            stages[line[3]] = []
        stages[next(reversed(stages))].append(line)
    assert {name for name, stage in stages.items() if ["USER", "1000"] in stage} == {"cpu", "cuda"}
    allowed = (ROOT / ".dockerignore").read_text("utf-8")
    for line in lines:
        if line[0] == "COPY" and line[1].startswith("--from="):
            assert line[1].removeprefix("--from=") in stages
        elif line[0] == "COPY":
            assert all((ROOT / name).exists() and f"!{name}\n" in allowed for name in line[1:-1])
    for extras in re.findall(r'"\.\[([a-z,]+)\]"', text):
        assert set(extras.split(",")) <= EXTRAS.keys()


# ------------------------------------------------------------------------------------------------
# The wheel


def build(hook: str, source: Path, out: Path) -> Path:
    """Call a hook of setuptools on a source tree, without network; return what it built."""
    out.mkdir()
    subprocess.run(
        [sys.executable, "-c", BUILD, hook, out], cwd=source, capture_output=True, check=True
    )
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of the project as it is."""
    root = tmp_path_factory.mktemp("sdist")
    source = copy_checkout(root / "source")
    return build("build_sdist", source, root / "out")


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel of that archive, which sees the packages of this one."""
    root = tmp_path_factory.mktemp("wheel")
    with tarfile.open(archive) as file:
        file.extractall(root / "unpacked", filter="data")
    (source,) = (root / "unpacked").iterdir()
    wheel = build("build_wheel", source, root / "out")
    venv = root / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = next(venv.glob("lib/python*/site-packages"))
    # A .pth of its own does not read the .pth of an editable install that lies there.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "--quiet"]
        + ["--no-index", "--no-deps", wheel],
        env=ENVIRONMENT,
        check=True,
    )
    return venv


def run(venv: Path, *arguments: str | Path, cwd: Path, status: int = 0) -> str:
    """Run a program of the environment outside the checkout; what it printed on stdout."""
    program, *rest = arguments
    finished = subprocess.run(
        [venv / "bin" / program, *rest], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert finished.returncode == status, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_the_archive_holds_the_project(archive: Path):
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    missing = set(tracked_files()) - names
    assert {name for name in missing if not name.startswith(".")} == set()


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(installed: Path):
    packages = next(installed.glob("lib/python*/site-packages"))
    needed = {name for name in tracked_files() if name.startswith("memaudit/")}
    assert {name for name in needed if not (packages / name).is_file()} == set()
    assert sorted(path.name for path in packages.iterdir()) == [
        "memaudit",
        f"memaudit_diffusion-{memaudit.__version__}.dist-info",
        "others.pth",
    ]


@pytest.mark.slow
def test_an_installed_wheel_audits(installed: Path, tmp_path: Path):
    ask = "import memaudit; print(memaudit.__file__)"
    where = run(installed, "python", "-c", ask, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed)
    assert memaudit.__version__ in run(installed, "memaudit", "--version", cwd=tmp_path)

    pixels = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "train.npz", pixels[:64])
    np.savez(tmp_path / "fresh.npz", pixels[64:])
    scan = ("memaudit", "scan", "optimum", "--data", "train.npz", "--samples", "64")
    run(installed, *scan, "--fail-above", "0.1%", "--out", "report", cwd=tmp_path, status=1)
    assert "data:image/png" in (tmp_path / "report" / "report.html").read_text("utf-8")
    run(installed, "memaudit", "verify", "report", "--data", "train.npz", cwd=tmp_path)
    given = ("memaudit", "scan", "fresh.npz", "--data", "train.npz", "--json")
    assert '"copies"' in run(installed, *given, cwd=tmp_path)


@pytest.mark.slow
def test_the_doctor_finds_an_installed_wheel_fit(installed: Path, tmp_path: Path):
    found = json.loads(run(installed, "memaudit", "doctor", "--json", cwd=tmp_path))
    assert found["memaudit"] == memaudit.__version__ and found["is_fit"]
    assert {package["name"] for package in found["packages"]} >= {"torch", "packaging", "nibabel"}
