"""The verifiers that come with the system: choices, words, free text and numbers, each pure and strict."""

from __future__ import annotations

from functools import lru_cache

from data.errors import DataError
from data.records import Question
from reward_service.choices import choose, choose_several
from reward_service.normal import normal
from reward_service.quantities import judge_quantity
from reward_service.verdict import KEPT_ANSWER_CHARS, Verdict


def unreadable(reason: str, answer: str) -> Verdict:
    """An answer that has not the form that was asked for."""
    return Verdict(correct=False, reason=reason, answer=answer[:KEPT_ANSWER_CHARS], readable=False)


def judged(correct: bool, answer: str) -> Verdict:
    """An answer in the right form."""
    return Verdict(correct=correct, reason="correct" if correct else "wrong", answer=answer)


class ChoiceVerifier:
    """Multiple choice with one right option, 2 to 26 of them (`reward_service/choices.py`)."""

    version = "mcq-strict/3"

    def verify(self, question: Question, answer: str) -> Verdict:
        choice = choose(answer, question)
        if choice.reason != "ok":
            return unreadable(choice.reason, answer)
        return judged(choice.label == question.answer_label, choice.label)


class SeveralVerifier:
    """Multiple choice with several right options: exactly this set, in any order. No credit for a part of it."""

    version = "several-strict/2"

    def verify(self, question: Question, answer: str) -> Verdict:
        choice = choose_several(answer, question)
        if choice.reason != "ok":
            return unreadable(choice.reason, answer)
        return judged(
            set(choice.labels) == set(question.answer_labels or (question.answer_label,)), ", ".join(choice.labels)
        )


class YesNoMaybeVerifier:
    """ "yes", "no" or "maybe", one of them (PubMedQA). With options, their letters do as well."""

    version = "yes-no-maybe/2"

    def verify(self, question: Question, answer: str) -> Verdict:
        if question.options:
            return ChoiceVerifier().verify(question, answer)
        true = normal(question.answer_text)
        if true not in ("yes", "no", "maybe"):  # otherwise every completion would be wrong
            raise DataError(
                f"the accepted answer {question.answer_text[:80]!r} is not yes, no or maybe", remedy="write one of them"
            )
        if len(answer) > KEPT_ANSWER_CHARS:
            return unreadable("not_an_option", answer)
        said = normal(answer)
        if said not in ("yes", "no", "maybe"):
            words = set("".join(c if c.isalnum() else " " for c in said).split())
            return unreadable("hedged" if len(words & {"yes", "no", "maybe"}) > 1 else "not_an_option", answer)
        return judged(said == true, said)


@lru_cache(maxsize=4096)
def _accepted(truths: tuple[str, ...]) -> frozenset[str]:
    return frozenset(normal(truth) for truth in truths) - {""}


class TextVerifier:
    """Free text: exactly one of the accepted answers that travel in the question, case and white space apart."""

    version = "text-exact/2"

    def verify(self, question: Question, answer: str) -> Verdict:
        truths = (question.answer_text, *question.accepted_answers)
        accepted = _accepted(truths)
        if not accepted:
            raise DataError(
                f"the accepted answers {truths!r:.80} say nothing once normalised",
                remedy="give a text with a word in it",
            )
        if len(answer) > 2 * max(len(truth) for truth in truths) + 64:
            return judged(False, answer[:KEPT_ANSWER_CHARS])
        return judged(normal(answer) in accepted, answer[:KEPT_ANSWER_CHARS])


class NumberVerifier:
    """A number with its unit, converted and compared to the precision of the truth (`reward_service/quantities.py`)."""

    version = "number-pint/3"

    def __init__(self, tolerance: float | None) -> None:
        self._tolerance = tolerance

    def verify(self, question: Question, answer: str) -> Verdict:
        said = judge_quantity(answer, question.answer_text, self._tolerance)
        if said.reason in ("correct", "wrong"):
            return judged(said.reason == "correct", said.answer)
        return unreadable(said.reason, answer)
