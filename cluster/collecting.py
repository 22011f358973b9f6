"""Rolling out and scoring the groups of one step, and admitting those that carry a signal.

Who waits for whom: every drawn question is one task that samples its group and has it scored as soon as it is complete;
a round ends when all its tasks have ended, because what the next round draws depends on how many groups are missing.
Admission follows the order of the draw, not of arrival, so that the same seed trains on the same groups.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

from cluster.config import LoopConfig
from cluster.drawing import QuestionDrawer
from data.errors import EngineError
from data.records import Group, Question, ScoredGroup
from data.wire import Sampler, SamplingSpec, Scorer
from learner.batching import has_signal
from reward_service.pool import VerificationFailed


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The groups of one step. ``admitted`` differ in reward inside the group; ``without_signal`` do not."""

    admitted: tuple[ScoredGroup, ...]
    without_signal: tuple[ScoredGroup, ...]
    failed: tuple[Group, ...]
    rounds: int
    seconds: float

    @property
    def groups(self) -> tuple[ScoredGroup, ...]:
        return (*self.admitted, *self.without_signal)

    def why_no_signal(self) -> str:
        """Why groups taught nothing, as shares of those without signal. Example: "all wrong 75%, all right 25%"."""
        kinds = [_kind(group) for group in self.without_signal]
        shares = {kind: kinds.count(kind) / len(kinds) for kind in sorted(set(kinds))}
        return ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(shares.items(), key=lambda item: -item[1]))

    def main_kind(self) -> str:
        """The most frequent kind of group without signal; '' when there is none."""
        kinds = [_kind(group) for group in self.without_signal]
        return max(sorted(set(kinds)), key=kinds.count, default="")

    @property
    def is_solved(self) -> bool:
        """True when every group without signal is one of right answers only."""
        return bool(self.without_signal) and all(_kind(group) == "all right" for group in self.without_signal)


def _kind(group: ScoredGroup) -> str:
    if group.has_signal:
        return "cut short"  # only completions that `grpo.overlong: drop` leaves out differ from the others
    if all(score.correct for score in group.scores):
        return "all right"
    if not any(score.format for score in group.scores):
        return "no format"
    return "all wrong"


async def collect(
    drawer: QuestionDrawer,
    sampler: Sampler,
    scorer: Scorer,
    *,
    loop: LoopConfig,
    sampling: SamplingSpec,
    overlong: Literal["train", "drop"] = "train",
) -> Collected:
    """Collect ``loop.questions_per_step`` groups with signal, in at most ``loop.max_refill_rounds`` further rounds.

    Raises:
        EngineError: more groups than ``loop.max_failed_groups`` could not be verified.
    """
    started = time.monotonic()
    admitted: list[ScoredGroup] = []
    without_signal: list[ScoredGroup] = []
    failed: list[Group] = []
    rounds = 0
    while rounds <= loop.max_refill_rounds and len(admitted) < loop.questions_per_step:
        drawn = drawer.draw(loop.questions_per_step - len(admitted))
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(_sample_and_score(q, draw, sampler, scorer, loop.samples_per_question, sampling))
                for q, draw in drawn
            ]
        rounds += 1
        for scored in (task.result() for task in running):
            if isinstance(scored, Group):
                failed.append(scored)
            else:
                (admitted if has_signal(scored, overlong) else without_signal).append(scored)
        if len(failed) > loop.max_failed_groups:
            raise EngineError(
                f"{len(failed)} groups of one step could not be verified, "
                f"loop.max_failed_groups is {loop.max_failed_groups}",
                remedy="raise rewards.timeout_s or loop.max_failed_groups",
            )
    return Collected(
        admitted=tuple(admitted),
        without_signal=tuple(without_signal),
        failed=tuple(failed),
        rounds=rounds,
        seconds=time.monotonic() - started,
    )


async def _sample_and_score(
    question: Question, draw: int, sampler: Sampler, scorer: Scorer, k: int, sampling: SamplingSpec
) -> ScoredGroup | Group:
    """The scored group, or the bare group when its verification failed."""
    group = await sampler.sample_group(question, draw=draw, k=k, sampling=sampling)
    try:
        return await scorer.score(group)
    except VerificationFailed:  # an outcome of its own: the group is dropped and counted, never scored 0
        return group
