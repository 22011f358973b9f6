"""`fleming score`: completions from a file, judged as a run would judge them, with a summary by source and reason.

The verifiers run in worker processes (`reward_service/workers.py`), so a hostile line of a file costs its worker and
nothing else. Files are JSON lines or Parquet, told by their ending; the rollout files of a run are read as they are.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import DataError
from data.records import FINISH_REASONS

SLICE_ITEMS = 4096
"""Completions that are read and judged at once; it bounds the memory."""
_EXAMPLE_CHARS = 60
_SUFFIXES = (".jsonl", ".ndjson", ".parquet")

Row = Mapping[str, Any]


@dataclass(kw_only=True)
class Summary:
    """What became of the completions, by source and reason. ``examples`` keep the first of each."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    correct: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    def add(self, source: str, row: Row, text: str) -> None:
        """Count one result row."""
        reason = str(row["reason"])
        self.counts[source][reason] += 1
        self.examples.setdefault(reason, (str(row["question_id"]), text))
        if row["reward"] is None:
            self.failed += 1
        else:
            self.rewards[source] += float(row["reward"])
            self.correct[source] += row["correct"] == 1.0

    @property
    def total(self) -> int:
        return sum(counter.total() for counter in self.counts.values())


def score(
    questions: Annotated[Path, typer.Option("--questions", help="questions, JSON lines or Parquet")],
    completions: Annotated[
        Path, typer.Option("--completions", help="rows with question_id, text and perhaps finish_reason")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="where the scores go, JSON lines or Parquet")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="take the settings of the rewards from it")] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="worker processes")] = 1,
) -> None:
    """Score completions against their questions, and say what was earned and why."""
    from cluster.cli import plain_errors
    from cluster.config import load_recipe
    from reward_service.config import RewardConfig

    with plain_errors():
        config = load_recipe(recipe).rewards if recipe else RewardConfig()
        workers = config.workers.model_copy(update={"processes": processes})
        summary = run_score(questions, completions, out, config.model_copy(update={"workers": workers}))
        render(summary, Console(), out)


def run_score(questions: Path, completions: Path, out: Path | None, config: Any) -> Summary:
    """Score a file; ``config`` is a `RewardConfig`.

    Raises:
        DataError: a file is missing, has another ending or a row that cannot be read; the row is named.
    """
    for path in (questions, completions, *([out] if out else [])):
        if path.suffix not in _SUFFIXES:
            raise DataError(f"{path} is neither JSON lines nor Parquet", remedy=f"use one of the endings {_SUFFIXES}")
    return asyncio.run(_score(_by_id(questions), completions, out, config))


def _by_id(path: Path) -> dict[str, Any]:
    """The questions by id. What is not part of the id and still decides about a score may not differ."""
    known: dict[str, Any] = {}
    for question in read_questions(path):
        first = known.setdefault(question.id, question)
        for name in ("source", "accepted_answers", "verifier", "answer_labels"):
            one, other = getattr(first, name), getattr(question, name)
            if one != other:
                raise DataError(
                    f"question {question.id} stands twice in {path}, with {name} = {one!r:.80} and {other!r:.80}",
                    remedy="keep one of them, or score their completions apart",
                )
    return known


async def _score(known: Mapping[str, Any], completions: Path, out: Path | None, config: Any) -> Summary:
    from reward_service.worker import ScoreItem
    from reward_service.workers import WorkerHost

    summary = Summary()
    host = WorkerHost(config)
    writer = _Writer(out)
    at = 0
    try:
        for rows in _slices(completions):
            items = []
            for index, row in enumerate(rows, start=at + 1):
                question_id, text = _completion(row, completions, index)
                if question_id not in known:
                    raise DataError(
                        f"row {index} of {completions} answers question {question_id!r}, which is not in the questions",
                        remedy="give the file of questions that these completions answer",
                    )
                finished = _finished(row, f"row {index} of {completions}")
                items.append(ScoreItem(question=known[question_id], text=text, finished=finished))
            results = [
                _result(item, outcome, row)
                for item, outcome, row in zip(items, await host.score(items), rows, strict=True)
            ]
            for item, result in zip(items, results, strict=True):
                summary.add(item.question.source, result, item.text)
            writer.write(results)
            at += len(rows)
    finally:
        host.close()
    writer.close()
    return summary


