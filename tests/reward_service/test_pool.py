"""The pool over fake actors: hangs, crashes and cancellations, without Ray."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from data.errors import ConfigError, SetupError
from data.places import GROUP_SHARE
from data.records import Group, ScoredGroup
from data.wire import Scorer
from reward_service import pool as pool_module
from reward_service.config import RewardConfig, WorkerConfig
from reward_service.pool import GroupFailure, RayBackend, RewardPool, RewardWorker, VerificationFailed
from reward_service.reward import score_group
from tests.aio import aio
from tests.data.examples import group

GROUP = group("<think>x</think><answer>B</answer>")


class FakeBackend:
    """Actors are numbers; ``behave(actor, group)`` may raise or wait before the true verdict is given."""

    def __init__(self, behave: Callable[[int, Group], Any]) -> None:
        self._numbers = count()
        self._behave = behave
        self.killed: list[int] = []
        self.busy: dict[int, int] = {}
        self.most_at_once = 0
        self.asked: list[int] = []

    def start(self) -> int:
        return next(self._numbers)

    async def ready(self, handle: int) -> None:
        await asyncio.sleep(0)

    async def score(self, handle: int, group: Group) -> ScoredGroup:
        assert handle not in self.killed, "a dead actor was asked"
        self.asked.append(handle)
        self.busy[handle] = self.busy.get(handle, 0) + 1
        self.most_at_once = max(self.most_at_once, self.busy[handle])
        try:
            waiting = self._behave(handle, group)
            if waiting is not None:
                await waiting
            await asyncio.sleep(0)
            return score_group(group, RewardConfig())
        finally:
            self.busy[handle] -= 1

    def kill(self, handle: int) -> None:
        self.killed.append(handle)


def config(**changes: Any) -> RewardConfig:
    return RewardConfig(**{"actors": 2, "timeout_s": 0.05, **changes})


def crash(*actors: int) -> Callable[[int, Group], None]:
    def behave(actor: int, _: Group) -> None:
        if actor in actors:
            raise ConnectionError("actor died")

    return behave


@aio
async def test_work_is_spread_one_group_at_a_time() -> None:
    backend = FakeBackend(lambda *_: None)
    pool = RewardPool(config(), backend)
    assert isinstance(pool, Scorer)
    scored = await asyncio.gather(*(pool.score(GROUP) for _ in range(20)))
    assert all(s == score_group(GROUP, RewardConfig()) for s in scored)
    assert backend.most_at_once == 1
    assert abs(backend.asked.count(0) - backend.asked.count(1)) <= 2
    assert pool.counters.scored == 20 and not backend.killed


@aio
async def test_crashed_actor_is_replaced_and_the_group_asked_again() -> None:
    backend = FakeBackend(crash(0))
    pool = RewardPool(config(), backend)
    scored = await asyncio.gather(*(pool.score(GROUP) for _ in range(6)))
    assert len(scored) == 6 and backend.killed == [0]
    assert set(pool.actors) == {1, 2}
    assert (pool.counters.retried, pool.counters.replaced, pool.counters.failed) == (1, 1, 0)


@aio
async def test_hung_actor_is_killed_and_replaced() -> None:
    backend = FakeBackend(lambda actor, _: asyncio.Event().wait() if actor == 0 else None)
    pool = RewardPool(config(actors=1), backend)
    assert (await asyncio.wait_for(pool.score(GROUP), 5)).scores[0].reason == "correct"
    assert backend.killed == [0]


@aio
async def test_group_that_always_fails_is_an_error_not_a_zero() -> None:
    poison = group("poison")

    def behave(_: int, asked: Group) -> None:
        if asked is poison:
            raise MemoryError("verifier died")

    backend = FakeBackend(behave)
    pool = RewardPool(config(), backend)
    results = await asyncio.gather(pool.score(poison), *(pool.score(GROUP) for _ in range(9)), return_exceptions=True)
    failure = results[0]
    assert isinstance(failure, VerificationFailed)
    assert failure.question_id == poison.question.id and "MemoryError" in str(failure)
    assert all(isinstance(r, ScoredGroup) for r in results[1:])
    assert len(backend.killed) == 3 and len(set(pool.actors) - set(backend.killed)) == 2
    assert pool.counters.failed == 1


@aio
async def test_cancelled_call_gives_its_place_back() -> None:
    backend = FakeBackend(lambda actor, _: asyncio.Event().wait() if actor == 0 else None)
    pool = RewardPool(config(actors=1, timeout_s=60.0), backend)
    task = asyncio.create_task(pool.score(GROUP))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.wait_for(pool.score(GROUP), 5)).scores[0].reason == "correct"
    assert backend.killed == [0]  # it was still busy with the cancelled group


def test_failure_crosses_processes() -> None:
    copy = pickle.loads(pickle.dumps(VerificationFailed("00f1", "timed out")))
    assert (copy.question_id, copy.reason) == ("00f1", "timed out")


@aio
async def test_an_item_without_verdict_fails_its_group_at_once_and_costs_no_actor() -> None:
    class Judging(FakeBackend):
        async def score(self, handle: int, group: Group) -> ScoredGroup | GroupFailure:  # type: ignore[override]
            self.asked.append(handle)
            return GroupFailure(reason="completion 0: timeout: no verdict within 10 s")

    backend = Judging(lambda *_: None)
    pool = RewardPool(config(), backend)
    with pytest.raises(VerificationFailed, match="no verdict within"):
        await pool.score(GROUP)
    assert len(backend.asked) == 1 and not backend.killed and pool.counters.failed == 1


@aio
async def test_settings_that_cannot_be_served_end_the_run_with_their_remedy() -> None:
    def behave(*_: object) -> None:
        raise ConfigError("rewards.user_verifiers", remedy="name an importable function")

    with pytest.raises(ConfigError, match="importable"):
        await RewardPool(config(), FakeBackend(behave)).score(GROUP)


def slowly(*_: object) -> Any:
    return asyncio.sleep(0.02)


@aio
async def test_the_pool_grows_under_load_and_shrinks_when_idle() -> None:
    backend = FakeBackend(slowly)
    pool = RewardPool(config(actors=1, max_actors=3, idle_s=0.1, timeout_s=5.0), backend)
    await asyncio.gather(*(pool.score(GROUP) for _ in range(30)))
    assert len(pool.actors) == 3 and pool.counters.grown == 2
    assert {0, 1, 2} == set(backend.asked)
    await asyncio.sleep(0.5)
    assert len(pool.actors) == 1 and pool.counters.shrunk == 2 and len(backend.killed) == 2
    assert (await pool.score(GROUP)).scores[0].reason == "correct"
    pool.close()


@aio
async def test_a_pool_that_cannot_grow_goes_on_with_what_it_has() -> None:
    class Full(FakeBackend):
        async def ready(self, handle: int) -> None:
            if handle > 0:
                raise RuntimeError("no room")

    backend = Full(slowly)
    pool = RewardPool(config(actors=1, max_actors=4, idle_s=0.05, timeout_s=5.0), backend)
    assert len(await asyncio.gather(*(pool.score(GROUP) for _ in range(10)))) == 10
    assert set(backend.asked) == {0}
    pool.close()


@aio
async def test_an_actor_holds_one_group_per_worker_process() -> None:
    backend = FakeBackend(slowly)
    pool = RewardPool(config(actors=1, timeout_s=5.0, workers=WorkerConfig(processes=3)), backend)
    await asyncio.gather(*(pool.score(GROUP) for _ in range(9)))
    assert backend.most_at_once == 3


@aio
async def test_many_groups_in_order_or_as_they_come_and_never_too_many_at_once() -> None:
    groups = [group(f"<think>{i}</think><answer>B</answer>") for i in range(20)]
    first = groups[0]

    def behave(_: int, asked: Group) -> Any:
        return asyncio.sleep(0.1 if asked is first else 0.001)

    for ordered in (True, False):
        taken: list[int] = []

        def source(taken: list[int] = taken) -> Any:
            for i, each in enumerate(groups):
                taken.append(i)
                yield each

        pool = RewardPool(config(timeout_s=5.0), FakeBackend(behave))
        got: list[Group] = []
        async for scored in pool.score_many(source(), ordered=ordered):
            assert isinstance(scored, ScoredGroup)
            got.append(scored.group)
            assert len(taken) <= len(got) + 4  # two actors, two per place
        assert (got == groups) == ordered and sorted(map(id, got)) == sorted(map(id, groups))


@aio
async def test_a_failed_group_is_an_item_of_the_stream() -> None:
    poison = group("poison")

    def behave(_: int, asked: Group) -> None:
        if asked is poison:
            raise MemoryError

    pool = RewardPool(config(), FakeBackend(behave))
    results = [r async for r in pool.score_many([GROUP, poison, GROUP])]
    assert [isinstance(r, VerificationFailed) for r in results] == [False, True, False]


@aio
async def test_an_actor_with_other_code_refuses_before_it_starts_anything() -> None:
    with pytest.raises(SetupError, match="a reward actor has loaded other code"):
        await RewardWorker(config()).ready("0123")


@aio
async def test_a_start_waits_for_every_actor_and_says_what_the_user_can_mend() -> None:
    backend = FakeBackend(lambda *_: None)
    up: list[int] = []

    async def ready(handle: int) -> None:
        up.append(handle)
        if len(up) == 3:
            raise SetupError("other code", remedy="send it")

    backend.ready = ready  # type: ignore[method-assign]
    await RewardPool(config(), backend).start()
    assert up == [0, 1]
    with pytest.raises(SetupError, match="other code"):
        await RewardPool(config(), backend).start()


def test_what_a_reward_actor_asks_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Actor:
        @staticmethod
        def options(**options: Any) -> Any:
            asked.append(options)
            return SimpleNamespace(remote=lambda _: "handle")

    monkeypatch.setattr(pool_module, "RewardActor", Actor)
    assert RayBackend(config()).start() == "handle"
    assert RayBackend(config(cpus_per_actor=0.5, node_group="rewards"), "mine/reward").start() == "handle"
    plain, marked = asked
    assert (plain["num_cpus"], plain["resources"]) == (0, {})
    assert (marked["num_cpus"], marked["resources"], marked["name"]) == (0.5, {"rewards": GROUP_SHARE}, "mine/reward-0")
