"""The reward pool on real Ray: an actor that is killed is replaced, and no group is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import psutil
import pytest
import ray

from data.records import Group, Question, ScoredGroup
from reward_service.config import RewardConfig, WorkerConfig
from reward_service.pool import RewardPool, VerificationFailed
from reward_service.reward import score_group
from tests.aio import aio
from tests.data.examples import group

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    if started:
        ray.shutdown()


GROWING_MIB = 192


def groups(count: int) -> list[Group]:
    return [group(f"<think>{i}</think><answer>{'ABCD'[i % 4]}</answer>", "B") for i in range(count)]


@pytest.mark.usefixtures("cluster")
@aio
async def test_killed_actors_are_replaced_and_nothing_is_lost() -> None:
    config = RewardConfig(actors=2)
    pool = RewardPool(config)
    try:
        asked = groups(40)
        first = await pool.score(asked[0])
        assert first == score_group(asked[0], config)
        before = pool.actors
        calls = [asyncio.create_task(pool.score(g)) for g in asked]
        await asyncio.sleep(0)
        for handle in before:
            ray.kill(handle)
        results: list[ScoredGroup] = await asyncio.gather(*calls)
        assert results == [score_group(g, config) for g in asked]
        assert pool.counters.replaced >= 2 and set(pool.actors).isdisjoint(before)
    finally:
        pool.close()


class _Exiting(str):
    """A text that ends the process that unpickles it: the worst that a verifier can be handed."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_exit, ())


def _exit() -> str:
    import os

    os._exit(1)


@pytest.mark.usefixtures("cluster")
@aio
async def test_a_group_that_kills_every_actor_fails_alone() -> None:
    pool = RewardPool(RewardConfig(actors=1), attempts=2)
    try:
        good = groups(3)
        poison = group(_Exiting("x"))
        calls = [pool.score(poison), *(pool.score(g) for g in good)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[0], VerificationFailed)
        assert [r for r in results[1:] if not isinstance(r, ScoredGroup)] == []
        assert pool.counters.failed == 1
    finally:
        pool.close()


def _obedient(answer: str) -> Group:
    """A group whose verifier does what the answer says (tests/reward_service/hostile_verifiers.py)."""
    question = Question(
        source="t",
        language="en",
        stem="What?",
        options=(),
        answer_label="",
        accepted_answers=("stroke",),
        verifier="obey",
    )
    return group(f"<think>x</think><answer>{answer}</answer>", question=question)


@pytest.mark.usefixtures("cluster")
@aio
async def test_hostile_verifiers_cost_their_groups_and_nothing_else() -> None:
    config = RewardConfig(
        actors=1,
        user_verifiers={"obey": "tests.reward_service.hostile_verifiers:obey"},
        workers=WorkerConfig(item_timeout_s=2.0, memory_mib=128, backoff_s=0.01),
    )
    pool = RewardPool(config)
    try:
        kinds = {"sleep": "timeout", "allocate": "memory", "exit": "crash", "nan": "error"}
        calls = [pool.score(_obedient(answer)) for answer in ("stroke", *kinds, "stroke")]
        before = pool.actors
        first, *failed, last = await asyncio.gather(*calls, return_exceptions=True)
        for scored in (first, last):
            assert isinstance(scored, ScoredGroup) and scored.scores[0].reason == "correct"
        assert [str(f).split(": ")[2] for f in failed] == list(kinds.values())
        assert pool.counters.failed == 4 and pool.counters.replaced == 0 and pool.actors == before
    finally:
        pool.close()
    await asyncio.sleep(1.0)
    left = [p for p in psutil.process_iter(["cmdline"]) if _is_worker_here(p)]
    assert left == [], "worker processes outlived their actor"


@pytest.mark.usefixtures("cluster")
@aio
async def test_the_pool_grows_under_a_slow_verifier_and_shrinks_when_idle() -> None:
    config = RewardConfig(
        actors=1,
        max_actors=2,
        idle_s=1.0,
        user_verifiers={"obey": "tests.reward_service.hostile_verifiers:obey"},
        workers=WorkerConfig(memory_mib=GROWING_MIB),
    )
    pool = RewardPool(config)

    def load() -> Iterator[Group]:
        """Work until the pool has grown and its second actor has had some."""
        for asked in itertools.count():
            if asked > 400 or (pool.counters.grown and pool.counters.scored >= 12):
                return
            yield _obedient("wait 0.3 stroke")

    try:
        async for result in pool.score_many(load()):
            assert isinstance(result, ScoredGroup) and result.scores[0].reason == "correct"
        assert len(pool.actors) == 2 and pool.counters.grown == 1
        extra = set(pool.actors)
        for _ in range(100):
            if len(pool.actors) == 1:
                break
            await asyncio.sleep(0.2)
        assert len(pool.actors) == 1 and pool.counters.shrunk == 1
        (gone,) = extra - set(pool.actors)
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(gone.counters.remote(), timeout=30)
        assert isinstance(await pool.score(_obedient("stroke")), ScoredGroup)  # the one that is left still works
    finally:
        pool.close()


def _is_worker_here(process: psutil.Process) -> bool:
    command = process.info["cmdline"] or []
    if command[2:4] != ["-m", "reward_service"] or command[-1] != "128":
        return False
    return bool(process.status() != psutil.STATUS_ZOMBIE)
