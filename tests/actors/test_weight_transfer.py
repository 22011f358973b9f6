"""Staged buckets, and our classes against the contracts of vLLM's weight transfer (no engine is started)."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient, WeightTransferEngine
from vllm.distributed.weight_transfer.clients import RayVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, worker_init_payload

from actors.nccl_client import FixedPoolClient
from actors.rollout_actor import RolloutActor
from actors.weight_transfer import (
    BACKEND,
    ObjectStoreTransferEngine,
    ObjectStoreUpdateInfo,
    StagedBucket,
    read_staged,
)
from data.errors import EngineError
from data.wire import TensorSlot, WeightBucket

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bucket_of(tensors: list[tuple[str, torch.Tensor]], gap: int = 0) -> tuple[WeightBucket, np.ndarray]:
    """Pack tensors one after another, ``gap`` bytes apart."""
    slots, parts, offset = [], [], 0
    for name, tensor in tensors:
        data = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        parts += [np.zeros(gap, np.uint8), data]
        offset += gap
        dtype = str(tensor.dtype).removeprefix("torch.")
        slots.append(TensorSlot(name=name, dtype=dtype, shape=tuple(tensor.shape), offset=offset, nbytes=data.nbytes))
        offset += data.nbytes
    return WeightBucket(slots=tuple(slots), nbytes=offset, ref=None), np.concatenate(parts)


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 5), max_size=3)), min_size=1, max_size=4
    ),
    st.integers(0, 5),
)
def test_what_is_staged_is_read_back_bit_for_bit(kinds: list[tuple[str, list[int]]], gap: int) -> None:
    tensors = [(f"t{i}", torch.randn(shape or [1]).to(DTYPES[dtype])) for i, (dtype, shape) in enumerate(kinds)]
    bucket, data = bucket_of(tensors, gap)
    with StagedBucket(bucket, data) as staged:
        read = read_staged(ObjectStoreUpdateInfo(**staged.update_info()))
    # The staged memory is closed by now: what was mapped has to stay readable.
    assert [name for name, _ in read] == [name for name, _ in tensors]
    for (_, got), (_, sent) in zip(read, tensors, strict=True):
        assert got.dtype == sent.dtype and torch.equal(got, sent)


def test_a_reader_cannot_change_what_other_workers_read() -> None:
    bucket, data = bucket_of([("w", torch.ones(4))])
    with StagedBucket(bucket, data) as staged:
        info = ObjectStoreUpdateInfo(**staged.update_info())
        read_staged(info)[0][1].fill_(9)
        assert torch.equal(read_staged(info)[0][1], torch.ones(4))


def test_staged_memory_has_no_file_and_is_closed() -> None:
    bucket, data = bucket_of([("w", torch.ones(4))])
    before = set(os.listdir("/dev/shm"))
    open_files = len(os.listdir("/proc/self/fd"))
    with StagedBucket(bucket, data) as staged:
        path = staged.update_info()["path"]
        assert os.path.exists(path)
        assert set(os.listdir("/dev/shm")) <= before | {p for p in os.listdir("/dev/shm") if "fleming" not in p}
    assert len(os.listdir("/proc/self/fd")) == open_files


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        (TensorSlot(name="w", dtype="float33", shape=(4,), offset=0, nbytes=16), "'float33' of weight 'w'"),
        (TensorSlot(name="w", dtype="float32", shape=(4,), offset=4, nbytes=16), "at 4 of 16"),
        (TensorSlot(name="w", dtype="float32", shape=(4,), offset=0, nbytes=8), "its slot has 8"),
    ],
)
def test_a_slot_that_does_not_fit_is_refused(slot: TensorSlot, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        StagedBucket(WeightBucket(slots=(slot,), nbytes=16, ref=None), np.zeros(16, np.uint8))


def test_bytes_of_another_length_are_refused() -> None:
    with pytest.raises(EngineError, match=r"uint8\[12\] instead of uint8\[16\]"):
        StagedBucket(WeightBucket(slots=(), nbytes=16, ref=None), np.zeros(12, np.uint8))


def test_our_engine_is_vllms_for_its_name() -> None:
    assert issubclass(ObjectStoreTransferEngine, WeightTransferEngine)
    config: Any = SimpleNamespace(parallel_config=None, model_config=None)
    engine = WeightTransferEngineFactory.create_engine(
        WeightTransferConfig(backend=BACKEND), config, torch.device("cpu"), torch.nn.Linear(1, 1)
    )
    assert isinstance(engine, ObjectStoreTransferEngine)
    bucket, data = bucket_of([("w", torch.ones(2))])
    with StagedBucket(bucket, data) as staged:
        assert engine.parse_update_info(staged.update_info()).names == ["w"]
    with pytest.raises(ValueError, match="Invalid update_info"):
        engine.parse_update_info({"names": []})


class Recorder:
    """A Ray handle that writes down which remote methods are called, and refuses those that the actor lacks."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        if not callable(getattr(RolloutActor, name, None)):
            raise AttributeError(name)
        return SimpleNamespace(remote=lambda *arguments: self.calls.append((name, arguments)))


def test_the_client_is_vllms_and_gives_each_engine_its_own_ranks() -> None:
    handles = [Recorder(), Recorder(), Recorder()]
    client = FixedPoolClient(handles, workers_per_engine=2, wait=lambda refs: None)
    assert isinstance(client, VLLMWeightSyncClient)
    assert client.world_size == 7
    payload = worker_init_payload(
        NCCLWeightTransferInitInfo(master_address="node", master_port=1, rank_offset=1, world_size=client.world_size)
    )
    client.init_weight_transfer_engine(payload)
    sent = [handle.calls[0][1][0].init_info for handle in handles]
    assert [info["rank_offset"] for info in sent] == [1, 3, 5]
    assert all(NCCLWeightTransferInitInfo(**info).world_size == 7 for info in sent)


def test_an_update_is_labelled_last_since_the_label_resumes_generation() -> None:
    handle = Recorder()
    client = FixedPoolClient([handle], 1, wait=lambda refs: None)
    client.start_weight_update()
    client.update_weights({"names": []})
    client.finish_weight_update()  # as vLLM's NCCL trainer engine does: no version
    assert [name for name, _ in handle.calls] == ["start_weight_update", "update_weights", "finish_weight_update"]
    client.finish_weight_update("4")
    assert handle.calls[-1] == ("update_weight_version", ("4",))


def test_vllms_own_ray_client_finds_its_methods_on_the_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda refs: refs)
    handle: Any = Recorder()
    client = RayVLLMWeightSyncClient(handle)
    client.init_weight_transfer_engine({})
    client.start_weight_update()
    client.update_weights({})
    client.finish_weight_update("2")
    assert len(handle.calls) == 5


def test_what_was_freed_goes_back_to_the_system() -> None:
    """Small blocks with a live one at the end: glibc alone keeps all of the freed ones."""
    script = """
import ctypes
import os

from cluster.memory import read_status
from actors.weight_transfer import return_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(4096) for _ in range(20_000)]
for block in blocks:
    ctypes.memset(block, 1, 4096)
for block in blocks[:-1]:
    libc.free(block)
before = read_status(os.getpid())["RssAnon"]
return_freed_memory()
print((before - read_status(os.getpid())["RssAnon"]) >> 20)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout.split()[-1]) > 60
