"""What commands that ranks share refuse. Imports no torch."""

from memaudit.errors import ConfigError
from memaudit.ranks.joined import joined_place
from memaudit.ranks.place import keeps_status


def check_status_is_kept() -> None:
    """Refuse a gate in a launch that does not end with the status of rank 0.

    Raises:
        ConfigError: torchrun started this process.
    """
    if joined_place() is not None and not keeps_status():
        raise ConfigError(
            "torchrun ends with 1, the status of FAIL, also where a gate is INCONCLUSIVE or could "
            "not run. Start the same command with `memaudit torchrun` in place of `torchrun -m "
            "memaudit`: it takes the same options, and ends with the status of the verdict."
        )


def num_processes() -> int:
    """Number of ranks, 1 for a process that was not started as one."""
    place = joined_place()
    return 1 if place is None else place.num_ranks


def check_alone(why: str) -> None:
    """Refuse several ranks where they gain nothing.

    Raises:
        ConfigError: there are several; the message begins with `why`.
    """
    place = joined_place()
    if place is not None:
        raise ConfigError(
            f"{why}: {place.num_ranks} processes gain nothing. Run one, without torchrun or "
            "{devices}.",
            field="devices",
        )
