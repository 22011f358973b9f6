"""Strict reading of ``<think>...</think><answer>X</answer>``, in linear time and without regular expressions.

Each tag exactly once, in this order, with nothing but white space outside. What the completion then says is mapped to
one option or refused with a reason: an answer that names several options, or a letter and the text of another option,
is no answer. The choice of what counts is ours; the paper only says that the answer stands in ``<answer></answer>``.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

from data.records import Question

THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE = TAGS = ("<think>", "</think>", "<answer>", "</answer>")

FormatReason = Literal["ok", "too_long", "missing", "repeated", "order", "outside", "no_reasoning", "empty"]
ChoiceReason = Literal["ok", "not_an_option", "several_letters", "conflict"]

_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_AFTER_LABEL = ".:)-,"
_CONNECTORS = frozenset({"or", "and", "either", "both"})


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The parts of a completion. ``reason`` is "ok" when the format holds; otherwise both parts are empty."""

    reason: FormatReason
    reasoning: str = ""
    answer: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The option that an answer names. ``reason`` is "ok" when there is exactly one; otherwise ``label`` is empty."""

    reason: ChoiceReason
    label: str = ""


def extract(text: str, max_chars: int) -> Extraction:
    """Split a completion into reasoning and answer.

    A completion longer than ``max_chars`` is malformed by definition, which bounds the work. Empty reasoning is
    malformed too: the format asks for reasoning, and its reward must not be had without any.
    """
    if len(text) > max_chars:
        return Extraction(reason="too_long")
    counts = [text.count(tag) for tag in TAGS]
    if 0 in counts:
        return Extraction(reason="missing")
    if max(counts) > 1:
        return Extraction(reason="repeated")
    think_open, think_close, answer_open, answer_close = (text.index(tag) for tag in TAGS)
    if not think_open < think_close < answer_open < answer_close:
        return Extraction(reason="order")
    outside = (
        text[:think_open]
        + text[think_close + len(THINK_CLOSE) : answer_open]
        + text[answer_close + len(ANSWER_CLOSE) :]
    )
    if outside.strip():
        return Extraction(reason="outside")
    reasoning = text[think_open + len(THINK_OPEN) : think_close].strip()
    answer = text[answer_open + len(ANSWER_OPEN) : answer_close].strip()
    if not reasoning:
        return Extraction(reason="no_reasoning")
    if not answer:
        return Extraction(reason="empty")
    return Extraction(reason="ok", reasoning=reasoning, answer=answer)


def choose(answer: str, question: Question) -> Choice:
    """Which option ``answer`` names: by letter, by letter with its own text, or by its exact text or a synonym.

    A letter wins over a text (options may be called "A: Type B"): the prompt asks for the letter. Text is compared
    without regard to case, white space and a final full stop, but letter by letter: look-alikes from other alphabets
    do not match.
    """
    # Canonical ordering of combining marks is quadratic in Python: nothing much longer than an option is normalised.
    texts = [option.text for option in question.options] + list(question.accepted_answers)
    if len(answer) > 2 * max(len(text) for text in texts) + 64:
        return Choice(reason="not_an_option")
    labels = {option.label for option in question.options}
    label = _as_label(answer, labels)
    if label:
        return Choice(reason="ok", label=label)
    named = _by_text(answer, question)
    if len(named) == 1:
        return Choice(reason="ok", label=named.pop())
    head, rest = _split_label(answer, labels)
    if head:
        return _letter_and_text(head, rest, question, labels)
    return Choice(reason="several_letters" if _lists_labels(answer, labels) or named else "not_an_option")


def _letter_and_text(head: str, rest: str, question: Question, labels: set[str]) -> Choice:
    named = _by_text(rest, question)
    if named == {head}:
        return Choice(reason="ok", label=head)
    if named:
        return Choice(reason="conflict")
    return Choice(reason="several_letters" if _lists_labels(f"{head} {rest}", labels) else "not_an_option")


def _as_label(text: str, labels: set[str]) -> str:
    """The label that ``text`` is, bare or as "A.", "A)", "(A)"; "" when it is none."""
    bare = text.strip()
    if len(bare) > 2 and _BRACKETS.get(bare[0]) == bare[-1]:
        bare = bare[1:-1].strip()
    for candidate in (bare, bare[:-1].rstrip() if bare[-1:] in (".", ":", ")") else ""):
        if candidate in labels:
            return candidate
        # Upper-casing may turn a look-alike (the Kelvin sign, a long s) into a letter, so only plain ASCII gets it.
        if candidate.isascii() and candidate.upper() in labels:
            return candidate.upper()
    return ""


def _split_label(text: str, labels: set[str]) -> tuple[str, str]:
    """("A", "Arachnodactyly") of "A. Arachnodactyly", "(A) Arachnodactyly"; ("", "") without a label in front."""
    if text[:1] in _BRACKETS:
        end = text.find(_BRACKETS[text[0]])
        label = _as_label(text[1:end], labels) if end > 0 else ""
        return (label, text[end + 1 :].lstrip(_AFTER_LABEL + " ")) if label else ("", "")
    length = next((i for i, char in enumerate(text) if char.isspace() or char in _AFTER_LABEL), len(text))
    label = _as_label(text[:length], labels)
    rest = text[length:].lstrip(_AFTER_LABEL + " \t\n")
    return (label, rest) if label and rest else ("", "")


def _by_text(text: str, question: Question) -> set[str]:
    """Labels of the options whose text is ``text``; a synonym of the answer counts as its text."""
    wanted = _normal(text)
    named = {option.label for option in question.options if _normal(option.text) == wanted}
    if wanted in {_normal(synonym) for synonym in question.accepted_answers}:
        named.add(question.answer_label)
    return named


def _lists_labels(text: str, labels: set[str]) -> bool:
    """True for "A or B", "A, B", "A/B", "AB": several labels and nothing else."""
    words = "".join(char if char.isalnum() else " " for char in text).split()
    found: set[str] = set()
    for word in words:
        if word.upper() in labels:
            found.add(word.upper())
        elif len(word) > 1 and all(char in labels for char in word):
            found.update(word)
        elif word.lower() not in _CONNECTORS:
            return False
    return len(found) > 1


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).removesuffix(".")
