"""Weights to a fixed pool of GPU engines through vLLM's own NCCL transfer engine.

Imported only when ``rollouts.weight_transfer`` is "nccl", because it imports vLLM. The classes are checked against
vLLM's contract without a GPU; the transfer itself needs one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, VLLMWeightSyncClient, WeightSource

from data.errors import EngineError
from learner.jobs import NcclTransfer
from learner.lora import named_weights
from learner.weight_sending import full_shape, gathered

T = TypeVar("T")


class ZeroWeightSource(WeightSource):
    """vLLM's view of a ZeRO-3 module: full shapes without a gather, and one gathered parameter at a time.

    Iteration is a collective over the ZeRO ranks. Each pass is a fresh one. Tensors are copies, since the gathered
    storage goes when the next parameter comes.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(w.name, w.base.dtype, full_shape(w.base)) for w in named_weights(self._module)]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for weight in named_weights(self._module):
            with gathered(weight.parameters):
                whole = weight.value().clone()
            yield weight.name, whole


class VersionedClient:
    """A `VLLMWeightSyncClient` that labels each finished update: vLLM's trainer engine finishes without a version."""

    def __init__(self, client: VLLMWeightSyncClient) -> None:
        self._client = client
        self.version = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._client.init_weight_transfer_engine(init_info)

    def start_weight_update(self) -> None:
        self._client.start_weight_update()

    def update_weights(self, update_info: Any) -> None:
        self._client.update_weights(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._client.finish_weight_update(weight_version or str(self.version))


class NcclWeightSender:
    """Drives vLLM's `NCCLTrainerWeightTransferEngine`; built and used by every rank, rank 0 sends."""

    def __init__(self, module: torch.nn.Module, transfer: NcclTransfer, *, rank: int, master_address: str) -> None:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        client: Any = transfer.client
        self._client = VersionedClient(client)
        self._timeout_s = transfer.timeout_s
        info = NCCLTrainerInitInfo(
            rank=rank,
            master_address=master_address,
            master_port=transfer.master_port,
            world_size=transfer.world_size,
        )
        self._engine = self._within(
            lambda: NCCLTrainerWeightTransferEngine.trainer_init(
                info, client=self._client, source=ZeroWeightSource(module)
            ),
            "meet the rollout engines",
        )

    def send(self, version: int) -> None:
        """Send every weight as policy ``version``; a collective.

        Raises:
            EngineError: no answer in time. The NCCL group is unusable then: restart learner and engines.
        """
        self._client.version = version
        self._within(self._engine.send_weights, f"send the weights of version {version}")

    def _within(self, call: Callable[[], T], what: str) -> T:
        device = torch.cuda.current_device() if torch.cuda.is_available() else None

        def on_device() -> T:
            if device is not None:
                torch.cuda.set_device(device)  # the current device belongs to a thread, not to the process
            return call()

        pool = ThreadPoolExecutor(max_workers=1)
        try:
            return pool.submit(on_device).result(timeout=self._timeout_s)
        except FutureTimeout as error:
            raise EngineError(
                f"the learner could not {what} over NCCL within {self._timeout_s:g} s",
                remedy="resume the run; set rollouts.weight_transfer=object_store if engines come and go",
            ) from error
        finally:
            pool.shutdown(wait=False)
