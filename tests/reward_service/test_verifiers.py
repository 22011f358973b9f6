"""The verifiers of words, free text and several choices."""

from __future__ import annotations

import dataclasses

import pytest

from data.records import Option, Question
from reward_service.config import RewardConfig
from reward_service.reward import score_text, verifier_version
from reward_service.verdict import VerificationError
from reward_service.verifiers import TextVerifier, YesNoMaybeVerifier
from tests.data.examples import MARFAN
from tests.reward_service.examples import answered, open_question

CONFIG = RewardConfig()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("maybe", "correct"),
        ("Maybe.", "correct"),
        ("yes", "wrong"),
        ("yes or no", "hedged"),
        ("yes, maybe", "hedged"),
        ("yesmaybe", "not_an_option"),
        ("perhaps", "not_an_option"),
        ("maybe" * 1000, "not_an_option"),
        ("mаybe", "not_an_option"),  # Cyrillic a
    ],
)
def test_yes_no_maybe(answer: str, reason: str) -> None:
    assert YesNoMaybeVerifier().verify(open_question("yes_no_maybe", "maybe"), answer).reason == reason


@pytest.mark.parametrize(
    ("verifier", "truths"),
    [
        ("yes_no_maybe", ["Yes, definitely"]),
        ("yes_no_maybe", ["Y"]),
        ("text", ["."]),
        ("text", [".", " . "]),
    ],
)
@pytest.mark.parametrize("answer", ["yes", "x" * 500])
def test_a_truth_that_no_answer_can_meet_is_a_fault_of_the_data(verifier: str, truths: list[str], answer: str) -> None:
    """Otherwise every completion of the question would be wrong, and nobody would know."""
    with pytest.raises(VerificationError, match="DataError: the accepted answer"):
        score_text(open_question(verifier, *truths), answered(answer), CONFIG)


def test_yes_no_maybe_with_options_takes_letter_or_word() -> None:
    options = tuple(Option(label=a, text=t) for a, t in zip("ABC", ("yes", "no", "maybe"), strict=True))
    question = Question(
        source="pubmedqa", language="en", stem="Does it?", options=options, answer_label="B", verifier="yes_no_maybe"
    )
    assert [score_text(question, answered(a), CONFIG).reason for a in ("B", "no", "B. no", "yes", "B. yes")] == [
        "correct", "correct", "correct", "wrong", "conflict",
    ]  # fmt: skip


def test_free_text_is_one_of_the_accepted_answers_and_nothing_near() -> None:
    question = open_question("text", "Marfan syndrome", "Marfan's syndrome", "")
    verify = TextVerifier().verify
    assert all(verify(question, a).correct for a in ("marfan  syndrome.", "MARFAN'S SYNDROME"))
    near = [
        "Marfan",
        "not Marfan syndrome",
        "Marfan syndrome or Loeys-Dietz syndrome",
        ".",
        "Mаrfan syndrome",
        "x" * 10**6,
    ]
    assert not any(verify(question, a).correct for a in near)


def test_several_right_options_are_all_or_nothing() -> None:
    question = dataclasses.replace(MARFAN, answer_labels=("B", "D"))
    assert verifier_version(question, CONFIG) == "several-strict/2"
    said = {a: score_text(question, answered(a), CONFIG).reason for a in ("D, B", "B", "A, B, C, D", "B or D")}
    assert said == {"D, B": "correct", "B": "wrong", "A, B, C, D": "wrong", "B or D": "hedged"}
