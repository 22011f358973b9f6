"""Synthesised questions on disk: questions.parquet, explanations.parquet, and report.json with counts and coverage.

Questions stand in the order of their identifiers, so equal questions give equal bytes. Loading them needs no graph.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.records import Question
from data.storage import Storage
from data.synthesis.compose import Made
from data.synthesis.explain import Explanation
from data.tables import read_parquet, to_table

QUESTIONS, EXPLANATIONS, REPORT = "questions.parquet", "explanations.parquet", "report.json"
_PROBE = ".fleming-writable"
_SCHEMA = pa.schema([pa.field(n, pa.string(), nullable=False) for n in ("question_id", "form", "ring", "explanation")])


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A question with its explanation."""

    question: Question
    explanation: Explanation


def require_writable(location: str) -> None:
    """Refuse a place before the work rather than after it.

    Raises:
        SetupError: nothing can be written there.
    """
    storage = Storage.open(location, setting="--out")
    storage.write(_PROBE, b"")
    storage.delete(_PROBE)


def write(made: Sequence[Made], report: dict[str, Any], location: str) -> None:
    """Write questions and explanations into a folder or URI.

    Raises:
        SetupError: the place cannot be written.
    """
    ordered = sorted(made, key=lambda one: one.question.id)
    storage = Storage.open(location, setting="--out")
    rows = [(m.question.id, m.explanation.form, m.explanation.ring, m.explanation.to_json()) for m in ordered]
    explanations = pa.Table.from_arrays(
        [pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema=_SCHEMA
    )
    storage.write(QUESTIONS, _parquet(to_table([one.question for one in ordered], Question)))
    storage.write(EXPLANATIONS, _parquet(explanations))
    storage.write(REPORT, (json.dumps(report, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode())


def _parquet(table: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=1 << 14)
    return sink.getvalue()


def load(location: str) -> list[Traced]:
    """Everything in a folder, in the order of the identifiers.

    Raises:
        DataError: the folder holds no synthesised questions, or its two tables do not belong together.
    """
    explanations = {e.question_id: e for e in map(Explanation.from_json, _explanations(location, None))}
    questions = read_parquet(Question, f"{location.rstrip('/')}/{QUESTIONS}")
    if {q.id for q in questions} != explanations.keys():
        raise DataError(f"{QUESTIONS} and {EXPLANATIONS} in {location} differ", remedy="make the questions again")
    return [Traced(question=q, explanation=explanations[q.id]) for q in questions]


def find(location: str, question_id: str) -> Traced:
    """One question by its identifier, or by an unambiguous beginning of it.

    Raises:
        DataError: none or several are called so, or the folder holds no synthesised questions.
    """
    explanations = [Explanation.from_json(text) for text in _explanations(location, question_id)]
    if len(explanations) != 1:
        raise DataError(
            f"{len(explanations)} questions of {location} begin with {question_id!r}",
            remedy="give a whole identifier; they stand in column id of " + QUESTIONS,
        )
    wanted = explanations[0].question_id
    questions = read_parquet(Question, f"{location.rstrip('/')}/{QUESTIONS}")
    return Traced(question=next(q for q in questions if q.id == wanted), explanation=explanations[0])


def _explanations(location: str, start: str | None) -> list[str]:
    storage = Storage.open(location, setting="--questions")
    if not storage.exists(EXPLANATIONS):
        raise DataError(
            f"{location} holds no synthesised questions ({EXPLANATIONS} is missing)",
            remedy="make some: fleming data synthesize",
        )
    try:
        table = pq.read_table(io.BytesIO(storage.read(EXPLANATIONS)), schema=_SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{EXPLANATIONS} in {location} cannot be read: {str(error)[:160]}", remedy="make the questions again"
        ) from error
    rows = zip(table["question_id"].to_pylist(), table["explanation"].to_pylist(), strict=True)
    return [text for identifier, text in rows if start is None or (start and identifier.startswith(start))]
