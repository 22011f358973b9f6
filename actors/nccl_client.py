"""The client through which vLLM's NCCL trainer engine drives every engine of a fixed pool.

vLLM's own Ray client sends one and the same handshake to all actors, which gives workers of different engines the same
rank. Here each engine gets its own ranks: sender 0, engine i from 1 + i x workers.

Checked against vLLM's protocol and classes; not yet run on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def _ray_get(refs: list[Any]) -> None:
    import ray

    ray.get(refs)


class FixedPoolClient:
    """A `VLLMWeightSyncClient` over the Ray handles of a pool of rollout actors.

    Args:
        handles: Ray handles of `RolloutActor`s, in a fixed order.
        workers_per_engine: ``tensor_parallel``.
        wait: waits for a list of remote calls; `ray.get` unless a test says otherwise.
    """

    def __init__(
        self, handles: Sequence[Any], workers_per_engine: int, wait: Callable[[list[Any]], None] = _ray_get
    ) -> None:
        self._handles = list(handles)
        self._workers = workers_per_engine
        self._wait = wait

    @property
    def world_size(self) -> int:
        """Ranks of the transfer group: the learner's sender and every worker."""
        return 1 + len(self._handles) * self._workers

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        calls = []
        for index, handle in enumerate(self._handles):
            info = {**init_info, "rank_offset": 1 + index * self._workers}
            calls.append(handle.init_weight_transfer_engine.remote(WeightTransferInitRequest(init_info=info)))
        self._wait(calls)

    def start_weight_update(self) -> None:
        self._wait([handle.start_weight_update.remote() for handle in self._handles])

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        request = WeightTransferUpdateRequest(update_info=update_info)
        self._wait([handle.update_weights.remote(request) for handle in self._handles])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Finish on every engine; with a version, label it and let generation resume. vLLM's trainer gives none, so
        the caller passes it on (`learner.nccl_sending.VersionedClient`) or calls `set_version`."""
        self._wait([handle.finish_weight_update.remote() for handle in self._handles])
        if weight_version is not None:
            self.set_version(weight_version)

    def set_version(self, weight_version: str) -> None:
        """Label the weights just received on every engine; generation resumes."""
        self._wait([handle.update_weight_version.remote(weight_version) for handle in self._handles])
