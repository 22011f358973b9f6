"""The strict format, and what an answer may look like."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.records import Option, Question
from reward_service.extraction import TAGS, choose, extract
from tests.data.examples import MARFAN

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
        ("<think>x</think><answer>A</answer><answer>B</answer>", "repeated"),
        ("<think>x<think>y</think><answer>B</answer>", "repeated"),
        ("<think>x</think><answer><answer>B</answer>", "repeated"),
        ("<think>x</think></think><answer>B</answer>", "repeated"),
        ("<answer>B</answer><think>x</think>", "order"),
        ("<think>x <answer>B</answer></think>", "order"),
        ("</think>x<think><answer>B</answer>", "order"),
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


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "b",
        "B.",
        "(B)",
        "[b]",
        "B)",
        "B:",
        "B. Arachnodactyly",
        "B: arachnodactyly.",
        "(B) Arachnodactyly",
        "B Arachnodactyly",
        "B - Arachnodactyly",
        "Arachnodactyly",
        "  ARACHNODACTYLY ",
        "Spider  fingers",
        "B: spider fingers",
    ],
)
def test_answers_that_name_the_right_option(answer: str) -> None:
    assert choose(answer, MARFAN).label == "B"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("A or B", "several_letters"),
        ("A, B", "several_letters"),
        ("A/B", "several_letters"),
        ("ABCD", "several_letters"),
        ("(A) or (B)", "several_letters"),
        ("either A or B", "several_letters"),
        ("B. Cataplexy", "conflict"),
        ("(A) Arachnodactyly", "conflict"),
        ("A: spider fingers", "conflict"),
        ("E", "not_an_option"),
        ("not B", "not_an_option"),
        ("B because of the fingers", "not_an_option"),
        ("Cataplexy or Arachnodactyly", "not_an_option"),
        ("Arachno", "not_an_option"),
        ("\u0412", "not_an_option"),  # Cyrillic Ve
        ("\uff22", "not_an_option"),  # full-width B
        ("\U0001d401", "not_an_option"),  # mathematical bold B
        ("\u0410rachnodactyly", "not_an_option"),  # Cyrillic A
        ("B\u0301", "not_an_option"),
        ("B\u200b", "not_an_option"),
        ("?", "not_an_option"),
    ],
)
def test_answers_that_name_no_option(answer: str, reason: str) -> None:
    choice = choose(answer, MARFAN)
    assert (choice.reason, choice.label) == (reason, "")


def test_option_text_that_begins_with_a_letter_is_read_as_text() -> None:
    waves = Question(
        source="t",
        language="en",
        stem="Which wave?",
        options=(Option(label="A", text="B wave"), Option(label="B", text="A wave"), Option(label="C", text="A")),
        answer_label="B",
    )
    assert choose("A wave", waves).label == "B"
    assert choose("B wave", waves).label == "A"
    assert choose("A", waves).label == "A"  # the prompt asks for a letter, so a letter is one


def test_two_options_with_the_same_text_are_no_answer() -> None:
    twins = Question(
        source="t",
        language="en",
        stem="Which?",
        options=(Option(label="A", text="Same"), Option(label="B", text="same.")),
        answer_label="B",
    )
    assert choose("same", twins).reason == "several_letters"
    assert choose("B", twins).label == "B"


def test_upper_casing_does_not_make_a_letter_of_a_look_alike() -> None:
    letters = "ABCDEFGHIJKLMNOPQRS"
    many = Question(
        source="t",
        language="en",
        stem="Which?",
        options=tuple(Option(label=a, text=f"option number {i}") for i, a in enumerate(letters)),
        answer_label="K",
    )
    assert choose("k", many).label == "K"
    assert choose("\u212a", many).reason == "not_an_option"  # Kelvin sign
    assert choose("\u017f", many).reason == "not_an_option"  # long s, whose upper case is S


@pytest.mark.parametrize("piece", ["<think>", "<answer>B", "</think><answer>", "<", "A or ", "\u0301\u0316", "(" * 3])
def test_huge_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    begun = time.perf_counter()
    extract(text, 200_000)
    choose(text, MARFAN)
    extract(f"<think>{text}</think><answer>{text}</answer>", 10**7)
    assert time.perf_counter() - begun < 0.5
