"""The rules of docs/architecture.md, read from the imports themselves."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import memaudit

PACKAGE = Path(memaudit.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# A room may import those to the right of it.
ALLOWED = {
    "cli": {"experiments", "training", "audit", "models", "data"},
    "experiments": {"training", "audit", "models", "data"},
    "training": {"models", "data"},
    "audit": {"models", "data"},
    "models": {"data"},
    "data": set(),
}
FOUNDATION = {
    *(
        "cores",
        "errors",
        "escapes",
        "files",
        "options",
        "progress",
        "ranks",
        "time_limit",
        "unpickler",
    ),
    "wording",
}
DOORS = {
    "faiss": ("audit/neighbors/vector_search.py",),
    "pickle": (),
    "_pickle": (),
    "pickletools": ("unpickler.py",),
    "torchvision": ("data/", "models/encoders/"),
    "timm": ("models/encoders/",),
    "click": ("cli/",),
    "rich": ("cli/",),
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_one_way(path: Path):
    room = path.relative_to(PACKAGE).parts[0]
    if room not in ALLOWED:
        return
    for name in imported(path):
        if name.startswith("memaudit."):
            other = name.split(".")[1]
            assert other in ALLOWED[room] | FOUNDATION | {room}, f"{room} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_heavy_dependency_has_one_door(path: Path):
    place = path.relative_to(PACKAGE).as_posix()
    for name in imported(path):
        doors = DOORS.get(name.split(".")[0])
        assert doors is None or place.startswith(doors), f"{place} imports {name}"


CHECKPOINTS = PACKAGE / "models/checkpoints"


@pytest.mark.parametrize(
    "path", sorted((CHECKPOINTS / "formats").glob("*.py")), ids=lambda p: p.stem
)
def test_checkpoint_formats_do_not_know_each_other(path: Path):
    others = {name for name in imported(path) if "checkpoints.formats" in name}
    assert path.stem == "__init__" or not others


@pytest.mark.parametrize(
    "path", sorted((CHECKPOINTS / "containers").glob("*.py")), ids=lambda p: p.stem
)
def test_containers_know_no_format(path: Path):
    rooms = {name for name in imported(path) if name.startswith("memaudit.models")}
    assert all(name.startswith("memaudit.models.checkpoints.containers.") for name in rooms)


AUDIT = PACKAGE / "audit"
FLOORS = (
    {"documents", "selftest"},
    {"doctor", "scan", "dry_run", "verification"},
    {"result"},
    {"report"},
    {"scanned"},
    {"choices", "verdict"},
    {"image_check", "screening", "verdict_reasons"},
    {"augmentation", "sampling", "screening_state", "diagnostics"},
    {"confirmed_images", "other_forms"},
    {
        "config",
        "denoising",
        "environment",
        "kept_images",
        "sampler_control",
        "scan_state",
        "source",
        "source_checks",
    },
    {"confirmation", "regeneration", "unchosen_seeds"},
    {"memorization"},
    {"neighbors", "statistics"},
)
"""Inside audit/, from the top: a file imports from its own folder and from floors below."""


def audit_imports(path: Path) -> Iterator[str]:
    """The files and folders of audit/ that a file of it imports from."""
    for name in imported(path):
        if name.startswith("memaudit.audit."):
            yield name.split(".")[2]


def floor_of(name: str) -> int:
    return next(floor for floor, names in enumerate(reversed(FLOORS)) if name in names)


@pytest.mark.parametrize(
    "path", sorted(AUDIT.rglob("*.py")), ids=lambda p: str(p.relative_to(AUDIT))
)
def test_inside_the_audit_imports_run_downwards(path: Path):
    here = path.relative_to(AUDIT).parts[0].removesuffix(".py")
    for name in audit_imports(path):
        assert name == here or floor_of(name) < floor_of(here), f"{here} imports {name}"


@pytest.mark.parametrize(
    "path", sorted((AUDIT / "diagnostics").glob("*.py")), ids=lambda path: path.stem
)
def test_diagnostics_do_not_know_each_other(path: Path):
    shared = {"diagnostic", "section"}
    others = {
        name.rsplit(".", 1)[1]
        for name in imported(path)
        if name.startswith("memaudit.audit.diagnostics.")
    }
    assert path.stem == "registry" or others <= shared


@pytest.mark.parametrize("module", ["memaudit", "memaudit.cli.main"])
def test_importing_stays_light(module: str):
    heavy = "{'torch', 'faiss', 'torchvision', 'scipy', 'matplotlib', 'sklearn'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names_are_the_listed_ones_and_exist():
    assert [name for name in memaudit.__all__ if getattr(memaudit, name, None) is None] == []
    assert [name for name in memaudit.__all__ if not (getattr(memaudit, name).__doc__ or "")] == []


@pytest.mark.parametrize(
    "module",
    [
        "memaudit.audit.config",
        "memaudit.data.selection",
        "memaudit.experiments.config",
        "memaudit.training.config",
    ],
)
def test_configurations_are_read_without_torch(module: str):
    code = f"import sys, {module}; print({{'torch', 'numpy', 'scipy'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in found.stdout and "scipy" not in found.stdout
