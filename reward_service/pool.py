"""The pool of reward actors: groups are scored in processes that can be killed and replaced.

Who waits for whom
    score()   waits for an idle actor, then for its verdict, at most `timeout_s`
    an actor  holds one group at a time, so a group that hangs or crashes the verifier harms no other group
    failure   the actor is replaced by a new one and the group is asked again; after `attempts` failures
              `VerificationFailed` is raised. The caller counts it and drops the group: it is never a reward of 0.

`RewardPool` is plain asyncio over an `ActorBackend`; `RayBackend` and `RewardActor` are the thin Ray side.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from data.records import Group, ScoredGroup
from reward_service.config import RewardConfig
from reward_service.reward import score_group

START_TIMEOUT_S = 300.0
"""Seconds a new actor may take to come up; a fresh Ray worker has to be started and import this package."""


class VerificationFailed(Exception):
    """No verdict on a group after all attempts. It is data for the caller, not a problem that a user can mend."""

    def __init__(self, question_id: str, reason: str) -> None:
        super().__init__(question_id, reason)
        self.question_id = question_id
        self.reason = reason

    def __str__(self) -> str:
        return f"group of question {self.question_id} could not be verified: {self.reason}"


class ActorBackend(Protocol):
    """How a pool starts, asks and kills its actors; handles are opaque."""

    def start(self) -> Any:
        """Begin to start an actor and return its handle at once."""
        ...

    async def ready(self, handle: Any) -> None:
        """Wait until the actor is up."""
        ...

    async def score(self, handle: Any, group: Group) -> ScoredGroup:
        """Ask one actor."""
        ...

    def kill(self, handle: Any) -> None:
        """End the actor's process; harmless when it is dead."""
        ...


class RewardWorker:
    """What runs in a reward actor."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config

    def ready(self) -> bool:
        return True

    def score(self, group: Group) -> ScoredGroup:
        return score_group(group, self._config)


@ray.remote(max_restarts=0)
class RewardActor(RewardWorker):
    """`RewardWorker` as a Ray actor. The pool replaces dead ones, so Ray does not restart them."""


class RayBackend:
    """Reward actors on Ray."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config

    def start(self) -> Any:
        return RewardActor.options(num_cpus=self._config.cpus_per_actor).remote(self._config)  # type: ignore[attr-defined]

    async def ready(self, handle: Any) -> None:
        await handle.ready.remote()

    async def score(self, handle: Any, group: Group) -> ScoredGroup:
        scored: ScoredGroup = await handle.score.remote(group)
        return scored

    def kill(self, handle: Any) -> None:
        ray.kill(handle)


def create_reward_actors(config: RewardConfig) -> list[Any]:
    """Start ``config.actors`` Ray reward actors, without waiting for them."""
    backend = RayBackend(config)
    return [backend.start() for _ in range(config.actors)]


@dataclass(frozen=True, kw_only=True)
class PoolCounters:
    """What a pool has done: ``replaced`` actors, ``retried`` and ``failed`` groups."""

    scored: int = 0
    retried: int = 0
    replaced: int = 0
    failed: int = 0


class RewardPool:
    """A `data.wire.Scorer` over a pool of actors. One event loop; any number of concurrent calls.

    Example: ``pool = RewardPool(config); scored = await pool.score(group); pool.close()``.
    """

    def __init__(
        self,
        config: RewardConfig,
        backend: ActorBackend | None = None,
        actors: list[Any] | None = None,
        attempts: int = 3,
    ) -> None:
        self._config = config
        self._backend: ActorBackend = backend or RayBackend(config)
        self._attempts = attempts
        self._actors: list[Any] = list(actors) if actors else [self._backend.start() for _ in range(config.actors)]
        self._up: list[bool] = [False] * len(self._actors)
        self._idle: asyncio.Queue[int] = asyncio.Queue()
        self._count = {"scored": 0, "retried": 0, "replaced": 0, "failed": 0}
        for slot in range(len(self._actors)):
            self._idle.put_nowait(slot)

    @property
    def actors(self) -> tuple[Any, ...]:
        """Handles of the actors now in the pool."""
        return tuple(self._actors)

    @property
    def counters(self) -> PoolCounters:
        return PoolCounters(**self._count)

    async def score(self, group: Group) -> ScoredGroup:
        """Score a group on the actor that has been idle longest.

        Raises:
            VerificationFailed: every attempt timed out, crashed its actor or raised.
        """
        reason = ""
        for attempt in range(self._attempts):
            self._count["retried"] += attempt > 0
            slot = await self._idle.get()
            try:
                scored = await self._ask(slot, group)
                self._count["scored"] += 1
                return scored
            except Exception as error:  # noqa: BLE001  # whatever a verifier does must not end the run
                reason = (
                    "timed out" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {str(error)[:200]}"
                )
                self._replace(slot)
            except asyncio.CancelledError:
                self._replace(slot)  # the actor may still be busy with a group that nobody waits for
                raise
            finally:
                self._idle.put_nowait(slot)
        self._count["failed"] += 1
        raise VerificationFailed(group.question.id, reason)

    def close(self) -> None:
        """Kill every actor."""
        for handle in self._actors:
            self._backend.kill(handle)

    async def _ask(self, slot: int, group: Group) -> ScoredGroup:
        handle = self._actors[slot]
        if not self._up[slot]:
            await asyncio.wait_for(self._backend.ready(handle), START_TIMEOUT_S)
            self._up[slot] = True
        return await asyncio.wait_for(self._backend.score(handle, group), self._config.timeout_s)

    def _replace(self, slot: int) -> None:
        self._backend.kill(self._actors[slot])
        self._actors[slot] = self._backend.start()
        self._up[slot] = False
        self._count["replaced"] += 1
