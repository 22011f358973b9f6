"""Rows of token ids to one packed row, and back to a small grid.

Shapes: B rows (completions), T tokens of the longest completion, P packed tokens, N scored tokens (completion tokens of
all rows), E positions of all sequences laid out one after another.

A micro-batch is **one** row without padding. Completions of one prompt stand behind a single copy of it, so every layer
runs on each prompt once per micro-batch and not once per completion (`Segments` says how attention goes about it). The
last token of a completion is scored but never an input: nothing follows it.

    two completions a, b of prompt p, one c of prompt q      p0 p1 p2 a0 a1 | b0 | q0 q1 c0 c1
    positions                                                0  1  2  3  4  | 3  | 0  1  2  3
    segments of attention                                    p0 p1 p2 a0 a1 ; p0 p1 p2 b0 ; q0 q1 c0 c1
    the same with every prompt once: spans, look-backs       p0 p1 p2 a0 a1 ; b0 ; q0 q1 c0 c1      b0 at p0 p1 p2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from data.wire import SupervisedSequence, TrainSequence


@dataclass(frozen=True)
class LookBack:
    """Packed tokens ``queries`` that see all of the packed tokens ``keys``, a prompt that stands before another
    completion than theirs."""

    queries: range
    keys: range


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Which packed tokens attend to each other, said in two ways, one for each kind of kernel (`learner.segments`).

    Laid out: causal inside a segment, nothing across. ``lengths``: tokens of each segment, E together. ``starts``:
    int32 [segments + 1], their running sum. ``source``: [E], the packed token at each position. ``collect``: [P], where
    each packed token's output is read. Both are None when no prompt is shared: then position and packed token are the
    same.

    In place: causal inside each of ``spans``, which together are the packed row, and whole from the queries of each of
    ``look_backs`` to its keys.
    """

    lengths: tuple[int, ...]
    starts: torch.Tensor
    source: torch.Tensor | None
    collect: torch.Tensor | None
    spans: tuple[range, ...]
    look_backs: tuple[LookBack, ...]

    @property
    def pairs(self) -> int:
        """Pairs of packed tokens that see each other."""
        inside = sum(len(span) * (len(span) + 1) // 2 for span in self.spans)
        return inside + sum(len(one.queries) * len(one.keys) for one in self.look_backs)


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """``input_ids``, ``position_ids``: [1, P]. ``predictors``: [N], the packed position that predicts each scored
    token; ``targets``: [N], the scored tokens; ``cells``: [N], their places in a [B, T] grid that starts with each
    row's first completion token. ``mask``: [B, T], true on completion tokens, by position and never by id: an
    end-of-sequence token that doubles as padding keeps its gradient.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segments: Segments
    predictors: torch.Tensor
    targets: torch.Tensor
    cells: torch.Tensor
    mask: torch.Tensor

    def grid(self, values: torch.Tensor) -> torch.Tensor:
        """Lay out ``values`` [N, ...] as [B, T, ...], zero elsewhere; differentiable."""
        flat = values.new_zeros((self.mask.numel(), *values.shape[1:])).index_copy(0, self.cells, values)
        return flat.view(*self.mask.shape, *values.shape[1:])


@dataclass
class _Packer:
    """The growing lists behind a `TokenBatch`."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    segments: list[list[int]] = field(default_factory=list)
    prompts: dict[tuple[int, ...], range] = field(default_factory=dict)
    spans: list[range] = field(default_factory=list)
    look_backs: list[LookBack] = field(default_factory=list)

    def add(self, prompt: tuple[int, ...], tokens: tuple[int, ...], first_cell: int) -> None:
        """One completion; its prompt is written once, when it is first seen."""
        first = prompt not in self.prompts
        if first:
            self.prompts[prompt] = range(len(self.ids), len(self.ids) + len(prompt))
            self.ids += prompt
            self.positions += range(len(prompt))
        before = self.prompts[prompt]
        inputs = range(len(self.ids), len(self.ids) + max(0, len(tokens) - 1))
        self.ids += tokens[:-1]
        self.positions += range(len(prompt), len(prompt) + len(inputs))
        self.segments.append([*before, *inputs])
        if first:
            self.spans.append(range(before.start, inputs.stop))
        elif inputs:
            self.spans.append(inputs)
            self._look_back(inputs, before)
        if tokens:
            self.predictors += [before[-1], *inputs]
            self.targets += tokens
            self.cells += range(first_cell, first_cell + len(tokens))

    def _look_back(self, queries: range, keys: range) -> None:
        """Completions of a prompt that stand side by side look back together."""
        if self.look_backs and self.look_backs[-1].keys == keys and self.look_backs[-1].queries.stop == queries.start:
            queries = range(self.look_backs.pop().queries.start, queries.stop)
        self.look_backs.append(LookBack(queries, keys))


def collate(rows: Sequence[TrainSequence | SupervisedSequence], device: torch.device | str = "cpu") -> TokenBatch:
    """Pack ``rows``. Nothing to score, as in an empty micro-batch, still scores one dummy token outside the mask: every
    rank has to run its layers, because ZeRO-3 gathers weights in all ranks' forward and backward at once.
    """
    width = max([1, *(len(row.token_ids) for row in rows)])
    packer = _Packer()
    mask = torch.zeros((max(1, len(rows)), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        packer.add(row.prompt_token_ids, row.token_ids, index * width)
        mask[index, : len(row.token_ids)] = True
    if not packer.targets:
        packer.add((0,), (0,), 0)

    def tensor(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return TokenBatch(
        input_ids=tensor(packer.ids).unsqueeze(0),
        position_ids=tensor(packer.positions).unsqueeze(0),
        segments=_segments(packer, device),
        predictors=tensor(packer.predictors),
        targets=tensor(packer.targets),
        cells=tensor(packer.cells),
        mask=mask.to(device),
    )


def _segments(packer: _Packer, device: torch.device | str) -> Segments:
    packed = len(packer.ids)
    lengths = tuple(len(segment) for segment in packer.segments)
    source = [token for segment in packer.segments for token in segment]
    shared = len(source) != packed
    # A shared prompt has the same output in each of its segments; whichever is read last is taken.
    collect = dict(zip(source, range(len(source)), strict=True)) if shared else {}
    return Segments(
        lengths=lengths,
        starts=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device),
        source=torch.tensor(source, dtype=torch.long, device=device) if shared else None,
        collect=torch.tensor([collect[i] for i in range(packed)], dtype=torch.long, device=device) if shared else None,
        spans=tuple(packer.spans),
        look_backs=tuple(packer.look_backs),
    )


def scored_values(rows: Sequence[TrainSequence], batch: TokenBatch) -> torch.Tensor:
    """The sampled log-probabilities of ``rows`` laid out as ``batch.mask``: fp32 [B, T], zero elsewhere."""
    values = torch.zeros(batch.mask.shape, dtype=torch.float32)
    for index, row in enumerate(rows):
        values[index, : len(row.token_ids)] = torch.tensor(row.sampled_logprobs, dtype=torch.float32)
    return values.to(batch.mask.device)
