"""Intervals, pass@k and the evaluation loop, against independent references."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError, EngineError
from data.records import Group, Question, ScoredGroup
from data.wire import SamplingSpec
from evaluation.accuracy import (
    Accuracy,
    EvaluationResult,
    evaluate,
    format_accuracy,
    mean_pass_at_k,
    pass_at_k,
    strict_accuracy,
)
from reward_service.config import RewardConfig
from reward_service.pool import VerificationFailed
from reward_service.reward import score_group
from tests.aio import aio
from tests.data.examples import MARFAN, group

RIGHT, WRONG, BARE = "<think>x</think><answer>B</answer>", "<think>x</think><answer>A</answer>", "B"


def scored(*texts: str) -> ScoredGroup:
    return score_group(group(*texts), RewardConfig())


def test_accuracy_reads_well_and_knows_chance() -> None:
    assert str(Accuracy(correct=27, total=64)) == "27/64 = 42 % [31, 54]"
    assert Accuracy(correct=16, total=64).contains(0.25)
    assert not Accuracy(correct=40, total=64).contains(0.25)
    assert not Accuracy(correct=4, total=64).contains(0.25)
    empty = Accuracy(correct=0, total=0)
    assert math.isnan(empty.rate) and empty.contains(0.25) and str(empty) == "0/0"
    with pytest.raises(DataError, match="3 correct in 2"):
        Accuracy(correct=3, total=2)


def test_strict_accuracy_and_format_count_completions() -> None:
    groups = [scored(RIGHT, WRONG), scored(BARE, RIGHT)]
    assert strict_accuracy(groups) == Accuracy(correct=2, total=4)
    assert format_accuracy(groups) == Accuracy(correct=3, total=4)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(numbers: tuple[int, int, int]) -> None:
    correct, samples, k = numbers
    subsets = list(itertools.combinations(range(samples), k))
    share = sum(any(i < correct for i in subset) for subset in subsets) / len(subsets)
    assert pass_at_k(correct, samples, k) == pytest.approx(share)


def test_pass_at_k_of_groups_and_of_nonsense() -> None:
    groups = [scored(RIGHT, WRONG), scored(WRONG, WRONG)]
    assert mean_pass_at_k(groups, 1) == 0.25
    assert mean_pass_at_k(groups, 2) == 0.5
    for bad in ((1, 2, 3), (3, 2, 1), (0, 2, 0)):
        with pytest.raises(DataError):
            pass_at_k(*bad)


def result_of(right: list[int], k: int) -> EvaluationResult:
    """``right[i]`` of the ``k`` samples of question i are right."""
    groups = {count: scored(*[RIGHT] * count, *[WRONG] * (k - count)) for count in set(right)}
    return EvaluationResult(groups=tuple(groups[count] for count in right), k=k)


def test_one_sample_per_question_has_wilsons_interval() -> None:
    for right in ([1] * 27 + [0] * 37, [1] * 20, [0] * 20):
        result = result_of(right, 1)
        assert result.interval == pytest.approx(result.accuracy.interval, abs=1e-12)


def test_equal_questions_leave_no_interval_of_no_width() -> None:
    assert result_of([4] * 20, 4).interval == pytest.approx(Accuracy(correct=20, total=20).interval, abs=2e-3)
    assert result_of([0] * 20, 4).interval == pytest.approx(Accuracy(correct=0, total=20).interval, abs=2e-3)
    assert result_of([4], 4).interval[0] < 0.5 and result_of([4], 4).interval[1] == 1.0
    # Half right in every question: better than independent answers, taken for such.
    assert result_of([2] * 50, 4).interval == pytest.approx(Accuracy(correct=100, total=200).interval)


def test_questions_whose_samples_agree_count_once() -> None:
    agree = result_of([4] * 16 + [0] * 16, 4)
    assert agree.interval == pytest.approx(Accuracy(correct=16, total=32).interval, abs=1e-9)
    assert "64/128 = 50 % [34, 66]" in str(agree)


@pytest.mark.parametrize("rate", [0.02, 0.25, 0.6, 0.98])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_the_interval_holds_the_truth_about_95_times_in_100(rate: float, correlation: float) -> None:
    """Questions with rates of a beta distribution whose samples correlate so much; 64 questions, 4 samples."""
    rng, k, trials = random.Random(5), 4, 400
    held = 0
    for _ in range(trials):
        right = []
        for _ in range(64):
            own = rate
            if correlation == 1.0:
                own = float(rng.random() < rate)
            elif correlation > 0.0:
                size = (1.0 - correlation) / correlation
                own = rng.betavariate(rate * size, (1.0 - rate) * size)
            right.append(sum(rng.random() < own for _ in range(k)))
        low, high = result_of(right, k).interval
        held += low <= rate <= high
    assert held / trials >= 0.92, held / trials


class Texts:
    """A sampler that answers from a list, and a scorer that loses some questions."""

    def __init__(self, texts: list[str], lost: str = "") -> None:
        self.texts = texts
        self.lost = lost
        self.asked: list[tuple[str, int, int]] = []

    async def sample_group(self, question: Question, *, draw: int, k: int, sampling: SamplingSpec) -> Group:
        self.asked.append((question.id, draw, k))
        return group(*self.texts[:k], question=question)

    async def score(self, group: Group) -> ScoredGroup:
        if group.question.id == self.lost:
            raise VerificationFailed(group.question.id, "timed out")
        return score_group(group, RewardConfig())


def others(count: int) -> list[Question]:
    import dataclasses

    return [dataclasses.replace(MARFAN, context=str(i)) for i in range(count)]


@aio
async def test_every_question_is_asked_once_in_order() -> None:
    questions, texts = others(5), Texts([RIGHT, WRONG])
    result = await evaluate(questions, texts, texts, k=2, sampling=SamplingSpec(temperature=1.0, max_tokens=9), draw=7)
    assert sorted(texts.asked) == sorted((q.id, 7, 2) for q in questions)
    assert [g.group.question.id for g in result.groups] == [q.id for q in questions]
    assert (result.accuracy, result.format.rate, result.pass_at_k) == (Accuracy(correct=5, total=10), 1.0, 1.0)
    assert result.mean_tokens == 3.0
    assert str(result).startswith("accuracy 5/10 = 50 %")


@aio
async def test_groups_without_verdict_are_reported_not_counted_wrong() -> None:
    questions = others(10)  # a tenth is the limit
    texts = Texts([RIGHT], lost=questions[1].id)
    result = await evaluate(questions, texts, texts, k=1, sampling=SamplingSpec(temperature=0.0, max_tokens=9))
    assert result.accuracy == Accuracy(correct=9, total=9)
    assert result.unverified == (questions[1].id,) and "1 without verdict" in str(result)


@aio
async def test_an_evaluation_that_lost_more_than_a_tenth_is_an_error() -> None:
    questions = others(9)
    texts = Texts([RIGHT], lost=questions[1].id)
    with pytest.raises(EngineError, match="1 of 9 questions of an evaluation could not be verified"):
        await evaluate(questions, texts, texts, k=1, sampling=SamplingSpec(temperature=0.0, max_tokens=9))
    with pytest.raises(DataError, match="without questions"):
        await evaluate([], texts, texts, k=1, sampling=SamplingSpec(temperature=0.0, max_tokens=9))


@aio
async def test_copies_of_a_greedy_answer_are_refused() -> None:
    texts = Texts([RIGHT])
    with pytest.raises(DataError, match="k is 2"):
        await evaluate(others(1), texts, texts, k=2, sampling=SamplingSpec(temperature=0.0, max_tokens=9))
