"""The reward: two parts, the format first, nothing for what was cut off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.records import Score
from reward_service.config import RewardConfig
from reward_service.reward import VERIFIER_VERSION, score_completion, score_group, score_text
from tests.data.examples import MARFAN, completion, group

CONFIG = RewardConfig(correct_weight=2.0, format_weight=0.5)


def test_right_wrong_and_malformed() -> None:
    right = score_text(MARFAN, "<think>x</think><answer>B</answer>", CONFIG)
    assert right == Score(correct=1.0, format=1.0, reward=2.5, reason="correct", answer="B")
    wrong = score_text(MARFAN, "<think>x</think><answer>A. Cataplexy</answer>", CONFIG)
    assert wrong == Score(correct=0.0, format=1.0, reward=0.5, reason="wrong", answer="A")
    bare = score_text(MARFAN, "B", CONFIG)
    assert bare == Score(correct=0.0, format=0.0, reward=0.0, reason="missing")


@pytest.mark.parametrize(
    "text",
    [
        "<think>x</think><answer></answer>",
        "<think>x</think><answer>A or B</answer>",
        "<think>x</think><answer>A</answer><answer>B</answer>",
        "<think>the answer is <answer>B</answer></think>",
        "<think>x</think>Arachnodactyly<answer>B</answer>",
        "<think>x</think><answer>B. Cataplexy</answer>",
        "<think>x</think><answer>\u0412</answer>",
        "<think>x</think><answer>A B C D</answer>",
        "<think></think><answer>B</answer>",
    ],
)
def test_hacks_earn_nothing(text: str) -> None:
    score = score_text(MARFAN, text, CONFIG)
    assert (score.reward, score.correct, score.format) == (0.0, 0.0, 0.0)


def test_cut_off_completions_never_earn() -> None:
    text = "<think>x</think><answer>B</answer>"
    assert score_completion(MARFAN, completion(text), CONFIG).reward == 2.5
    cut = score_completion(MARFAN, completion(text, finish="length"), CONFIG)
    assert (cut.reward, cut.reason) == (0.0, "truncated")


def test_text_beyond_the_bound_is_malformed() -> None:
    text = "<think>x</think><answer>B</answer>"
    assert score_text(MARFAN, text, RewardConfig(max_text_chars=len(text))).reason == "correct"
    assert score_text(MARFAN, text, RewardConfig(max_text_chars=len(text) - 1)).reason == "too_long"


def test_group_is_scored_in_order() -> None:
    scored = score_group(group("B", "<think>x</think><answer>B</answer>", "<think>x</think><answer>C</answer>"), CONFIG)
    assert [s.reason for s in scored.scores] == ["missing", "correct", "wrong"]
    assert scored.verifier_version == VERIFIER_VERSION and scored.has_signal


@given(st.text(max_size=200), st.text(max_size=40))
def test_any_text_gets_a_score_and_only_the_right_letter_is_correct(outside: str, answer: str) -> None:
    for text in (outside, f"<think>x</think><answer>{answer}</answer>"):
        score = score_text(MARFAN, text, CONFIG)
        assert score.reward in (0.0, 0.5, 2.5)
        assert score.correct <= score.format
        assert (score.correct == 1.0) == (score.reason == "correct") == (score.answer == "B" and score.format == 1.0)
