"""The questions that the attacks of attacks.yaml are made against, and how a row becomes a completion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from data.records import Option, Question
from tests.data.examples import MARFAN

PATH = Path(__file__).with_name("attacks.yaml")


def _open(verifier: str, *accepted: str) -> Question:
    return Question(
        source="t",
        language="en",
        stem="What?",
        options=(),
        answer_label="",
        accepted_answers=accepted,
        verifier=verifier,
    )


QUESTIONS: dict[str, Question] = {
    "marfan": MARFAN,
    "several": dataclasses.replace(MARFAN, answer_labels=("B", "D")),
    "words": _open("yes_no_maybe", "maybe"),
    "number": _open("number", "5.5 mmol/L"),
    "text": _open("text", "Marfan syndrome", "Marfan's syndrome"),
    "genotype": dataclasses.replace(
        MARFAN,
        options=tuple(Option(label=a, text=t) for a, t in zip("ABCD", ("AA", "Aa", "aa", "a0"), strict=True)),
        accepted_answers=(),
    ),
    "year": _open("number", "2017"),
    "rate": _open("number", "16 breaths/min"),
    "filtration": _open("number", "60 mL/min/1.73 m2"),
}
RIGHT = {
    "marfan": "B",
    "several": "B, D",
    "words": "maybe",
    "number": "5.5 mmol/L",
    "text": "Marfan syndrome",
    "genotype": "Aa",
    "year": "2017",
    "rate": "16 /min",
    "filtration": "1 mL/s/1.73m²",
}


def build(row: Mapping[str, Any]) -> str:
    """The completion of a row: its text, or its template filled with many of the same."""
    if "text" in row:
        return str(row["text"])
    return str(row["template"]).replace("{}", str(row["repeat"]) * int(row["times"]))


def load() -> list[dict[str, Any]]:
    """All rows of attacks.yaml."""
    rows: list[dict[str, Any]] = yaml.safe_load(PATH.read_text(encoding="utf-8"))["attacks"]
    return rows
