"""Group advantages (paper, eq. 2 and 3), and the variant that divides by the standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from learner.config import Advantage

STD_EPSILON = 1e-4
"""Added to the standard deviation, as TRL does."""


def group_advantages(rewards: Sequence[float], kind: Advantage = "centred") -> tuple[float, ...]:
    """The advantages of the completions **left** in one group; the mean is over those.

    ``centred``       ``A_i = r_i - mean_j r_j`` (Fleming-R1, eq. 2 and 3; also Dr. GRPO, arXiv 2503.20783)
    ``standardised``  ``A_i = (r_i - mean_j r_j) / (std_j r_j + 1e-4)`` (GRPO, DeepSeekMath, arXiv 2402.03300, eq. 3),
                      with the unbiased standard deviation (over k - 1) and the epsilon of TRL. It gives groups that
                      are nearly all right or all wrong the largest steps, the bias that Dr. GRPO describes.

    Example: ``group_advantages([1.0, 0.0]) == (0.5, -0.5)``. A group of one has nothing to be compared with:
    ``(0.0,)``. Equal rewards give exact zeros, which a mean rounded in floating point would not.
    """
    if len(set(rewards)) <= 1:
        return (0.0,) * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    centred = tuple(reward - mean for reward in rewards)
    if kind == "centred":
        return centred
    variance = math.fsum(value * value for value in centred) / (len(rewards) - 1)
    return tuple(value / (math.sqrt(variance) + STD_EPSILON) for value in centred)
