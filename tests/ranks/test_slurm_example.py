"""The Slurm file of examples/ runs, here on two machines that are this one."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.launching import TIMEOUT, findings, run, small_checkpoint

SLURM_FILE = Path(__file__).parents[2] / "examples" / "scan.slurm"
SRUN = """#!/bin/bash
# Start the command once per machine, and end with the highest status, as Slurm's does.
for node in $(seq 0 $((SLURM_NNODES - 1))); do
    SLURM_NODEID=$node "$@" &
    started="${started:-} $!"
done
highest=0
for task in $started; do
    wait "$task" || { status=$?; highest=$((status > highest ? status : highest)); }
done
exit $highest
"""
SCONTROL = '#!/bin/bash\nprintf "localhost\\nlocalhost\\n"\n'
MEMAUDIT = '#!/bin/bash\nexec {python} -m memaudit "$@"\n'


def test_it_is_a_script():
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    subprocess.run([bash, "-n", SLURM_FILE], check=True)


@pytest.mark.slow  # two launchers with two ranks each
def test_two_machines_scan_as_one_process(tmp_path: Path):
    commands = tmp_path / "bin"
    commands.mkdir()
    programs = {"srun": SRUN, "scontrol": SCONTROL}
    programs["memaudit"] = MEMAUDIT.format(python=sys.executable)
    for name, text in programs.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    model = small_checkpoint(tmp_path / "model.safetensors")
    data = tmp_path / "train.npz"
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), np.uint8)
    np.savez(data, images=images)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = {"SLURM_JOB_NODELIST": "n[0-1]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}
    job |= {"RANKS_PER_NODE": "2", "RENDEZVOUS_PORT": str(port), "SAMPLES": "200"}
    job |= {"MODEL": str(model), "DATA": str(data), "OUT": str(tmp_path / "two")}
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **job, "PATH": path, "OMP_NUM_THREADS": "1"}
    more = ["--device", "cpu", "--without", "optimality", "--fail-above", "0.001"]
    ended = subprocess.run(
        ["bash", SLURM_FILE, *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert ended.returncode == 3, ended.stderr  # 200 images do not decide
    one = ["scan", model, "--data", data, "--samples", 200, "--out", tmp_path / "one", *more]
    assert run(*one)[0] == 3
    assert findings(tmp_path / "one") == findings(tmp_path / "two")
