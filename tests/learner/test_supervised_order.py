"""Which demonstrations a supervised step trains on."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from learner.supervised_loop import batch_indices


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
def test_every_epoch_shows_each_demonstration_once(count: int, batch_size: int, seed: int) -> None:
    steps = -(-3 * count // batch_size)
    order = [i for step in range(steps) for i in batch_indices(count, batch_size, step, seed)]
    assert len(order) == steps * batch_size
    for epoch in range(3):
        assert Counter(order[epoch * count : (epoch + 1) * count]) == Counter(range(count))


def test_seed_and_epoch_change_the_order() -> None:
    first = batch_indices(50, 50, 0, 1)
    assert first == batch_indices(50, 50, 0, 1)
    assert first != batch_indices(50, 50, 1, 1)
    assert first != batch_indices(50, 50, 0, 2)
