"""The questions of a recipe, made once and kept as Parquet for many runs to read."""

from __future__ import annotations

import io

from data.config import QuestionSourceConfig
from data.load import load_questions
from data.records import Question
from data.sources.hpo import QuestionSplits
from data.storage import Storage
from data.tables import to_table, write_parquet

QUESTIONS = "questions.parquet"


def build_questions(config: QuestionSourceConfig, location: str) -> QuestionSplits:
    """Write the questions of all splits into a folder or URI, and return them.

    The order is that in which a run would have them, so a run that reads the file draws the same questions.

    Raises:
        DataError: see `data.load.load_questions`.
        SetupError: the place cannot be written.
    """
    splits = load_questions(config)
    sink = io.BytesIO()
    write_parquet(to_table([*splits.train, *splits.held_out, *splits.warm_up], Question), sink)
    Storage.open(location, setting="--out").write(QUESTIONS, sink.getvalue())
    return splits
