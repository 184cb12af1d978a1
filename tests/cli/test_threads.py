"""Cores that other programs keep busy are left to them."""

import pytest

from memaudit.cli.main import computes_here
from memaudit.cli.threads import leave_busy_cores, num_busy


@pytest.mark.parametrize(
    ("load", "busy"),
    [
        ("0.20 0.18 0.12 1/80 11206", 0),
        ("1.02 0.90 0.80 2/80 11206", 1),
        ("1.02 0.90 0.80 1/80 11206", 0),  # it has just ended
        ("0.10 0.90 0.80 3/80 11206", 0),  # it has just begun, and may be short
        ("3.60 0.90 0.80 9/80 11206", 4),
    ],
)
def test_a_core_is_busy_if_it_is_now_and_was_for_a_while(load, busy):
    assert num_busy(load) == busy


def test_threads_are_left_out_for_busy_cores_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    load = tmp_path / "loadavg"
    for text, expected in (
        ("0.10 0.90 0.80 1/80 7", None),
        ("1.02 0.90 0.80 2/80 7", "2"),
        ("9.99 0.90 0.80 12/80 7", "1"),  # never none
        ("nonsense", None),
    ):
        load.write_text(text)
        environment: dict[str, str] = {}
        said = leave_busy_cores(environment, load=load)
        assert environment.get("OMP_NUM_THREADS") == expected
        assert (said is None) == (expected is None)
    assert said is None
    load.write_text("1.02 0.90 0.80 2/80 7")
    said = leave_busy_cores({}, load=load)
    assert said is not None and "1 of 3 cores busy: computing with 2 threads" in said


def test_a_number_that_was_set_is_kept(tmp_path):
    load = tmp_path / "loadavg"
    load.write_text("9.99 0.90 0.80 12/80 7")
    environment = {"OMP_NUM_THREADS": "2"}
    assert leave_busy_cores(environment, load=load) is None
    assert environment == {"OMP_NUM_THREADS": "2"}
    assert leave_busy_cores({}, load=tmp_path / "missing") is None


def test_the_processes_of_a_launch_divide_the_cores_themselves():
    assert computes_here(["scan", "model.pt", "--data", "train"])
    for elsewhere in (["--devices", "cpu:2"], ["--devices=cpu:2"], ["--help"]):
        assert not computes_here(["scan", "model.pt", *elsewhere])
    assert not computes_here(["inspect", "model.pt"])
    assert computes_here(["inspect", "model.pt", "--data=train"])
    assert not computes_here(["verify", "report"])
    assert computes_here(["verify", "report", "--source", "model.pt", "--spot-check", "16"])
    assert not computes_here([])
