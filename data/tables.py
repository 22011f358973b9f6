"""Records on disk: an Arrow schema for each record of `data/records.py`, and Parquet files without loss.

Tables carry one row per record; nested records are structs, tuples are lists. The id of a question is stored beside its
content and checked on reading, so a file that was edited by hand or damaged is noticed. `ROLLOUT_SCHEMA` is what a run
writes of every completion: what was sampled, what it earned, and what became of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from data.errors import DataError
from data.records import Completion, Group, Option, Provenance, Question, Score, ScoredGroup, Trajectory, VersionSpan

Record = Question | Completion | Group | ScoredGroup | Trajectory
R = TypeVar("R", Question, Completion, Group, ScoredGroup, Trajectory)
Row = Mapping[str, Any]
Fate = Literal["trained", "zero_variance", "surplus", "overlong", "stale", "unverified", "rolled_back"]
FATES: tuple[Fate, ...] = ("trained", "zero_variance", "surplus", "overlong", "stale", "unverified", "rolled_back")


def _schema(**columns: Any) -> Any:
    """A schema without nulls. Example: ``_schema(step=pa.int64())``."""
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def _list(kind: Any) -> Any:
    return pa.list_(pa.field("item", kind, nullable=False))


def _struct(schema: Any) -> Any:
    return pa.struct(list(schema))


_TEXTS = _list(pa.string())

OPTION_SCHEMA = _schema(label=pa.string(), text=pa.string())
PROVENANCE_SCHEMA = _schema(
    dataset=pa.string(),
    dataset_version=pa.string(),
    row=pa.string(),
    graph=pa.string(),
    path=_TEXTS,
    masked=_TEXTS,
    generator_version=pa.string(),
)
QUESTION_SCHEMA = _schema(
    id=pa.string(),
    source=pa.string(),
    language=pa.string(),
    stem=pa.string(),
    options=_list(_struct(OPTION_SCHEMA)),
    answer_label=pa.string(),
    context=pa.string(),
    accepted_answers=_TEXTS,
    difficulty=pa.string(),
    split=pa.string(),
    tags=_TEXTS,
    provenance=_struct(PROVENANCE_SCHEMA),
    answer_labels=_TEXTS,
    verifier=pa.string(),
)
VERSION_SPAN_SCHEMA = _schema(start=pa.int32(), end=pa.int32(), version=pa.int64())
COMPLETION_SCHEMA = _schema(
    question_id=pa.string(),
    draw=pa.int64(),
    sample_index=pa.int32(),
    seed=pa.int64(),
    prompt_token_ids=_list(pa.int32()),
    token_ids=_list(pa.int32()),
    logprobs=_list(pa.float32()),
    version_spans=_list(_struct(VERSION_SPAN_SCHEMA)),
    finish_reason=pa.string(),
    text=pa.string(),
)
GROUP_SCHEMA = _schema(
    question=_struct(QUESTION_SCHEMA), draw=pa.int64(), completions=_list(_struct(COMPLETION_SCHEMA))
)
SCORE_SCHEMA = _schema(
    correct=pa.float64(), format=pa.float64(), reward=pa.float64(), reason=pa.string(), answer=pa.string()
)
SCORED_GROUP_SCHEMA = _schema(
    group=_struct(GROUP_SCHEMA), scores=_list(_struct(SCORE_SCHEMA)), verifier_version=pa.string()
)
TRAJECTORY_SCHEMA = _schema(
    question_id=pa.string(),
    teacher=pa.string(),
    chain_of_thought=pa.string(),
    answer=pa.string(),
    attempts=pa.int32(),
    refinements=_TEXTS,
    filters_passed=_TEXTS,
)
SCHEMAS: dict[type, Any] = {
    Question: QUESTION_SCHEMA,
    Completion: COMPLETION_SCHEMA,
    Group: GROUP_SCHEMA,
    ScoredGroup: SCORED_GROUP_SCHEMA,
    Trajectory: TRAJECTORY_SCHEMA,
}
# Scores are null where the verifier gave no verdict: a failed verification is not a reward of zero.
ROLLOUT_SCHEMA = pa.schema(
    [
        *_schema(step=pa.int64(), attempt=pa.int32()),
        *COMPLETION_SCHEMA,
        pa.field("correct", pa.float64()),
        pa.field("format", pa.float64()),
        pa.field("reward", pa.float64()),
        pa.field("reason", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("advantage", pa.float64()),
        *_schema(fate=pa.string(), verifier_version=pa.string(), prompt_version=pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class RolloutRow:
    """One sampled completion of a run and what became of it.

    ``step`` is the learner step it was sampled for, ``attempt`` counts the times the run was started or resumed.
    ``score`` is None when the verifier failed; ``advantage`` is None for a completion that was not trained on.
    """

    step: int
    attempt: int
    completion: Completion
    score: Score | None
    fate: Fate
    verifier_version: str
    prompt_version: str
    advantage: float | None = None


# --- records to tables ----------------------------------------------------------------------------------------------


def to_table(records: Sequence[R], kind: type[R] | None = None) -> Any:
    """Records of one kind as a `pyarrow.Table`; ``kind`` is needed only when there are none.

    Raises:
        DataError: mixed or unknown kinds, or a value that the schema cannot hold (a lone surrogate, a number too big).
    """
    kinds = {type(record) for record in records} | ({kind} if kind else set())
    if len(kinds) != 1 or not kinds <= SCHEMAS.keys():
        names = sorted(k.__name__ for k in kinds if k)
        raise DataError(f"records are of the kinds {names}", remedy="put records of exactly one kind in a table")
    chosen = kinds.pop()
    return _table([_to_row(record) for record in records], SCHEMAS[chosen], chosen.__name__)


def rollout_table(rows: Sequence[RolloutRow]) -> Any:
    """A `pyarrow.Table` with ``ROLLOUT_SCHEMA``, one row per completion.

    Raises:
        DataError: an unknown fate, or a value that the schema cannot hold.
    """
    unknown = sorted({row.fate for row in rows} - set(FATES))
    if unknown:
        raise DataError(f"fate {unknown} is unknown", remedy=f"use one of {FATES}")
    blank = dict.fromkeys(field.name for field in dataclasses.fields(Score))
    flat = [
        {
            **dataclasses.asdict(row.completion),
            **(dataclasses.asdict(row.score) if row.score else blank),
            **{name: getattr(row, name) for name in ("step", "attempt", "fate", "advantage")},
            "verifier_version": row.verifier_version,
            "prompt_version": row.prompt_version,
        }
        for row in rows
    ]
    return _table(flat, ROLLOUT_SCHEMA, "rollout")


def mark_rolled_back(table: Any) -> Any:
    """The same rollout table with every fate set to "rolled_back": work after the last commit, done again later."""
    column = pa.array(["rolled_back"] * table.num_rows, pa.string())
    return table.set_column(table.schema.get_field_index("fate"), ROLLOUT_SCHEMA.field("fate"), column)


def _to_row(record: object) -> dict[str, Any]:
    """A record as nested dicts, with the id of each question beside its content."""
    if isinstance(record, Group):
        return {
            "question": _to_row(record.question),
            "draw": record.draw,
            "completions": [_to_row(c) for c in record.completions],
        }
    if isinstance(record, ScoredGroup):
        return {
            "group": _to_row(record.group),
            "scores": [dataclasses.asdict(s) for s in record.scores],
            "verifier_version": record.verifier_version,
        }
    row = dataclasses.asdict(record)  # type: ignore[call-overload]  # every other record is a plain dataclass
    return {"id": record.id, **row} if isinstance(record, Question) else dict(row)


_CONVERSION_ERRORS = (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError)


def _table(rows: Sequence[Row], schema: Any, what: str) -> Any:
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except _CONVERSION_ERRORS:
        raise _culprit(rows, schema, what) from None


def _culprit(rows: Sequence[Row], schema: Any, what: str) -> DataError:
    """Find the first row and column that Arrow refuses; only called once a whole table was refused."""
    for index, row in enumerate(rows):
        for column in schema:
            try:
                pa.array([row[column.name]], column.type)
            except _CONVERSION_ERRORS as error:
                value = ascii(row[column.name])[:80]
                return DataError(
                    f"{what} row {index} has {column.name} = {value}, which cannot be stored ({str(error)[:120]})",
                    remedy="clean the value: valid Unicode without lone surrogates, numbers that fit the schema",
                )
    return DataError(f"{what} rows do not fit their schema", remedy="check the types of the record's fields")


# --- tables to records ----------------------------------------------------------------------------------------------


def from_table(kind: type[R], table: Any) -> list[R]:
    """Read records of ``kind`` back from a table.

    Raises:
        DataError: missing or unfit columns, nulls, a stored question id that its content does not have, or a row that
            makes no valid record; the row is named.
    """
    fitted = fit_schema(table, SCHEMAS[kind], kind.__name__)
    build: Callable[[Row], R] = _BUILDERS[kind]
    records: list[R] = []
    for index, row in enumerate(fitted.to_pylist()):
        try:
            records.append(build(row))
        except DataError as error:
            raise DataError(f"{kind.__name__} row {index}: {error.problem}", remedy=error.remedy) from None
    return records


def fit_schema(table: Any, schema: Any, what: str) -> Any:
    """``table`` with exactly the columns and types of ``schema``, for files written by other tools.

    Raises:
        DataError: a column is missing, holds nulls that the schema refuses, or cannot be cast.
    """
    missing = [name for name in schema.names if name not in table.schema.names]
    if missing:
        raise DataError(
            f"{what} table lacks the columns {missing}; it has {table.schema.names[:20]}",
            remedy=f"write it with {schema.names}",
        )
    chosen = table.select(schema.names)
    for column in schema:
        nulls = chosen[column.name].null_count
        if nulls and not column.nullable:
            raise DataError(f"{what} table has {nulls} nulls in {column.name}", remedy="fill or drop those rows")
    try:
        return chosen.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"{what} table does not fit its schema ({str(error)[:160]})", remedy=f"use the types {schema}"
        ) from None


def _question(row: Row) -> Question:
    names = ("source", "language", "stem", "answer_label", "context", "difficulty", "split", "verifier")
    plain = {name: row[name] for name in names}
    source = row["provenance"]
    question = Question(
        **plain,
        options=tuple(Option(**option) for option in row["options"]),
        accepted_answers=tuple(row["accepted_answers"]),
        tags=tuple(row["tags"]),
        answer_labels=tuple(row["answer_labels"]),
        provenance=Provenance(**{**source, "path": tuple(source["path"]), "masked": tuple(source["masked"])}),
    )
    if question.id != row["id"]:
        raise DataError(
            f"stored id {row['id']!r} is not the id {question.id!r} of its content",
            remedy="the file was changed after it was written: make it anew",
        )
    return question


def _completion(row: Row) -> Completion:
    sequences = {name: tuple(row[name]) for name in ("prompt_token_ids", "token_ids", "logprobs")}
    spans = tuple(VersionSpan(**span) for span in row["version_spans"])
    return Completion(**{**row, **sequences, "version_spans": spans})


def _group(row: Row) -> Group:
    completions = tuple(_completion(c) for c in row["completions"])
    return Group(question=_question(row["question"]), draw=row["draw"], completions=completions)


def _scored_group(row: Row) -> ScoredGroup:
    scores = tuple(Score(**score) for score in row["scores"])
    return ScoredGroup(group=_group(row["group"]), scores=scores, verifier_version=row["verifier_version"])


def _trajectory(row: Row) -> Trajectory:
    return Trajectory(
        **{**row, "refinements": tuple(row["refinements"]), "filters_passed": tuple(row["filters_passed"])}
    )


_BUILDERS: dict[type, Callable[[Row], Any]] = {
    Question: _question,
    Completion: _completion,
    Group: _group,
    ScoredGroup: _scored_group,
    Trajectory: _trajectory,
}


# --- Parquet ----------------------------------------------------------------------------------------------------------


def write_parquet(table: Any, target: str | os.PathLike[str] | IO[bytes], filesystem: Any = None) -> None:
    """Write a table as one Parquet file; a reader sees the whole file or none.

    Raises:
        DataError: the file system refuses (full disk, missing folder, no permission); nothing is left at ``target``.
    """
    if not isinstance(target, str | os.PathLike):
        pq.write_table(table, target)
        return
    path = os.fspath(target)
    store = filesystem or pafs.LocalFileSystem()
    partial = f"{path}.{uuid.uuid4().hex[:8]}.partial"
    try:
        pq.write_table(table, partial, filesystem=store)
        store.move(partial, path)
    except OSError as error:
        _discard(store, partial)
        raise DataError(
            f"cannot write {path}: {error}", remedy="check that the folder exists and has free space"
        ) from error


def read_parquet(kind: type[R], source: str | os.PathLike[str] | IO[bytes], filesystem: Any = None) -> list[R]:
    """Read the records of one Parquet file.

    Raises:
        DataError: the file is missing or is no Parquet file, or see `from_table`.
    """
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else source
    try:
        table = pq.ParquetFile(name, filesystem=filesystem).read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {name}: {str(error)[:160]}", remedy="give the path of a Parquet file") from error
    return from_table(kind, table)


def _discard(store: Any, path: str) -> None:
    with contextlib.suppress(OSError):  # when it was never created: the first error is the one to report
        store.delete_file(path)
