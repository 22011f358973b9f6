"""The reward pool on real Ray: an actor that is killed is replaced, and no group is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import ray

from data.records import Group, ScoredGroup
from reward_service.config import RewardConfig
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
