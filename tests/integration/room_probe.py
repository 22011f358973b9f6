"""Looks at the rooms from inside a Ray actor and from inside the vLLM worker that its engine starts."""

from __future__ import annotations

import importlib
import os
from typing import Any

from actors.weight_transfer import FlemingWorkerExtension
from cluster.doctor import ROOMS


def room_origins() -> dict[str, str]:
    """Room -> the file that this process imports for it, and the number of the process."""
    origins = {room: str(importlib.import_module(room).__file__) for room in ROOMS}
    return {**origins, "pid": str(os.getpid())}


class ProbedWorkerExtension(FlemingWorkerExtension):
    """The product's worker extension with one question more."""

    def room_origins(self) -> dict[str, str]:
        return room_origins()


class RoomProbe:
    """The body of a Ray actor that runs the product's engine."""

    def origins(self) -> dict[str, str]:
        return room_origins()

    async def worker_origins(self, model_dir: str) -> list[dict[str, str]]:
        """Start an engine on ``model_dir``, ask its workers, end it."""
        import actors.weight_transfer
        from actors.config import RolloutConfig
        from actors.engine import RolloutEngine

        probe: Any = f"{ProbedWorkerExtension.__module__}.{ProbedWorkerExtension.__qualname__}"
        actors.weight_transfer.EXTENSION = probe
        config = RolloutConfig(kv_cache_gib=0.05, max_concurrent_requests=4, cpu_threads=1)
        engine = RolloutEngine(config, model_dir, seed=0, max_model_len=64)
        await engine.start()
        try:
            assert engine._llm is not None
            found: list[dict[str, str]] = await engine._llm.collective_rpc("room_origins")
            return found
        finally:
            await engine.shutdown()
