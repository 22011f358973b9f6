"""Lenient reading of an answer, for evaluation only: what did the model mean, had it not been asked for a format?

Never for rewards: every rule here can be gamed. A base model that does not know the tags is measured with it, beside
the strict score and never instead of it. Linear time; no rule guesses from the first letter found or a near text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data.records import Question
from reward_service.choices import choose, choose_several
from reward_service.extraction import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, extract

LenientRule = Literal["strict", "answer_tag", "boxed", "phrase", "whole", "none"]
_PHRASES = ("answer is", "answer:", "answer：", "答案是", "答案为", "答案：", "答案:", "选")
_TAIL_CHARS = 2_000


@dataclass(frozen=True, kw_only=True)
class LenientChoice:
    """The labels that were read, and the rule that read them; no label with rule "none"."""

    rule: LenientRule
    labels: tuple[str, ...] = ()


def lenient_choice(text: str, question: Question) -> LenientChoice:
    """The option or options that a completion means. The strict reading first, then the **last** answer tag, the last
    ``\\boxed{}``, the last phrase like "the answer is", and last the whole text after the reasoning.

    Example: ``lenient_choice("So the answer is B.", question).labels == ("B",)``.
    """
    parts = extract(text, len(text))
    if parts.reason == "ok" and (found := _labels(parts.answer, question)):
        return LenientChoice(rule="strict", labels=found)
    opened = text.rfind(ANSWER_OPEN)
    if opened >= 0:
        inside = text[opened + len(ANSWER_OPEN) :].partition(ANSWER_CLOSE)[0]
        if found := _labels(inside, question):
            return LenientChoice(rule="answer_tag", labels=found)
    # Only the end of a long text can hold its answer.
    tail = text.rpartition(THINK_CLOSE)[2][-_TAIL_CHARS:]
    boxed = tail.rpartition("\\boxed{")
    if boxed[1] and (found := _labels(boxed[2].partition("}")[0].removeprefix("\\text{"), question)):
        return LenientChoice(rule="boxed", labels=found)
    lowered = tail.lower()
    ends = [at + len(phrase) for phrase in _PHRASES if (at := lowered.rfind(phrase)) >= 0]
    # Lower-casing may lengthen a text (İ); then its places are not those of the original.
    if ends and len(lowered) == len(tail):
        said = tail[max(ends) :].strip().splitlines()
        if said and (found := _labels(said[0].strip().strip("*").strip(), question)):
            return LenientChoice(rule="phrase", labels=found)
    if found := _labels(tail.strip(), question):
        return LenientChoice(rule="whole", labels=found)
    return LenientChoice(rule="none")


def _labels(said: str, question: Question) -> tuple[str, ...]:
    if question.answer_labels:
        return choose_several(said, question).labels
    return choose(said, question).labels
