"""Real questions of the shared data sets: every right answer is paid, by letter and by text, and no wrong one."""

from __future__ import annotations

import itertools
import json
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from data.records import Option, Question
from reward_service.config import RewardConfig
from reward_service.reward import score_text

CONFIG = RewardConfig()


def shared(checkout: Path, name: str) -> Path:
    path = checkout.parent / "shared" / "data" / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is not here")
    return path


def paid(question: Question, answer: str) -> bool:
    return score_text(question, f"<think>x</think><answer>{answer}</answer>", CONFIG).correct == 1.0


def test_medqa_letters_and_texts(checkout: Path) -> None:
    path = shared(checkout, "medqa/medqa_us_dev_mediq.jsonl")
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    unclear = 0
    for row in rows:
        options = tuple(Option(label=label, text=text) for label, text in row["options"].items())
        question = Question(
            source="medqa", language="en", stem=row["question"], options=options, answer_label=row["answer_idx"]
        )
        assert [o.label for o in options if paid(question, o.label)] == [question.answer_label]
        assert [o.label for o in options if paid(question, f"{o.label}. {o.text}")] == [question.answer_label]
        by_text = [o.label for o in options if paid(question, o.text)]
        unclear += by_text != [question.answer_label]  # two options of the same text name no one option
        assert by_text in ([question.answer_label], [])
    assert len(rows) == 1272 and unclear <= 2


def test_pubmedqa_words(checkout: Path) -> None:
    rows = json.loads(shared(checkout, "pubmedqa/ori_pqal_500_non_test.json").read_text(encoding="utf-8"))
    for row in rows.values():
        question = Question(
            source="pubmedqa",
            language="en",
            stem=row["QUESTION"],
            options=(),
            answer_label="",
            accepted_answers=(row["final_decision"],),
            verifier="yes_no_maybe",
        )
        assert [w for w in ("yes", "no", "maybe") if paid(question, w)] == [row["final_decision"]]
    assert len(rows) == 500


def cmexam_rows(path: Path) -> list[list[str]]:
    """The cells of the sheet. Its strings stand in the cells themselves."""
    name = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as file:
        sheet = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))
    return [["".join(t.text or "" for t in cell.iter(f"{name}t")) for cell in row] for row in sheet.iter(f"{name}row")]


def test_cmexam_answers_of_several_letters(checkout: Path) -> None:
    rows = [row for row in cmexam_rows(shared(checkout, "cmexam/val.xlsx"))[1:] if len(row) > 2 and len(row[2]) > 1]
    assert len(rows) == 211
    judged = 0
    for stem, choices, answer, *_ in rows:
        options = tuple(Option(label=c[0], text=c[1:].strip()) for c in choices.split("\\n") if c[1:].strip())
        labels = [option.label for option in options]
        if not set(answer) <= set(labels) or len(set(labels)) != len(labels):
            continue
        question = Question(
            source="cmexam",
            language="zh",
            stem=stem,
            options=options,
            answer_label=answer[0],
            answer_labels=tuple(answer),
        )
        judged += 1
        for size in range(1, len(labels) + 1):
            for said in itertools.combinations(labels, size):
                right = set(said) == set(answer)
                assert paid(question, "".join(said)) == paid(question, "、".join(reversed(said))) == right
    assert judged >= 205
