"""How good is it: accuracy with an interval, format rate and pass@k, over any sampler and scorer.

Nothing here knows of vLLM or Ray: `evaluate` takes the protocols of `data.wire`.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import DataError, EngineError
from data.intervals import wilson_interval
from data.records import Question, ScoredGroup
from data.wire import Sampler, SamplingSpec, Scorer
from reward_service.pool import VerificationFailed

UNVERIFIED_LIMIT = 0.1
"""Share of an evaluation's questions that may stay without a verdict. Beyond it the rest is no fair sample: questions
that cannot be verified are not a random choice."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """``correct`` of ``total``. Example: ``str(Accuracy(correct=27, total=64))`` is "27/64 = 42 % [31, 54]".

    Raises:
        DataError: correct is negative or above total.
    """

    correct: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total:
            raise DataError(f"accuracy of {self.correct} correct in {self.total}", remedy="count each answer once")

    @property
    def rate(self) -> float:
        """Share correct, in [0, 1]; NaN when nothing was asked."""
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval, in [0, 1]; (0, 1) when nothing was asked."""
        return wilson_interval(self.correct, self.total)

    def contains(self, rate: float) -> bool:
        """True when ``rate`` (in [0, 1], for instance chance) lies in the interval."""
        low, high = self.interval
        return low <= rate <= high

    def __str__(self) -> str:
        if self.total == 0:
            return "0/0"
        low, high = self.interval
        return f"{self.correct}/{self.total} = {100 * self.rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def strict_accuracy(groups: Sequence[ScoredGroup]) -> Accuracy:
    """Completions that are right in the strict format. Samples of one question are not independent: with more than one
    sample per question its interval is too narrow, and `EvaluationResult.interval` is the one to quote."""
    scores = [score for group in groups for score in group.scores]
    return Accuracy(correct=sum(score.correct >= 1.0 for score in scores), total=len(scores))


def format_accuracy(groups: Sequence[ScoredGroup]) -> Accuracy:
    """Completions in the strict format."""
    scores = [score for group in groups for score in group.scores]
    return Accuracy(correct=sum(score.format >= 1.0 for score in scores), total=len(scores))


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Chance that at least one of ``k`` samples is right, without bias, from ``correct`` of ``samples``.

    ``1 - C(n - c, k) / C(n, k)`` (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    Raises:
        DataError: k is not in 1..samples, or correct is not in 0..samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise DataError(f"pass@{k} of {correct} correct in {samples} samples", remedy="use 1 <= k <= samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def mean_pass_at_k(groups: Sequence[ScoredGroup], k: int) -> float:
    """`pass_at_k` averaged over questions; NaN without groups."""
    rates = [pass_at_k(sum(s.correct >= 1.0 for s in group.scores), len(group.scores), k) for group in groups]
    return sum(rates) / len(rates) if rates else math.nan


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Scored groups of an evaluation, in the order of the questions; ``unverified`` ids got no verdict."""

    groups: tuple[ScoredGroup, ...]
    k: int
    unverified: tuple[str, ...] = ()

    @property
    def accuracy(self) -> Accuracy:
        return strict_accuracy(self.groups)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, in [0, 1]; (0, 1) when nothing was asked.

        Samples of one question are not independent. Wilson's interval is taken with the number of independent answers
        that they are worth: all ``n * k`` over the design effect ``k * s2 / (p * (1 - p))``, where s2 is the variance
        of the questions' own rates (Korn and Graubard 1998, Survey Methodology 24). The effect
        is estimated with one more question all right and one all wrong, and kept in [1, k]: so it tends to k, where
        every question counts once, when the answers tell nothing about it, as when all are right.
        """
        if not self.groups:
            return 0.0, 1.0
        rates = [sum(score.correct >= 1.0 for score in group.scores) / len(group.scores) for group in self.groups]
        spread = [*rates, 0.0, 1.0]
        middle = statistics.fmean(spread)
        effect = self.k * statistics.variance(spread) / (middle * (1.0 - middle))
        worth = min(max(effect, 1.0), self.k)
        return wilson_interval(self.accuracy.correct / worth, self.accuracy.total / worth)

    @property
    def format(self) -> Accuracy:
        return format_accuracy(self.groups)

    @property
    def pass_at_k(self) -> float:
        """Questions with at least one right sample among the ``k``."""
        return mean_pass_at_k(self.groups, self.k)

    @property
    def mean_tokens(self) -> float:
        """Mean length of the completions, tokens."""
        lengths = [len(c.token_ids) for scored in self.groups for c in scored.group.completions]
        return sum(lengths) / len(lengths) if lengths else math.nan

    def __str__(self) -> str:
        low, high = self.interval
        correct, total, rate = self.accuracy.correct, self.accuracy.total, self.accuracy.rate
        share = f"{correct}/{total} = {100 * rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" if total else "0/0"
        lost = f", {len(self.unverified)} without verdict" if self.unverified else ""
        return f"accuracy {share}, format {self.format.correct}/{total}{lost}"


async def evaluate(
    questions: Sequence[Question], sampler: Sampler, scorer: Scorer, *, k: int, sampling: SamplingSpec, draw: int = 0
) -> EvaluationResult:
    """Ask every question ``k`` times, all at once; the engines do the batching.

    ``draw`` keeps seeds apart from those of other evaluations. A group that cannot be verified is reported, not counted
    as wrong; any other failure ends the evaluation and cancels what still runs.

    Raises:
        DataError: there is no question; k is below 1, or above 1 with greedy sampling (the samples would be copies).
        EngineError: more than `UNVERIFIED_LIMIT` of the questions got no verdict.
    """
    if not questions:
        raise DataError("an evaluation without questions", remedy="give it at least one")
    if k < 1 or (k > 1 and sampling.temperature == 0.0):
        raise DataError(f"k is {k} at temperature {sampling.temperature}", remedy="use k = 1 with greedy sampling")

    async def one(question: Question) -> ScoredGroup | None:
        group = await sampler.sample_group(question, draw=draw, k=k, sampling=sampling)
        try:
            return await scorer.score(group)
        except VerificationFailed:
            return None

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(question)) for question in questions]
    results = [task.result() for task in running]
    unverified = tuple(q.id for q, scored in zip(questions, results, strict=True) if scored is None)
    if len(unverified) > UNVERIFIED_LIMIT * len(questions):
        raise EngineError(
            f"{len(unverified)} of {len(questions)} questions of an evaluation could not be verified "
            f"(the first is {unverified[0]})",
            remedy="read the log of the reward actors; raise rewards.timeout_s if they are slow",
        )
    return EvaluationResult(
        groups=tuple(scored for scored in results if scored is not None), k=k, unverified=unverified
    )