def _completion(row: Row, path: Path, index: int) -> tuple[str, str]:
    question_id, text = row.get("question_id"), row.get("text")
    if not isinstance(question_id, str) or not isinstance(text, str):
        raise DataError(
            f"row {index} of {path} has the fields {sorted(row)[:12]}",
            remedy="give it question_id and text, both texts",
        )
    return question_id, text


def _finished(row: Row, where: str) -> bool:
    """False for a completion that the token limit cut; one that says nothing about it counts as finished.

    Raises:
        DataError: another word. Whoever wrote it may have meant either, and a cut completion earns nothing.
    """
    reason, flag = row.get("finish_reason"), row.get("finished")
    if reason is not None and reason not in FINISH_REASONS:
        raise DataError(
            f"finish_reason = {reason!r:.60} in {where} is none of {FINISH_REASONS}",
            remedy='write "length" for a completion that the token limit cut, "stop" or null for any other',
        )
    if flag is not None and not isinstance(flag, bool):
        raise DataError(
            f"finished = {flag!r:.60} in {where} is not true or false", remedy="make it one, or leave it out"
        )
    if reason is not None and flag is not None and flag != (reason == "stop"):
        raise DataError(
            f"finish_reason = {reason!r} and finished = {flag} in {where} contradict each other",
            remedy="give one of them",
        )
    return reason != "length" if flag is None else flag


def _result(item: Any, outcome: Any, row: Row) -> dict[str, Any]:
    """One line of the output; a failed verification has no numbers."""
    from reward_service.worker import Failure

    base = {"question_id": item.question.id, "sample_index": row.get("sample_index")}
    if isinstance(outcome, Failure):
        nothing = {"reward": None, "correct": None, "format": None, "answer": None, "verifier_version": None}
        return {**base, **nothing, "reason": f"unverified: {outcome.kind}", "failure": outcome.detail}
    said = outcome.score
    return {
        **base,
        **{name: getattr(said, name) for name in ("reward", "correct", "format", "answer")},
        "verifier_version": outcome.verifier_version,
        "reason": said.reason,
        "failure": None,
    }


# --- files ------------------------------------------------------------------------------------------------------------


def read_questions(path: Path) -> list[Any]:
    """Questions from JSON lines (fields as in `data.records.Question`, defaults may be left out) or Parquet.

    Raises:
        DataError: the file is missing, or a row is no question.
    """
    from data.records import Question
    from data.tables import read_parquet

    if path.suffix == ".parquet":
        return read_parquet(Question, path)
    return [_question(row, path, index) for index, row in enumerate(_json_lines(path), start=1)]


def _question(row: Row, path: Path, index: int) -> Any:
    from data.records import Option, Provenance, Question

    filled: dict[str, Any] = {"source": "", "language": "", "answer_label": "", **row}
    stored = filled.pop("id", None)
    where = f"row {index} of {path}"
    options = _typed(filled.get("options", []), list, "options", where)
    given = _texts_of(filled.get("provenance", {}), "provenance", where, lists=("path", "masked"))
    kept = {name: value for name, value in filled.items() if name not in ("options", "provenance")}
    fields = _texts_of(kept, "", where, lists=("accepted_answers", "tags", "answer_labels"))
    try:
        fields["options"] = tuple(
            Option(**_texts_of(option, f"options.{number}", where)) for number, option in enumerate(options)
        )
        question = Question(**fields, provenance=Provenance(**given))
    except TypeError as error:
        remedy = "use the fields of Question in data/records.py; source, stem, options and answer_label will do"
        raise DataError(f"{where} is no question ({error})", remedy=remedy) from None
    except DataError as error:
        raise DataError(f"{where}: {error.problem}", remedy=error.remedy) from None
    if stored not in (None, question.id):
        raise DataError(
            f"row {index} of {path} has id {stored!r}, and its content {question.id!r}", remedy="leave the id out"
        )
    return question


def _texts_of(value: Any, name: str, where: str, lists: Sequence[str] = ()) -> dict[str, Any]:
    """An object whose fields are all texts, but for ``lists``, which are lists of texts and become tuples."""
    found: dict[str, Any] = {}
    for key, said in _typed(value, dict, name, where).items():
        field_name = f"{name}.{key}" if name else key
        if key in lists:  # a text is a sequence of texts too: each of its letters would be an accepted answer
            elements = enumerate(_typed(said, list, field_name, where))
            found[key] = tuple(_typed(each, str, f"{field_name}.{number}", where) for number, each in elements)
        else:
            found[key] = _typed(said, str, field_name, where)
    return found


