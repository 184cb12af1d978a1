"""AuthPct in cases with a known answer."""

import numpy as np

from memaudit.audit.diagnostics.authpct import auth_pct
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.statistics.intervals import Proportion


def authenticity(train: np.ndarray, generated: np.ndarray, **options: float) -> Proportion:
    index = NeighborIndex(train)
    near = index.nearest(generated, 1)
    return auth_pct(near.index[:, 0], near.squared_distance[:, 0], index=index, **options)


def on_a_line(*values: int) -> np.ndarray:
    """One image a value, flat: uint8 [N, 1, 4, 4]."""
    return np.repeat(np.array(values, dtype=np.uint8), 16).reshape(-1, 1, 4, 4)


def test_an_image_is_authentic_where_it_is_farther_than_training_images_are_apart():
    """50 and 80 are 30 apart from the nearest other, 140 is 60 apart."""
    train = on_a_line(50, 80, 140)
    found = authenticity(train, on_a_line(50, 25, 20, 19, 0, 110, 200, 201))
    # 19, 0 and 201. Of the edges 20 and 200 neither; 110 is 30 from 80 and from 140, and 80 counts.
    assert (found.count, found.total) == (3, 8)


def test_copies_are_never_authentic_and_far_images_always():
    train = np.random.default_rng(1).integers(0, 256, (200, 1, 6, 6), dtype=np.uint8)
    assert authenticity(train, train).count == 0
    assert authenticity(train, np.full((5, 1, 6, 6), 255, np.uint8)).count == 5


def test_duplicates_do_not_make_a_copy_authentic():
    train = on_a_line(50, 50, 53, 140)
    generated = on_a_line(52, 49)
    assert authenticity(train, generated).count == 0
    # To the exact rule 53 is another image than 50, and nearer to it than nothing at all.
    assert authenticity(on_a_line(50, 53, 140), on_a_line(46), duplicate_rms=0).count == 1
    assert authenticity(on_a_line(50, 53, 140), on_a_line(46)).count == 0
    assert authenticity(on_a_line(50, 53), on_a_line(46)).count == 1  # all are duplicates
