"""Options that experiments share. Imports no torch: the command line reads them here."""

from dataclasses import dataclass
from typing import Annotated

from memaudit.audit.report.pictures import Pictures
from memaudit.options import Option, check_options


@dataclass(frozen=True)
class RunConfig:
    """How the models of an experiment are scanned, and where its runs are computed.

    Raises:
        ConfigError: a value is out of range.
    """

    num_samples: Annotated[
        int,
        Option("Images generated from each snapshot.", at_least=2, flag="--samples", metavar="N"),
    ] = 10_000
    parallel: int = 1
    """Runs side by side, one per rank."""
    device: str = "cpu"
    """`cpu` or `cuda`, the same for all ranks."""
    pictures: Pictures = "full"
    """What the pages of the scans show of training and generated images."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class EarlyWarningConfig:
    """Which snapshots of a training are audited, and how thoroughly.

    Raises:
        ConfigError: a value is out of range.
    """

    every: Annotated[
        int | None,
        Option(
            "Audit one in N snapshots, and the last; say when memorization begins.",
            at_least=1,
            flag="--audit-every",
            metavar="N",
            default_text="no audits",
        ),
    ] = None
    num_samples: Annotated[
        int,
        Option(
            "Images generated for each of these audits.",
            at_least=1,
            flag="--audit-samples",
            metavar="N",
        ),
    ] = 256

    def __post_init__(self) -> None:
        check_options(self)
