"""`fleming score`: files in, scores and a summary out, and one-line errors for files that say something else."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.score import _item, run_score
from cluster.score_files import read_questions
from data.errors import ConfigError, DataError, FlemingError
from data.records import Question
from data.tables import to_table, write_parquet
from reward_service.config import RewardConfig
from reward_service.worker import score_item
from tests.data.examples import MARFAN, completion

DOSE = Question(
    source="doses",
    language="en",
    stem="How much?",
    options=(),
    answer_label="",
    accepted_answers=("5 mg",),
    verifier="number",
)
TEXTS = [
    (MARFAN, "<think>x</think><answer>B</answer>", "stop"),
    (MARFAN, "<think>x</think><answer>A or B</answer>", "stop"),
    (MARFAN, "<think>x</think><answer>B</answer>", "length"),
    (DOSE, "<think>x</think><answer>5000 µg</answer>", "stop"),
    (DOSE, "\x1b[31m5 mg\u202e", "stop"),
]
REASONS = ["correct", "hedged", "truncated", "correct", "missing"]


def question_row(question: Question) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(question).items() if v not in ("", (), None)}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    questions, completions = tmp_path / "q.jsonl", tmp_path / "c.jsonl"
    questions.write_text("".join(json.dumps(question_row(q)) + "\n" for q in (MARFAN, DOSE)))
    rows = [{"question_id": q.id, "text": text, "finish_reason": finish} for q, text, finish in TEXTS]
    completions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return questions, completions


def test_json_lines_to_json_lines_with_a_summary(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    args = ["score", "--questions", str(files[0]), "--completions", str(files[1]), "--out", str(out)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["reason"] for row in rows] == REASONS
    assert rows[3] == {
        "question_id": DOSE.id,
        "sample_index": None,
        "reward": 1.1,
        "correct": 1.0,
        "format": 1.0,
        "answer": "5000 µg",
        "verifier_version": "number-pint/3",
        "reason": "correct",
        "failure": None,
    }
    for said in ("hpo", "doses", "hedged", "1 (33.3%)", "1 (50.0%)", MARFAN.id):
        assert said in result.output
    assert "\x1b[31m" not in result.output and "\u202e" not in result.output  # nothing that a terminal would act on


def test_records_of_a_run_are_read_as_they_are(files: tuple[Path, Path], tmp_path: Path) -> None:
    questions, completions, out = (tmp_path / f"{name}.parquet" for name in "qco")
    write_parquet(to_table([MARFAN, DOSE]), questions)
    records = [completion(text, question=q, finish="stop" if f == "stop" else "length") for q, text, f in TEXTS]
    write_parquet(to_table(records), completions)
    summary = run_score(questions, completions, out, RewardConfig())
    assert [row["reason"] for row in read_rows(out)] == REASONS
    again = run_score(*files, None, RewardConfig())
    assert summary.counts == again.counts and summary.total == 5


def test_a_failed_verification_is_counted_and_has_no_score(files: tuple[Path, Path], tmp_path: Path) -> None:
    config = RewardConfig(verifier_by_source={"doses": "broken"}, user_verifiers={"broken": f"{__name__}:broken"})
    out = tmp_path / "o.jsonl"
    summary = run_score(*files, out, config)
    row = json.loads(out.read_text().splitlines()[3])
    assert (row["reward"], row["reason"]) == (None, "unverified: error") and "KeyError" in row["failure"]
    assert summary.failed == 1 and summary.counts["doses"] == {"unverified: error": 1, "missing": 1}


def broken(question: Question, answer: str) -> bool:
    raise KeyError(answer)


def test_ids_and_defaults_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"id": MARFAN.id, **question_row(MARFAN)}) + "\n\n")
    assert read_questions(path) == [(MARFAN.id, MARFAN)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(("first", "second"), [("q-1", "q-2"), (1, 2)])
def test_completions_are_joined_by_the_ids_of_the_questions_file(
    tmp_path: Path, ending: str, first: Any, second: Any
) -> None:
    questions = write_rows(
        tmp_path / f"q.{ending}", [{"id": first, **question_row(MARFAN)}, {"id": second, **question_row(DOSE)}]
    )
    rows = [(first, "B"), (second, "5 mg"), (second, "6 mg"), (str(first), "A")]
    if ending == "parquet":  # a column has one type
        rows = [(str(name), said) for name, said in rows]
    completions = write_rows(
        tmp_path / f"c.{ending}",
        [{"question_id": name, "text": f"<think>x</think><answer>{said}</answer>"} for name, said in rows],
    )
    out = tmp_path / f"o.{ending}"
    run_score(questions, completions, out, RewardConfig())
    told = [(row["question_id"], row["reason"]) for row in read_rows(out)]
    assert told == list(zip(map(str, (first, second, second, first)), REASONS_BY_ID, strict=True))


REASONS_BY_ID = ["correct", "correct", "wrong", "wrong"]


def test_an_id_stands_for_one_question(tmp_path: Path) -> None:
    completions = write_rows(tmp_path / "c.jsonl", [])
    twice = [{"id": "q", **question_row(question)} for question in (MARFAN, DOSE)]
    with pytest.raises(DataError, match="question q stands twice"):
        run_score(write_rows(tmp_path / "q.jsonl", twice), completions, None, RewardConfig())
    taken = [question_row(MARFAN), {"id": MARFAN.id.upper().lower(), **question_row(DOSE)}]
    with pytest.raises(DataError, match=f"row 2 .* has id '{MARFAN.id}'"):
        run_score(write_rows(tmp_path / "q.jsonl", taken), completions, None, RewardConfig())


def test_the_summary_has_an_example_of_each_reason_and_source(tmp_path: Path) -> None:
    dose = {"id": "dose-7", **question_row(DOSE)}
    questions = write_rows(tmp_path / "q.jsonl", [{"id": "m-1", **question_row(MARFAN)}, dose])
    texts = [("m-1", "A"), ("dose-7", "6 mg"), ("dose-7", "7 mg"), ("m-1", "B")]
    rows = [
        {"question_id": name, "text": f"<think>{i}</think><answer>{a}</answer>"} for i, (name, a) in enumerate(texts)
    ]
    args = ["--questions", str(questions), "--completions", str(write_rows(tmp_path / "c.jsonl", rows))]
    result = CliRunner().invoke(app, ["score", *args], env={"COLUMNS": "160"})
    lines = result.output.splitlines()
    wrong = [line for line in lines if "wrong" in line]
    assert len(wrong) == 2 and "doses" in wrong[0] and "6 mg" in wrong[0] and "dose-7" in wrong[0]
    assert "hpo" in wrong[1] and "<answer>A" in wrong[1] and "m-1" in wrong[1]
    assert not any("7 mg" in line for line in lines)  # the first of each


@pytest.mark.parametrize(
    ("questions", "completions", "said"),
    [
        ("{", "", "line 1 of .* is no JSON"),
        ("[]", "", "no JSON object"),
        ('{"stem": "x"}', "", "options has 0 entries"),
        ('{"stem": "x", "colour": "red"}', "", "is no question"),
        ('{"stem": 1}', "", "stem = 1 in row 1 of .* is not a text"),
        (
            '{"stem": "x", "verifier": "text", "accepted_answers": "Aspirin"}',
            "",
            "accepted_answers = 'Aspirin' in row 1",
        ),
        ('{"stem": "x", "verifier": "text", "accepted_answers": [5]}', "", "accepted_answers.0 = 5 in row 1"),
        ('{"stem": "x", "verifier": 5, "accepted_answers": ["y"]}', "", "verifier = 5"),
        ('{"stem": "x", "verifier": "text", "accepted_answers": ["y"], "source": null}', "", "source = None"),
        ('{"stem": "x", "verifier": "text", "accepted_answers": ["y"], "tags": "ab"}', "", "tags = 'ab'"),
        ('{"stem": "x", "options": "AB", "answer_label": "A"}', "", "options = 'AB'"),
        ('{"stem": "x", "options": [{"label": "A", "text": 5}], "answer_label": "A"}', "", "options.0.text = 5"),
        (
            '{"stem": "x", "options": ["A", "B"], "answer_label": "A"}',
            "",
            "options.0 = 'A' in row 1 of .* is not an object",
        ),
        ('{"stem": "x", "options": [{"label": "A"}, {"label": "B"}], "answer_label": "A"}', "", "is no question"),
        ('{"stem": "x", "provenance": {"path": "ab"}}', "", "provenance.path = 'ab'"),
        (
            '{"id": "0123456789abcdef", "stem": "x", "verifier": "text", "accepted_answers": ["y"]}',
            "",
            "has id '0123456789abcdef'",
        ),
        ('{"stem": "x\\ud800", "verifier": "text", "accepted_answers": ["y"]}', "", "stem = .* has a lone surrogate"),
        ('{"stem": "x", "verifier": "text", "accepted_answers": ["\\ud800"]}', "", "accepted_answers.0 = .* surrogate"),
        ('{"id": ["a"], "stem": "x", "verifier": "text", "accepted_answers": ["y"]}', "", "id = .* neither"),
        ("[" * 100_000, "", "line 1 of .* is no JSON"),
        ("", "[" * 100_000, "line 1 of .* is no JSON"),
        ("", '{"question_id": "0"}', "has the fields"),
        ("", '{"question_id": "0", "text": "x"}', "not in the questions"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, questions: str, completions: str, said: str) -> None:
    q, c = tmp_path / "q.jsonl", tmp_path / "c.jsonl"
    q.write_text(questions)
    c.write_text(completions)
    with pytest.raises(DataError, match=said):
        run_score(q, c, tmp_path / "o.jsonl", RewardConfig())
    assert not (tmp_path / "o.jsonl").exists()


def test_missing_files_and_endings_are_one_line(tmp_path: Path) -> None:
    for q in ("missing.jsonl", "missing.parquet", "x.csv"):
        result = CliRunner().invoke(app, ["score", "--questions", q, "--completions", "c.jsonl"])
        assert result.exit_code == 1 and "Remedy" in result.output


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ({}, "correct"),
        ({"finish_reason": None}, "correct"),
        ({"finish_reason": "stop"}, "correct"),
        ({"finish_reason": "length"}, "truncated"),
        ({"finished": True}, "correct"),
        ({"finished": False}, "truncated"),
        ({"finished": False, "finish_reason": "length"}, "truncated"),
        ({"finish_reason": "eos"}, "finish_reason = 'eos' in row 2"),
        ({"finish_reason": ["stop"]}, "finish_reason = "),
        ({"finish_reason": True}, "finish_reason = True"),
        ({"finished": 1}, "finished = 1 in row 2"),
        ({"finished": True, "finish_reason": "length"}, "contradict"),
    ],
)
def test_finish_reasons_are_stop_length_or_nothing(way: dict[str, Any], reason: str) -> None:
    row = {"question_id": MARFAN.id, "text": "<think>x</think><answer>B</answer>", **way}
    known = {MARFAN.id: MARFAN}
    if reason in ("correct", "truncated"):
        assert score_item(_item(known, row, Path("c"), 2), RewardConfig()).score.reason == reason  # type: ignore[union-attr]
        return
    with pytest.raises(DataError, match=reason):
        _item(known, row, Path("c"), 2)


def test_a_question_may_stand_twice_but_not_with_two_truths(tmp_path: Path) -> None:
    questions, completions = tmp_path / "q.jsonl", tmp_path / "c.jsonl"
    completions.write_text(json.dumps({"question_id": MARFAN.id, "text": "<think>x</think><answer>B</answer>"}))
    for change, said in (
        ({"split": "test"}, ""),
        ({"source": "x"}, "source"),
        ({"accepted_answers": ("A x",)}, "accepted"),
    ):
        twice = [MARFAN, dataclasses.replace(MARFAN, **change)]
        questions.write_text("".join(json.dumps(question_row(q)) + "\n" for q in twice))
        if not said:
            assert run_score(questions, completions, None, RewardConfig()).correct["hpo"] == 1
            continue
        with pytest.raises(DataError, match=f"{MARFAN.id} stands twice .* {said}"):
            run_score(questions, completions, None, RewardConfig())


@pytest.mark.parametrize("sample", ['"one"', "true", "1.5", "1" + "0" * 20])
def test_a_sample_index_that_is_no_number_is_named(files: tuple[Path, Path], tmp_path: Path, sample: str) -> None:
    out = tmp_path / "o.parquet"
    files[1].write_text(f'{{"question_id": "{MARFAN.id}", "text": "x", "sample_index": {sample}}}')
    with pytest.raises(DataError, match=r"sample_index = .* in row 1"):
        run_score(*files, out, RewardConfig())
    assert list(tmp_path.glob("o.*")) == []


@pytest.mark.parametrize("out", ["c.jsonl", "sub/../q.jsonl", "link.jsonl", "nowhere/o.jsonl", "folder.jsonl", "o.txt"])
def test_an_output_that_cannot_be_is_refused_before_scoring(files: tuple[Path, Path], tmp_path: Path, out: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").hardlink_to(files[1])
    before = [path.read_bytes() for path in files]
    with pytest.raises(FlemingError, match=r"--out|endings") as refused:
        run_score(*files, tmp_path / out, RewardConfig(user_verifiers={"none": "no_such:f"}))  # scoring would fail
    assert [path.read_bytes() for path in files] == before
    assert isinstance(refused.value, ConfigError) == (out in ("c.jsonl", "sub/../q.jsonl", "link.jsonl"))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_error_on_the_way_leaves_nothing_and_no_answer_too_odd_to_write(
    files: tuple[Path, Path], tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"o.{ending}"
    row = json.dumps({"question_id": MARFAN.id, "text": "<think>x</think><answer>\ud800</answer>"}) + "\n"
    files[1].write_text(row * 2)
    run_score(*files, out, RewardConfig())
    read = read_rows(out)
    assert [each["answer"] for each in read] == ["\\ud800" if ending == "parquet" else "\ud800"] * 2
    out.unlink()
    files[1].write_text(row * 5000 + "{")  # the first slice is written before the last line is read
    with pytest.raises(DataError, match="line 5001"):
        run_score(*files, out, RewardConfig())
    assert list(tmp_path.glob("o.*")) == []
    files[1].write_text("")
    run_score(*files, out, RewardConfig())
    assert out.exists()


def test_nothing_of_the_event_loop_is_said_at_the_end(
    files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    run_score(*files, None, RewardConfig())
    time.sleep(0.3)  # the watcher of a child speaks from a thread of its own
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_sources_and_names_are_shown_as_they_are(files: tuple[Path, Path], tmp_path: Path) -> None:
    odd = dataclasses.replace(MARFAN, source="[/red]x\x1b[31m")
    files[0].write_text(json.dumps(question_row(odd)))
    files[1].write_text(json.dumps({"question_id": odd.id, "text": "[/red]"}))
    out = tmp_path / "[b]o.jsonl"
    args = ["score", "--questions", str(files[0]), "--completions", str(files[1]), "--out", str(out)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert "[/red]x" in result.output and "[b]o.jsonl" in result.output and "\x1b" not in result.output
