"""The GitHub Action, the GitLab template and the sample repository, by running their steps."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.checkout import ROOT, copy_checkout

from memaudit.audit.verification.policy import as_policy
from memaudit.cli.main import cli
from memaudit.errors import ConfigError

yaml = pytest.importorskip("yaml")

ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
TEMPLATE = (ROOT / "templates" / "memorization.yml").read_text("utf-8")
SAMPLE = ROOT / "examples" / "gated_model"
GIVING = ("Scan", "Check the report")
PROGRAM = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT)!r})
from memaudit.cli.main import main
if sys.argv[1:] != ["doctor"]:  # which takes as long as a scan, and has tests of its own
    main()
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runner's workspace: images, some of them copied, and a program memaudit."""
    room = tmp_path_factory.mktemp("runner")
    pixels = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    for name, images in {
        "train": pixels[:64],
        "copies": np.concatenate([pixels[:16], pixels[64:80]]),
        "fresh": pixels[80:180],
        "few": pixels[180:],
    }.items():
        np.savez(room / f"{name} of mine.npz", images)
    (room / "policy.toml").write_text('[gate]\nlimit = "5%"\n')
    (room / "strict.toml").write_text('[gate]\nlimit = "0.1%"\n')
    program = room / "bin" / "memaudit"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return room


@dataclass
class Job:
    """What a run of a job left."""

    status: int = 0
    outputs: dict[str, str] = field(default_factory=dict)
    said: str = ""
    summary: str = ""
    uploaded: dict[str, Any] | None = None


def on_github(
    inputs: Mapping[str, str], room: Path, cwd: Path, action: Path = ROOT, **variables: str
) -> Job:
    """Run the action's steps as GitHub does: expressions, outputs, and `if` after a failure."""
    values = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()}
    assert inputs.keys() <= values.keys()
    known = {f"inputs.{name}": value for name, value in (values | dict(inputs)).items()}
    known["github.action_path"] = str(action)
    job = Job()
    files = {name: cwd / name for name in ("GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    path = [str(room / "bin")]
    for step in ACTION["runs"]["steps"]:
        condition = str(step.get("if", "success()"))
        if not holds(condition, known, failed=job.status != 0):
            continue
        if "uses" in step:
            job.uploaded = {key: expand(str(text), known) for key, text in step["with"].items()}
            continue
        for file in files.values():
            file.write_text("")
        environment = os.environ | {name: str(file) for name, file in files.items()}
        environment |= {
            name: expand(str(text), known) for name, text in step.get("env", {}).items()
        }
        environment |= {"PATH": ":".join([*reversed(path), os.environ["PATH"]])}
        environment |= {"RUNNER_TEMP": str(cwd), **variables}
        finished = run_bash(step["run"], cwd, environment)
        job.said += finished.stdout + finished.stderr
        job.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        path += files["GITHUB_PATH"].read_text().split()
        for line in files["GITHUB_OUTPUT"].read_text().splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step['id']}.outputs.{name}"] = value
        job.status = job.status or finished.returncode
    job.outputs = {name: expand(each["value"], known) for name, each in ACTION["outputs"].items()}
    return job


def run_bash(script: str, cwd: Path, environment: Mapping[str, str]) -> Any:
    """Run a script as GitHub runs those with `shell: bash`."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def expand(text: str, known: Mapping[str, str]) -> str:
    """Text with the values of expressions such as `${{ inputs.out }}`."""
    return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: known.get(found[1], ""), text)


def holds(condition: str, known: Mapping[str, str], *, failed: bool) -> bool:
    """Whether an `if` of the kinds that the action uses holds."""
    parts = condition.split(" && ")
    if failed and "always()" not in parts:
        return False
    for part in parts:
        if part in ("always()", "success()"):
            continue
        found = re.fullmatch(r"([\w.-]+) != '(\w*)'", part)
        assert found is not None, part
        if known.get(found[1], "") == found[2]:
            return False
    return True


def on_gitlab(inputs: Mapping[str, str], room: Path, cwd: Path, **variables: str) -> Job:
    """Run the template's job as GitLab does: inputs in the text, then one shell, here sh."""
    spec, _ = yaml.safe_load_all(TEMPLATE)
    declared = spec["spec"]["inputs"]
    values = {name: each["default"] for name, each in declared.items() if "default" in each}
    assert inputs.keys() <= declared.keys()
    values |= dict(inputs)
    assert values.keys() == declared.keys(), "an input without a default is missing"
    text = re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda found: values[found[1]], TEMPLATE)
    (job,) = list(yaml.safe_load_all(text))[1].values()
    environment = os.environ | {name: str(value) for name, value in job["variables"].items()}
    environment |= {"PATH": f"{room / 'bin'}:{os.environ['PATH']}", **variables}
    script = "\n".join([*job["before_script"], *job["script"]])
    finished = subprocess.run(
        ["sh", "-ec", script], cwd=cwd, env=environment, capture_output=True, text=True
    )
    return Job(finished.returncode, {}, finished.stdout + finished.stderr, "", job["artifacts"])


