"""From a `QuestionSourceConfig` to questions, by split."""

from __future__ import annotations

from data.config import QuestionSourceConfig
from data.errors import DataError
from data.records import Question
from data.sources.choices import choices_splits
from data.sources.hpo import QuestionSplits, hpo_splits
from data.tables import read_parquet


def load_questions(config: QuestionSourceConfig) -> QuestionSplits:
    """The questions of a run, deterministic.

    Raises:
        DataError: a source that is missing or damaged, a question that is repeated, or no question to train on.
    """
    if config.source == "hpo":
        return hpo_splits(config.hpo)
    if config.source == "choices":
        return choices_splits(config.choices)
    if config.source == "synthesis":
        from data.synthesis.run import synthesis_splits

        return synthesis_splits(config.synthesis)
    by_split: dict[str, list[Question]] = {"train": [], "held_out": [], "warm_up": []}
    seen: set[str] = set()
    for row, question in enumerate(read_parquet(Question, config.path)):
        if question.split not in by_split:
            raise DataError(
                f"row {row} of {config.path} has split {question.split!r}", remedy=f"use one of {sorted(by_split)}"
            )
        if question.id in seen:
            raise DataError(
                f"row {row} of {config.path} repeats question {question.id}", remedy="drop repeated questions"
            )
        seen.add(question.id)
        by_split[question.split].append(question)
    if not by_split["train"]:
        raise DataError(f"{config.path} has no question with split 'train'", remedy="add questions to train on")
    return QuestionSplits(**{split: tuple(questions) for split, questions in by_split.items()})
