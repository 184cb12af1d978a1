"""1 means FAIL and nothing else: however a command ends otherwise, it says so in one line."""

import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from click.testing import Result

from memaudit.cli.main import COMMANDS, STOPPED
from memaudit.errors import DataError

Run = Callable[..., Result]

FOREIGN = [
    ValueError("a\nb"),
    KeyError("name"),
    RuntimeError("shape [3, 8] is invalid"),
    AssertionError(),
    ZeroDivisionError("division by zero"),
    MemoryError("Unable to allocate 3.2 TiB"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    OSError(28, "No space left on device", "report.json"),
    DataError("3 images were found; 4 are needed."),
    # What a GPU raises: out of memory, too old for this torch, fallen off the bus, another process.
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError(
        "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors "
        "might be asynchronously reported"
    )
    if hasattr(torch, "AcceleratorError")
    else RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    torch.distributed.DistBackendError(
        "NCCL error in: ProcessGroupNCCL.cpp:77, remote process exited or there was a network error"
    ),
]


def _fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(*args, **kwargs):
        raise error

    monkeypatch.setattr("memaudit.audit.scan.scan", scan)


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: repr(error)[:30])
def test_every_error_ends_with_2_one_line_and_a_junit_error(
    run: Run, make_npz: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    _fail_with(error, monkeypatch)
    junit = tmp_path / "junit.xml"
    result = run("scan", make_npz(3), "--data", make_npz(5), "--junit", junit)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    found = ET.parse(junit).getroot().find(".//error")
    assert found is not None
    assert " ".join((found.get("message") or "").split()) in result.stderr


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "Memory ran out"),
        (RuntimeError("CUDA error: no kernel image is available"), "--device cpu"),
        (torch.distributed.DistBackendError("NCCL error in: x.cpp:1"), "Another process"),
        (torch.distributed.DistStoreError("timed out after 600 s"), "Another process"),
    ],
)
def test_what_a_gpu_raises_comes_with_advice(
    run: Run,
    make_npz: Callable,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    advice: str,
):
    _fail_with(error, monkeypatch)
    said = run("scan", make_npz(3), "--data", make_npz(5)).stderr
    assert advice in said and "please report it" not in said


def test_an_unexpected_error_says_where_and_shows_its_traceback_on_request(
    run: Run, make_npz: Callable, monkeypatch: pytest.MonkeyPatch
):
    _fail_with(ValueError("operands do not match"), monkeypatch)
    arguments = ["scan", make_npz(3), "--data", make_npz(5)]
    said = run(*arguments).stderr
    assert "ValueError: operands do not match (cli/scan.py:" in said and "--debug" in said
    assert "Traceback" not in said
    assert "Traceback (most recent call last)" in run(*arguments, "--debug").stderr


def test_a_scan_that_was_stopped_says_so_to_ci(
    run: Run, make_npz: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _fail_with(KeyboardInterrupt(), monkeypatch)
    junit = tmp_path / "junit.xml"
    run("scan", make_npz(3), "--data", make_npz(5), "--junit", junit)
    assert "stopped" in junit.read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_debug(run: Run, command: str):
    arguments = [command, "build"] if command == "dataset" else [command]
    assert "--debug" in run(*arguments, "--help").stdout


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_scan_as_ctrl_c_does(
    checkpoint: Path, make_npz: Callable, tmp_path: Path, signum: signal.Signals
):
    out = tmp_path / "report"
    arguments = ["scan", checkpoint, "--data", make_npz(10), "--samples", 100_000, "--out", out]
    # A shell's background job ignores Ctrl-C, one under nohup the end of its terminal, and so would
    # what they start.
    begin = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    )
    program = f"{begin}; from memaudit.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("scan-state/part-*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signum)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == STOPPED
    assert said.rstrip().endswith("Stopped.")
    assert list(out.glob("scan-state/part-*.npz"))
    assert np.load(next(out.glob("scan-state/part-*.npz")))["images"].dtype == np.uint8


def test_an_error_outside_every_command_does_not_end_with_1(tmp_path: Path):
    program = (
        "import memaudit.cli.main as m\n"
        "def broken(**options): raise RuntimeError('no terminal')\n"
        "m.cli.main = broken\n"
        "m.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: RuntimeError: no terminal")


@pytest.mark.parametrize("how", [None, pytest.param("--json", marks=pytest.mark.slow)])
def test_a_reader_that_goes_away_does_not_change_the_status(make_npz: Callable, how: str | None):
    images = make_npz(40)  # all of them copies
    program = [sys.executable, "-m", "memaudit", "scan", images, "--data", images]
    options = ["--fail-above", "0.1", *([how] if how else [])]
    process = subprocess.Popen(
        [*map(str, program), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 1, said
    assert "Traceback" not in said and "BrokenPipe" not in said


def test_an_option_out_of_range_is_a_junit_error(run: Run, make_npz: Callable, tmp_path: Path):
    junit = tmp_path / "junit.xml"
    arguments = ["scan", make_npz(3), "--data", make_npz(5), "--junit", junit]
    assert run(*arguments, "--fail-above", "0").exit_code == 2
    assert "--fail-above" in junit.read_text()
