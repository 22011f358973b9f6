"""One packed row out of many, and the grid that comes back."""

from __future__ import annotations

import torch

from data.wire import TrainSequence
from learner.tensors import LookBack, collate, scored_values


def row(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> TrainSequence:
    logprobs = tuple(-float(i + 1) for i in range(len(tokens)))
    return TrainSequence(
        prompt_token_ids=prompt, token_ids=tokens, sampled_logprobs=logprobs, advantage=0.0, coefficient=1.0
    )


def test_the_example_of_the_header() -> None:
    p, q = (1, 2, 3), (4, 5)
    rows = [row(p, (6, 7, 0)), row(p, (8, 9)), row(q, (6, 6, 6))]  # 0 is a real token: nothing goes by its id
    batch = collate(rows)
    assert batch.input_ids.tolist() == [[1, 2, 3, 6, 7, 8, 4, 5, 6, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2, 3]]
    assert batch.segments.lengths == (5, 4, 4) and batch.segments.starts.tolist() == [0, 5, 9, 13]
    assert batch.segments.source is not None and batch.segments.collect is not None
    assert batch.segments.source.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8, 9]
    read = batch.segments.source[batch.segments.collect]
    assert read.tolist() == list(range(10))  # every packed token reads its own output
    assert batch.segments.spans == (range(5), range(5, 6), range(6, 10))
    assert batch.segments.look_backs == (LookBack(range(5, 6), range(3)),)
    assert batch.segments.pairs == 15 + 1 + 10 + 3
    assert batch.predictors.tolist() == [2, 3, 4, 2, 5, 7, 8, 9]
    assert batch.targets.tolist() == [6, 7, 0, 8, 9, 6, 6, 6]
    assert batch.mask.tolist() == [[True, True, True], [True, True, False], [True, True, True]]
    grid = batch.grid(torch.arange(1.0, 9.0))
    assert grid.tolist() == [[1, 2, 3], [4, 5, 0], [6, 7, 8]]
    assert scored_values(rows, batch).tolist() == [[-1, -2, -3], [-1, -2, 0], [-1, -2, -3]]


def test_completions_side_by_side_look_back_together() -> None:
    p, q = (1, 2, 3), (4, 5)
    rows = [row(p, (6, 7)), row(p, (8, 8, 8)), row(p, (9,)), row(p, (9, 9)), row(q, (7,)), row(p, (6, 6))]
    segments = collate(rows).segments
    assert segments.spans == (range(4), range(4, 6), range(6, 7), range(7, 9), range(9, 10))
    assert segments.look_backs == (LookBack(range(4, 7), range(3)), LookBack(range(9, 10), range(3)))


def test_without_a_shared_prompt_nothing_is_read_twice() -> None:
    batch = collate([row((1, 2), (3,)), row((4,), (5, 6))])
    assert batch.segments.source is None and batch.segments.collect is None
    assert batch.segments.spans == (range(2), range(2, 4)) and not batch.segments.look_backs
    assert batch.input_ids.tolist() == [[1, 2, 4, 5]]


def test_an_empty_micro_batch_scores_nothing_but_can_run() -> None:
    batch = collate([])
    assert batch.input_ids.shape == (1, 1) and batch.targets.shape == (1,)
    assert batch.mask.tolist() == [[False]]
    assert torch.equal(scored_values([], batch), torch.zeros(1, 1))


def test_a_completion_without_tokens_is_masked() -> None:
    batch = collate([row((4, 5, 6), ())])
    assert batch.targets.shape == (1,) and not batch.mask.any()
    beside = collate([row((4, 5, 6), ()), row((4, 5, 6), (7,))])
    assert beside.input_ids.tolist() == [[4, 5, 6]] and beside.mask.tolist() == [[False], [True]]
