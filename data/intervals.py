"""How sure a measured share is: Wilson's score interval."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(right: float, trials: float) -> tuple[float, float]:
    """Wilson's 95 % score interval (Wilson 1927), in [0, 1], of the share ``right / trials``; (0, 1) without trials.

    Args:
        right: successes among ``trials`` independent ones. Neither need be a whole number: a tie may count as half a
            hit, and samples that depend on each other as fewer than they are.

    Example: ``wilson_interval(0, 300)`` is about (0, 0.0126).
    """
    if not trials:
        return 0.0, 1.0
    rate, z2 = right / trials, Z_95 * Z_95
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    # At the ends the bound is exact; rounding must not push it off by a bit.
    return (0.0 if rate == 0.0 else centre - half), (1.0 if rate == 1.0 else centre + half)