def _typed(value: Any, kind: type, name: str, where: str) -> Any:
    if not isinstance(value, kind):
        what = {"str": "a text", "list": "a list", "dict": "an object"}[kind.__name__]
        raise DataError(f"{name} = {value!r:.60} in {where} is not {what}", remedy=f"make it {what}, or leave it out")
    return value


def _slices(path: Path) -> Iterator[list[Row]]:
    if path.suffix == ".parquet":
        for batch in _parquet(path).iter_batches(batch_size=SLICE_ITEMS):
            yield batch.to_pylist()
        return
    kept: list[Row] = []
    for row in _json_lines(path):
        kept.append(row)
        if len(kept) == SLICE_ITEMS:
            yield kept
            kept = []
    if kept:
        yield kept


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({str(error)[:120]})", remedy="give a Parquet file that exists"
        ) from None


def _json_lines(path: Path) -> Iterator[Row]:
    try:
        # Only "\n" ends a line: JSON texts may hold U+2028 and its like.
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _object(line, path, number)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})", remedy="give a file of JSON lines in UTF-8") from None


def _object(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"line {number} of {path} is no JSON ({error})", remedy="write one object per line") from None
    if not isinstance(row, dict):
        raise DataError(f"line {number} of {path} is no JSON object", remedy="write one object per line")
    return cast(Row, row)


class _Writer:
    """The output file, slice by slice, under its name only when whole."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part") if path else None
        self._lines: Any = None
        self._table: Any = None

    def write(self, rows: Sequence[Row]) -> None:
        if self._part is None or self._path is None:
            return
        if self._path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            kinds = {"sample_index": pa.int64(), **dict.fromkeys(("reward", "correct", "format"), pa.float64())}
            names = ("question_id", "sample_index", "reward", "correct", "format", "answer", "verifier_version")
            schema = pa.schema([(name, kinds.get(name, pa.string())) for name in (*names, "reason", "failure")])
            if self._table is None:
                self._table = pq.ParquetWriter(self._part, schema)
            self._table.write_table(pa.Table.from_pylist(list(rows), schema=schema))
            return
        if self._lines is None:
            self._lines = self._part.open("w", encoding="utf-8")
        self._lines.writelines(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)

    def close(self) -> None:
        for file in (self._table, self._lines):
            if file is not None:
                file.close()
        if self._part is not None and self._path is not None and self._part.exists():
            self._part.replace(self._path)


# --- what a person reads ----------------------------------------------------------------------------------------------


def render(summary: Summary, console: Console, out: Path | None) -> None:
    """Two tables: sources with their totals, and reasons with an example of each."""
    table = Table("source", "completions", "correct", "mean reward", "unverified", title="Scores")
    for source, counter in sorted(summary.counts.items()):
        lost = sum(count for reason, count in counter.items() if reason.startswith("unverified"))
        judged = counter.total() - lost
        rate = f"{summary.correct[source]} ({summary.correct[source] / judged:.1%})" if judged else "-"
        mean = f"{summary.rewards[source] / judged:.3f}" if judged else "-"
        table.add_row(source or "(none)", str(counter.total()), rate, mean, str(lost))
    console.print(table)
    reasons: Counter[str] = sum(summary.counts.values(), Counter())
    why = Table("reason", "completions", *sorted(summary.counts), "example", title="Why")
    for reason, count in reasons.most_common():
        question_id, text = summary.examples[reason]
        by_source = [str(summary.counts[source][reason]) for source in sorted(summary.counts)]
        why.add_row(reason, str(count), *by_source, Text(f"{question_id}: {_shown(text)}"))
    console.print(why)
    if out:
        console.print(f"scores written to {out}", soft_wrap=True)


def _shown(text: str) -> str:
    """The end of a completion on one line, without anything that a terminal would act on."""
    tail = text if len(text) <= _EXAMPLE_CHARS else "..." + text[-_EXAMPLE_CHARS:]
    return "".join(char if char.isprintable() else "\N{MIDDLE DOT}" for char in tail)
