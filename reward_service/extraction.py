"""Strict reading of ``<think>...</think><answer>X</answer>``, in linear time and without backtracking.

The grammar: each tag exactly once, in this order, nothing but white space outside, and something inside both pairs. A
completion that keeps it is split in two; any other is refused with one reason. What counts is our choice; the paper
only says that the answer stands in ``<answer></answer>``. What the answer *means* is for the verifiers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE = TAGS = ("<think>", "</think>", "<answer>", "</answer>")

FormatReason = Literal[
    "ok",
    "truncated",  # cut by the token limit: whatever it says, it had not ended
    "too_long",  # beyond the bound on characters
    "missing",  # a tag is not there
    "nested",  # a pair opened inside another
    "several",  # a tag stands more than once
    "order",  # the answer before the reasoning, or a close before its open
    "outside",  # text outside the pairs
    "no_reasoning",  # nothing between <think> and </think>
    "empty",  # nothing between <answer> and </answer>
]

# An alternation of literals after one literal: the scan never goes back, so it is linear in any text.
_TAG = re.compile("</?(?:think|answer)>")


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The parts of a completion. ``reason`` is "ok" when the format holds; otherwise both parts are empty."""

    reason: FormatReason
    reasoning: str = ""
    answer: str = ""


def extract(text: str, max_chars: int, *, finished: bool = True) -> Extraction:
    """Split a completion into reasoning and answer, both stripped of white space.

    A completion longer than ``max_chars`` is malformed by definition, which bounds the work. One that is not
    ``finished`` was cut by the token limit and is "truncated" even when all tags are there. Empty reasoning is
    malformed too: the format asks for reasoning, and its reward must not be had without any.

    Example: ``extract("<think>long fingers</think><answer>B</answer>", 1000).answer == "B"``.
    """
    if not finished:
        return Extraction(reason="truncated")
    if len(text) > max_chars:
        return Extraction(reason="too_long")
    counts = [text.count(tag) for tag in TAGS]
    if 0 in counts:
        return Extraction(reason="missing")
    if counts != [1, 1, 1, 1]:
        return Extraction(reason="nested" if _is_nested(text) else "several")
    think_open, think_close, answer_open, answer_close = (text.index(tag) for tag in TAGS)
    if not think_open < think_close < answer_open < answer_close:
        return Extraction(reason="nested" if _is_nested(text) else "order")
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


def _is_nested(text: str) -> bool:
    """True when a pair opens while another is open."""
    is_open = False
    for match in _TAG.finditer(text):
        opens = match[0] in (THINK_OPEN, ANSWER_OPEN)
        if opens and is_open:
            return True
        is_open = opens
    return False
