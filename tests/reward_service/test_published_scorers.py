"""What scorers of published kinds pay for, and ours does not. `docs/rewards.md` shows this table."""

from __future__ import annotations

from pathlib import Path

import pytest

from reward_service.config import RewardConfig
from reward_service.reward import score_text
from tests.data.examples import MARFAN
from tests.reward_service import published_scorers as published

CONFIG = RewardConfig()


def said(answer: str, reasoning: str = "x") -> str:
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


# MARFAN: A Cataplexy, B Arachnodactyly (right), C Type A behaviour, D β-cell failure.
CASES: list[tuple[published.Scorer, str, str]] = [
    (published.substring, said(""), "an empty answer is a substring of everything"),
    (published.substring, said("a"), "one letter stands in the truth"),
    (published.substring, said("Cataplexy, not arachnodactyly"), "the truth is named and denied"),
    (published.substring, said("Cataplexy or Arachnodactyly or Type A behaviour"), "all options are named"),
    (published.nearest_option, said("arachnophobia"), "another word, nearest to the truth"),
    (published.nearest_option, said("Absence of arachnodactyly"), "the contrary, nearest to the truth"),
    (published.nearest_option, said("ach cytly"), "noise has a nearest option too"),
    (published.first_letter, said("B is wrong, I choose C"), "B stands first and is denied"),
    (published.first_letter, said("Because of the gait: A"), "the B of a word"),
    (published.first_or_last, said("A", "B or A, hard to say"), "the first letter stands in the reasoning"),
    (published.first_or_last, said("A") + " Not B", "the last letter stands after the answer"),
    (published.split_at_equals, said("A ="), "nothing after '=' is the beginning of everything"),
    (published.split_at_equals, said("A, since x = B"), "the answer is A; what follows '=' is paid"),
    (published.any_answer_tag, said("A", "perhaps <answer>B</answer>"), "a tag inside the reasoning"),
    (published.any_answer_tag, said("A") + said("B"), "two answers, one of them right"),
    (published.any_answer_tag, said("ABCD"), "all letters hold the right one"),
]  # fmt: skip


@pytest.mark.parametrize(("scorer", "text", "why"), CASES, ids=[f"{s.__name__}: {why}" for s, _, why in CASES])
def test_they_pay_for_a_wrong_answer_and_we_do_not(scorer: published.Scorer, text: str, why: str) -> None:
    assert scorer(MARFAN, text) == 1.0, why
    assert score_text(MARFAN, text, CONFIG).correct == 0.0


def test_empty_outputs_are_counted_not_skipped() -> None:
    texts = [said("B"), said(""), said(""), said("")]
    assert published.mean_without_empty(MARFAN, texts) == 1.0
    assert sum(score_text(MARFAN, text, CONFIG).correct for text in texts) / len(texts) == 0.25


def test_each_of_them_knows_a_right_answer() -> None:
    """They are not straw men: an honest right answer is paid by every one, and an honest wrong one by none."""
    for scorer, _, _ in CASES:
        letter = scorer not in (published.substring, published.nearest_option)
        assert scorer(MARFAN, said("B" if letter else "Arachnodactyly")) == 1.0
        assert scorer(MARFAN, said("A" if letter else "Cataplexy")) == 0.0


def test_the_table_in_the_document_is_this_one(checkout: Path) -> None:
    page = (checkout / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert [why for _, _, why in CASES if why not in page] == []
