"""Fuzzing by hypothesis: no completion crashes the scorer, and verdicts are stable under white space and permutation.

The same properties, coverage-guided and over a million completions: `tests/soak/test_reward_fuzz.py`.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reward_service.fuzzing import PIECES, check

PARTS = st.one_of(st.sampled_from(PIECES), st.text(max_size=8), st.characters())


@settings(max_examples=2_000)
@given(st.lists(PARTS, max_size=14).map("".join), st.integers(0, 2**16))
def test_any_mixture_of_tags_letters_and_noise(text: str, seed: int) -> None:
    check(text, seed)


@settings(max_examples=2_000)
@given(st.lists(PARTS, max_size=8).map("".join), st.integers(0, 2**16))
def test_any_answer_in_the_strict_format(answer: str, seed: int) -> None:
    check(f"<think>x</think><answer>{answer}</answer>", seed)
