"""The logarithm of the incomplete beta function, even where the function underflows a float.

    I_x(a, b) = ∫₀ˣ p^(a−1) (1−p)^(b−1) dp / B(a, b)

Tails of binomial distributions and posteriors are values of it, and an audit of a million images
meets values far below 1e-308.
"""

import numpy as np
from scipy.special import betainc, betaincc, betaln

SMALLEST = 1e-290
"""Smaller values are computed as logarithms."""
CONVERGED = 1e-15
MAX_TERMS = 100_000


def log_betainc(a: np.ndarray | float, b: np.ndarray | float, x: float) -> np.ndarray:
    """ln I_x(a, b), the lower tail of Beta(a, b) at x.

    Args:
        a: > 0, a number or an array.
        b: > 0, of a's shape.
        x: in (0, 1).

    Returns:
        float64 of a's shape.

    Raises:
        ArithmeticError: the continued fraction does not converge.
    """
    return _log_tail(betainc(a, b, x), a, b, x, 1 - x)


def log_betaincc(a: np.ndarray | float, b: np.ndarray | float, x: float) -> np.ndarray:
    """ln (1 − I_x(a, b)), the upper tail of Beta(a, b) at x. Arguments as in `log_betainc`."""
    return _log_tail(betaincc(a, b, x), b, a, 1 - x, x)


def _log_tail(
    value: np.ndarray | float,
    a: np.ndarray | float,
    b: np.ndarray | float,
    x: float,
    complement: float,
) -> np.ndarray:
    """ln of `value` = I_x(a, b), from the continued fraction where it is nearly 0."""
    value, a, b = np.broadcast_arrays(value, a, b)
    logs = np.asarray(np.log(np.maximum(value, SMALLEST)))
    tiny = value < SMALLEST
    if tiny.any():
        a, b = a[tiny].astype(np.float64), b[tiny].astype(np.float64)
        leading = a * np.log(x) + b * np.log(complement) - np.log(a) - betaln(a, b)
        logs[tiny] = leading - np.log(_fraction(a, b, x))
    return logs


def _fraction(a: np.ndarray, b: np.ndarray, x: float) -> np.ndarray:
    """1 + d₁/(1 + d₂/(1 + …)), the reciprocal of I_x(a, b)·a·B(a, b) / (x^a (1−x)^b).

    DLMF 8.17.22, by the modified Lentz method; it converges if x < (a + 1)/(a + b + 2), that is in
    the lower tail.
    """
    value: np.ndarray = np.ones_like(a)
    C, D = np.ones_like(a), np.zeros_like(a)
    for n in range(1, MAX_TERMS):
        m = n // 2
        if n % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        C, D = 1 + d / C, 1 / (1 + d * D)
        value = value * C * D
        if (np.abs(C * D - 1) < CONVERGED).all():
            return value
    raise ArithmeticError(f"the incomplete beta function at x = {x} did not converge")
