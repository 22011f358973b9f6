"""Published multiple-choice questions: every shape of a row is read, unfit rows are counted, splits share nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.config import ChoicesConfig, ColumnsConfig, QuestionSourceConfig
from data.errors import DataError
from data.load import load_questions
from data.sources.choices import choices_splits, is_file, questions_of, rows_of

ROW = {
    "question": "Which drug blocks cell wall synthesis?",
    "context": ["A man has a fever.", "His joint is swollen."],
    "options": {"A": "Gentamicin", "B": "Ceftriaxone"},
    "answer_idx": "B",
}
SHARED = Path(__file__).parents[3] / "shared" / "data"


def rows(count: int) -> list[dict[str, Any]]:
    return [{**ROW, "question": f"Question {number}?"} for number in range(count)]


def config(path: Path | str = "set.jsonl", **settings: Any) -> ChoicesConfig:
    return ChoicesConfig(path=str(path), **settings)


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        path.write_text("\n".join(json.dumps(row) for row in content) + "\n\n")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_kind_of_file_gives_the_same_questions(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"set{suffix}", rows(10))
    settings = config(path, train_questions=5, held_out_questions=3, warm_up_questions=2, seed=4)
    splits = load_questions(QuestionSourceConfig(source="choices", choices=settings))
    parts = (splits.train, splits.held_out, splits.warm_up)
    assert [len(part) for part in parts] == [5, 3, 2]
    assert {q.split for q in splits.held_out} == {"held_out"}
    assert len({q.id for part in parts for q in part}) == 10
    first = splits.train[0]
    assert first.context == "A man has a fever. His joint is swollen."
    assert (first.answer_label, first.answer_text) == ("B", "Ceftriaxone")
    assert first.provenance.dataset == "set" and first.stem == f"Question {first.provenance.row}?"
    again = choices_splits(settings)
    assert again == splits and not splits.left_out
    assert choices_splits(settings.model_copy(update={"seed": 5})) != splits


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"answer_idx": 1}, "B"),
        ({"answer_idx": 1.0}, "B"),
        ({"options": {"1": "Gentamicin", "2": "Ceftriaxone"}, "answer_idx": 2}, "2"),  # a label, not an index
        ({"options": {"1": "Gentamicin", "2": "Ceftriaxone"}, "answer_idx": 1}, "1"),
        ({"options": ["1", "2"], "answer_idx": "1"}, "A"),
        ({"answer_idx": "Ceftriaxone"}, "B"),
        ({"options": ["Gentamicin", "Ceftriaxone"], "answer_idx": 0}, "A"),
        ({"options": {"A": "Gentamicin", "B": "Ceftriaxone", "C": None}}, "B"),  # as Parquet fills a shorter row
        ({"context": None}, "B"),
    ],
)
def test_the_shapes_of_a_row(change: Mapping[str, Any], label: str) -> None:
    (question,), left_out = questions_of([{**ROW, **change}], config())
    assert question.answer_label == label and not left_out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer_idx": "E"}, "with an answer outside its options"),
        ({"answer_idx": 2}, "with an answer outside its options"),
        ({"answer_idx": 0.5}, "with an answer outside its options"),
        ({"answer_idx": float("nan")}, "with an answer outside its options"),
        ({"answer_idx": True}, "with an answer outside its options"),
        ({"answer_idx": None}, "with an answer outside its options"),
        ({"options": {"A": "Ceftriaxone", "B": " ceftriaxone"}}, "with repeated options"),
        ({"question": " "}, "without a text or with empty options"),
        ({"options": {"A": "", "B": "Ceftriaxone"}}, "without a text or with empty options"),
        ({"options": "A or B"}, "with an answer outside its options"),
        ({"options": [{"key": "A", "value": "one"}, {"key": "B", "value": "two"}]}, "with repeated options"),
        ({"question": {"text": "Which?"}}, "without a text or with empty options"),
        ({"context": "x" * 500}, "longer than max_chars"),
        ({"context": {"contexts": ["one"]}}, "with a context that is no text"),
        ({"context": [{"text": "one"}]}, "with a context that is no text"),
        ({"question": b"\xff"}, "without a text or with empty options"),
        ({"question": float("nan")}, "without a text or with empty options"),
        ({"question": "half \ud800"}, "with half a character"),
    ],
)
def test_unfit_rows_are_left_out_and_counted(change: Mapping[str, Any], reason: str) -> None:
    questions, left_out = questions_of([ROW, {**ROW, **change}, ROW], config(max_chars=200))
    assert len(questions) == 1
    assert left_out == {reason: 1, "repeated": 1}


def test_rows_left_out_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", [*rows(3), ROW, ROW, ROW, {**ROW, "answer_idx": "Z"}])
    splits = choices_splits(config(path, train_questions=2, held_out_questions=1))
    assert splits.left_out == "2 repeated, 1 with an answer outside its options"


def test_too_few_questions_say_why(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", [*rows(3), {**ROW, "answer_idx": "Z"}])
    with pytest.raises(DataError, match=r"has 3 questions that fit, 96 are asked for \(left out: 1 with an answer"):
        choices_splits(config(path))


def test_other_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 0 of set.jsonl lacks \['options'\].*columns"):
        questions_of([{"question": "Q?", "choices": ["a", "b"], "answer_idx": 0}], config())
    other = config(columns=ColumnsConfig(options="choices", answer="label"))
    (question,), _ = questions_of([{"question": "Q?", "choices": ["a", "b"], "label": 1}], other)
    assert question.answer_text == "b"


def numbered(answers: list[Any], options: Any = ("w", "x", "y", "z")) -> list[dict[str, Any]]:
    return [{**row, "options": options, "answer_idx": a} for row, a in zip(rows(len(answers)), answers, strict=True)]


@pytest.mark.parametrize(
    ("answers", "options", "first", "labels"),
    [
        ([0, 1, 3], ["w", "x", "y", "z"], 0, "ABD"),
        ([1, 2, 4], ["w", "x", "y", "z"], 1, "ABD"),
        (["0", "1", "3"], ["w", "x", "y", "z"], 0, "ABD"),  # digits in a text
        ([1, 2, 3], {"1": "x", "2": "y", "3": "z"}, 0, "123"),  # labels
        ([0, 1, 2], {"1": "x", "2": "y", "3": "z"}, 0, "123"),  # indices of options whose labels are numbers
        ([2, 4, 8], [2, 4, 6, 8], 0, "ABD"),  # the options' texts
        ([2.0, 0.0], {"A": "x", "B": None, "C": "y"}, 0, "CA"),  # a place that is empty counts
    ],
)
def test_numbers_mean_one_thing_in_a_file(answers: list[Any], options: Any, first: int, labels: str) -> None:
    settings = config(columns=ColumnsConfig(first_index=first))
    questions, left_out = questions_of(numbered(answers, options), settings)
    assert ("".join(q.answer_label for q in questions), left_out) == (labels, {})


@pytest.mark.parametrize(
    ("answers", "first"),
    [([1, 2, 3, 4] * 10, 0), ([1, 2, 3, 4] * 10 + [0], 0), ([1, 2, 3] * 20 + [4], 0), ([0, 1, 2, 3] * 10, 1)],
)
def test_numbers_that_count_from_elsewhere_are_refused(answers: list[Any], first: int) -> None:
    with pytest.raises(DataError, match=f"seem to be numbered from {1 - first}.*first_index to {1 - first}"):
        questions_of(numbered(answers), config(columns=ColumnsConfig(first_index=first)))


def test_rows_that_contradict_each_other_are_not_asked() -> None:
    twin, other = {**ROW, "answer_idx": "A"}, {**ROW, "options": {"A": "Penicillin", "B": "Codeine"}}
    questions, left_out = questions_of([ROW, ROW, twin, ROW, other], config())
    assert [q.options[0].text for q in questions] == ["Penicillin"]  # the same text with other options is another one
    assert left_out == {"repeated": 1, "that contradict each other": 3}


def test_a_map_of_parquet_is_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "map.parquet"
    kind = pa.map_(pa.string(), pa.string())
    options = pa.array([[("B", "y"), ("A", "x")]], kind)
    pq.write_table(pa.table({"question": ["Which?"], "options": options, "answer_idx": ["A"]}), path)
    (question,), _ = questions_of(rows_of(config(path)), config(path))
    assert (question.answer_label, question.answer_text) == ("A", "x")


def test_a_context_that_was_named_must_be_there() -> None:
    with pytest.raises(DataError, match=r"lacks \['abstract'\].*columns"):
        questions_of(rows(3), config(columns=ColumnsConfig(context="abstract")))


def test_one_question_in_two_spellings_is_one() -> None:
    _, left_out = questions_of([ROW, {**ROW, "question": " which  drug blocks cell wall synthesis?"}], config())
    assert left_out == {"repeated": 1}


def test_more_options_than_letters_are_left_out() -> None:
    many = {**ROW, "options": [f"option {number}" for number in range(30)], "answer_idx": 2}
    assert questions_of([many], config()) == ([], {"with more than 26 options": 1})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"a": 1}\n\n{"a": \n', "cannot read line 3 of .*a.jsonl: "),
        ("b.jsonl", '{"a": "e"}\n{"a": "\xe9"}'.encode("latin-1"), "line 2 of .*b.jsonl is not text in UTF-8"),
        ("c.json", b"null", "holds NoneType, not a list"),
        ("d.json", b"42", "holds int, not a list"),
        ("e.json", b"[" * 200_000, "cannot read"),
        ("f.jsonl", b"[" * 200_000, "cannot read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(rows_of(config(tmp_path / name)))


@pytest.mark.parametrize("name", ["set.jsonl", "SET.JSONL", "set.json", "set.parquet"])
def test_a_file_may_be_named_by_a_uri_and_in_capitals(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist([ROW, ROW]), tmp_path / name)
    else:
        text = "\ufeff" + (json.dumps([ROW, ROW]) if name.endswith(".json") else f"{json.dumps(ROW)}\r\n" * 2)
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    rows = [list(rows_of(config(where))) for where in (tmp_path / name, (tmp_path / name).as_uri())]
    assert rows[0] == rows[1] and [row["question"] for row in rows[0]] == [ROW["question"]] * 2
    (question,), left_out = questions_of(rows[1], config((tmp_path / name).as_uri()))
    assert question.source == Path(name).stem and left_out == {"repeated": 1}
    assert is_file(f"s3://bucket/{name}?region=eu-west-1") and not is_file("org/name")


@pytest.mark.parametrize(("name", "content"), [("set.jsonl", "{"), ("set.json", "no"), ("set.parquet", "x")])
def test_damaged_files(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="cannot read"):
        list(rows_of(config(tmp_path / name)))
    with pytest.raises(DataError, match="cannot read"):
        list(rows_of(config(tmp_path / f"no-{name}")))


def test_a_name_without_suffix_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, *, split: str) -> list[dict[str, Any]]:
        asked.append((name, split))
        if name.endswith("missing"):
            raise ConnectionError("no network")
        return rows(2)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert len(list(rows_of(config("GBaker/MedQA-USMLE-4-options", hub_split="test")))) == 2
    with pytest.raises(DataError, match="the hub does not give it: no network"):
        list(rows_of(config("GBaker/missing")))
    assert asked == [("GBaker/MedQA-USMLE-4-options", "test"), ("GBaker/missing", "train")]


def test_medqa_as_published() -> None:
    path = SHARED / "medqa" / "medqa_us_dev_mediq.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    questions, left_out = questions_of(rows_of(config(path)), config(path))
    assert len(questions) + sum(left_out.values()) == 1272
    assert len(questions) > 1200
    assert all(len(q.options) == 4 for q in questions)
    assert sum(bool(q.context) for q in questions) > 1100


@pytest.mark.parametrize(("name", "answer"), [("medxpertqa_text", "label"), ("mmlu_pro_biology", "answer")])
def test_other_benchmarks_need_column_names_only(name: str, answer: str) -> None:
    path = SHARED / "samples" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    questions, left_out = questions_of(rows_of(config(path)), config(path, columns=ColumnsConfig(answer=answer)))
    assert len(questions) == 5 and not left_out
