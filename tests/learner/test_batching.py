"""From scored groups to the micro-batches of every rank."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import ConfigError, DataError
from data.records import Completion, FinishReason, Group, Option, Question, Score, ScoredGroup, VersionSpan
from data.wire import TrainSequence
from learner.batching import has_signal, pack, plan_shards, sequences_of
from learner.tensors import collate


def scored_group(
    name: str, rewards: list[float], finish: list[FinishReason] | None = None, prompt: tuple[int, ...] = (5, 6)
) -> ScoredGroup:
    options = (Option(label="A", text="a"), Option(label="B", text="b"))
    question = Question(source="test", language="en", stem=name, options=options, answer_label="A")
    completions = tuple(
        Completion(
            question_id=question.id,
            draw=0,
            sample_index=index,
            seed=index,
            prompt_token_ids=prompt,
            token_ids=(index + 10,) * (index + 1),
            logprobs=(-0.5,) * (index + 1),
            version_spans=(VersionSpan(start=0, end=index + 1, version=0),),
            finish_reason=finish[index] if finish else "stop",
            text="",
        )
        for index in range(len(rewards))
    )
    scores = tuple(Score(correct=r, format=0.0, reward=r, reason="test") for r in rewards)
    return ScoredGroup(
        group=Group(question=question, draw=0, completions=completions), scores=scores, verifier_version="t"
    )


def sequence(length: int, coefficient: float = 1.0, tag: int = 0) -> TrainSequence:
    return TrainSequence(
        prompt_token_ids=(tag,),
        token_ids=(1,) * (length - 1),
        sampled_logprobs=(0.0,) * (length - 1),
        advantage=0.0,
        coefficient=coefficient,
    )


def test_every_completion_with_its_own_tokens_advantage_and_share() -> None:
    rows = sequences_of([scored_group("one", [1.0, 0.0]), scored_group("two", [1.0, 0.0, 0.0, 0.0])])
    assert [row.advantage for row in rows] == [0.5, -0.5, 0.75, -0.25, -0.25, -0.25]
    assert [row.coefficient for row in rows] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    assert [row.token_ids for row in rows[:2]] == [(10,), (11, 11)]
    assert rows[1].prompt_token_ids == (5, 6) and rows[1].sampled_logprobs == (-0.5, -0.5)


def test_the_signal_is_that_of_the_completions_left() -> None:
    cut_difference = scored_group("cut", [1.0, 1.0, 0.0], ["stop", "stop", "length"])
    one_left = scored_group("one left", [1.0, 0.0, 0.5], ["stop", "length", "length"])
    all_cut = scored_group("all cut", [1.0, 0.0], ["length", "length"])
    for group in (cut_difference, one_left, all_cut):
        assert has_signal(group, "train") and not has_signal(group, "drop"), group.group.question.stem
        assert all(row.advantage == 0.0 for row in sequences_of([group], "drop"))
    differs = scored_group("differs", [1.0, 0.0, 0.0], ["stop", "stop", "length"])
    assert has_signal(differs, "train") and has_signal(differs, "drop")
    assert not has_signal(scored_group("equal", [1.0, 1.0]), "train")


def test_overlong_completions_leave_before_the_mean() -> None:
    group = scored_group("one", [1.0, 0.0, 0.2], ["stop", "length", "stop"])
    dropped = sequences_of([group], "drop")
    assert [row.advantage for row in dropped] == pytest.approx([0.4, -0.4])
    assert [row.coefficient for row in dropped] == [0.5, 0.5]
    assert len(sequences_of([group], "train")) == 3


def test_a_group_left_with_one_teaches_nothing_and_an_empty_one_does_not_count() -> None:
    lone = scored_group("one", [1.0, 0.0], ["stop", "length"])
    gone = scored_group("two", [1.0, 0.0], ["length", "length"])
    rows = sequences_of([lone, gone], "drop")
    assert [(row.advantage, row.coefficient) for row in rows] == [(0.0, 1.0)]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="empty prompt"):
        sequences_of([scored_group("one", [1.0, 0.0], prompt=())])


groups = st.lists(
    st.lists(st.tuples(st.floats(0, 1.1), st.sampled_from(["stop", "length"])), min_size=1, max_size=5),
    min_size=1,
    max_size=5,
)


@given(groups, st.sampled_from(["train", "drop"]))
def test_coefficients_sum_to_one(drawn: list[list[tuple[float, FinishReason]]], overlong: str) -> None:
    scored = [scored_group(str(i), [r for r, _ in g], [f for _, f in g]) for i, g in enumerate(drawn)]
    rows = sequences_of(scored, "drop" if overlong == "drop" else "train")
    if rows:
        assert math.fsum(row.coefficient for row in rows) == pytest.approx(1.0)
        assert math.fsum(row.coefficient * row.advantage for row in rows) == pytest.approx(0.0, abs=1e-12)


# (prompt, completion length): prompts 0 to 3 are shared by whoever draws them, and have 1 to 4 tokens.
drawn_rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=40)


def rows_of(drawn: list[tuple[int, int]]) -> list[TrainSequence]:
    """Rows whose coefficient tells them apart."""
    total = sum(range(1, len(drawn) + 1))
    return [
        TrainSequence(
            prompt_token_ids=(prompt,) * (prompt + 1),
            token_ids=(9,) * length,
            sampled_logprobs=(0.0,) * length,
            advantage=0.0,
            coefficient=(index + 1) / total,
        )
        for index, (prompt, length) in enumerate(drawn)
    ]


def packed_tokens(rows: Sequence[TrainSequence]) -> int:
    return sum(map(len, {row.prompt_token_ids for row in rows})) + sum(len(row.token_ids) for row in rows)


@given(drawn_rows, st.integers(1, 5), st.integers(45, 300), st.integers(1, 4))
def test_plan_keeps_its_promises(drawn: list[tuple[int, int]], ranks: int, bound: int, optimizer_steps: int) -> None:
    rows = rows_of(drawn)
    settings: dict[str, Any] = {"ranks": ranks, "max_tokens_per_micro_batch": bound, "optimizer_steps": optimizer_steps}
    shards = plan_shards(rows, **settings)
    assert shards == plan_shards(rows, **settings)
    assert len(shards) == ranks
    assert len({shard.step_sizes for shard in shards}) == 1
    assert len(shards[0].step_sizes) == min(optimizer_steps, len(rows))
    seen = Counter((row.prompt_token_ids, row.token_ids) for s in shards for batch in s.micro_batches for row in batch)
    assert seen == Counter((row.prompt_token_ids, row.token_ids) for row in rows)
    for shard in shards:
        assert len(shard.micro_batches) == sum(shard.step_sizes)
        for micro_batch in shard.micro_batches:
            assert packed_tokens(micro_batch) <= bound
            assert collate(micro_batch).input_ids.numel() <= max(bound, 2)
    start = 0
    for size in shards[0].step_sizes:
        own = [row for shard in shards for batch in shard.micro_batches[start : start + size] for row in batch]
        assert math.fsum(row.coefficient for row in own) == pytest.approx(1.0)
        start += size


@given(drawn_rows, st.integers(1, 4), st.integers(45, 120))
def test_every_row_once_in_equal_counts_and_no_more_rounds_than_needed(
    drawn: list[tuple[int, int]], ranks: int, bound: int
) -> None:
    rows = rows_of(drawn)
    plan = pack(rows, ranks=ranks, max_tokens_per_micro_batch=bound)
    assert sorted(i for own in plan for batch in own for i in batch) == list(range(len(rows)))
    assert len({len(own) for own in plan}) == 1
    # Two neighbouring pieces of a greedy cut hold more than the bound together.
    pieces = 2 * sum(row.length for row in rows) // bound + 1
    assert len(plan[0]) <= max(1, math.ceil(pieces / ranks))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 4))
def test_tokens_are_balanced_over_the_ranks(lengths: list[int], ranks: int) -> None:
    rows = [sequence(length, tag=tag) for tag, length in enumerate(lengths)]
    plan = pack(rows, ranks=ranks, max_tokens_per_micro_batch=10_000)
    assert [len(own) for own in plan] == [1] * ranks
    most = max(sum(lengths[i] for i in own[0]) for own in plan)
    assert most <= sum(lengths) / ranks + max(lengths)


def test_a_group_stays_together_so_that_its_prompt_is_computed_once() -> None:
    prompts = [(1,) * 30, (2,) * 30]
    rows = [
        TrainSequence(
            prompt_token_ids=prompts[i % 2], token_ids=(3,) * 5, sampled_logprobs=(0.0,) * 5, advantage=0, coefficient=1
        )
        for i in range(8)
    ]
    plan = pack(rows, ranks=2, max_tokens_per_micro_batch=50)  # four rows of one prompt take 50, of two more than 60
    assert plan == (((0, 2, 4, 6),), ((1, 3, 5, 7),))


def test_a_sequence_beyond_the_bound_names_the_knob() -> None:
    with pytest.raises(ConfigError, match=r"max_tokens_per_micro_batch is 20.*has 21 tokens"):
        plan_shards([sequence(21)], ranks=1, max_tokens_per_micro_batch=20)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(DataError, match="no sequence"):
        plan_shards([], ranks=2, max_tokens_per_micro_batch=20)
