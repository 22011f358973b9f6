"""The pool of reward actors: groups are scored in processes that can be killed and replaced.

Who waits for whom
    score()       waits for a free place, then for its verdict, at most `timeout_s`
    score_many()  takes the next group from its source only while at most two per place are under way
    an actor      has one place per worker process; the items of a group are judged in worker processes of the actor
                  (`reward_service/workers.py`), so a hanging verifier costs its worker and not the actor
    growing       when every place is taken, an extra actor is started, one at a time, up to `max_actors`; nobody waits
                  for it. One that was idle for `idle_s` is given back, down to `actors`
    failure       an actor that dies or is silent for `timeout_s` is replaced and the group is asked again; after
                  `attempts` failures, or when one of its items got no verdict, `VerificationFailed` is raised. The
                  caller counts it and drops the group: it is never a reward of 0.

`RewardPool` is plain asyncio over an `ActorBackend`; `RayBackend` and `RewardActor` are the thin Ray side.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray

from data.code import check_code, code_hash
from data.errors import FlemingError
from data.places import place
from data.records import Group, ScoredGroup
from reward_service.config import RewardConfig
from reward_service.reward import verifier_version
from reward_service.worker import Failure, ScoredItem, ScoreItem
from reward_service.workers import WorkerHost

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


@dataclass(frozen=True, kw_only=True)
class GroupFailure:
    """What an actor says of a group of which an item got no verdict. It has done its own retries."""

    reason: str


class ActorBackend(Protocol):
    """How a pool starts, asks and kills its actors; handles are opaque."""

    def start(self) -> Any:
        """Begin to start an actor and return its handle at once."""
        ...

    async def ready(self, handle: Any) -> None:
        """Wait until the actor is up."""
        ...

    async def score(self, handle: Any, group: Group) -> ScoredGroup | GroupFailure:
        """Ask one actor."""
        ...

    def kill(self, handle: Any) -> None:
        """End the actor's process and its workers; harmless when it is dead."""
        ...


