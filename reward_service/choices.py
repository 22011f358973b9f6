"""Which option an answer names, or which options: by letter, by letter with its own text, or by exact text.

An answer that names several options where one is asked for, or a letter with the text of another option, is no answer,
and says so with a reason. Nothing is guessed: no nearest text, no first letter, no substring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from data.records import Option, Question
from reward_service.normal import canonical, normal, tidy

ChoiceReason = Literal[
    "ok",
    "not_an_option",  # names no option
    "several_letters",  # "A, B", "ABCD": more than one option
    "hedged",  # "A or B": more than one option, in words
    "ambiguous",  # a text that is that of two options (AA and Aa, answered "aa")
    "conflict",  # a letter with the text of another option
    "repeated_letter",  # "A, A" where several are asked for
]

# Brackets and stops of Chinese text too: "（B）" and "B。" name one option as "(B)" and "B." do. A full-width letter is
# no label: it is another character than the one that was asked for.
_BRACKETS = {"(": ")", "[": "]", "{": "}", "（": "）", "【": "】", "「": "」"}
_AFTER_LABEL = ".:)-,。．：）、，"
_CLOSES_LABEL = ".:)。．：）"
_FORMS = (canonical, tidy, normal)
"""From the strictest to the loosest form in which an answer can be the text of an option."""
_HEDGES = frozenset(
    {"or", "and", "either", "both", "maybe", "perhaps", "possibly", "probably", "或", "或者", "和", "oder", "ou"}
)
_HEDGE_MARKS = (" or ", " and ", " and/or ", "/", ",", ";", "|", "、", "或", "和")
_LIST_SEPARATORS = str.maketrans(dict.fromkeys(",;/、，；&+|", " "))
_SPARE_CHARS = 64


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The options that an answer names, as labels in the order of the options. Empty unless ``reason`` is "ok"."""

    reason: ChoiceReason
    labels: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The one option named; "" when there is none or more than one."""
        return self.labels[0] if len(self.labels) == 1 else ""


@dataclass(frozen=True, kw_only=True)
class _Key:
    """What a question's options are called. ``by_text``: for each of `_FORMS`, texts in it to labels; ``longest`` text,
    in characters."""

    labels: tuple[str, ...]
    by_text: tuple[Mapping[str, frozenset[str]], ...]
    longest: int

    def named(self, text: str) -> frozenset[str]:
        """The labels of the options whose text this is, in the strictest form in which it is any: "AA" is AA and not
        Aa, and "aa" could be both."""
        for form, labels in zip(_FORMS, self.by_text, strict=True):
            found = labels.get(form(text))
            if found:
                return found
        return frozenset()


@lru_cache(maxsize=4096)
def _key(options: tuple[Option, ...], answer: str, synonyms: tuple[str, ...]) -> _Key:
    named = [(option.text, option.label) for option in options] + [(synonym, answer) for synonym in synonyms]
    by_text: list[dict[str, frozenset[str]]] = []
    for form in _FORMS:
        labels: dict[str, frozenset[str]] = {}
        for text, label in named:
            if normal(text):  # what says nothing matches nothing
                labels[form(text)] = labels.get(form(text), frozenset()) | {label}
        by_text.append(labels)
    return _Key(
        labels=tuple(option.label for option in options),
        by_text=tuple(by_text),
        longest=max(len(text) for text, _ in named),
    )


def _key_of(question: Question) -> _Key:
    # Synonyms are those of the one right answer; with several right options nobody knows whose they are.
    synonyms = () if question.answer_labels else question.accepted_answers
    return _key(question.options, question.answer_label, synonyms)


def choose(answer: str, question: Question) -> Choice:
    """The one option that ``answer`` names.

    A letter wins over a text (options may be called "A: Type B"): the prompt asks for the letter. A text that is
    exactly that of an option is this option, even when it reads like a hedge ("Both A and B").
    """
    key = _key_of(question)
    # Nothing much longer than an option is looked at: normalising is not linear in every text.
    if len(answer) > 2 * key.longest + _SPARE_CHARS:
        return Choice(reason="not_an_option")
    label = _as_label(answer, key.labels)
    if label:
        return Choice(reason="ok", labels=(label,))
    named = key.named(answer)
    if len(named) == 1:
        return Choice(reason="ok", labels=tuple(named))
    head, rest = _split_label(answer, key.labels)
    # One mark after the label belongs to it ("A. x", "A - x"), unless the option itself begins so ("-5 dioptres").
    for said in (rest, rest[1:].strip() if rest[:1] in _AFTER_LABEL else ""):
        named_by_rest = key.named(said) if head and said else frozenset()
        if named_by_rest == {head} or (head in named_by_rest and _is_exact(said, head, key)):
            return Choice(reason="ok", labels=(head,))
        if named_by_rest and not _as_label(said, key.labels):
            return Choice(reason="ambiguous" if head in named_by_rest else "conflict")
    return Choice(reason="ambiguous" if named else _why_several(answer, key))


def _is_exact(text: str, label: str, key: _Key) -> bool:
    """True when this is, character by character, the text of the option; another may have the same text."""
    return label in key.by_text[0].get(canonical(text), ())


def choose_several(answer: str, question: Question) -> Choice:
    """All options that ``answer`` names, as letters: "A, C", "A and C", "AC", "A、C", in any order, each once.

    Texts are not read here: a text may hold any separator.
    """
    key = _key_of(question)
    if len(answer) > 8 * len(key.labels) * max(len(label) for label in key.labels) + _SPARE_CHARS:
        return Choice(reason="not_an_option")
    found: list[str] = []
    for word in answer.translate(_LIST_SEPARATORS).split():
        label = _as_label(word, key.labels)
        if label:
            found.append(label)
        elif len(word) > 1 and all(char in key.labels for char in word):
            found.extend(word)
        elif word.lower() in _HEDGES - {"and", "和"}:
            return Choice(reason="hedged")
        elif word.lower() not in ("and", "和"):
            return Choice(reason="not_an_option")
    if not found:
        return Choice(reason="not_an_option")
    if len(set(found)) != len(found):
        return Choice(reason="repeated_letter")
    return Choice(reason="ok", labels=tuple(label for label in key.labels if label in found))


def _as_label(text: str, labels: tuple[str, ...]) -> str:
    """The label that ``text`` is, bare or as "A.", "A)", "(A)"; "" when it is none."""
    bare = text.strip()
    if bare in labels:
        return bare
    if len(bare) > 2 and _BRACKETS.get(bare[0]) == bare[-1]:
        bare = bare[1:-1].strip()
    for candidate in (bare, bare[:-1].rstrip() if bare and bare[-1] in _CLOSES_LABEL else ""):
        if candidate in labels:
            return candidate
        # Upper-casing may turn a look-alike (the Kelvin sign, a long s) into a letter, so only plain ASCII gets it.
        if candidate.isascii() and candidate.upper() in labels:
            return candidate.upper()
    return ""


def _split_label(text: str, labels: tuple[str, ...]) -> tuple[str, str]:
    """("A", ". Arachnodactyly") of "A. Arachnodactyly"; ("", "") without a label in front."""
    if text[:1] in _BRACKETS:
        end = text.find(_BRACKETS[text[0]])
        label = _as_label(text[1:end], labels) if end > 0 else ""
        rest = text[end + 1 :]
    else:
        length = next((i for i, char in enumerate(text) if char.isspace() or char in _AFTER_LABEL), len(text))
        label = _as_label(text[:length], labels)
        rest = text[length:]
    rest = rest.strip()
    return (label, rest) if label and rest else ("", "")


def _why_several(answer: str, key: _Key) -> ChoiceReason:
    """Why an answer that names no single option is none: it lists letters, hedges between options, or names nothing."""
    words = "".join(char if char.isalnum() else " " for char in answer).split()
    found: set[str] = set()
    hedging = False
    for word in words:
        label = _as_label(word, key.labels)
        if label:
            found.add(label)
        elif len(word) > 1 and all(char in key.labels for char in word):
            found.update(word)
        elif word.lower() in _HEDGES:
            hedging = True
        else:
            return "hedged" if _hedges_between_texts(answer, key) else "not_an_option"
    if hedging and found:
        return "hedged"
    return "several_letters" if len(found) > 1 else "not_an_option"


def _hedges_between_texts(answer: str, key: _Key) -> bool:
    """True when every part between connectors names an option, by letter or by text."""
    parts = [answer]
    for mark in _HEDGE_MARKS:
        parts = [piece for part in parts for piece in part.split(mark)]
    said = [part.strip() for part in parts if part.strip()]
    return len(said) > 1 and all(_as_label(part, key.labels) or key.named(part) for part in said)
