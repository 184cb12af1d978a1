"""What a scan found, and how to look at it from Python.

Whatever renders something is imported when it is asked for: a scan that is not shown does without.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memaudit.audit.scanned import Scanned
from memaudit.errors import ConfigError

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class ScanResult(Scanned):
    """What a scan found, with everything that is needed to redo it.

    The fields and the plain answers, such as `ratios`, `verdict` and `leaks`, are those of
    `Scanned`; the methods here summarize and draw them.
    """

    def summary(self) -> str:
        """What the scan found, in a few lines of text."""
        from memaudit.audit.report.ci import text_summary

        return text_summary(self)

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
            match_columns(MatchTable(self.keys, self.class_index, self.matches, self.conformal))
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
