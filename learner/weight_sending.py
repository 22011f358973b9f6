"""Weights on their way to the rollout actors, in buckets of bounded size.

ZeRO-3 keeps a slice of every parameter on every rank. A bucket of parameters is gathered, copied out by rank 0 and let
go before the next one: no rank ever holds the whole model. The object store of rank 0's node does, once, as the buckets
of the newest update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data.low_rank import fingerprint
from data.storage import local_copy
from data.wire import LowRankChange, TensorSlot, WeightBucket, WeightUpdate
from learner.lora import NamedWeight, named_weights

ALIGNMENT = 64
"""Bytes; every tensor begins at a multiple of it, so that a reader can view its slice in place, whatever the dtype."""

Flat = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class BucketPlan:
    """Parameter names and where each lies in a flat array of ``nbytes`` bytes."""

    slots: tuple[TensorSlot, ...]
    nbytes: int


def full_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """The shape of a parameter as in the checkpoint; a ZeRO-3 shard has shape (0,) and numel 0."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def plan_buckets(weights: Sequence[NamedWeight], bucket_bytes: int) -> list[BucketPlan]:
    """Cut the weights, in order, in buckets of at most ``bucket_bytes``; gathers nothing.

    A tensor larger than the bound travels alone in a bucket of its own size, since it has to arrive whole.
    """
    plans: list[BucketPlan] = []
    slots: list[TensorSlot] = []
    end = 0
    for weight in weights:
        shape = full_shape(weight.base)
        nbytes = int(np.prod(shape, dtype=np.int64)) * weight.base.dtype.itemsize
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        if slots and offset + nbytes > bucket_bytes:
            plans.append(BucketPlan(slots=tuple(slots), nbytes=end))
            slots, offset = [], 0
        dtype = str(weight.base.dtype).removeprefix("torch.")
        slots.append(TensorSlot(name=weight.name, dtype=dtype, shape=shape, offset=offset, nbytes=nbytes))
        end = offset + nbytes
    if slots:
        plans.append(BucketPlan(slots=tuple(slots), nbytes=end))
    return plans


def gathered(parameters: Sequence[torch.Tensor]) -> Any:
    """Context in which ``parameters`` are whole on every rank (a collective); for unsharded ones it does nothing."""
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=None)


def gather_buckets(
    weights: Sequence[NamedWeight], bucket_bytes: int, *, keep: bool = True
) -> Iterator[tuple[tuple[TensorSlot, ...], Flat]]:
    """Yield (slots, flat ``uint8[nbytes]``) bucket by bucket, in the dtype of the compute policy.

    A collective: every rank iterates to the end. Ranks with ``keep=False`` take part and get empty arrays.
    """
    by_name = {weight.name: weight for weight in weights}
    for plan in plan_buckets(weights, bucket_bytes):
        members = [by_name[slot.name] for slot in plan.slots]
        flat: Flat = np.zeros(plan.nbytes if keep else 0, dtype=np.uint8)
        with gathered([parameter for weight in members for parameter in weight.parameters]):
            if keep:
                into = torch.from_numpy(flat)
                for slot, weight in zip(plan.slots, members, strict=True):
                    raw = weight.value().contiguous().reshape(-1).view(torch.uint8)
                    into[slot.offset : slot.offset + slot.nbytes].copy_(raw)
        yield plan.slots, flat


class WeightPublisher:
    """Puts policy versions on Ray's object store and keeps the newest alive, for engines that load it or ask again.

    The update before is let go when the next publish begins, so that the store never holds two: whoever asks for a new
    version must have loaded the previous one everywhere, and must hold no reference to it.

    Args:
        bucket_bytes: bound of a bucket.
        sender: whether this rank publishes; the others take part.
        adapter_base: send the adapter alone; it rests on the model directory at this path or URI. Empty = send all
            weights, the adapter's changes merged.
    """

    def __init__(self, bucket_bytes: int, *, sender: bool, adapter_base: str = "") -> None:
        self._bucket_bytes = bucket_bytes
        self._sender = sender
        self._base = adapter_base
        self._fingerprint = fingerprint(local_copy(adapter_base)) if adapter_base and sender else ""
        self._newest: WeightUpdate | None = None

    def publish(self, module: torch.nn.Module, version: int) -> WeightUpdate | None:
        """Gather and put every bucket; a collective. The update on the sending rank, None on the others."""
        import ray

        self._newest = None
        weights, change = named_weights(module), None
        if self._base:
            change = self._change(weights)
            weights = [factor for weight in weights for factor in weight.factors()]
        buckets = []
        for slots, flat in gather_buckets(weights, self._bucket_bytes, keep=self._sender):
            if self._sender:
                buckets.append(WeightBucket(slots=slots, nbytes=flat.nbytes, ref=ray.put(flat)))
        if not self._sender:
            return None
        self._newest = WeightUpdate(version=version, buckets=tuple(buckets), low_rank=change)
        return self._newest

    def _change(self, weights: Sequence[NamedWeight]) -> LowRankChange:
        deltas = {weight.name: weight.delta for weight in weights if weight.delta is not None}
        one = next(iter(deltas.values()))  # `add_adapter` gives all layers the same rank and scaling
        return LowRankChange(
            base=self._base,
            fingerprint=self._fingerprint,
            rank=full_shape(one.a)[0],
            scaling=one.scaling,
            weights=tuple(deltas),
        )
