"""Image encoders that the user provides as TorchScript files.

Unlike checkpoints, which are read without running anything in them, a TorchScript file *is* a
program: loading and calling it runs its code. Open only files that you trust. What is run are the
very bytes that were hashed, and a call that never ends is given up after a time limit.
"""

import hashlib
import io
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from memaudit.audit.neighbors.encoder import MAX_SECONDS, NetworkEncoder
from memaudit.audit.neighbors.preprocessing import Preprocessing
from memaudit.data.room import free_memory
from memaudit.errors import CheckpointError
from memaudit.files import read_regular
from memaudit.models.memory import is_out_of_memory

MAX_BYTES = 16 << 30
"""Largest file, all of it read into memory."""
MAX_SOURCE = 64 << 20
"""Most bytes of source code that are searched for what runs when a file is loaded."""


def open_torchscript(
    path: str | Path, preprocessing: Preprocessing, *, device: str | torch.device = "cpu"
) -> NetworkEncoder:
    """Open a TorchScript file (`torch.jit.save`). **This runs code of the file.**

    Args:
        path: the file. Called with float32 [B, C, H, W], the encoder returns floats [B, F].
        preprocessing: what it is given.
        device: where to run the encoder.

    Raises:
        CheckpointError: the file is missing, not a regular one, not TorchScript, or does not load
            within MAX_SECONDS.
    """
    try:
        free = free_memory()
        content = read_regular(path, MAX_BYTES if free is None else min(MAX_BYTES, free))
        if _runs_when_loaded(content):
            _try_loading(content)
        module = _load(content, device)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"{path} has not loaded within {MAX_SECONDS:,} seconds: its code may never end."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # the file's code may raise anything
        if is_out_of_memory(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} is not a TorchScript file ({said}). Save the encoder with "
            "torch.jit.trace(encoder, example).save(path)."
        ) from error
    return NetworkEncoder(
        name=str(path),
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        preprocessing=preprocessing,
        device=torch.device(device),
        module=module,
        is_program=True,
    )


def _load(content: bytes, device: str | torch.device) -> torch.jit.ScriptModule:
    """Run the code in a file that makes its module."""
    with warnings.catch_warnings():
        # Deprecated in favor of torch.export, but what published encoders are stored as.
        warnings.simplefilter("ignore", FutureWarning)
        load: Callable[..., torch.jit.ScriptModule] = torch.jit.load
        return load(io.BytesIO(content), map_location=device).eval()


def _runs_when_loaded(content: bytes) -> bool:
    """Whether loading a file may run code in it: methods named `__setstate__` alone do."""
    if b"PK\5\6" not in content:  # no archive, hence nothing that torch loads
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            sources = [entry for entry in archive.infolist() if entry.filename.endswith(".py")]
            return sum(entry.file_size for entry in sources) > MAX_SOURCE or any(
                b"__setstate__" in archive.read(entry) for entry in sources
            )
    except Exception:  # a damaged file raises many kinds; torch reads archives in its own way
        return True


def _try_loading(content: bytes) -> None:
    """Load a file in another process, since torch holds Python's lock while its code runs.

    Raises:
        RuntimeError: it does not load.
        subprocess.TimeoutExpired: it does not load within MAX_SECONDS.
    """
    code = "import io, sys, torch; torch.jit.load(io.BytesIO(sys.stdin.buffer.read()), 'cpu')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=content,
        capture_output=True,
        timeout=MAX_SECONDS,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"loading ended with {done.returncode}")
