"""Scorers of the kinds seen in published medical RL code, rebuilt in a few lines each, to show what they pay for.

Each takes the question and the completion and returns the reward for correctness. They are here as negative examples.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from data.records import Question

Scorer = Callable[[Question, str], float]


def _inside(text: str) -> str:
    """What lenient code takes for the answer: the text between the tags, or all of it."""
    found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return found[-1] if found else text


def substring(question: Question, text: str) -> float:
    """Right when the answer stands in the truth, or the truth in the answer."""
    said, truth = _inside(text).strip().lower(), question.answer_text.lower()
    return float(said in truth or truth in said)


def nearest_option(question: Question, text: str) -> float:
    """The option nearest by edit distance: there is always one."""
    said = _inside(text).strip().lower()
    near = max(question.options, key=lambda o: difflib.SequenceMatcher(None, said, o.text.lower()).ratio())
    return float(near.label == question.answer_label)


def first_letter(question: Question, text: str) -> float:
    """The first capital letter of an option that is found anywhere in the answer."""
    labels = "".join(option.label for option in question.options)
    found = re.search(f"[{labels}]", _inside(text))
    return float(found is not None and found[0] == question.answer_label)


def first_or_last(question: Question, text: str) -> float:
    """The better of the first and the last letter found."""
    found = re.findall(r"\b([A-Z])\b", text)
    return float(bool(found) and question.answer_label in (found[0], found[-1]))


def split_at_equals(question: Question, text: str) -> float:
    """Whatever stands after the last '=' counts, compared by its beginning."""
    said = _inside(text).split("=")[-1].strip()
    return float(question.answer_label.startswith(said[:1]))


def any_answer_tag(question: Question, text: str) -> float:
    """Right when any answer tag holds the right letter, wherever it stands."""
    return float(any(question.answer_label in said for said in re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)))


def mean_without_empty(question: Question, texts: Sequence[str]) -> float:
    """Accuracy over the completions that have an answer: empty outputs are skipped instead of counted."""
    filled = [text for text in texts if _inside(text).strip()]
    return sum(first_letter(question, text) for text in filled) / len(filled) if filled else 1.0
