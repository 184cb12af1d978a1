"""Start a command in several ranks, with torch.distributed's elastic launcher.

torchrun itself ends with 1 whatever status but 0 a rank ends with, and starts again a rank that
ended with a verdict. Here a rank that has a status leaves it in a file and ends with 0; what ends
otherwise has died, and only that is started again.
"""

import importlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from memaudit.cores import num_cores
from memaudit.errors import ConfigError, MemauditError
from memaudit.ranks.place import STATUS_FILE

RESTARTS = 3
"""How often the ranks are started again after one died, by default."""
GRACE = 30.0
"""Seconds that ranks have to end after rank 0 has. One that hangs would hold up the verdict."""
_ENDED = "ended"


def launch_here(
    command: Sequence[str], num_ranks: int, *, environment: Mapping[str, str] | None = None
) -> int:
    """Run a command in ranks on this machine, and return its exit status.

    Args:
        command: arguments of `memaudit`.
        num_ranks: processes, at least 1.
        environment: variables that the ranks get beside those of this process.
    """
    threads = max(1, num_cores() // num_ranks)
    with _variables({"OMP_NUM_THREADS": str(threads), **os.environ, **(environment or {})}):
        own = ["--standalone", "--nproc-per-node", str(num_ranks), "--max-restarts", str(RESTARTS)]
        return launch([*own, *command])


def launch(arguments: Sequence[str]) -> int:
    """Run a command in ranks, and return the exit status that rank 0 ends with.

    Args:
        arguments: options of torchrun, then those of `memaudit`.

    Raises:
        MemauditError: a rank died more often than it may be started again.
        KeyboardInterrupt: this process was told to stop; all ranks have ended.
        SystemExit: torchrun does not know an option.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    with TemporaryDirectory(prefix="memaudit-") as folder:
        status = Path(folder) / "status"
        torchrun: Any = importlib.import_module("torch.distributed.run")  # has no types
        given = torchrun.parse_args(["--log-dir", folder, *arguments])
        given.training_script_args.insert(0, given.training_script)
        given.module, given.training_script = True, "memaudit"
        with _variables({STATUS_FILE: str(status)}):
            try:
                with _no_rank_outlives(status):
                    torchrun.run(given)
            except SignalException as stopped:
                if (ended_with := status_of_ended(status)) is not None:
                    return ended_with
                raise KeyboardInterrupt from stopped
            except ChildFailedError as failed:
                rank, failure = failed.get_first_failure()
                how = (
                    failure.signal_name() if failure.exitcode < 0 else f"status {failure.exitcode}"
                )
                raise MemauditError(
                    f"Rank {rank} of {given.nproc_per_node} on this machine died ({how}), also "
                    f"after {given.max_restarts} restarts. With an output folder, the same "
                    "command resumes with what is kept there, also with fewer ranks."
                ) from failed
        with suppress(OSError, ValueError):
            return int(status.read_text().split()[0])
    raise MemauditError("The ranks ended without a status: rank 0 did not answer any more.")


def leave_status(path: Path, status: int, *, has_ended: bool) -> None:
    """Leave the exit status of a rank for `launch`.

    Args:
        path: where.
        status: the exit status.
        has_ended: whether it is rank 0's, so that the job has ended. No other one replaces it.
    """
    if not has_ended and status_of_ended(path) is not None:
        return
    part = path.with_name(f"status-{os.getpid()}")
    part.write_text(f"{status} {_ENDED}" if has_ended else str(status))
    part.replace(path)


def status_of_ended(path: Path) -> int | None:
    """The exit status of a job whose rank 0 has ended, as a rank left it; None before that."""
    try:
        number, _, rest = path.read_text().partition(" ")
        return int(number) if rest == _ENDED else None
    except (OSError, ValueError):
        return None


@contextmanager
def _no_rank_outlives(status: Path) -> Iterator[None]:
    """Within the context, stop the launch a while after rank 0 has ended, if ranks hang."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            if status_of_ended(status) is not None:
                if not over.wait(GRACE):
                    os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, name="ranks that hang", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def choose_ranks(devices: str) -> tuple[str, int, dict[str, str]]:
    """What `all`, `0,1` or `cpu:4` means: the device, the number of ranks, and their environment.

    Raises:
        ConfigError: it means nothing, or GPUs that are not there.
    """
    wrong = ConfigError(
        f"{{devices}} is {devices!r}; write all, the numbers of GPUs such as 0,1, or cpu:4 for "
        "four processes on the CPU.",
        field="devices",
    )
    kind, colon, number = devices.partition(":")
    if colon:
        if kind != "cpu" or not number.isdecimal() or int(number) < 1:
            raise wrong
        return "cpu", int(number), {}
    names = visible_gpus()
    if devices == "all":
        chosen = names
    else:
        try:
            numbers = [int(part) for part in devices.split(",")]
        except ValueError:
            raise wrong from None
        if len(set(numbers)) < len(numbers) or min(numbers) < 0:
            raise wrong
        if names and max(numbers) >= len(names):
            raise ConfigError(
                f"{{devices}} names GPU {max(numbers)}, but there are {len(names)}, from 0 on.",
                field="devices",
            )
        chosen = [names[n] for n in numbers] if names else []
    if not chosen:
        raise ConfigError(
            "{devices} asks for GPUs, but torch sees none here. Give cpu:4 for four processes on "
            "the CPU, or check the driver (python -m torch.utils.collect_env).",
            field="devices",
        )
    return "cuda", len(chosen), {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}


def visible_gpus() -> list[str]:
    """This process's GPUs by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count()  # does not start CUDA, after which it is too late to choose
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(i) for i in range(count)]


def take_own_gpu(local_rank: int, *, needed: bool) -> None:
    """Let this process see only the GPU with its number on the machine, so that all call it `cuda`.

    Call it before CUDA starts.

    Args:
        local_rank: the number.
        needed: whether a machine without any GPU is refused.

    Raises:
        ConfigError: there are fewer GPUs than ranks.
    """
    names = visible_gpus()
    if not names and not needed:
        return
    if local_rank >= len(names):
        raise ConfigError(
            f"More ranks were started on this machine than it has GPUs ({len(names)}). Start "
            f"{len(names) or 'none'}, or compute on the {{device}} cpu.",
            field="device",
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = names[local_rank]


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the context."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
