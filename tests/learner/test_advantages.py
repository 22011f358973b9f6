"""Group-centred advantages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.advantages import group_advantages

rewards = st.lists(st.floats(-10, 10), min_size=0, max_size=16)


@given(rewards)
def test_differ_from_the_rewards_by_one_constant_and_sum_to_zero(values: list[float]) -> None:
    advantages = group_advantages(values)
    assert len(advantages) == len(values)
    if len(values) > 1:
        np.testing.assert_allclose(np.array(values) - np.array(advantages), np.mean(values), atol=1e-12)
    assert sum(advantages) == pytest.approx(0.0, abs=1e-12)


@given(rewards.filter(lambda r: len(r) > 1 and max(r) - min(r) > 1e-6), st.floats(0.1, 10))
def test_scale_with_the_rewards(values: list[float], factor: float) -> None:
    """Dividing by the standard deviation would make them deaf to the scale."""
    scaled = group_advantages([factor * value for value in values])
    np.testing.assert_allclose(scaled, factor * np.array(group_advantages(values)), rtol=1e-9, atol=1e-9)


def test_hand_made_groups() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 0.0]) == (0.75, -0.25, -0.25, -0.25)
    assert group_advantages([0.1] * 7) == (0.0,) * 7  # exactly, although fsum of 0.1 / 7 rounds
    assert group_advantages([1.1]) == (0.0,)
    assert group_advantages([]) == ()
