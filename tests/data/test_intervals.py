"""Wilson's interval against published values and its own equation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.intervals import Z_95, wilson_interval


def test_wilson_interval_of_published_values() -> None:
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29.
    published = ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718))
    for right, trials, low, high in published:
        assert wilson_interval(right, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_bounds_solve_wilsons_equation(counts: tuple[int, int]) -> None:
    right, trials = counts
    for bound in wilson_interval(right, trials):
        spread = Z_95**2 * bound * (1 - bound) / trials
        assert math.isclose((right / trials - bound) ** 2, spread, rel_tol=1e-6, abs_tol=1e-12) or bound in (0.0, 1.0)


def test_the_ends_are_exact_and_nothing_says_nothing() -> None:
    assert wilson_interval(0, 300)[0] == 0.0 and wilson_interval(300, 300)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(4.5, 9.0)  # a tie is half a hit
    assert wilson_interval(4, 9)[0] < low < 0.5 < high < wilson_interval(5, 9)[1]
