"""From the groups of a step to its numbers and to the rows that keep every completion with its fate."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from cluster.collecting import Collected
from data.prompts import PROMPT_VERSION
from data.records import Completion, Score
from data.tables import Fate, RolloutRow
from learner.advantages import group_advantages
from learner.batching import Overlong, indices_left
from learner.config import Advantage
from reward_service.choices import ChoiceReason
from reward_service.config import RewardConfig
from reward_service.extraction import FormatReason

REASONS = frozenset(
    [
        *get_args(FormatReason),
        *get_args(ChoiceReason),
        *("correct", "wrong", "empty", "no_reasoning", "answer_too_long", "no_unit", "other_dimension"),
    ]
)
"""Reasons that get a series of their own. A user's verifier may give any word: those count as "other"."""


def rollout_metrics(collected: Collected, *, version: int, rewards: RewardConfig) -> dict[str, float]:
    """Numbers over **all** scored groups of the step; ``version`` is that of the policy that is trained on them."""
    groups = collected.groups
    scores = [score for group in groups for score in group.scores]
    completions = [completion for group in groups for completion in group.group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    trained = [completion for group in collected.admitted for completion in group.group.completions]
    lags = [version - completion.oldest_version for completion in trained if completion.token_ids]
    return {
        "rollout/accuracy": _mean([score.correct for score in scores]),
        "rollout/format_rate": _mean([score.format for score in scores]),
        "rollout/reward_mean": _mean([score.reward for score in scores]),
        "rollout/reward_correct_mean": _mean([rewards.correct_weight * score.correct for score in scores]),
        "rollout/reward_format_mean": _mean([rewards.format_weight * score.format for score in scores]),
        "rollout/group_reward_std_mean": _mean([statistics.pstdev(group.rewards) for group in groups]),
        "rollout/groups": len(groups),
        "rollout/groups_with_signal": len(collected.admitted),
        "rollout/zero_variance_share": len(collected.without_signal) / max(1, len(groups)),
        "rollout/refill_rounds": collected.rounds - 1,
        "rollout/failed_groups": len(collected.failed),
        "rollout/completion_tokens_mean": _mean(lengths),
        "rollout/completion_tokens_max": max(lengths, default=0),
        "rollout/truncated_share": _mean([completion.finish_reason == "length" for completion in completions]),
        "rollout/tokens_per_second": sum(lengths) / max(collected.seconds, 1e-9),
        "rollout/staleness_max": max(lags, default=0),
        "rollout/staleness_mean": _mean(lags),
        "rollout/sampled_logprob_mean": _mean([logprob for c in completions for logprob in c.logprobs]),
        **_counts("rollout/reasons", [score.reason if score.reason in REASONS else "other" for score in scores]),
    }


def fate_metrics(rows: Sequence[RolloutRow]) -> dict[str, float]:
    """How many of the step's completions met which fate."""
    return _counts("rollout/fates", [row.fate for row in rows])


def _counts(name: str, values: Sequence[str]) -> dict[str, float]:
    return {f"{name}/{value}": float(count) for value, count in sorted(Counter(values).items())}


def rollout_rows(
    collected: Collected, *, step: int, attempt: int, overlong: Overlong, advantage: Advantage = "centred"
) -> list[RolloutRow]:
    """One row per completion sampled for ``step``, with its score, advantage and fate."""
    rows = [
        _row(completion, None, "unverified", "", step, attempt)
        for group in collected.failed
        for completion in group.completions
    ]
    for group in collected.without_signal:
        kept = set(indices_left(group, overlong))
        for index, (completion, score) in enumerate(zip(group.group.completions, group.scores, strict=True)):
            lost: Fate = "zero_variance" if index in kept else "overlong"
            rows.append(_row(completion, score, lost, group.verifier_version, step, attempt))
    for group in collected.admitted:
        left = indices_left(group, overlong)
        values = group_advantages([group.rewards[i] for i in left], advantage)
        advantages = dict(zip(left, values, strict=True))
        for index, (completion, score) in enumerate(zip(group.group.completions, group.scores, strict=True)):
            fate: Fate = "trained" if index in advantages else "overlong"
            rows.append(_row(completion, score, fate, group.verifier_version, step, attempt, advantages.get(index)))
    return rows


def _row(
    completion: Completion,
    score: Score | None,
    fate: Fate,
    verifier: str,
    step: int,
    attempt: int,
    advantage: float | None = None,
) -> RolloutRow:
    return RolloutRow(
        step=step,
        attempt=attempt,
        completion=completion,
        score=score,
        fate=fate,
        advantage=advantage,
        verifier_version=verifier,
        prompt_version=PROMPT_VERSION,
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
