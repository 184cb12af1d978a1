"""What the benchmarks share: their arguments, what a record says of the machine, and its file."""

import argparse
import datetime
import os
import platform
import re
import shlex
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch


def make_parser(document: str) -> argparse.ArgumentParser:
    """Make a parser of the arguments that benchmarks share: train, --device and --rounds.

    Args:
        document: the benchmark's docstring, whose first line describes it.
    """
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    parser.add_argument("train", type=Path, help="training images: folder, zip, npz, …")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed")
    return parser


def describe_hardware(device: torch.device) -> str:
    """Describe a device, such as "2 cores of AMD EPYC" or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    name = model[1].strip() if model else platform.processor() or platform.machine()
    cores = torch.get_num_threads()
    return f"{cores} {'core' if cores == 1 else 'cores'} of {name}"


def version_of_faiss() -> str:
    """Version of whichever distribution is installed, or "not installed"."""
    for name in ("faiss-gpu", "faiss-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"


def make_heading(title: str, device: torch.device) -> list[str]:
    """Make the first lines of a record: machine, command, threads, versions."""
    arguments = shlex.join(
        Path(argument).name if os.path.exists(argument) else argument for argument in sys.argv[1:]
    )
    load = f"; load average before it: {os.getloadavg()[0]:.1f}" if os.name == "posix" else ""
    return [
        f"# {title} on {describe_hardware(device)}, {datetime.date.today().isoformat()}",
        "",
        f"`python benchmarks/{Path(sys.argv[0]).name} {arguments}".rstrip() + "`",
        f"with OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '(not set)')}{load}.",
        f"Python {platform.python_version()}, torch {torch.__version__}, FAISS "
        f"{version_of_faiss()}, NumPy {np.__version__}.",
    ]


def write_record(question: str, lines: list[str], device: torch.device) -> None:
    """Print a record and write it to results/QUESTION_HARDWARE_DATE.md."""
    wrapped = [
        line if line.startswith("|") else textwrap.fill(line, 100, break_on_hyphens=False)
        for line in lines
    ]
    text = "\n".join(wrapped) + "\n"
    print(text)
    slug = re.sub(r"[^a-z0-9]+", "-", describe_hardware(device).lower()).strip("-")
    today = datetime.date.today().isoformat()
    target = Path(__file__).parent / "results" / f"{question}_{slug}_{today}.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)
