"""Figures of the evaluations inside a run."""

from __future__ import annotations

import math

import pytest

from actors.config import RolloutConfig
from cluster.evaluating import EvaluationSet, evaluate_sets
from cluster.monitoring.catalogue import METRICS
from data.errors import EngineError
from data.records import Group, ScoredGroup
from reward_service.pool import VerificationFailed
from tests.aio import aio
from tests.cluster.fakes import FakeSampler, FakeScorer, question


class LosingScorer(FakeScorer):
    """Gets no verdict on the first ``lost`` of every ten groups."""

    def __init__(self, lost: int) -> None:
        super().__init__(lambda of, index: True)
        self.lost = lost
        self.seen = 0

    async def score(self, group: Group) -> ScoredGroup:
        self.seen += 1
        if (self.seen - 1) % 10 < self.lost:
            raise VerificationFailed(group.question.id, "no answer")
        return await super().score(group)


SETS = [EvaluationSet(name="train", questions=tuple(question(number) for number in range(10)))]


@aio
async def test_groups_without_verdict_are_counted_in_the_metrics() -> None:
    figures = await evaluate_sets(SETS, FakeSampler(), LosingScorer(1), RolloutConfig(), samples=2)
    assert figures["eval/train_unverified"] == 2.0  # one in the greedy half, one in the sampled
    assert figures["eval/train_greedy"] == figures["eval/train_sampled"] == 1.0
    assert set(figures) <= set(METRICS) and not any(math.isnan(value) for value in figures.values())


@pytest.mark.parametrize("lost", [2, 10])
@aio
async def test_too_many_without_verdict_end_the_evaluation(lost: int) -> None:
    with pytest.raises(EngineError, match=f"{lost} of 10 questions of an evaluation could not be verified"):
        await evaluate_sets(SETS, FakeSampler(), LosingScorer(lost), RolloutConfig(), samples=0)
