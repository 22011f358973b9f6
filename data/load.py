"""From a `QuestionSourceConfig` to questions, by split."""

from __future__ import annotations

from data.config import QuestionSourceConfig
from data.errors import DataError
from data.records import Question
from data.sources.choices import check_ending, choices_splits, is_file
from data.sources.hpo import SPLITS, QuestionSplits, hpo_splits
from data.storage import Storage
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
    questions = read_parquet(Question, config.path)
    seen: set[str] = set()
    for row, question in enumerate(questions):
        if question.split not in SPLITS:
            raise DataError(
                f"row {row} of {config.path} has split {question.split!r}", remedy=f"use one of {sorted(SPLITS)}"
            )
        if question.id in seen:
            raise DataError(
                f"row {row} of {config.path} repeats question {question.id}", remedy="drop repeated questions"
            )
        seen.add(question.id)
    splits = QuestionSplits.of(questions)
    if not splits.train:
        raise DataError(f"{config.path} has no question with split 'train'", remedy="add questions to train on")
    return splits


def check_source(config: QuestionSourceConfig) -> None:
    """Refuse a source that is not there, without reading it; the hub and installed packages are not asked.

    Raises:
        DataError: the file or folder does not exist.
    """
    places = {
        "hpo": ("hpo.directory", config.hpo.directory),
        "choices": ("choices.path", config.choices.path if is_file(config.choices.path) else ""),
        "synthesis": ("synthesis.graph", config.synthesis.graph),
        "parquet": ("path", config.path),
    }
    key, where = places[config.source]
    if where and config.source == "choices":
        check_ending(where)
    if where and not Storage.open(where, setting=f"data.questions.{key}").exists():
        raise DataError(
            f"data.questions.{key} is {where!r}, and there is nothing at that place",
            remedy=f"correct data.questions.{key}, or make what it names first",
        )