class RewardWorker:
    """What runs in a reward actor."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._host = WorkerHost(config)

    async def ready(self, code: str) -> None:
        """Wait until the workers are up, unless this process has other code than the driver, whose hash is ``code``."""
        check_code(code, "a reward actor")
        await self._host.ready()

    async def score(self, group: Group) -> ScoredGroup | GroupFailure:
        items = [
            ScoreItem(question=group.question, text=c.text, finished=c.finish_reason == "stop")
            for c in group.completions
        ]
        outcomes = await self._host.score(items)
        failed = next(((i, o) for i, o in enumerate(outcomes) if isinstance(o, Failure)), None)
        if failed:
            index, failure = failed
            return GroupFailure(reason=f"completion {index}: {failure.kind}: {failure.detail}")
        return ScoredGroup(
            group=group,
            scores=tuple(outcome.score for outcome in outcomes if isinstance(outcome, ScoredItem)),
            verifier_version=verifier_version(group.question, self._config),
        )

    def counters(self) -> dict[str, int]:
        return self._host.counters


@ray.remote(max_restarts=0)
class RewardActor(RewardWorker):
    """`RewardWorker` as a Ray actor. The pool replaces dead ones, so Ray does not restart them."""


class RayBackend:
    """Reward actors on Ray. Their worker processes die with them (`reward_service/worker.py`)."""

    def __init__(self, config: RewardConfig, prefix: str = "") -> None:
        """With a ``prefix`` actors have names, ``prefix-0`` ...; one that replaces another takes the next number."""
        self._config = config
        self._prefix = prefix
        self._started = 0

    def start(self) -> Any:
        asked = place(self._config.cpus_per_actor, 0, self._config.node_group)
        options: dict[str, Any] = {
            "num_cpus": asked.pop("CPU", 0),
            "resources": asked,
            "max_concurrency": self._config.workers.processes + 2,
        }
        if self._prefix:
            options["name"] = f"{self._prefix}-{self._started}"
        self._started += 1
        return RewardActor.options(**options).remote(self._config)  # type: ignore[attr-defined]

    async def ready(self, handle: Any) -> None:
        await handle.ready.remote(code_hash())

    async def score(self, handle: Any, group: Group) -> ScoredGroup | GroupFailure:
        said: ScoredGroup | GroupFailure = await handle.score.remote(group)
        return said

    def kill(self, handle: Any) -> None:
        ray.kill(handle)


def create_reward_actors(config: RewardConfig) -> list[Any]:
    """Start ``config.actors`` Ray reward actors, without waiting for them."""
    backend = RayBackend(config)
    return [backend.start() for _ in range(config.actors)]


@dataclass(frozen=True, kw_only=True)
class PoolCounters:
    """What a pool has done: groups scored, retried, failed; actors replaced, ``grown`` (added) and ``shrunk``."""

    scored: int = 0
    retried: int = 0
    replaced: int = 0
    failed: int = 0
    grown: int = 0
    shrunk: int = 0


@dataclass(kw_only=True, eq=False)
class _Slot:
    """One actor's place in the pool. ``busy`` counts the groups it holds."""

    handle: Any
    is_up: bool = False
    busy: int = 0
    last_used: float = field(default_factory=time.monotonic)


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
        handles = list(actors) if actors else [self._backend.start() for _ in range(config.actors)]
        self._slots = [_Slot(handle=handle) for handle in handles]
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._growing: asyncio.Task[None] | None = None
        self._shrinking: asyncio.TimerHandle | None = None
        self._count = {"scored": 0, "retried": 0, "replaced": 0, "failed": 0, "grown": 0, "shrunk": 0}

    @property
    def actors(self) -> tuple[Any, ...]:
        """Handles of the actors now in the pool."""
        return tuple(slot.handle for slot in self._slots)

    @property
    def counters(self) -> PoolCounters:
        return PoolCounters(**self._count)

    def figures(self) -> dict[str, int]:
        """The counters, and what is under way: ``actors`` in the pool, groups ``busy`` on them, groups ``waiting``."""
        busy = sum(slot.busy for slot in self._slots)
        return {"actors": len(self._slots), "busy": busy, "waiting": len(self._waiters), **self._count}

    async def start(self) -> None:
        """Wait until every actor is up. One that fails is replaced when a group needs it, unless no other could be up.

        Raises:
            FlemingError: the actors have other code than this process, or the settings cannot be served.
        """
        for outcome in await asyncio.gather(*(self._up(slot) for slot in self._slots), return_exceptions=True):
            cause = getattr(outcome, "cause", outcome)  # what a Ray actor raised
            if isinstance(cause, FlemingError):
                raise cause

    async def score(self, group: Group) -> ScoredGroup:
        """Score a group on the actor with the fewest groups, of these the one that has been idle longest.

        Raises:
            VerificationFailed: every attempt timed out, crashed its actor or raised, or an item got no verdict.
            FlemingError: the settings cannot be served, for instance a user verifier that cannot be imported.
        """
        reason = ""
        for attempt in range(self._attempts):
            self._count["retried"] += attempt > 0
            slot = await self._acquire()
            handle = slot.handle
            try:
                said = await self._ask(slot, group)
            except Exception as error:  # noqa: BLE001  # whatever a verifier does must not end the run
                self._replace(slot, handle)
                cause = getattr(error, "cause", error)  # what a Ray actor raised
                if isinstance(cause, FlemingError):
                    raise cause from None
                reason = (
                    "timed out" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {str(error)[:200]}"
                )
                continue
            except asyncio.CancelledError:
                self._replace(slot, handle)  # the actor may still be busy with a group that nobody waits for
                raise
            finally:
                self._release(slot)
            if isinstance(said, ScoredGroup):
                self._count["scored"] += 1
                return said
            reason = said.reason
            break
        self._count["failed"] += 1
        raise VerificationFailed(group.question.id, reason)

    async def score_many(
        self, groups: Iterable[Group], *, ordered: bool = True
    ) -> AsyncIterator[ScoredGroup | VerificationFailed]:
        """Score any number of groups, in their order or as they are done; a failed one is an item of the stream.

        Back-pressure: at most two groups per place are under way or waiting to be taken by the consumer.
        """
        source = iter(groups)
        running: deque[asyncio.Task[ScoredGroup | VerificationFailed]] = deque()

        def top_up() -> None:
            room = 2 * len(self._slots) * self._config.workers.processes - len(running)
            for _, group in zip(range(room), source, strict=False):
                running.append(asyncio.create_task(self._outcome(group)))

        try:
            top_up()
            while running:
                if not ordered:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    first = next(task for task in running if task.done())
                    running.remove(first)
                else:
                    first = running[0]
                    await asyncio.wait({first})
                    running.popleft()
                top_up()
                yield first.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _outcome(self, group: Group) -> ScoredGroup | VerificationFailed:
        try:
            return await self.score(group)
        except VerificationFailed as failed:
            return failed

    def close(self) -> None:
        """Kill every actor."""
        if self._growing is not None:
            self._growing.cancel()
        if self._shrinking is not None:
            self._shrinking.cancel()
        for slot in self._slots:
            self._backend.kill(slot.handle)

    async def _ask(self, slot: _Slot, group: Group) -> ScoredGroup | GroupFailure:
        handle = await self._up(slot)
        return await asyncio.wait_for(self._backend.score(handle, group), self._config.timeout_s)

    async def _up(self, slot: _Slot) -> Any:
        """The slot's actor, once it is up."""
        handle = slot.handle
        if not slot.is_up:
            await asyncio.wait_for(self._backend.ready(handle), START_TIMEOUT_S)
            slot.is_up = slot.handle is handle
        return handle

    async def _acquire(self) -> _Slot:
        """A slot with a free place. Who has waited longest is served first."""
        while True:
            free = [slot for slot in self._slots if slot.busy < self._config.workers.processes]
            if free:
                slot = min(free, key=lambda slot: (slot.busy, slot.last_used))
                slot.busy += 1
                return slot
            self._grow()
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # the place was offered to one who no longer wants it
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)

    def _release(self, slot: _Slot) -> None:
        slot.busy -= 1
        slot.last_used = time.monotonic()
        self._wake()
        if self._waiters:
            self._grow()
        if len(self._slots) > self._config.actors and self._shrinking is None:
            self._shrinking = asyncio.get_running_loop().call_later(self._config.idle_s, self._shrink)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _replace(self, slot: _Slot, handle: Any) -> None:
        if slot.handle is not handle:
            return  # another group of the same actor has seen to it
        self._backend.kill(handle)
        slot.handle = self._backend.start()
        slot.is_up = False
        self._count["replaced"] += 1

    def _grow(self) -> None:
        if self._growing is None and len(self._slots) < self._config.most_actors:
            self._growing = asyncio.create_task(self._add_actor())

    async def _add_actor(self) -> None:
        handle = self._backend.start()
        try:
            await asyncio.wait_for(self._backend.ready(handle), START_TIMEOUT_S)
        except Exception:  # noqa: BLE001  # no room for it or a broken node: the pool goes on with what it has
            self._backend.kill(handle)
            await asyncio.sleep(self._config.idle_s)
        except asyncio.CancelledError:
            self._backend.kill(handle)
            raise
        else:
            self._slots.append(_Slot(handle=handle, is_up=True))
            self._count["grown"] += 1
        finally:
            self._growing = None
        for _ in range(self._config.workers.processes):
            self._wake()

    def _shrink(self) -> None:
        """Give back extra actors that have been idle for long, the one idle longest first; look again later."""
        self._shrinking = None
        now = time.monotonic()
        idle = sorted((slot for slot in self._slots if slot.busy == 0), key=lambda slot: slot.last_used)
        for slot in idle:
            if len(self._slots) <= self._config.actors or now - slot.last_used < self._config.idle_s * 0.99:
                break
            self._slots.remove(slot)
            self._backend.kill(slot.handle)
            self._count["shrunk"] += 1
        if len(self._slots) > self._config.actors:
            self._shrinking = asyncio.get_running_loop().call_later(self._config.idle_s, self._shrink)
