"""Padding and masks."""

from __future__ import annotations

import torch

from data.wire import TrainSequence
from learner.tensors import collate, scored_values


def row(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> TrainSequence:
    logprobs = tuple(-float(i + 1) for i in range(len(tokens)))
    return TrainSequence(
        prompt_token_ids=prompt, token_ids=tokens, sampled_logprobs=logprobs, advantage=0.0, coefficient=1.0
    )


def test_targets_mask_and_values_line_up() -> None:
    rows = [row((4, 5, 6), (7, 0)), row((8,), (9, 3))]  # 0 is the padding id and a real token of the first row
    batch = collate(rows)
    assert batch.input_ids.tolist() == [[4, 5, 6, 7, 0], [8, 9, 3, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.first == 1
    assert [ids[m].tolist() for ids, m in zip(batch.targets, batch.mask, strict=True)] == [[7, 0], [9, 3]]
    values = scored_values(rows, batch)
    assert [v[m].tolist() for v, m in zip(values, batch.mask, strict=True)] == [[-1.0, -2.0], [-1.0, -2.0]]
    assert values[~batch.mask].abs().sum() == 0


def test_an_empty_micro_batch_scores_nothing_but_can_run() -> None:
    batch = collate([])
    assert batch.input_ids.shape == (1, 2) and batch.targets.shape == (1, 1)
    assert not batch.mask.any()
    assert torch.equal(scored_values([], batch), torch.zeros(1, 1))


def test_a_completion_without_tokens_keeps_one_masked_position() -> None:
    batch = collate([row((4, 5, 6), ())])
    assert batch.targets.shape == (1, 1) and not batch.mask.any()
