"""Records survive Arrow and Parquet, and damage is noticed."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.records import Completion, Group, Question, Score, ScoredGroup, Trajectory
from data.tables import (
    ROLLOUT_SCHEMA,
    SCHEMAS,
    R,
    RolloutRow,
    from_table,
    mark_rolled_back,
    read_parquet,
    rollout_table,
    to_table,
    write_parquet,
)
from tests.data import strategies
from tests.data.examples import MARFAN, completion


def through_parquet(kind: type[R], records: list[R]) -> list[R]:
    buffer = io.BytesIO()
    write_parquet(to_table(records, kind), buffer)
    return read_parquet(kind, io.BytesIO(buffer.getvalue()))


@given(st.lists(strategies.questions(), max_size=3))
@settings(max_examples=40, deadline=None)
def test_questions_round_trip(records: list[Question]) -> None:
    assert through_parquet(Question, records) == records


@given(st.lists(strategies.completions(), max_size=3))
@settings(max_examples=40, deadline=None)
def test_completions_round_trip(records: list[Completion]) -> None:
    assert through_parquet(Completion, records) == records


@given(st.lists(strategies.groups(), max_size=2))
@settings(max_examples=20, deadline=None)
def test_groups_round_trip(records: list[Group]) -> None:
    assert through_parquet(Group, records) == records


@given(st.lists(strategies.scored_groups(), max_size=2))
@settings(max_examples=20, deadline=None)
def test_scored_groups_round_trip(records: list[ScoredGroup]) -> None:
    assert through_parquet(ScoredGroup, records) == records


@given(st.lists(strategies.trajectories, max_size=3))
@settings(max_examples=20, deadline=None)
def test_trajectories_round_trip(records: list[Trajectory]) -> None:
    assert through_parquet(Trajectory, records) == records


def test_every_field_of_a_record_has_a_column() -> None:
    for kind, schema in SCHEMAS.items():
        names = [field.name for field in dataclasses.fields(kind)]
        assert [name for name in schema.names if name != "id"] == names


def test_lone_surrogate_is_refused_with_row_and_field() -> None:
    bad = dataclasses.replace(MARFAN, context="broken \ud800")
    with pytest.raises(DataError, match=r"Question row 1 has context = .*ud800"):
        to_table([MARFAN, bad])


def test_a_seed_beyond_64_bits_is_refused() -> None:
    bad = dataclasses.replace(completion("x"), seed=2**63)
    with pytest.raises(DataError, match="row 0 has seed"):
        to_table([bad])


def test_edited_question_is_noticed_with_its_row() -> None:
    table = to_table([MARFAN, dataclasses.replace(MARFAN, context="c")])
    edited = pa.array([MARFAN.stem, "Which finding belongs to another disease?"])
    table = table.set_column(table.schema.get_field_index("stem"), table.schema.field("stem"), edited)
    with pytest.raises(DataError, match="row 1: stored id"):
        from_table(Question, table)


def test_edited_question_inside_a_group_is_noticed() -> None:
    rows = to_table([Group(question=MARFAN, draw=0, completions=())]).to_pylist()
    rows[0]["question"]["answer_label"] = "A"
    with pytest.raises(DataError, match="row 0: stored id"):
        from_table(Group, pa.Table.from_pylist(rows, schema=SCHEMAS[Group]))


def test_foreign_tables_are_fitted_or_refused() -> None:
    table = to_table([MARFAN])
    wide = table.append_column("extra", pa.array([1])).select(["extra", *reversed(table.schema.names)])
    assert from_table(Question, wide) == [MARFAN]
    with pytest.raises(DataError, match=r"lacks the columns.*stem"):
        from_table(Question, table.drop_columns(["stem"]))
    nothing = pa.array([None], pa.string())
    with pytest.raises(DataError, match="1 nulls in stem"):
        from_table(Question, table.set_column(table.schema.get_field_index("stem"), "stem", nothing))
    with pytest.raises(DataError, match="does not fit"):
        from_table(Question, table.set_column(table.schema.get_field_index("tags"), "tags", pa.array([3])))


def test_mixed_or_missing_kinds_are_refused() -> None:
    with pytest.raises(DataError, match="kinds"):
        to_table([MARFAN, completion("x")])  # type: ignore[type-var]
    with pytest.raises(DataError, match="kinds"):
        to_table([])
    assert to_table([], Question).num_rows == 0


def test_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "questions.parquet"
    write_parquet(to_table([MARFAN]), path)
    assert read_parquet(Question, path) == [MARFAN]
    assert [p.name for p in tmp_path.iterdir()] == ["questions.parquet"]
    with pytest.raises(DataError, match="cannot write"):
        write_parquet(to_table([MARFAN]), tmp_path / "missing" / "q.parquet")


def test_file_systems_are_honoured(tmp_path: Path) -> None:
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    write_parquet(to_table([MARFAN]), "q.parquet", store)
    assert (tmp_path / "q.parquet").exists()
    assert read_parquet(Question, "q.parquet", store) == [MARFAN]


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.parquet").write_text("no")
    for name in ("q.parquet", "absent.parquet"):
        with pytest.raises(DataError, match=name):
            read_parquet(Question, tmp_path / name)


def rollout(**changes: object) -> RolloutRow:
    row = RolloutRow(
        step=3,
        attempt=1,
        completion=completion("<think>x</think><answer>B</answer>"),
        score=Score(correct=1.0, format=1.0, reward=1.1, reason="correct", answer="B"),
        fate="trained",
        advantage=0.55,
        verifier_version="v",
        prompt_version="p",
    )
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]


def test_rollouts_keep_scores_and_fates_apart_from_missing_verdicts() -> None:
    buffer = io.BytesIO()
    write_parquet(rollout_table([rollout(), rollout(score=None, fate="unverified", advantage=None)]), buffer)
    table = pq.read_table(io.BytesIO(buffer.getvalue()))
    assert table.schema.names == ROLLOUT_SCHEMA.names
    scored, unverified = table.to_pylist()
    assert (scored["reward"], scored["fate"], scored["advantage"], scored["step"]) == (1.1, "trained", 0.55, 3)
    assert scored["token_ids"] == [7, 8, 2] and math.isclose(scored["logprobs"][0], -0.5)
    assert unverified["reward"] is None and unverified["reason"] is None and unverified["fate"] == "unverified"


def test_unknown_fate_is_refused() -> None:
    with pytest.raises(DataError, match="lost"):
        rollout_table([rollout(fate="lost")])


def test_rolling_back_changes_only_the_fate() -> None:
    table = rollout_table([rollout(), rollout(fate="stale")])
    back = mark_rolled_back(table)
    assert back.schema == table.schema
    assert back["fate"].to_pylist() == ["rolled_back"] * 2
    assert back.drop_columns(["fate"]) == table.drop_columns(["fate"])
