"""Cores are counted on every system."""

import os

import pytest

from memaudit.cores import num_cores


def test_cores_are_counted_where_a_process_cannot_ask_for_its_own(monkeypatch: pytest.MonkeyPatch):
    assert num_cores() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert num_cores() == os.cpu_count()
