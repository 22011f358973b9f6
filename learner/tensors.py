"""Rows of token ids to right-padded tensors.

Shapes: B rows, S positions (padded to the longest row), T = S - (shortest prompt) scored positions: the last T of S, so
that the output layer runs only where some row has a completion token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.wire import SupervisedSequence, TrainSequence


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """``input_ids``, ``attention_mask``: [B, S]. ``targets``: [B, T], the ids at the last T positions. ``mask``:
    [B, T], true where a target is a completion token, by position and never by id: an end-of-sequence token that
    doubles as padding keeps its gradient.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    first: int
    """Position in S of the first scored token."""


def collate(rows: Sequence[TrainSequence | SupervisedSequence], device: torch.device | str = "cpu") -> TokenBatch:
    """Pad ``rows`` on the right with id 0. No rows give one dummy row of two tokens whose mask is all false: an empty
    micro-batch still has to run, because ZeRO-3 gathers weights in every rank's forward at once.
    """
    if not rows:
        ids = torch.zeros((1, 2), dtype=torch.long, device=device)
        return TokenBatch(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            targets=ids[:, 1:],
            mask=torch.zeros((1, 1), dtype=torch.bool, device=device),
            first=1,
        )
    # A row without completion tokens scores nothing, but at least one position must be kept.
    width = max(2, max(row.length for row in rows))
    first = min(min(len(row.prompt_token_ids) for row in rows), width - 1)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    attention = torch.zeros_like(ids)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : row.length] = torch.tensor(row.prompt_token_ids + row.token_ids, dtype=torch.long)
        attention[index, : row.length] = 1
        mask[index, len(row.prompt_token_ids) : row.length] = True
    return TokenBatch(
        input_ids=ids.to(device),
        attention_mask=attention.to(device),
        targets=ids[:, first:].to(device),
        mask=mask[:, first:].to(device),
        first=first,
    )


def scored_values(rows: Sequence[TrainSequence], batch: TokenBatch) -> torch.Tensor:
    """The sampled log-probabilities of ``rows`` laid out as ``batch.targets``: fp32 [B, T], zero elsewhere."""
    values = torch.zeros(batch.mask.shape, dtype=torch.float32)
    for index, row in enumerate(rows):
        start = len(row.prompt_token_ids) - batch.first
        values[index, start : start + len(row.token_ids)] = torch.tensor(row.sampled_logprobs, dtype=torch.float32)
    return values.to(batch.mask.device)
