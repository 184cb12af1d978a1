"""What a scan found, and how to look at it from Python.

The methods that render something import the report package when they are called: it stands above
this file, and a scan that is not shown does without it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.diagnostic import PageContext
from memaudit.audit.diagnostics.registry import Diagnostics
from memaudit.audit.environment import Environment, Timings
from memaudit.audit.memorization.findings import Findings, Ratios
from memaudit.audit.memorization.matches import Leak, Matches
from memaudit.audit.neighbors.results import SearchFacts
from memaudit.audit.neighbors.units import Space
from memaudit.audit.source import Source
from memaudit.audit.statistics.gate import Decision
from memaudit.audit.statistics.intervals import describe
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Keys = tuple[int, ...] | tuple[str, ...]
"""One per generated image: its seed, or its name where images were given."""


@dataclass(frozen=True, repr=False)
class ScanResult:
    """What a scan found, with everything that is needed to redo it."""

    source: Source
    """What was audited."""
    generated: np.ndarray
    """uint8 [M, C, H, W]: the images that were judged."""
    keys: Keys
    """One per generated image: its seed, or its name where images were given."""
    class_index: np.ndarray | None
    """int64 [M]: the class that each image was generated for, or None without classes."""
    data: ImageSet
    """The training images."""
    config: ScanConfig
    space: Space
    """What distances are distances of."""
    search: SearchFacts
    """How the nearest training images were found."""
    matches: Matches
    findings: Findings
    """Ratios, verdict and leaks: everything that follows from the matches."""
    duplicates: dict[int, tuple[int, ...]]
    """Positions of the duplicates of each leaking training image, by its position; empty where
    features were searched."""
    diagnostics: Diagnostics
    """What stands beside the ratio."""
    timings: Timings
    environment: Environment

    @property
    def ratios(self) -> Ratios:
        """Shares of the generated images that are copies, by each rule."""
        return self.findings.ratios

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """Training images that leaked, most copied first."""
        return self.findings.leaks

    @property
    def decision(self) -> Decision | None:
        """The gate's decision, or None if no gate was set."""
        return self.findings.decision

    @property
    def verdict(self) -> str | None:
        """PASS, FAIL or INCONCLUSIVE, or None if no gate was set."""
        return None if self.decision is None else self.decision.verdict

    @property
    def page_context(self) -> PageContext:
        """What the sections of diagnostics refer to."""
        return PageContext(self.data, self.findings, self.config.rule, self.config.fail_above)

    def summary(self) -> str:
        """What the scan found, in a few lines of text."""
        from memaudit.audit.report.ci import headline

        lines = [f"{headline(self)}: {describe(self.ratios.distinct)}."]
        lines.append(f"{len(self.leaks):,} of {len(self.data):,} training images leak.")
        for _, diagnostic, found in self.diagnostics.results():
            lines += [line for line in diagnostic.lines(found) if isinstance(line, str)]
        lines += [f"Warning: {warning}" for warning in self.source.warnings]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The content of report.json, but for the hashes of files; strict JSON can hold it."""
        from memaudit.audit.report.schema import make_report, plain

        content: dict[str, Any] = plain(make_report(self))
        return content

    def to_pandas(self) -> "pandas.DataFrame":
        """The table matches.csv: one row per generated image.

        Raises:
            ConfigError: pandas is not installed.
        """
        from memaudit.audit.report.tables import MatchTable, match_columns

        try:
            import pandas
        except ImportError as error:
            raise ConfigError(
                "Data frames need pandas, which is not installed: pip install pandas."
            ) from error
        return pandas.DataFrame(
            match_columns(MatchTable(self.keys, self.class_index, self.matches))
        )

    def plot_pairs(self, num_pairs: int = 8) -> "Figure":
        """Draw the closest pairs: generated image, nearest and second nearest training image."""
        from memaudit.audit.report import figures

        return figures.plot_pairs(self, num_pairs)

    def plot_ratios(self) -> "Figure":
        """Draw the histogram of distance ratios, with the threshold."""
        from memaudit.audit.report import figures

        return figures.plot_ratios(self)

    def plot_sigmas(self) -> "Figure":
        """Draw the losses of model and optimum at every noise level."""
        from memaudit.audit.report import figures

        return figures.plot_sigmas(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from memaudit.audit.report.page import render_notebook

        return render_notebook(self)

    def __repr__(self) -> str:
        verdict = "" if self.verdict is None else f"{self.verdict}, "
        ratio = self.ratios.distinct
        return (
            f"ScanResult({verdict}{ratio.count:,} of {ratio.total:,} generated images copy a "
            f"training image, {len(self.leaks):,} of {len(self.data):,} training images leak)"
        )
