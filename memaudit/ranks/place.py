"""This process's place among the ranks of a launch. Imports no torch."""

import os
from typing import NamedTuple

STATUS_FILE = "MEMAUDIT_STATUS_FILE"
"""Environment variable: where a rank leaves its exit status for memaudit's own launcher."""


class Place(NamedTuple):
    """Which rank a process is."""

    rank: int
    """Rank 0 leads, writes and prints."""
    num_ranks: int
    """Ranks on all machines."""
    local_rank: int
    """Number among the ranks of this machine; a GPU's, too."""
    restarts: int
    """How often the launcher has started all ranks again."""


def keeps_status() -> bool:
    """Whether the launch ends with the status of rank 0; torchrun ends with 0 or 1."""
    return STATUS_FILE in os.environ


def launched_place() -> Place | None:
    """This process's place, or None if torch's elastic launcher did not start it with others."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    number = {
        name: int(os.environ.get(name, "0"))
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
    }
    if number["WORLD_SIZE"] <= 1:
        return None
    return Place(*number.values())
