"""The weight-transfer engine that a vLLM worker runs: one bucket per update call, read from the host's shared memory.

Who does what
    rollout actor   fetches a bucket from Ray's object store, stages it in memory shared with its worker processes
                    (`StagedBucket`), sends the *description* of it through vLLM's `update_weights`, drops it
    vLLM worker     maps the staged bytes and loads the tensors (`ObjectStoreTransferEngine`)

The worker is no Ray process and cannot read Ray's store itself. The staged memory has no name in any file system: a
process killed in mid-update leaves nothing behind, and the size of /dev/shm does not matter.

vLLM's worker imports this module because `EXTENSION` is named as its ``worker_extension_cls``; importing it registers
the engine there. The layerwise reload around an update is what vLLM's own NCCL engine does: on the CPU the linear
layers pack their weights at load time and keep no plain parameter to load into.

Of an adapter (``learner.lora.sync: adapter``) only A and B are staged. The worker keeps them until the last bucket is
there, then loads the whole model anew: every weight of the base from its files, the changed ones with B A added. A
reload of the changed layers alone would leave out little (an adapter is mostly in all of them but the embedding), and
vLLM fuses layers, so that a part that is not sent leaves a fused one without values.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from actors.ownership import watch_owner
from data.errors import EngineError
from data.low_rank import merged_weights
from data.wire import WeightBucket

BACKEND = "fleming_object_store"
EXTENSION = "actors.weight_transfer.FlemingWorkerExtension"


class StagedBucket:
    """A bucket's bytes in anonymous shared memory of this process, for as long as the ``with`` block lasts.

    Args:
        bucket: what the bytes mean.
        data: ``uint8[bucket.nbytes]``.

    Raises:
        EngineError: the array does not fit the description, or the host's memory is full.
    """

    def __init__(self, bucket: WeightBucket, data: np.ndarray) -> None:
        _check_bucket(bucket, data)
        self._bucket = bucket
        self._fd = os.memfd_create("fleming-weights", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, max(bucket.nbytes, 1))
            view, written = np.ascontiguousarray(data).data, 0
            while written < bucket.nbytes:  # one write call moves 2 GiB at most
                written += os.pwrite(self._fd, view[written : written + (1 << 30)], written)
        except OSError as error:
            self.close()
            raise EngineError(
                f"cannot stage a weight bucket of {bucket.nbytes} bytes in memory ({error.strerror})",
                remedy="lower learner.sync_bucket_mib or give the host more memory",
            ) from error

    def update_info(self) -> dict[str, Any]:
        """The payload of one `update_weights` call; the fields of `ObjectStoreUpdateInfo`."""
        slots = self._bucket.slots
        return {
            "path": f"/proc/{os.getpid()}/fd/{self._fd}",
            "nbytes": self._bucket.nbytes,
            "names": [slot.name for slot in slots],
            "dtypes": [slot.dtype for slot in slots],
            "shapes": [list(slot.shape) for slot in slots],
            "offsets": [slot.offset for slot in slots],
        }

    def close(self) -> None:
        """Drop the bytes; a worker that still maps them keeps them until it lets go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> StagedBucket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_bucket(bucket: WeightBucket, data: np.ndarray) -> None:
    remedy = "send each bucket as uint8[nbytes] with slots inside it (learner's weight sender)"
    if data.dtype != np.uint8 or data.shape != (bucket.nbytes,):
        raise EngineError(
            f"weight bucket is {data.dtype}{list(data.shape)} instead of uint8[{bucket.nbytes}]", remedy=remedy
        )
    for slot in bucket.slots:
        dtype = getattr(torch, slot.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise EngineError(f"dtype {slot.dtype!r} of weight {slot.name!r} is not one of torch's", remedy=remedy)
        size = math.prod(slot.shape) * dtype.itemsize
        if slot.nbytes != size or slot.offset < 0 or slot.offset + size > bucket.nbytes:
            raise EngineError(
                f"weight {slot.name!r} {slot.dtype}{list(slot.shape)} takes {size} bytes, its slot has {slot.nbytes} "
                f"at {slot.offset} of {bucket.nbytes}",
                remedy=remedy,
            )


def read_staged(info: ObjectStoreUpdateInfo) -> list[tuple[str, torch.Tensor]]:
    """Map staged bytes and view them as tensors, without a copy where alignment allows.

    The tensors keep the mapping alive, so vLLM may hold on to them until a layer is complete.
    """
    fd = os.open(info.path, os.O_RDONLY)
    try:
        # Private and writable: torch wants a writable buffer, and a write would not reach the staged bytes.
        mapped = mmap.mmap(fd, max(info.nbytes, 1), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    flat = torch.frombuffer(mapped, dtype=torch.uint8)
    tensors = []
    for name, dtype_name, shape, offset in zip(info.names, info.dtypes, info.shapes, info.offsets, strict=True):
        dtype: torch.dtype = getattr(torch, dtype_name)
        piece = flat[offset : offset + math.prod(shape) * dtype.itemsize]
        if offset % dtype.itemsize:
            piece = piece.clone()
        tensors.append((name, piece.view(dtype).reshape(shape)))
    return tensors


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Nothing to agree on beforehand: every update call describes itself."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """One staged bucket. ``path`` is readable on this host only; ``offsets`` in bytes; ``dtypes`` are torch's names.

    ``base``: the tensors are factors of a low-rank change to the model in this directory, to be added with ``scaling``;
    empty = they are weights.
    """

    path: str
    nbytes: int
    names: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    base: str = ""
    scaling: float = 0.0


@dataclass
class ReceivedAdapter:
    """The factors that have come so far; ``base`` and ``scaling`` as in `ObjectStoreUpdateInfo`."""

    base: str
    scaling: float
    factors: dict[str, torch.Tensor] = field(default_factory=dict)


class ObjectStoreTransferEngine(WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]):
    """Loads buckets staged by the rollout actor of the same host into the running model."""

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo
    _adapter: ReceivedAdapter | None = None

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        """No connection to make."""

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._adapter = None
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        tensors = read_staged(update_info)
        if not update_info.base:
            self.model.load_weights(tensors)
            return
        if self._adapter is None:
            self._adapter = ReceivedAdapter(base=update_info.base, scaling=update_info.scaling)
        self._adapter.factors |= dict(tensors)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        if self._adapter is not None:
            adapter, self._adapter = self._adapter, None
            weights = merged_weights(
                adapter.base, adapter.factors, scaling=adapter.scaling, device=torch.device(self.device)
            )
            self.model.load_weights(weights)
        finalize_layerwise_reload(self.model, self.model_config)
        repack_output_layers(self.model)
        return_freed_memory()

    def shutdown(self) -> None:
        """Nothing is kept between updates."""


def repack_output_layers(model: torch.nn.Module) -> None:
    """Pack a CPU engine's output layers again from their weights.

    An output layer that is tied to the embedding gets no weights of its own in an update, so the layerwise reload
    leaves it alone: right on a GPU, where it shares the new embedding, but on the CPU it multiplies by a packed copy of
    the old one.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        for layer in model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)


def return_freed_memory() -> None:
    """Give the heap's free pages back to the system, where the C library can (glibc).

    Batches of all shapes, and weights that are loaded and packed, leave holes that glibc keeps: without this a worker
    grows for hundreds of updates (docs/sizing.md has the figures). Takes milliseconds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class FlemingWorkerExtension:
    """Mixed into vLLM's worker class; naming it makes every worker process import this module."""

    def watch_parent(self, stamp: str) -> bool:
        """Tie this worker's life to the process of ``stamp`` (see `ownership.watch_owner`)."""
        return watch_owner(stamp) is not None


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreTransferEngine)
