"""How many threads to compute with beside other programs.

Threads that share an operation wait for each other at its every step. Where another program takes
the core of one, all wait for it, and fewer threads are faster (docs/performance.md).
"""

from collections.abc import MutableMapping
from pathlib import Path

from memaudit.cores import num_cores

VARIABLE = "OMP_NUM_THREADS"
LOAD = Path("/proc/loadavg")


def num_busy(load: str) -> int:
    """Cores that other programs keep busy: now, and on average over the last minute.

    Args:
        load: what Linux says in /proc/loadavg, "0.20 0.18 0.12 1/80 11206": averages, threads that
            run now (one of them reads this) of all, and the last process.
    """
    average, _, _, threads, *_ = load.split()
    running = int(threads.partition("/")[0]) - 1
    return max(0, min(round(float(average)), running))


def leave_busy_cores(environment: MutableMapping[str, str], *, load: Path = LOAD) -> str | None:
    """Compute with as many threads as cores are free, unless the environment names a number.

    Before torch is imported, which reads the variable.

    Returns:
        What was chosen and why, or None where all cores are free.
    """
    if VARIABLE in environment:
        return None
    cores = num_cores()
    try:
        busy = min(num_busy(load.read_text()), cores - 1)
    except (OSError, ValueError):
        return None
    if busy < 1:
        return None
    num_threads = cores - busy
    environment[VARIABLE] = str(num_threads)
    return (
        f"Other programs keep {busy} of {cores} cores busy: computing with {num_threads} "
        f"thread{'s' if num_threads > 1 else ''}. {VARIABLE}={cores} takes all."
    )
