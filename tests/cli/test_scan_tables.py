"""Tables of a scan on a terminal of 80 columns."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from memaudit.audit.report import charts
from memaudit.cli import scan_tables


@pytest.mark.parametrize("limit", [None, 0.01])
def test_no_number_of_the_shares_is_cut(monkeypatch: pytest.MonkeyPatch, limit: float | None):
    """Where intervals are long, the axis makes room for them."""
    rows = [
        SimpleNamespace(label=label, total=total, value=value, low=0, high=0.01, interval=interval)
        for label, total, value, interval in [
            ("copies", 500, 0.0, "0 to 0.74 %"),
            ("floor, leave-one-out", 5000, 0.0002, "0.00051 to 0.11 %"),
        ]
    ]
    monkeypatch.setattr(charts, "share_rows", lambda result: (rows, 0.0074))
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(scan_tables, "out", console)
    ratios = SimpleNamespace(copies=SimpleNamespace(confidence=0.95))
    result = SimpleNamespace(config=SimpleNamespace(fail_above=limit), ratios=ratios)
    console.print(scan_tables._shares(result))
    shown = console.file.getvalue()
    for text in ("images", "5,000", "0.020 %", "0.00051 to 0.11 %", "95 % interval"):
        assert text in shown
    assert "…" not in shown
