"""What is wrong with an installation is found, and the command that is named mends it."""

import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from memaudit.audit import doctor
from memaudit.audit.neighbors import vector_search
from memaudit.cli.main import cli
from memaudit.errors import ConfigError

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))


@pytest.fixture
def no_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import nothing but torch to see whether it can be."""
    monkeypatch.setattr(doctor, "_import_fault", lambda name: None)


def advice_about(word: str) -> doctor.Advice:
    """The one piece of advice that names something."""
    (found,) = [each for each in doctor.diagnose().advice if word in each.text]
    return found


def test_every_extra_for_users_is_looked_at():
    extras = PROJECT["project"]["optional-dependencies"]
    assert doctor.EXTRAS.keys() == extras.keys() - {"all", "cpu", "gpu", "dev", "docs"}


@pytest.mark.slow  # imports all that memaudit needs
def test_a_sound_machine_is_fit():
    found = doctor.diagnose()
    assert found.is_fit, found.advice
    assert found.computing is not None and found.computing.threads == torch.get_num_threads()
    assert {"torch", "torchvision", "numpy"} <= {each.name for each in found.packages}


def test_what_is_missing_and_what_is_too_old_is_named_with_the_command(
    no_imports: None, monkeypatch: pytest.MonkeyPatch
):
    needed = ["torch", "numpy>=999", 'no-such-one>=2; extra == "medical"', 'ruff; extra == "dev"']
    monkeypatch.setattr(doctor, "requires", lambda name: needed)
    found = doctor.diagnose()
    assert not found.is_fit
    assert [package.name for package in found.packages] == ["torch", "numpy", "no-such-one"]
    old, missing = advice_about("numpy"), advice_about("no-such-one")
    assert old.is_problem and old.command == doctor.install_command("numpy>=999")
    assert not missing.is_problem and "NIfTI" in missing.text
    assert missing.command == doctor.install_command("no-such-one>=2")


def test_an_environment_without_pip_is_mended_by_uv(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert doctor.install_command("h5py").startswith("uv pip install --python ")


def test_a_torchvision_of_another_build_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch", "torchvision"])
    fault = "operator torchvision::nms does not exist"
    monkeypatch.setattr(
        doctor, "_import_fault", lambda name: fault if name == "torchvision" else None
    )
    found = advice_about("torchvision")
    assert found.is_problem and "torch torchvision" in str(found.command)


@pytest.mark.parametrize(
    ("kept", "installed"), [("faiss-cpu", ["faiss-cpu", "faiss-gpu"]), ("faiss-cpu", [])]
)
def test_two_faiss_are_a_problem_and_none_is_not(
    kept: str, installed: list[str], no_imports: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch"])
    monkeypatch.setattr(doctor, "version", dict.fromkeys(["torch", *installed], "9").__getitem__)
    monkeypatch.setattr(doctor, "PackageNotFoundError", KeyError)
    if not installed:
        monkeypatch.setattr(doctor, "find_spec", lambda name: None)
        monkeypatch.setattr(vector_search, "find_spec", lambda name: None)
    found = doctor.diagnose()
    advice = advice_about("FAISS is not" if not installed else "overwritten")
    assert advice.is_problem == (not found.is_fit) == bool(installed)
    assert str(advice.command).endswith(f"'{kept}>=1.14.3'")
    assert found.computing is not None
    assert found.computing.search.startswith("faiss-" if installed else "products-")


def test_a_faiss_that_crashes_is_a_problem(no_imports: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch"])
    monkeypatch.setattr(doctor, "version", {"torch": "9", "faiss-cpu": "1.12.0"}.__getitem__)
    monkeypatch.setattr(doctor, "PackageNotFoundError", KeyError)
    found = advice_about("1.12.0")
    assert found.is_problem and found.command == doctor.install_command("faiss-cpu>=1.14.3")
    needed = PROJECT["project"]["optional-dependencies"]["cpu"]
    assert needed == [f"faiss-cpu{doctor.LEAST_FAISS}"]


def test_a_broken_faiss_is_a_problem(no_imports: None, monkeypatch: pytest.MonkeyPatch):
    def load() -> None:
        raise ConfigError("FAISS is installed, but cannot be loaded: libcublas.so.12 is missing.")

    monkeypatch.setattr(vector_search, "load_faiss", load)
    found = advice_about("libcublas")
    assert found.is_problem and "uninstall" in str(found.command)


def test_a_gpu_without_a_build_for_it_is_named(
    no_imports: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A9'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = doctor.diagnose()
    assert found.is_fit and found.computing is not None
    assert found.computing.other_gpus == ("NVIDIA A9",)
    assert not advice_about("NVIDIA A9").is_problem


def test_a_gpu_that_this_pytorch_cannot_use_is_named(
    no_imports: None, monkeypatch: pytest.MonkeyPatch
):
    gpu = SimpleNamespace(name="Old", major=3, minor=5, total_memory=10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "compute_90"])
    found = doctor.diagnose()
    assert found.computing is not None and found.computing.device == "cpu"
    assert found.computing.gpus == (doctor.Gpu("Old", "3.5", 10**9, False),)
    assert "capability 3.5" in advice_about("Old").text


def test_a_cache_that_others_may_write_is_named(
    no_imports: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    monkeypatch.setenv("MEMAUDIT_CACHE", str(cache))
    found = doctor.diagnose()
    assert found.is_fit and found.cache.fault is not None
    assert str(cache) in advice_about("The cache is not used").text


def test_the_command_shows_it_and_its_status_says_whether_audits_can_run(
    no_imports: None, monkeypatch: pytest.MonkeyPatch
):
    good = CliRunner().invoke(cli, ["doctor"])
    assert good.exit_code == 0 and good.stdout.endswith("Audits can run here.\n")
    assert re.search(
        r"^search +exact, by FAISS on the CPU \(faiss-\w+ [\d.]+\)$", good.stdout, re.M
    )
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch", "no-such-one"])
    bad = CliRunner().invoke(cli, ["doctor"])
    assert bad.exit_code == 2 and f"    {doctor.install_command('no-such-one')}\n" in bad.stdout
    said = CliRunner().invoke(cli, ["doctor", "--json"])
    found = json.loads(said.stdout)
    assert said.exit_code == 2 and found["is_fit"] is False
    assert found["packages"][1]["fault"] == "it is missing"
    assert found["computing"]["faiss"] and found["cache"]["num_entries"] >= 0
