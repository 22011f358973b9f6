"""The pulse of a run: every few seconds, what is under way now goes to Ray's metrics endpoint and into `live.json`.

Who waits for whom: the pulse is a task of its own in the controller's loop. It waits at most `PATIENCE_S` for the
rollout actors' counters and for nothing else, and nobody waits for it. What it cannot learn it leaves out: a run is
never ended for the sake of a picture of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.metrics import RayMetricsSink
from cluster.monitoring.catalogue import PHASES, STAGES
from cluster.run_store import RunStore
from data.wire import EngineStats

PULSE_S = 5.0
"""Ray 2.60 drops a gauge that was not set for about 18 s."""
PATIENCE_S = 3.0
LIVE = "live.json"
LIVE_EVERY = 2
"""Beats between two writes of `live.json`: an object store bills each."""


@dataclass(kw_only=True)
class LoopState:
    """Where a run stands; the pipeline and the controller write it, the pulse reads it.

    ``phase`` is what the RL loop waits for. Times are of `time.monotonic`.
    """

    stage: str = "starting"
    phase: str = "idle"
    step: int = 0
    learner_restarts: int = 0
    last_step_at: float = field(default_factory=time.monotonic)
    warm_up: dict[str, float] = field(default_factory=dict)

    def enter(self, stage: str) -> None:
        self.stage = stage
        self.last_step_at = time.monotonic()

    def stepped(self, step: int) -> None:
        self.step = step
        self.last_step_at = time.monotonic()

    def figures(self) -> dict[str, float]:
        return {
            **{f"loop/stage/{stage}": float(stage == self.stage) for stage in STAGES},
            **{f"loop/phase/{phase}": float(phase == self.phase) for phase in PHASES},
            "loop/step": float(self.step),
            "loop/seconds_since_step": time.monotonic() - self.last_step_at if self.stage == "rl" else 0.0,
            "loop/heartbeat": time.time(),
            "loop/learner_restarts": float(self.learner_restarts),
            **{f"warm_up/{name}": self.warm_up[name] for name in ("step", "loss") if name in self.warm_up},
        }


class Engines(Protocol):
    """The part of `actors.pool.RolloutPool` that is looked at."""

    async def stats(self) -> tuple[EngineStats, ...]: ...


class Rewards(Protocol):
    """The part of `reward_service.pool.RewardPool` that is looked at."""

    def figures(self) -> Mapping[str, int]: ...


class Pulse:
    """Beats until it is cancelled.

    Args:
        bounds: what does not change in a run, as metrics: the steps planned, the bound on staleness.
        about: what `live.json` says beside the figures, such as the dashboard's address.
    """

    def __init__(
        self,
        store: RunStore,
        state: LoopState,
        sink: RayMetricsSink,
        *,
        bounds: Mapping[str, float],
        about: Mapping[str, Any],
    ) -> None:
        self._store = store
        self._state = state
        self._sink = sink
        self._bounds = bounds
        self._about = about
        self._beats = 0
        # One at a time: the last write must not be overtaken by one whose beat was cancelled.
        self._writer = ThreadPoolExecutor(max_workers=1)
        self.engines: Engines | None = None
        self.rewards: Rewards | None = None

    async def keep(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(PULSE_S)

    async def beat(self, *, last: bool = False) -> None:
        """Look once. The ``last`` beat writes `live.json` in any case."""
        with contextlib.suppress(Exception):
            self._sink.write(self._state.step, await self.figures())
            self._sink.refresh()
            if last or self._beats % LIVE_EVERY == 0:
                await asyncio.get_running_loop().run_in_executor(self._writer, self._write)
        self._beats += 1

    async def figures(self) -> dict[str, float]:
        """Every live metric that can be had now."""
        found = {**self._bounds, **self._state.figures(), "loop/attempt": float(self._store.attempt)}
        storage = self._store.storage
        found[f"loop/info/{storage.uri}"] = 1.0  # no secret in it: a recipe with one is refused
        if storage.is_local:
            with contextlib.suppress(OSError):
                found["storage/free_bytes"] = float(shutil.disk_usage(_existing(storage.root)).free)
        if self.rewards is not None:
            found |= {f"rewards/{name}": float(value) for name, value in self.rewards.figures().items()}
        if self.engines is not None:
            with contextlib.suppress(Exception):  # an engine that starts, is busy or is gone
                found |= engine_figures(await asyncio.wait_for(self.engines.stats(), PATIENCE_S))
        return found

    def _write(self) -> None:
        figures = {key: value for key, value in self._sink.values.items() if key.partition("/")[0] != "eval"}
        self._store.write_live({**self._about, "attempt": self._store.attempt, "pid": os.getpid(), "figures": figures})


def engine_figures(engines: tuple[EngineStats, ...]) -> dict[str, float]:
    """The live metrics of every engine; an actor ``RUN/rollout-0`` is labelled ``rollout-0``."""
    found: dict[str, float] = {}
    for engine in engines:
        name = engine.actor.rpartition("/")[2]
        found |= {
            f"rollout/running_requests/{name}": float(engine.running_requests),
            f"rollout/outstanding_tokens/{name}": float(engine.outstanding_tokens),
            f"rollout/policy_version/{name}": float(engine.version),
            f"rollout/generated_tokens/{name}": float(engine.generated_tokens),
            f"rollout/busy_seconds/{name}": engine.busy_seconds,
        }
    return found


def _existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
