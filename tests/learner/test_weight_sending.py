"""Buckets and vLLM's weight-source contract, on an unsharded module (the sharded ones are in tests/integration)."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from learner.lora import named_weights
from learner.weight_sending import WeightPublisher, gather_buckets, plan_buckets


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 16)
        self.norm = torch.nn.LayerNorm(16, dtype=torch.bfloat16)
        self.scale = torch.nn.Parameter(torch.tensor(3.0))
        self.head = torch.nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("bound", [1, 200, 3300, 1_000_000])
def test_buckets_hold_every_parameter_once_and_keep_the_bound(bound: int) -> None:
    module = Tied()
    seen: dict[str, torch.Tensor] = {}
    for slots, flat in gather_buckets(named_weights(module), bound):
        assert flat.nbytes <= bound or len(slots) == 1
        assert flat.nbytes == slots[-1].offset + slots[-1].nbytes
        for slot in slots:
            assert slot.name not in seen and slot.offset % 64 == 0
            raw = torch.from_numpy(flat[slot.offset : slot.offset + slot.nbytes])
            seen[slot.name] = raw.view(getattr(torch, slot.dtype)).reshape(slot.shape)
    expected = dict(module.named_parameters())
    assert seen.keys() == expected.keys() and "head.weight" not in seen
    for name, tensor in seen.items():
        assert torch.equal(tensor, expected[name]), name


def test_ranks_that_do_not_send_get_the_slots_and_no_bytes() -> None:
    got = list(gather_buckets(named_weights(Tied()), 200, keep=False))
    assert [slots for slots, _ in got] == [plan.slots for plan in plan_buckets(named_weights(Tied()), 200)]
    assert all(flat.nbytes == 0 for _, flat in got)


class Reference:
    """Stands for a Ray object reference: while it lives, so does what was put."""


def test_the_object_store_holds_one_update_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    alive: weakref.WeakSet[Reference] = weakref.WeakSet()
    most: list[int] = []

    def put(flat: object) -> Reference:
        reference = Reference()
        alive.add(reference)
        most.append(len(alive))
        return reference

    monkeypatch.setattr(ray, "put", put)
    module, publisher = Tied(), WeightPublisher(200, sender=True)
    buckets = len(plan_buckets(named_weights(module), 200))
    assert buckets > 1
    for version in range(1, 4):
        assert publisher.publish(module, version) is not None
        assert len(alive) == buckets  # the newest stays, for an engine that asks once more
    assert max(most) == buckets
    assert WeightPublisher(200, sender=False).publish(module, 1) is None


class RecordingClient:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.calls.append(("init", init_info))

    def start_weight_update(self) -> None:
        self.calls.append(("start", None))

    def update_weights(self, update_info: Any) -> None:
        self.calls.append(("update", update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append(("finish", weight_version))


def test_nccl_source_and_client_keep_vllms_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own trainer engine drives our source and client; only its broadcast, which needs GPUs, is replaced."""
    base = pytest.importorskip("vllm.distributed.weight_transfer.base")
    nccl = pytest.importorskip("vllm.distributed.weight_transfer.nccl_engine")
    from learner.jobs import NcclTransfer
    from learner.nccl_sending import NcclWeightSender, VersionedClient, ZeroWeightSource

    module = Tied()
    source = ZeroWeightSource(module)
    assert isinstance(source, base.WeightSource)
    assert isinstance(VersionedClient(RecordingClient()), base.VLLMWeightSyncClient)
    for _ in range(2):  # every pass is a fresh one
        declared = [(m.name, m.dtype, m.shape) for m in source.metadata()]
        assert declared == [(name, t.dtype, tuple(t.shape)) for name, t in source]
    assert [n for group, _ in source.iter_groups() for n in group] == [m.name for m in source.metadata()]

    sent: dict[str, torch.Tensor] = {}
    engine = nccl.NCCLTrainerWeightTransferEngine
    monkeypatch.setattr(nccl, "open_trainer_endpoint", lambda info: object())
    monkeypatch.setattr(engine, "_broadcast", lambda self, source, meta: sent.update(dict(source)))
    monkeypatch.setattr(engine, "_post_send_sync", lambda self: None, raising=False)
    client = RecordingClient()
    transfer = NcclTransfer(client=client, world_size=3, master_port=12345, timeout_s=20)
    NcclWeightSender(module, transfer, rank=0, master_address="10.0.0.1").send(7)
    assert [name for name, _ in client.calls] == ["init", "start", "update", "finish"]
    init = client.calls[0][1]
    assert (init["master_address"], init["master_port"], init["world_size"]) == ("10.0.0.1", 12345, 3)
    assert client.calls[2][1]["names"] == [m.name for m in source.metadata()] == list(sent)
    assert client.calls[3][1] == "7"


def test_a_hung_transfer_is_an_error() -> None:
    pytest.importorskip("vllm.distributed.weight_transfer.base")
    import threading

    from data.errors import EngineError
    from learner.nccl_sending import NcclWeightSender

    sender = object.__new__(NcclWeightSender)
    sender._timeout_s = 0.05
    release = threading.Event()
    with pytest.raises(EngineError, match="could not test over NCCL within"):
        sender._within(release.wait, "test")
    release.set()
