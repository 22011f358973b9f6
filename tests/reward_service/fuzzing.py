"""What must hold for every completion there could be; shared by hypothesis and the coverage-guided fuzzer."""

from __future__ import annotations

import dataclasses
import random
import string

from data.records import Option, Question, Score
from reward_service.config import RewardConfig
from reward_service.reward import score_text
from tests.reward_service.attack_suite import QUESTIONS

CONFIG = RewardConfig(max_text_chars=5_000)
PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "<think>x</think><answer>", "<", ">", "</", "answer", "think"),
    *("A", "B", "C", "D", "b", "E", "AB", "(", ")", "[", "]", "{", "}", ".", ":", ",", ";", "/", "-", "|", "、"),
    *(" or ", " and ", "either ", "both ", "maybe", "yes", "no", "not ", "或", "和"),
    *("Cataplexy", "Arachnodactyly", "Type A behaviour", "β-cell failure", "Spider fingers", "Marfan syndrome"),
    *("5.5", "5", " mmol/L", "mg", "%", "±", "e9", "×10^", "1,000", "-", "^", "**", "(", "/L"),
    *(
        "AA",
        "Aa",
        "aA",
        "。",
        "（",
        "）",
        "．",
        "2017",
        "60",
        " beats/min",
        " /min",
        "bpm",
        " mL/min",
        "/1.73 m2",
        " °C",
    ),
    *(
        " ",
        "\n",
        "\t",
        "\u00a0",
        "\u200b",
        "\u202e",
        "\u0301",
        "\u0000",
        "В",
        "Ｂ",
        "\ud800",
        "\u2028",
        "İ",
        "ß",
        "\U0001d401",
    ),
]
SPACES = [" ", "\n", "\t ", "\r\n", "\u00a0", "\u3000", "\u2028", "\x1c"]
REWARDS = {0.0, CONFIG.format_weight, CONFIG.correct_weight + CONFIG.format_weight}


def check(text: str, seed: int) -> None:
    """Score ``text`` for every kind of question.

    Raises:
        AssertionError: a score is out of its bounds, changes under white space, or does not follow its option.
    """
    for kind, question in QUESTIONS.items():
        score = score_text(question, text, CONFIG)
        assert score.reward in REWARDS and 0.0 <= score.correct <= score.format <= 1.0, (kind, score)
        assert (score.correct == 1.0) == (score.reason == "correct"), (kind, score)
        spaced = score_text(question, _spaced(text, seed), CONFIG)
        assert score.reason == "too_long" or spaced.reason == "too_long" or score == spaced, (kind, score, spaced)
    _check_permuted(text, seed)


def _spaced(text: str, seed: int) -> str:
    """White space where it has no meaning: around the whole, and on both sides of every tag."""
    space = SPACES[seed % len(SPACES)]
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        text = text.replace(tag, f"{space}{tag}{space}")
    return space + text + space


def _check_permuted(text: str, seed: int) -> None:
    """Relabelled options, texts kept: what was said by text stays right or wrong, by letter it follows the letters.

    Texts without letters A to D stand for the options, so that relabelling the completion touches labels alone.
    """
    order = random.Random(seed).sample(range(4), 4)
    texts = ("one", "two two", "xyz-xyz", "77")
    before = _question(texts, right=1)
    after = _question(tuple(texts[i] for i in order), right=order.index(1))
    moved = {string.ascii_uppercase[old]: string.ascii_uppercase[new] for new, old in enumerate(order)}
    table = str.maketrans(moved | {old.lower(): new.lower() for old, new in moved.items()})
    # Tags and connectors hold letters of labels too: they are kept out of the translation.
    pieces = _split(text)
    relettered = "".join(piece if kept else piece.translate(table) for piece, kept in pieces)
    one, two = score_text(before, text, CONFIG), score_text(after, relettered, CONFIG)
    assert (one.reward, one.reason) == (two.reward, two.reason), (text, order, one, two)
    assert _named(one, before) == _named(two, after), (text, order, one, two)


def _named(score: Score, question: Question) -> str:
    """The text of the option that was read; what was not read as one is compared by its reason alone."""
    if score.format == 0.0:
        return ""
    return next(option.text for option in question.options if option.label == score.answer)


def _question(texts: tuple[str, ...], right: int) -> Question:
    options = tuple(Option(label=label, text=text) for label, text in zip("ABCD", texts, strict=True))
    return dataclasses.replace(
        QUESTIONS["marfan"], options=options, answer_label="ABCD"[right], accepted_answers=("zwei",)
    )


_KEPT = (
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "and",
    "both",
    "maybe",
    "probably",
    "possibly",
    "perhaps",
    "oder",
)


def _split(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it has to stay as it is."""
    pieces: list[tuple[str, bool]] = []
    at = 0
    lowered = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
    while at < len(text):
        kept = next((word for word in _KEPT if lowered.startswith(word, at)), None)
        size = len(kept) if kept else 1
        pieces.append((text[at : at + size], kept is not None))
        at += size
    return pieces
