"""Learning-rate schedules."""

from __future__ import annotations

import pytest

from learner.config import OptimizerConfig
from learner.schedule import learning_rate_at


def rates(schedule: str, warmup: int, total: int) -> list[float]:
    optimizer = OptimizerConfig.model_validate({"learning_rate": 1.0, "schedule": schedule, "warmup_steps": warmup})
    return [learning_rate_at(optimizer, step, total) for step in range(total + 2)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_in_equal_steps_to_the_peak(schedule: str) -> None:
    assert rates(schedule, 4, 10)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_constant_stays() -> None:
    assert rates("constant", 0, 5) == [1.0] * 7


def test_linear_falls_evenly_and_never_reaches_zero_in_a_step() -> None:
    assert rates("linear", 0, 4) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.25, 0.25])


def test_cosine_is_half_way_in_the_middle() -> None:
    falling = rates("cosine", 2, 12)
    assert falling[7] == pytest.approx(0.5)
    assert all(a > b for a, b in zip(falling[2:12], falling[3:12], strict=False))
