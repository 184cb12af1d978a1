"""The highest ratio of a training's snapshots, without the luck of the highest."""

from pathlib import Path

import numpy as np
import pytest

from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.errors import DataError
from memaudit.experiments.snapshots import highest_ratio, make_snapshot, read_snapshot


def test_one_half_chooses_and_the_other_reports():
    luck = make_snapshot(1, np.array([True] * 5 + [False] * 5))
    solid = make_snapshot(2, np.array([True, True, True, True, False] * 2))
    assert highest_ratio([solid, luck]).ratio == 0
    assert highest_ratio([luck]).ratio == 0.5
    assert luck.halves == (clopper_pearson(5, 5), clopper_pearson(0, 5))
    assert [half.total for half in make_snapshot(1, np.zeros(7, bool)).halves] == [4, 3]


def test_of_equal_snapshots_the_latest_is_chosen():
    early = make_snapshot(1, np.array([True, False, False, False]))
    late = make_snapshot(2, np.array([True, False, True, False]))
    assert highest_ratio([early, late]) == late.halves[1]


def test_the_highest_of_equal_snapshots_is_not_too_high():
    """20 snapshots of a model that copies 20 %: the plain maximum is too high in all trials."""
    rng = np.random.default_rng(0)
    trials = 400
    chosen, plain, misses = [], [], 0
    for _ in range(trials):
        snapshots = [make_snapshot(i, rng.random(400) < 0.2) for i in range(20)]
        found = highest_ratio(snapshots)
        chosen.append(found.ratio)
        misses += found.low > 0.2
        plain.append(max(snapshot.ratio.ratio for snapshot in snapshots))
    assert np.mean(chosen) == pytest.approx(0.2, abs=4 * 0.4 / np.sqrt(200 * trials))
    assert np.mean(plain) > 0.23
    assert misses <= 0.025 * trials + 8


def test_a_table_that_does_not_tell_copies_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"matches.csv cannot be read \(FileNotFound"):
        read_snapshot(tmp_path, 1)
    (tmp_path / "matches.csv").write_text("seed,memorized\n0,1\n")
    with pytest.raises(DataError, match=r"cannot be read \(KeyError"):
        read_snapshot(tmp_path, 1)
    (tmp_path / "matches.csv").write_text("seed,memorized_paper\n0,1\n1,0\n")
    assert read_snapshot(tmp_path, 1).ratio.count == 1
