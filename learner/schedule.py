"""The learning rate of each optimiser step. Pure: it has no state to save or to lose."""

from __future__ import annotations

import math

from learner.config import OptimizerConfig


def learning_rate_at(optimizer: OptimizerConfig, step: int, total_steps: int) -> float:
    """Rate of optimiser step ``step`` (from 0) out of ``total_steps``.

    The warm-up rises linearly and reaches the peak in its last step; then the schedule falls to (nearly) zero at
    ``total_steps``, or stays. Steps beyond ``total_steps`` keep the last rate.
    """
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return optimizer.learning_rate
    length = max(1, total_steps - optimizer.warmup_steps)
    progress = min(step - optimizer.warmup_steps, length - 1) / length
    if optimizer.schedule == "linear":
        return optimizer.learning_rate * (1.0 - progress)
    return optimizer.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
