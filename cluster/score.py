"""`fleming score`: completions from a file, judged as a run would judge them, with a summary by source and reason.

The verifiers run in worker processes (`reward_service/workers.py`), so a hostile line of a file costs its worker and
nothing else. Files are JSON lines or Parquet, told by their ending; the rollout files of a run are read as they are.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.plain_errors import plain_errors
from cluster.score_files import Row, Writer, check_paths, question_key, read_questions, slices
from data.errors import DataError
from data.records import FINISH_REASONS

_EXAMPLE_CHARS = 60


@dataclass(kw_only=True)
class Summary:
    """What became of the completions, by source and reason. ``examples``: (source, reason) to the first of each."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    examples: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    correct: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    def add(self, source: str, row: Row, text: str) -> None:
        """Count one result row."""
        reason = str(row["reason"])
        self.counts[source][reason] += 1
        self.examples.setdefault((source, reason), (str(row["question_id"]), text))
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
        DataError: a file is missing, has another ending or a row that cannot be read (the row is named), or ``out``
            cannot be written.
        ConfigError: ``out`` is one of the inputs.
    """
    check_paths(questions, completions, out)
    return asyncio.run(_score(_by_id(questions), completions, out, config))


def _by_id(path: Path) -> dict[str, Any]:
    """The questions by the id of their content, and by their own. One id may not stand for two truths."""
    known: dict[str, Any] = {}
    for own, question in read_questions(path):
        for key in dict.fromkeys((question.id, own or question.id)):
            first = known.setdefault(key, question)
            # What is not part of the content's id and still decides about a score may not differ either.
            for name in ("id", "source", "accepted_answers", "verifier", "answer_labels"):
                one, other = getattr(first, name), getattr(question, name)
                if one != other:
                    raise DataError(
                        f"question {key} stands twice in {path}, with {name} = {one!r:.80} and {other!r:.80}",
                        remedy="keep one of them, or score their completions apart",
                    )
    return known


async def _score(known: Mapping[str, Any], completions: Path, out: Path | None, config: Any) -> Summary:
    from reward_service.workers import WorkerHost

    summary = Summary()
    host = WorkerHost(config)
    at = 0
    try:
        with Writer(out) as writer:
            for rows in slices(completions):
                items = [_item(known, row, completions, index) for index, row in enumerate(rows, start=at + 1)]
                outcomes = await host.score(items)
                results = [
                    _result(item, outcome, row) for item, outcome, row in zip(items, outcomes, rows, strict=True)
                ]
                for item, result in zip(items, results, strict=True):
                    summary.add(item.question.source, result, item.text)
                writer.write(results)
                at += len(rows)
    finally:
        await host.aclose()
    return summary


def _item(known: Mapping[str, Any], row: Row, path: Path, index: int) -> Any:
    from reward_service.worker import ScoreItem

    where = f"row {index} of {path}"
    question_id, text, sample = question_key(row.get("question_id")), row.get("text"), row.get("sample_index")
    if question_id is None or not isinstance(text, str):
        raise DataError(f"{where} has the fields {sorted(row)[:12]}", remedy="give it question_id and a text")
    if question_id not in known:
        raise DataError(
            f"{where} answers question {question_id!r}, which is not in the questions",
            remedy="give the file of questions that these completions answer, with the ids that they name",
        )
    if sample is not None and (not isinstance(sample, int) or isinstance(sample, bool) or abs(sample) >= 1 << 63):
        raise DataError(f"sample_index = {sample!r:.60} in {where} is no number", remedy="write it as 0, 1, 2 ...")
    return ScoreItem(question=known[question_id], text=text, finished=_finished(row, where))


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

    base = {"question_id": question_key(row["question_id"]), "sample_index": row.get("sample_index")}
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


# --- what a person reads ----------------------------------------------------------------------------------------------


def render(summary: Summary, console: Console, out: Path | None) -> None:
    """Two tables: sources with their totals, and the reasons of each source with an example."""
    table = Table("source", "completions", "correct", "mean reward", "unverified", title="Scores")
    for source, counter in sorted(summary.counts.items()):
        lost = sum(count for reason, count in counter.items() if reason.startswith("unverified"))
        judged = counter.total() - lost
        rate = f"{summary.correct[source]} ({summary.correct[source] / judged:.1%})" if judged else "-"
        mean = f"{summary.rewards[source] / judged:.3f}" if judged else "-"
        table.add_row(_plain(source or "(none)"), str(counter.total()), rate, mean, str(lost))
    console.print(table)
    reasons: Counter[str] = sum(summary.counts.values(), Counter())
    why = Table("reason", "source", "completions", "example", title="Why")
    for reason, _ in reasons.most_common():
        for source in sorted(source for source, counter in summary.counts.items() if counter[reason]):
            question_id, text = summary.examples[source, reason]
            count = str(summary.counts[source][reason])
            why.add_row(_plain(reason), _plain(source or "(none)"), count, _plain(f"{question_id}: {_end(text)}"))
    console.print(why)
    if out:
        console.print(f"scores written to {out}", markup=False, soft_wrap=True)


def _end(text: str) -> str:
    return text if len(text) <= _EXAMPLE_CHARS else "..." + text[-_EXAMPLE_CHARS:]


def _plain(text: str) -> Text:
    """A text on one line, without markup and without anything that a terminal would act on."""
    return Text("".join(char if char.isprintable() else "\N{MIDDLE DOT}" for char in text))
