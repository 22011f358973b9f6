"""Which option an answer names, and why it names none."""

from __future__ import annotations

import dataclasses
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.records import Option, Question
from reward_service.choices import choose, choose_several
from tests.data.examples import MARFAN


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
        "B。",
        "B．",
        "B：",
        "（B）",
        "【b】",
        "（B） Arachnodactyly",
        "B。Arachnodactyly",
        "B、Arachnodactyly。",
        "Arachnodactyly。",
    ],
)
def test_answers_that_name_the_right_option(answer: str) -> None:
    assert choose(answer, MARFAN).label == "B"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("A or B", "hedged"),
        ("A, B", "several_letters"),
        ("A/B", "several_letters"),
        ("ABCD", "several_letters"),
        ("(A) or (B)", "hedged"),
        ("either A or B", "hedged"),
        ("B. Cataplexy", "conflict"),
        ("(A) Arachnodactyly", "conflict"),
        ("A: spider fingers", "conflict"),
        ("E", "not_an_option"),
        ("not B", "not_an_option"),
        ("B because of the fingers", "not_an_option"),
        ("Cataplexy or Arachnodactyly", "hedged"),
        ("A and B", "hedged"),
        ("B, maybe", "hedged"),
        ("Cataplexy / B", "hedged"),
        ("B B", "not_an_option"),
        (".", "not_an_option"),
        ("Arachno", "not_an_option"),
        ("\u0412", "not_an_option"),  # Cyrillic Ve
        ("\uff22", "not_an_option"),  # full-width B
        ("（\uff22）", "not_an_option"),
        ("B。。", "not_an_option"),
        ("（A）（B）", "several_letters"),
        ("A、B", "several_letters"),
        ("A或B", "hedged"),
        ("（A", "not_an_option"),
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


GENOTYPES = Question(
    source="t",
    language="en",
    stem="Which genotype?",
    options=tuple(Option(label=a, text=t) for a, t in zip("ABCD", ("AA", "Aa", "aa", "a a."), strict=True)),
    answer_label="B",
)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("AA", "A"),
        ("Aa", "B"),
        ("aa", "C"),
        ("a a.", "D"),
        ("a a", "D"),
        ("A a", "D"),  # no other option has white space in it
        ("aa.", "C"),
        ("aA", "ambiguous"),
        ("aA.", "ambiguous"),
        ("B. Aa", "B"),
        ("(B) Aa", "B"),
        ("B. AA", "conflict"),
        ("B. aA", "ambiguous"),
        ("D. aA", "conflict"),
        ("B", "B"),
        ("AA or Aa", "hedged"),
    ],
)
def test_options_that_differ_only_in_case_are_told_apart_by_their_exact_text(answer: str, named: str) -> None:
    choice = choose(answer, GENOTYPES)
    assert (choice.label or choice.reason) == named


def test_two_options_with_the_same_text_are_told_apart_by_letter_alone() -> None:
    twins = Question(
        source="t",
        language="en",
        stem="Which?",
        options=(Option(label="A", text="Same"), Option(label="B", text="Same"), Option(label="C", text="same.")),
        answer_label="B",
    )
    assert choose("Same", twins).reason == choose("SAME", twins).reason == "ambiguous"
    assert choose("same.", twins).label == "C"
    assert choose("B", twins).label == choose("B. Same", twins).label == "B"
    assert choose("B. SAME", twins).reason == "ambiguous"


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


@pytest.mark.parametrize("count", range(2, 27))
def test_two_to_twenty_six_options(count: int) -> None:
    labels = string.ascii_uppercase[:count]
    many = Question(
        source="t",
        language="en",
        stem="Which?",
        options=tuple(Option(label=label, text=f"finding {label.lower()}") for label in labels),
        answer_label=labels[-1],
    )
    for label in labels:
        assert choose(label, many).label == choose(label.lower(), many).label == label
        assert choose(f"{label}. finding {label}", many).label == label
    assert choose(labels, many).reason == "several_letters"


def question_of(*texts: str, answer: str = "A") -> Question:
    options = tuple(Option(label=label, text=text) for label, text in zip(string.ascii_uppercase, texts, strict=False))
    return Question(source="t", language="en", stem="Which?", options=options, answer_label=answer)


