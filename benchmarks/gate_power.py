"""How often a gate decides, computed exactly: the table in docs/statistics.md.

    python benchmarks/gate_power.py

No simulation: the number of copies after n images is followed through all n, and what a verdict
stops is taken out. Takes about half a minute.
"""

import math
from collections.abc import Iterator

import numpy as np

from memaudit.audit.statistics.gate import log_e_values

FIRST_LOOK = 64
"""The default of --min-samples."""
HORIZON = 10_000
"""The default of --samples."""
CONFIDENCE = 0.95
TRUTHS = {
    0.001: (0.00001, 0.0003, 0.0006, 0.001, 0.0015, 0.002, 0.005, 0.01),
    0.01: (0.0001, 0.003, 0.006, 0.01, 0.012, 0.015, 0.02, 0.05),
}
"""True ratios for each limit."""


def boundaries(limit: float, horizon: int) -> Iterator[tuple[int, int, int]]:
    """n, the most copies with which n images pass (-1 for none), and the fewest with which they
    fail. Both never fall as n grows."""
    required = -math.log1p(-CONFIDENCE)
    passing, failing = -1, 1
    for n in range(1, horizon + 1):
        while log_e_values(passing + 1, n, limit=limit)[1] >= required:
            passing += 1
        while failing <= n and log_e_values(failing, n, limit=limit)[0] < required:
            failing += 1
        yield n, passing, failing


def power(
    limit: float, truths: tuple[float, ...], *, first_look: int = FIRST_LOOK, horizon: int = HORIZON
) -> list[tuple[float, float, int | None]]:
    """For each true ratio: chances of PASS and of FAIL by the horizon, and the median of the number
    of images sampled (None where fewer than half of the scans stop)."""
    size = 2 + max(failing for _, _, failing in boundaries(limit, horizon))
    chance = np.zeros((len(truths), size))  # of k copies, not yet decided
    chance[:, 0] = 1
    p = np.array(truths)[:, None]
    passed, failed = np.zeros(len(truths)), np.zeros(len(truths))
    median: list[int | None] = [None] * len(truths)
    for n, passing, failing in boundaries(limit, horizon):
        moved = np.pad(chance[:, :-1], ((0, 0), (1, 0))) * p
        moved[:, -1] += chance[:, -1] * p[:, 0]
        chance = chance * (1 - p) + moved
        if n < first_look:
            continue
        passed += chance[:, : passing + 1].sum(1)
        failed += chance[:, failing:].sum(1)
        chance[:, : passing + 1] = chance[:, failing:] = 0
        for row in range(len(truths)):
            if median[row] is None and passed[row] + failed[row] >= 0.5:
                median[row] = n
    return list(zip(passed.tolist(), failed.tolist(), median, strict=True))


def main() -> None:
    for limit, truths in TRUTHS.items():
        print(f"limit {limit:.1%}, first look at {FIRST_LOOK}, at most {HORIZON:,} images")
        for truth, (passed, failed, median) in zip(truths, power(limit, truths), strict=True):
            half = "-" if median is None else f"{median:,}"
            print(f"  true {truth:8.3%}  PASS {passed:6.1%}  FAIL {failed:6.1%}  half by {half}")


if __name__ == "__main__":
    main()
