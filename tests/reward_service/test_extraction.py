"""The strict format, and what an answer may look like."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_service.extraction import TAGS, extract

MAX = 10_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>long fingers</think><answer>B</answer>", "ok"),
        (" \n<think>a\nb</think>\n\n<answer> B </answer>\n", "ok"),
        ("<answer>B</answer>", "missing"),
        ("B", "missing"),
        ("", "missing"),
        ("<think>the answer is B</think>", "missing"),
        ("<think>x<answer>B</answer>", "missing"),
        ("<think>x</think><answer>B", "missing"),
        ("<think>x</think><Answer>B</Answer>", "missing"),
        ("<think>x</think><answer>A</answer><answer>B</answer>", "several"),
        ("<think>x<think>y</think><answer>B</answer>", "nested"),
        ("<think>x</think><answer><answer>B</answer></answer>", "nested"),
        ("<think>x</think></think><answer>B</answer>", "several"),
        ("<answer>B</answer><think>x</think>", "order"),
        ("<think>x <answer>B</answer></think>", "nested"),
        ("</think>x<think><answer>B</answer>", "nested"),
        ("</think>x<think></answer>B<answer>", "order"),
        ("</think>x<think>y<answer>B</answer>", "nested"),
        ("<think>x</think></answer>B<answer>", "order"),
        ("Sure! <think>x</think><answer>B</answer>", "outside"),
        ("<think>x</think> so B: <answer>B</answer>", "outside"),
        ("<think>x</think><answer>B</answer> Arachnodactyly", "outside"),
        ("<think>x</think>\u200b<answer>B</answer>", "outside"),
        ("<think> \n</think><answer>B</answer>", "no_reasoning"),
        ("<think>x</think><answer> </answer>", "empty"),
        ("<think>" + "x" * MAX + "</think><answer>B</answer>", "too_long"),
    ],
)
def test_format(text: str, reason: str) -> None:
    assert extract(text, MAX).reason == reason


@given(st.lists(st.sampled_from([*TAGS, "x", " ", "\n", "<", "think>", "B"]), max_size=12))
def test_format_agrees_with_an_independent_grammar(parts: list[str]) -> None:
    text = "".join(parts)
    inner = r"((?:(?!</?(?:think|answer)>).)*?)"
    match = re.fullmatch(rf"\s*<think>{inner}</think>\s*<answer>{inner}</answer>\s*", text, re.DOTALL)
    filled = match is not None and bool(match[1].strip()) and bool(match[2].strip())
    found = extract(text, MAX)
    assert (found.reason == "ok") == filled
    if match is not None and filled:
        assert (found.reasoning, found.answer) == (match[1].strip(), match[2].strip())


def test_truncated_is_a_reason_of_its_own() -> None:
    assert extract("<think>x</think><answer>B</answer>", MAX, finished=False).reason == "truncated"


@given(
    st.lists(st.sampled_from([*TAGS, "x", " ", "B"]), max_size=10), st.text(" \t\n\r\f\v\u00a0\u2003\u3000", max_size=4)
)
def test_white_space_around_and_between_changes_nothing(parts: list[str], space: str) -> None:
    text = "".join(parts)
    spaced = space + text.replace(">", ">" + space).replace("</", space + "</") + space
    before, after = extract(text, MAX), extract(spaced, MAX)
    assert (before.reason, before.answer, before.reasoning) == (after.reason, after.answer, after.reasoning)


@pytest.mark.parametrize("piece", ["<think>", "<answer>B", "</think><answer>", "<", "A or ", "\u0301\u0316", "</", "x"])
def test_time_is_linear_in_the_length(piece: str) -> None:
    def seconds(chars: int) -> float:
        text = piece * (chars // len(piece))
        texts = (text, f"<think>{text}</think><answer>{text}</answer>")
        begun = time.process_time()
        for each in texts:
            extract(each, 10**8)
        return time.process_time() - begun

    seconds(1_000_000)
    small, large = (min(seconds(n) for _ in range(3)) for n in (1_000_000, 8_000_000))
    assert large < 8 * 4 * small + 0.05