def test_options_that_hold_letters_connectors_tags_and_marks() -> None:
    odd = question_of("Vitamin B", "Both A and C", "<think>", "A or B", "-5 dioptres", "5 dioptres")
    assert choose("Vitamin B", odd).label == "A"
    assert choose("both A and C", odd).label == "B"
    assert choose("<think>", odd).label == "C"
    assert choose("C. <think>", odd).label == "C"
    assert choose("A or B", odd).label == "D"
    assert choose("E -5 dioptres", odd).label == choose("E. -5 dioptres", odd).label == "E"
    assert choose("E - 5 dioptres", odd).reason == "conflict"
    assert choose("F. -5 dioptres", odd).reason == "conflict"


def test_an_empty_synonym_matches_nothing() -> None:
    hollow = dataclasses.replace(MARFAN, accepted_answers=("", " ", "."))
    for answer in ("", " ", ".", "\u3002"):
        assert choose(answer, hollow).label == ""


ANSWERS = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(["A", "B", "C", "D", "(", ")", ".", " or ", ", ", "Cataplexy", "Arachnodactyly"])).map(
        "".join
    ),
)


@given(ANSWERS, st.permutations(range(4)))
def test_permuting_the_options_permutes_the_answer_and_nothing_else(answer: str, order: list[int]) -> None:
    """The same options under other letters: an answer by text names the same text, and letters follow the options."""
    moved = {old.label: "ABCD"[place] for place, i in enumerate(order) for old in [MARFAN.options[i]]}
    options = tuple(Option(label="ABCD"[place], text=MARFAN.options[i].text) for place, i in enumerate(order))
    shuffled = dataclasses.replace(MARFAN, options=options, answer_label=moved["B"])
    if any(char in "ABCDabcd" for option in ("Cataplexy", "Arachnodactyly") for char in option if option in answer):
        return  # letters inside words are not labels: covered by the answers without words
    relettered = answer.translate(
        {ord(a): b for old, new in moved.items() for a, b in ((old, new), (old.lower(), new.lower()))}
    )
    before, after = choose(answer, MARFAN), choose(relettered, shuffled)
    assert before.reason == after.reason
    assert after.labels == tuple(moved[label] for label in before.labels)


@given(
    st.sampled_from(["Cataplexy", "Arachnodactyly", "Type A behaviour", "β-cell failure"]), st.permutations(range(4))
)
def test_an_answer_by_text_follows_its_option(text: str, order: list[int]) -> None:
    options = tuple(Option(label="ABCD"[place], text=MARFAN.options[i].text) for place, i in enumerate(order))
    right = next(option.label for option in options if option.text == "Arachnodactyly")
    shuffled = dataclasses.replace(MARFAN, options=options, answer_label=right)
    label = choose(text, shuffled).label
    assert next(option.text for option in options if option.label == label) == text
    assert (label == right) == (text == "Arachnodactyly")


SEVERAL = dataclasses.replace(MARFAN, answer_labels=("B", "D"))


@pytest.mark.parametrize(
    "answer", ["B, D", "D,B", "BD", "b d", "B and D", "(B) (D)", "B、D", "B和 D".replace("和", "，"), "B. D."]
)
def test_several_letters_in_any_order(answer: str) -> None:
    assert choose_several(answer, SEVERAL).labels == ("B", "D")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("B or D", "hedged"),
        ("B, B, D", "repeated_letter"),
        ("BDB", "repeated_letter"),
        ("B, E", "not_an_option"),
        ("", "not_an_option"),
        (", ,", "not_an_option"),
        ("B, D because", "not_an_option"),
        ("B" * 1000, "not_an_option"),
        ("\u0412, D", "not_an_option"),
    ],
)
def test_what_is_no_set_of_letters(answer: str, reason: str) -> None:
    assert choose_several(answer, SEVERAL).reason == reason


@pytest.mark.parametrize("piece", ["A or ", "\u0301\u0316", "(", "A", "Cataplexy/"])
def test_a_huge_answer_is_refused_at_once(piece: str) -> None:
    text = piece * (10_000_000 // len(piece))
    begun = time.process_time()
    assert choose(text, MARFAN).reason == choose_several(text, SEVERAL).reason == "not_an_option"
    assert time.process_time() - begun < 0.1
