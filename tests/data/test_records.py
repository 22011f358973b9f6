"""Questions refuse to exist without a truth."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from data.errors import DataError
from data.records import Question
from tests.data.examples import MARFAN

OPEN: dict[str, Any] = {"source": "t", "language": "en", "stem": "Which?", "options": (), "answer_label": ""}


@pytest.mark.parametrize("labels", [("A", "C"), ("B", "E"), ("B", "B")])
def test_several_right_labels_are_options_and_hold_the_answer(labels: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="answer_labels"):
        dataclasses.replace(MARFAN, answer_labels=labels)


def test_a_question_without_options_needs_a_verifier_and_a_truth() -> None:
    with pytest.raises(DataError, match="options has 0"):
        Question(**OPEN, accepted_answers=("5 mg",))
    with pytest.raises(DataError, match="accepted_answers is empty"):
        Question(**OPEN, verifier="number", accepted_answers=(" ",))
    with pytest.raises(DataError, match="answer labels and no options"):
        Question(**{**OPEN, "answer_label": "A"}, verifier="number", accepted_answers=("5 mg",))


def test_the_truth_of_an_open_question_is_part_of_its_id() -> None:
    one, other = (Question(**OPEN, verifier="number", accepted_answers=(truth,)) for truth in ("5 mg", "6 mg"))
    assert one.id != other.id and one.target == "5 mg"


def test_the_id_of_a_plain_question_has_not_moved() -> None:
    assert MARFAN.id == "393c982f23993669"
