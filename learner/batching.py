"""From scored groups to the micro-batches of every rank. Plain Python: the controller plans, the ranks only run.

The plan keeps three promises that ZeRO-3 and the loss rely on: every rank gets the same number of micro-batches (a rank
with fewer would leave the others waiting in a collective for ever), no micro-batch holds more padded tokens than the
bound, and the sum of the coefficients of one optimiser step is 1, however the sequences are spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from data.errors import ConfigError, DataError
from data.records import ScoredGroup
from data.wire import TrainSequence, TrainShard
from learner.advantages import centred_advantages

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


def sequences_of(groups: Sequence[ScoredGroup], overlong: Overlong = "train") -> list[TrainSequence]:
    """The completions of ``groups`` as training sequences, in order, with advantages centred in their group.

    With ``overlong="drop"`` completions cut by the token limit leave their group before its mean is taken. A
    completion's coefficient is ``1 / (completions left in its group * groups with any left)`` (paper, eq. 1).

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
        advantages = centred_advantages([reward for _, reward in pairs])
        for (completion, _), advantage in zip(pairs, advantages, strict=True):
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
                    advantage=advantage,
                    coefficient=1.0 / (len(pairs) * len(left)),
                )
            )
    return sequences


def pack(lengths: Sequence[int], *, ranks: int, max_tokens_per_micro_batch: int) -> Plan:
    """Spread sequences of these ``lengths`` (tokens) over ``ranks`` and cut each share in micro-batches.

    Longest first, each to the rank with the fewest tokens so far; a share is then cut so that rows x longest row stays
    within the bound, and ranks with fewer micro-batches get empty ones. Deterministic; at least one micro-batch.

    Raises:
        ConfigError: a sequence is longer than the bound.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > max_tokens_per_micro_batch:
            raise ConfigError(
                f"learner.max_tokens_per_micro_batch is {max_tokens_per_micro_batch}, "
                f"but a sequence has {lengths[index]} tokens",
                remedy=f"set it to {lengths[index]} or more, or lower the limits of prompt and completion",
            )
        rank = min(range(ranks), key=lambda r: (loads[r], r))
        shares[rank].append(index)
        loads[rank] += lengths[index]
    cut = [_cut(share, lengths, max_tokens_per_micro_batch) for share in shares]
    count = max(1, max(len(batches) for batches in cut))
    return tuple(tuple(batches + [()] * (count - len(batches))) for batches in cut)


def _cut(share: Sequence[int], lengths: Sequence[int], bound: int) -> list[tuple[int, ...]]:
    """Cut a share that is sorted longest first: the first row of a micro-batch sets its padded width."""
    batches: list[tuple[int, ...]] = []
    start = 0
    while start < len(share):
        rows = max(1, bound // max(1, lengths[share[start]]))
        batches.append(tuple(share[start : start + rows]))
        start += rows
    return batches


def plan_shards(
    sequences: Sequence[TrainSequence], *, ranks: int, max_tokens_per_micro_batch: int, optimizer_steps: int = 1
) -> tuple[TrainShard, ...]:
    """One `TrainShard` per rank, for one batch that is cut in ``optimizer_steps`` optimiser steps.

    Each optimiser step takes a contiguous run of sequences, whose coefficients are scaled to sum to 1, and has its own
    micro-batches, equal in number on every rank. There are never more optimiser steps than sequences, since a step on
    an empty batch would still move the weights by momentum.

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
        part = _normalised(sequences[start:end])
        plan = pack([s.length for s in part], ranks=ranks, max_tokens_per_micro_batch=max_tokens_per_micro_batch)
        counts.append(len(plan[0]))
        for rank in range(ranks):
            batches[rank] += [tuple(part[i] for i in rows) for rows in plan[rank]]
    return tuple(TrainShard(micro_batches=tuple(own), step_sizes=tuple(counts)) for own in batches)


def _normalised(part: Sequence[TrainSequence]) -> list[TrainSequence]:
    total = math.fsum(sequence.coefficient for sequence in part)
    if math.isclose(total, 1.0, rel_tol=1e-12):
        return list(part)
    return [replace(sequence, coefficient=sequence.coefficient / total) for sequence in part]