Runner = Callable[..., Job]


def given(room: Path, source: str, limit: str, **others: str) -> dict[str, str]:
    """Inputs of a job about generated images, which take no time to make."""
    return {
        "source": str(room / f"{source} of mine.npz"),
        "data": str(room / "train of mine.npz"),
        "fail-above": limit,
        "extras": "none",
    } | others


def as_gitlab(inputs: Mapping[str, str]) -> dict[str, str]:
    """The same inputs by the names of the template."""
    renamed = {"extras": "package"}
    return {renamed.get(name, name).replace("-", "_"): each for name, each in inputs.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "limit", "others", "status", "verdict"),
    [
        ("fresh", "5%", {"policy": "policy.toml"}, 0, "PASS"),
        ("fresh", "5%", {"policy": "strict.toml"}, 1, "REFUSED"),
        ("copies", "5%", {}, 1, "FAIL"),
        ("few", "1%", {}, 3, "INCONCLUSIVE"),
        ("few", "1%", {"on-inconclusive": "warn"}, 0, "INCONCLUSIVE"),
        ("few", "10", {}, 2, "none"),
        ("few", "1%", {"pictures": "some"}, 2, ""),
    ],
)
def test_the_gate_decides(
    room: Path, tmp_path: Path, source: str, limit: str, others: dict, status: int, verdict: str
):
    others = {key: str(room / each) if key == "policy" else each for key, each in others.items()}
    inputs = given(room, source, limit, **others)
    job = on_github(inputs, room, tmp_path)
    assert (job.status, job.outputs["verdict"]) == (status, verdict), job.said
    if not verdict:  # it was refused before the scan, and nothing is there
        assert job.uploaded is None
        return
    assert job.uploaded is not None and "scan-state" not in job.uploaded["path"]
    if verdict not in ("none", ""):
        out = tmp_path / "memaudit-report"
        assert "data:image/png" not in (out / "report.html").read_text("utf-8")
        stated = "PASS" if verdict == "REFUSED" else verdict
        assert f"memaudit: {stated}" in job.summary
        for line in job.uploaded["path"].splitlines():
            assert (tmp_path / line).is_file() or line.endswith("screening.csv"), line
    if verdict == "INCONCLUSIVE":  # everywhere it says how many would decide
        junit = ElementTree.tostring(ElementTree.parse(out / "junit.xml").getroot(), "unicode")
        for text in (job.said, job.summary, junit):
            assert re.search(r"About \d+ other images would probably decide", text), text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "limit", "others", "status"),
    [
        ("fresh", "5%", {"policy": "strict.toml"}, 1),
        ("few", "1%", {"options": "--flips"}, 3),
        ("few", "10", {}, 2),
    ],
)
def test_the_template_decides_likewise(
    room: Path, tmp_path: Path, source: str, limit: str, others: dict, status: int
):
    others = {key: str(room / each) if key == "policy" else each for key, each in others.items()}
    job = on_gitlab(as_gitlab(given(room, source, limit, **others)), room, tmp_path)
    assert job.status == status, job.said
    assert job.uploaded is not None
    paths = [*job.uploaded["paths"], job.uploaded["reports"]["junit"]]
    paths.remove("memaudit-report/screening.csv")
    assert all((tmp_path / path).is_file() for path in paths) or status == 2


