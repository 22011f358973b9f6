"""The fate of every completion of a step."""

from __future__ import annotations

from cluster.collecting import Collected
from cluster.step_metrics import rollout_rows
from data.records import Group, Score, ScoredGroup
from tests.cluster.fakes import completion, question


def scored(number: int, rewards: list[float], cut: set[int]) -> ScoredGroup:
    of = question(number)
    completions = tuple(completion(of, 0, index, 0, cut=index in cut) for index in range(len(rewards)))
    scores = tuple(Score(correct=r, format=0.0, reward=r, reason="fake") for r in rewards)
    return ScoredGroup(
        group=Group(question=of, draw=0, completions=completions), scores=scores, verifier_version="fake/1"
    )


def test_completions_dropped_as_overlong_say_so_in_groups_with_and_without_signal() -> None:
    collected = Collected(
        admitted=(scored(1, [1.0, 0.0, 0.0], cut={2}),),
        without_signal=(scored(2, [1.0, 1.0, 0.0], cut={2}),),
        failed=(scored(3, [0.0], cut=set()).group,),
        rounds=1,
        seconds=1.0,
    )
    rows = rollout_rows(collected, step=1, attempt=1, overlong="drop")
    assert [(row.fate, row.advantage) for row in rows] == [
        ("unverified", None),
        ("zero_variance", None),
        ("zero_variance", None),
        ("overlong", None),
        ("trained", 0.5),
        ("trained", -0.5),
        ("overlong", None),
    ]
    kept = rollout_rows(collected, step=1, attempt=1, overlong="train")
    assert [row.fate for row in kept] == ["unverified", *["zero_variance"] * 3, *["trained"] * 3]
