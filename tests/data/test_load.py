"""Where questions come from, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from pydantic import ValidationError

from data.config import DataConfig, HpoConfig, QuestionSourceConfig
from data.errors import DataError
from data.load import load_questions
from data.tables import to_table, write_parquet
from tests.data.examples import MARFAN


def test_parquet_questions_go_to_their_splits(tmp_path: Path) -> None:
    held = dataclasses.replace(MARFAN, stem="Another?", split="held_out")
    write_parquet(to_table([MARFAN, held]), tmp_path / "q.parquet")
    splits = load_questions(QuestionSourceConfig(source="parquet", path=str(tmp_path / "q.parquet")))
    assert (splits.train, splits.held_out, splits.warm_up) == ((MARFAN,), (held,), ())


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([MARFAN, dataclasses.replace(MARFAN, split="held_out")], "row 1 of .* repeats"),
        ([dataclasses.replace(MARFAN, split="dev")], "split 'dev'"),
        ([dataclasses.replace(MARFAN, split="held_out")], "no question with split 'train'"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, questions: list[object], message: str) -> None:
    write_parquet(to_table(questions), tmp_path / "q.parquet")  # type: ignore[type-var]
    with pytest.raises(DataError, match=message):
        load_questions(QuestionSourceConfig(source="parquet", path=str(tmp_path / "q.parquet")))


def test_config_refuses_impossible_combinations() -> None:
    assert DataConfig().questions.source == "hpo"
    for bad in ({"source": "parquet"}, {"source": "hpo", "path": "x"}, {"source": "csv"}, {"sauce": "hpo"}):
        with pytest.raises(ValidationError):
            QuestionSourceConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        HpoConfig(train_questions=0)