def test_no_input_becomes_part_of_a_script():
    assert all("${{" not in step.get("run", "") for step in ACTION["runs"]["steps"])
    (job,) = list(yaml.safe_load_all(TEMPLATE))[1].values()
    assert "$[[" not in "".join([*job["before_script"], *job["script"]])


@pytest.mark.parametrize("runner", [on_github, on_gitlab])
def test_what_an_input_says_is_not_run(runner: Runner, room: Path, tmp_path: Path):
    """With a program that writes down what it is given, and decides nothing."""
    program = tmp_path / "bin" / "memaudit"
    program.parent.mkdir()
    script = '[ "$1" = doctor ] && exit; for word; do echo "<$word>"; done; exit 2'
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    hostile = "a'b\\\"; touch ran; $(touch ran) `touch ran` *"
    inputs = given(room, "few", "1%") | {"data": "x $(touch ran)", "options": "--size $(touch"}
    if runner is on_github:
        inputs["source"] = hostile
        job = runner(inputs, tmp_path, tmp_path)
        assert f"<{hostile}>" in job.said
    else:
        job = runner(as_gitlab(inputs), tmp_path, tmp_path)
    assert "<x $(touch ran)>" in job.said and "<$(touch>" in job.said
    assert job.status == 2 and not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------
# A program that ends as it is told, in place of memaudit

DOUBLE = """#!/bin/bash
echo "$@" >> calls.txt
case "$1" in
  scan)
    if [ "$SCAN_ENDS" != 137 ] && [[ " $* " != *" --nothing "* ]]; then
      mkdir -p memaudit-report
      date +%N > memaudit-report/report.json
      echo new > memaudit-report/summary.md
    fi
    echo "::set-output name=verdict::PASS"
    echo "##[set-output name=verdict]PASS" >&2
    exit "$SCAN_ENDS" ;;
  verify) exit "$VERIFY_ENDS" ;;
esac
"""


@pytest.fixture
def double(tmp_path: Path) -> Path:
    """A workspace where memaudit is a program that exits with $SCAN_ENDS and $VERIFY_ENDS."""
    program = tmp_path / "bin" / "memaudit"
    program.parent.mkdir()
    program.write_text(DOUBLE)
    program.chmod(0o755)
    return tmp_path


def on_both(
    double: Path, inputs: Mapping[str, str], *, scanned: int, verified: int = 0
) -> tuple[Job, Job]:
    both = {"source": "x", "data": "y", "extras": "none"} | dict(inputs)
    for_gitlab = {key: each for key, each in both.items() if key != "on-inconclusive"}
    told = {"SCAN_ENDS": str(scanned), "VERIFY_ENDS": str(verified)}
    return (
        on_github(both, double, double, **told),
        on_gitlab(as_gitlab(for_gitlab), double, double, **told),
    )


@pytest.mark.parametrize(
    ("scanned", "verified", "inputs", "status", "on_gitlab_status"),
    [
        (0, 0, {}, 0, 0),
        (0, 1, {}, 1, 1),
        (0, 2, {}, 2, 2),
        (0, 130, {}, 130, 130),
        (1, 0, {}, 1, 1),
        (1, 0, {"on-inconclusive": "warn"}, 1, 1),
        (2, 0, {"on-inconclusive": "warn"}, 2, 2),
        (3, 0, {}, 3, 3),
        # GitLab lets 3 pass with a warning where it is told to, and never a report that is refused.
        (3, 1, {}, 3, 1),
        (3, 1, {"on-inconclusive": "warn"}, 1, 1),
        (130, 0, {}, 130, 130),
        (137, 0, {}, 137, 137),
        # Nothing would be audited, or by another limit than the input says.
        (0, 0, {"options": "--flips\n--dry-run\n"}, 2, 2),
        (0, 0, {"options": "--help"}, 2, 2),
        (0, 0, {"options": "--flips --fail-above=50%"}, 2, 2),
        (0, 0, {"verify-options": "--help"}, 2, 2),
        (0, 0, {"verify-options": "-hh"}, 2, 2),
        (0, 0, {"verify-options": "--quiet --policy other.toml"}, 2, 2),
    ],
)
def test_no_end_but_a_pass_that_was_checked_is_green(
    double: Path,
    scanned: int,
    verified: int,
    inputs: dict[str, str],
    status: int,
    on_gitlab_status: int,
):
    github, gitlab = on_both(double, inputs, scanned=scanned, verified=verified)
    assert (github.status, gitlab.status) == (status, on_gitlab_status)
    refused = inputs.keys() - {"on-inconclusive"}
    verdict = {0: "PASS", 1: "FAIL", 3: "INCONCLUSIVE"}.get(scanned, "none")
    if verdict == "PASS" and verified:  # whoever publishes on PASS does not publish this
        verdict = "REFUSED"
    assert github.outputs["verdict"] == ("" if refused else verdict)
    assert not refused or not (double / "calls.txt").read_text().count("scan ")
    if status not in (0, 3):  # the page of the run says why
        assert re.search(r"^::error::", github.said, re.MULTILINE), github.said


