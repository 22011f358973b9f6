"""The attack suite: no hostile completion earns correctness, and honest ones still do."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from reward_service.config import RewardConfig
from reward_service.reward import score_text
from tests.reward_service.attack_suite import QUESTIONS, RIGHT, build, load

ATTACKS = load()
CONFIG = RewardConfig()
UNBOUNDED = RewardConfig(max_text_chars=10**9)
FAMILIES = {
    "empty", "hedging", "all letters", "repeated tags", "nested tags", "tags in the reasoning", "broken tags",
    "answer only in the reasoning", "text outside", "look-alike Unicode", "invisible marks", "prompt repeated",
    "option text with a wrong letter", "near the option text", "instructions to the judge", "other languages",
    "options of the same letters", "several right options", "yes, no, maybe", "numbers", "free text", "huge",
}  # fmt: skip


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row["family"].replace(" ", "-"))
def test_a_hostile_completion_earns_no_correctness(row: dict[str, str]) -> None:
    score = score_text(QUESTIONS[row["question"]], build(row), CONFIG)
    assert (score.correct, score.reason) == (0.0, row["reason"])
    assert score.reward == (CONFIG.format_weight if score.reason == "wrong" else 0.0)


@pytest.mark.parametrize("row", [row for row in ATTACKS if row["family"] == "huge"], ids=lambda row: row["repeat"][:8])
def test_without_the_bound_on_length_it_earns_none_either_and_takes_no_time(row: dict[str, str]) -> None:
    text = build(row)
    begun = time.process_time()
    assert score_text(QUESTIONS[row["question"]], text, UNBOUNDED).correct == 0.0
    assert time.process_time() - begun < 1.0


def test_the_suite_is_as_large_and_as_broad_as_it_says() -> None:
    assert len({(row["question"], build(row)) for row in ATTACKS}) >= 300
    assert Counter(row["family"] for row in ATTACKS).keys() == FAMILIES


@pytest.mark.parametrize("kind", QUESTIONS)
def test_an_honest_answer_earns_all_of_it(kind: str) -> None:
    text = f"<think>It follows.</think>\n<answer>{RIGHT[kind]}</answer>"
    assert score_text(QUESTIONS[kind], text, CONFIG).reward == CONFIG.correct_weight + CONFIG.format_weight
