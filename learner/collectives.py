"""Small things that ranks tell each other."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import torch
import torch.distributed as dist

from learner.loss import LossStats


def reduce_stats(stats: LossStats, device: torch.device) -> LossStats:
    """Add the statistics of all ranks (the maximum of ``gap_max``); the result is the same on every rank."""
    names = [f.name for f in fields(stats) if f.name != "gap_max"]
    values = asdict(stats)
    sums = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    largest = torch.tensor([stats.gap_max], dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return LossStats(gap_max=largest.item(), **dict(zip(names, sums.tolist(), strict=True)))


def from_rank_zero(value: Any, device: torch.device) -> Any:
    """Rank 0's ``value`` on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0, device=device)
    return box[0]