def test_the_summary_says_whether_there_was_a_policy(double: Path):
    github, gitlab = on_both(double, {}, scanned=0)
    assert "No policy was given" in github.summary and "No policy was given" in gitlab.said
    github, gitlab = on_both(double, {"policy": "policy.toml"}, scanned=0)
    assert "within the policy" in github.summary and "No policy" not in gitlab.said
    github, _ = on_both(double, {"policy": "policy.toml"}, scanned=0, verified=1)
    assert "**REFUSED**: the report does not hold" in github.summary
    github, _ = on_both(double, {"policy": "policy.toml"}, scanned=0, verified=2)
    assert "**REFUSED**: the report could not be checked" in github.summary


def test_options_on_several_lines_are_all_given_and_stand_for_no_files(double: Path):
    on_both(double, {"options": "--fail-on label-test\n --match *\n"}, scanned=0)
    scans = [line for line in (double / "calls.txt").read_text().splitlines() if "scan" in line]
    assert len(scans) == 2 and "--fail-on label-test --match " in scans[1]
    assert scans[1].endswith("--match * -- x")
    source = {"source": "--help", "verify-options": "--quiet\n--verbose"}
    on_both(double, source, scanned=0)
    calls = (double / "calls.txt").read_text()
    assert calls.count("-- --help\n") == 2
    assert calls.count("--quiet --verbose -- memaudit-report\n") == 2


def test_what_is_printed_is_no_command_to_the_runner(double: Path):
    job, _ = on_both(double, {}, scanned=1)
    lines = job.said.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith("::stop-commands::")][:1]
    token = lines[start].rpartition("::")[2]
    end = lines.index(f"::{token}::")
    assert len(token) == 32
    printed = [i for i, line in enumerate(lines) if "set-output" in line]
    assert len(printed) == 2 and all(start < i < end for i in printed)
    odd = {"pictures": "x\n::notice::PASS"}
    assert "::notice" not in on_both(double, odd, scanned=0)[0].said


def test_an_earlier_report_is_not_that_of_the_run(double: Path):
    (double / "memaudit-report").mkdir()
    for name in ("report.json", "summary.md", "junit.xml"):
        (double / "memaudit-report" / name).write_text("PASS")
    github, gitlab = on_both(double, {}, scanned=137)
    assert (github.status, gitlab.status) == (137, 137)
    assert github.uploaded is None and github.summary == ""
    assert not (double / "memaudit-report" / "summary.md").exists()
    github, gitlab = on_both(double, {"options": "--nothing"}, scanned=0)
    assert (github.status, gitlab.status) == (2, 2)
    assert github.uploaded is None and github.outputs["verdict"] == "none"
    github, _ = on_both(double, {}, scanned=0)  # it continues an undecided one
    assert github.status == 0 and github.uploaded is not None
    assert github.summary.startswith("new\n")


