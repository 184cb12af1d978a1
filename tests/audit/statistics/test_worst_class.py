"""The verdict on the worst class, against each class's own gate and against simulation."""

import math

import numpy as np
import pytest

from memaudit.audit.statistics.gate import exact_decision, log_e_values, sequential_decision
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.statistics.worst_class import judge_worst_class


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("counts", [(0, 50), (2, 400), (0, 500), (30, 400)])
def test_one_class_is_judged_as_the_gate_judges_it(counts: tuple[int, int], sequential: bool):
    found = judge_worst_class({3: counts}, limit=0.01, sequential=sequential)
    decide = sequential_decision if sequential else exact_decision
    wanted = decide(*counts, limit=0.01)
    assert found.verdict == wanted.verdict
    assert (found.evidence_above, found.evidence_below) == (
        wanted.evidence_above,
        wanted.evidence_below,
    )
    assert found.required_above == found.required_below == wanted.required
    assert found.worst == 3


def test_a_class_fails_at_a_level_corrected_for_their_number():
    alone = judge_worst_class({0: (10, 400)}, limit=0.01, sequential=False)
    among = judge_worst_class(
        {0: (10, 400)} | {c: (0, 400) for c in range(1, 60)}, limit=0.01, sequential=False
    )
    assert alone.verdict == "FAIL" and among.verdict == "INCONCLUSIVE"
    assert among.worst == 0
    assert among.required_above == pytest.approx(math.log(60 / 0.05))


def test_holms_later_steps_name_more_classes_and_never_change_the_verdict():
    evidence = exact_decision(9, 400, limit=0.01).evidence_above
    needed = [math.log(k / 0.05) for k in (1, 2)]
    assert needed[0] < evidence < needed[1] + 1
    found = judge_worst_class({0: (40, 400), 1: (10, 400)}, limit=0.01, sequential=False)
    assert found.failing == (0, 1)


def test_every_class_has_to_pass():
    passing = (0, 500)
    found = judge_worst_class({0: passing, 1: passing}, limit=0.01, sequential=True)
    assert found.verdict == "PASS" and found.undecided == ()
    found = judge_worst_class({0: passing, 1: (0, 40)}, limit=0.01, sequential=True)
    assert found.verdict == "INCONCLUSIVE" and found.undecided == (1,)
    found = judge_worst_class({0: passing, 1: (0, 0)}, limit=0.01, sequential=True)
    assert found.verdict == "INCONCLUSIVE" and found.undecided == (1,)
    nothing = judge_worst_class({0: (0, 0)}, limit=0.01, sequential=False)
    assert nothing.worst is None and nothing.verdict == "INCONCLUSIVE"
    with pytest.raises(ValueError, match="no classes"):
        judge_worst_class({}, limit=0.01, sequential=True)


@pytest.mark.parametrize("num_classes", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_either_wrong_verdict_has_a_chance_of_at_most_alpha_over_all_looks(num_classes: int):
    """Every class at the limit fails with at most α; one at the limit among clean ones passes with
    at most α, however often one looks."""
    rng = np.random.default_rng(0)
    limit, looks, runs = 0.05, 400, 400
    required = -math.log(0.05)
    failed = passed = 0
    for _ in range(runs):
        hits = (rng.random((looks, num_classes)) < limit).cumsum(0)  # one image per class and look
        totals = np.broadcast_to(np.arange(1, looks + 1)[:, None], hits.shape)
        above, below = log_e_values(hits, totals, limit=limit)
        failed += bool((above.max(1) >= required + math.log(num_classes)).any())
        clean = hits.copy()
        clean[:, 1:] = 0
        below = log_e_values(clean, totals, limit=limit)[1]
        stops = np.flatnonzero((below >= required).all(1))
        passed += bool(len(stops))
        if len(stops):  # the function says the same at that look
            counts = {c: (int(clean[stops[0], c]), int(stops[0]) + 1) for c in range(num_classes)}
            assert judge_worst_class(counts, limit=limit, sequential=True).verdict == "PASS"
    for wrong in (failed, passed):
        assert clopper_pearson(wrong, runs, 0.999).low <= 0.05
