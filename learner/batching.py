"""From scored groups to the micro-batches of every rank. Plain Python: the controller plans, the ranks only run.

The plan keeps three promises that ZeRO-3 and the loss rely on: every rank gets the same number of micro-batches (a rank
with fewer would leave the others waiting in a collective for ever), no micro-batch holds more tokens than the
bound, and a sequence's weight in the loss is set here, before it is known which rank will run it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

from data.errors import ConfigError, DataError
from data.records import ScoredGroup
from data.wire import TrainSequence, TrainShard
from learner.advantages import group_advantages
from learner.aggregation import token_weights
from learner.config import Advantage, Aggregation

Plan = tuple[tuple[tuple[int, ...], ...], ...]
"""``plan[rank][micro_batch]`` holds indices into the list that was planned."""


Overlong = Literal["train", "drop"]
"""What becomes of completions cut by the token limit: `GrpoConfig.overlong`."""


def indices_left(scored: ScoredGroup, overlong: Overlong) -> list[int]:
    """Which completions of a group are trained on, in order; with "drop" those cut by the token limit are not."""
    completions = enumerate(scored.group.completions)
    return [index for index, completion in completions if overlong == "train" or completion.finish_reason != "length"]


def has_signal(scored: ScoredGroup, overlong: Overlong) -> bool:
    """True when the rewards of the completions **left** in the group differ: the others do not reach its mean, so a
    group whose only difference was cut away (or that has one completion left) would train on zeros."""
    return len({scored.rewards[index] for index in indices_left(scored, overlong)}) > 1


def sequences_of(
    groups: Sequence[ScoredGroup], overlong: Overlong = "train", advantage: Advantage = "centred"
) -> list[TrainSequence]:
    """The completions of ``groups`` as training sequences, in order, with advantages centred in their group.

    With ``overlong="drop"`` completions cut by the token limit leave their group before its mean is taken. A
    completion's coefficient is ``1 / (completions left in its group * groups with any left)`` (paper, eq. 1): its share
    of the batch, which `plan_shards` turns into the weight of its tokens.

    Raises:
        DataError: a completion without prompt tokens (its first token would have nothing to be predicted from).
    """
    left = []
    for scored in groups:
        completions, rewards = scored.group.completions, scored.rewards
        pairs = [(completions[index], rewards[index]) for index in indices_left(scored, overlong)]
        if pairs:
            left.append(pairs)
    sequences = []
    for pairs in left:
        advantages = group_advantages([reward for _, reward in pairs], advantage)
        for (completion, _), value in zip(pairs, advantages, strict=True):
            if not completion.prompt_token_ids:
                raise DataError(
                    f"completion {completion.sample_index} of question {completion.question_id} has an empty prompt",
                    remedy="render the question to at least one prompt token",
                )
            sequences.append(
                TrainSequence(
                    prompt_token_ids=completion.prompt_token_ids,
                    token_ids=completion.token_ids,
                    sampled_logprobs=completion.logprobs,
                    advantage=value,
                    coefficient=1.0 / (len(pairs) * len(left)),
                )
            )
    return sequences


class HasTokens(Protocol):
    """A training or a supervised sequence."""

    @property
    def prompt_token_ids(self) -> tuple[int, ...]: ...

    @property
    def token_ids(self) -> tuple[int, ...]: ...

    @property
    def length(self) -> int: ...


def pack(rows: Sequence[HasTokens], *, ranks: int, max_tokens_per_micro_batch: int) -> Plan:
    """Spread ``rows`` over ranks and micro-batches, each within the bound, in as few rounds as that takes.

    A micro-batch costs the tokens of its completions and of its *different* prompts, since `learner.tensors` writes a
    shared prompt once. Rows of one prompt therefore stay side by side: the rows, in that order, are cut in consecutive
    pieces under the smallest cap that needs no further round, so that the pieces of a round, one per rank, take about
    the same time. Empty pieces fill up the last round. Deterministic; at least one micro-batch.

    Raises:
        ConfigError: a sequence is longer than the bound.
    """
    longest = max((row.length for row in rows), default=0)
    if longest > max_tokens_per_micro_batch:
        raise ConfigError(
            f"learner.max_tokens_per_micro_batch is {max_tokens_per_micro_batch}, but a sequence has {longest} tokens",
            remedy=f"set it to {longest} or more, or lower the limits of prompt and completion",
        )
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        by_prompt.setdefault(row.prompt_token_ids, []).append(index)
    order = [index for members in by_prompt.values() for index in members]
    rounds = max(1, math.ceil(len(_cut(order, rows, max_tokens_per_micro_batch)) / ranks))
    caps = range(longest, max_tokens_per_micro_batch + 1)
    cap = caps[bisect_left(caps, True, key=lambda cap: len(_cut(order, rows, cap)) <= rounds * ranks)]
    pieces = _cut(order, rows, cap)
    pieces += [()] * (rounds * ranks - len(pieces))
    return tuple(tuple(pieces[rank::ranks]) for rank in range(ranks))


def _cut(order: Sequence[int], rows: Sequence[HasTokens], cap: int) -> list[tuple[int, ...]]:
    """Consecutive pieces of ``order``, each as long as ``cap`` tokens allow."""
    pieces: list[tuple[int, ...]] = []
    piece: list[int] = []
    tokens, prompt = 0, None
    for index in order:
        row = rows[index]
        cost = len(row.token_ids) if row.prompt_token_ids == prompt else row.length
        if piece and tokens + cost > cap:
            pieces.append(tuple(piece))
            piece, tokens, cost = [], 0, row.length
        piece.append(index)
        tokens += cost
        prompt = row.prompt_token_ids
    return [*pieces, tuple(piece)] if piece else pieces


def plan_shards(
    sequences: Sequence[TrainSequence],
    *,
    ranks: int,
    max_tokens_per_micro_batch: int,
    optimizer_steps: int = 1,
    aggregation: Aggregation = "sequence_sum",
    completion_budget: int = 1,
) -> tuple[TrainShard, ...]:
    """One `TrainShard` per rank, for one batch that is cut in ``optimizer_steps`` optimiser steps.

    Each optimiser step takes a contiguous run of sequences, whose coefficients become the weights of their tokens
    (`learner.aggregation`), and has its own micro-batches, equal in number on every rank. There are never more
    optimiser steps than sequences, since a step on an empty batch would still move the weights by momentum.

    Raises:
        ConfigError: a sequence longer than the bound.
        DataError: no sequence at all.
    """
    if not sequences:
        raise DataError(
            "the batch holds no sequence to train on",
            remedy="raise rollouts.max_completion_tokens or set grpo.overlong=train",
        )
    steps = min(optimizer_steps, len(sequences))
    edges = [len(sequences) * step // steps for step in range(steps + 1)]
    batches: list[list[tuple[TrainSequence, ...]]] = [[] for _ in range(ranks)]
    counts = []
    for start, end in zip(edges, edges[1:], strict=False):
        part = _weighted(sequences[start:end], aggregation, completion_budget)
        plan = pack(part, ranks=ranks, max_tokens_per_micro_batch=max_tokens_per_micro_batch)
        counts.append(len(plan[0]))
        for rank in range(ranks):
            batches[rank] += [tuple(part[i] for i in rows) for rows in plan[rank]]
    return tuple(TrainShard(micro_batches=tuple(own), step_sizes=tuple(counts)) for own in batches)


def _weighted(part: Sequence[TrainSequence], aggregation: Aggregation, budget: int) -> list[TrainSequence]:
    shares, lengths = [s.coefficient for s in part], [len(s.token_ids) for s in part]
    weights = token_weights(shares, lengths, aggregation, completion_budget=budget)
    return [replace(sequence, coefficient=weight) for sequence, weight in zip(part, weights, strict=True)]