@pytest.mark.slow
@pytest.mark.parametrize("runner", [on_github, on_gitlab])
def test_the_step_that_installs_makes_a_program_that_runs(
    runner: Runner, room: Path, tmp_path: Path
):
    """Without network: uv takes no dependencies, which the environment sees beside it."""
    pytest.importorskip("uv")
    project = copy_checkout(tmp_path / "project")
    inputs = given(room, "fresh", "5%", extras="cpu", torch="cpu")
    venv = tmp_path / "memaudit"
    if runner is on_gitlab:
        inputs = as_gitlab(inputs) | {"package": f"memaudit-diffusion[cpu] @ file://{project}"}
        venv = tmp_path / ".memaudit"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = next(venv.glob("lib/python*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    settings = tmp_path / "uv.toml"
    settings.write_text("offline = true\n[pip]\nno-deps = true\nno-build-isolation = true\n")
    there = {"action": project} if runner is on_github else {}
    job = runner(
        inputs,
        tmp_path,  # which holds no other memaudit
        tmp_path,
        **there,
        UV_CONFIG_FILE=str(settings),
        PIP_NO_INDEX="1",
        PYTHONPATH="",
    )
    assert job.status == 0, job.said
    assert (venv / "bin" / "memaudit").is_file() and (packages / "memaudit").is_dir()


# ------------------------------------------------------------------------------------------------
# The sample repository


def test_the_sample_gives_inputs_that_there_are():
    workflow = yaml.safe_load((SAMPLE / ".github/workflows/memorization.yml").read_text("utf-8"))
    (step,) = [step for step in workflow["jobs"]["gate"]["steps"] if "with" in step]
    release, output = workflow["jobs"]["release"], workflow["jobs"]["gate"]["outputs"]["verdict"]
    assert release["needs"] == "gate" and release["if"] == "needs.gate.outputs.verdict == 'PASS'"
    assert output == f"${{{{ steps.{step['id']}.outputs.verdict }}}}"
    required = {name for name, each in ACTION["inputs"].items() if each.get("required")}
    assert required <= step["with"].keys() <= ACTION["inputs"].keys()
    included = yaml.safe_load((SAMPLE / ".gitlab-ci.yml").read_text("utf-8"))
    spec, _ = yaml.safe_load_all(TEMPLATE)
    declared = spec["spec"]["inputs"]
    inputs = included["include"][0]["inputs"]
    needed = {name for name, each in declared.items() if "default" not in each}
    assert needed <= inputs.keys() <= declared.keys()
    shared = {name.replace("_", "-") for name in inputs} - {"package"}
    assert {name: inputs[name.replace("-", "_")] for name in shared} == step["with"]
    assert (SAMPLE / step["with"]["policy"]).is_file()


def test_the_sample_policy_can_be_read_and_means_what_it_says():
    path = SAMPLE / "memorization" / "policy.toml"
    text = tomllib.loads(path.read_text("utf-8"))
    with pytest.raises(ConfigError, match=r"data\.fingerprint"):  # until it is filled in
        as_policy(text)
    assert as_policy(text | {"data": {"fingerprint": "0" * 64}}) is not None
    assert text["gate"]["limit"] == "0.1%" and text["holdout"]["required"]


def test_the_scripts_are_sound_for_their_shells():
    for step in ACTION["runs"]["steps"]:
        if "run" in step:
            assert step["shell"] == "bash"
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)
    (job,) = list(yaml.safe_load_all(TEMPLATE))[1].values()
    for line in [*job["before_script"], *job["script"]]:
        subprocess.run(["sh", "-n", "-c", line], check=True)
    if (shellcheck := shutil.which("shellcheck")) is not None:
        for step in ACTION["runs"]["steps"]:
            if "run" in step:
                command = [shellcheck, "--shell", "bash", "-"]
                subprocess.run(command, input=step["run"], text=True, check=True)


def test_the_jobs_give_options_that_there_are():
    offered = "".join(
        CliRunner().invoke(cli, [name, "--help"]).stdout for name in ("scan", "verify")
    )
    (job,) = list(yaml.safe_load_all(TEMPLATE))[1].values()
    scripts = [step["run"] for step in ACTION["runs"]["steps"] if step.get("name") in GIVING]
    for script in [*scripts, *job["script"]]:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", script):
            assert f"{option} " in offered, option
