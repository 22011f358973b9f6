"""Group-centred advantages (paper, eq. 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def centred_advantages(rewards: Sequence[float]) -> tuple[float, ...]:
    """``A_i = r_i - mean_j r_j`` over the completions left in one group; no division by the standard deviation.

    Example: ``centred_advantages([1.0, 0.0]) == (0.5, -0.5)``. A group of one has nothing to be compared with:
    ``(0.0,)``. Equal rewards give exact zeros, which a mean rounded in floating point would not.
    """
    if len(set(rewards)) <= 1:
        return (0.0,) * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    return tuple(reward - mean for reward in rewards)
