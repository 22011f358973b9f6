"""The mailbox between controller and ranks: order, generations, failure."""

from __future__ import annotations

import asyncio

import pytest

from data.errors import EngineError
from data.wire import LearnerFailed, LearnerStarted, PublishWeights, RestorePoint, StopLearner
from learner.mailbox import Mailbox


def mailbox() -> Mailbox:
    return Mailbox(RestorePoint(step=0, checkpoint=None))


def test_every_rank_reads_the_same_commands_in_order() -> None:
    async def scenario() -> None:
        box = mailbox()
        generation, restore = await box.hello()
        assert (generation, restore.step) == (1, 0)
        waiting = [asyncio.create_task(box.next_command(generation, 0)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        assert await box.send(1, PublishWeights(version=0))
        assert await box.send(1, StopLearner())
        assert await asyncio.gather(*waiting) == [PublishWeights(version=0)] * 3
        assert await box.next_command(generation, 1) == StopLearner()

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_a_new_generation_frees_the_ranks_of_the_old_one_and_drops_its_words() -> None:
    async def scenario() -> None:
        box = mailbox()
        await box.hello()
        await box.send(1, PublishWeights(version=0))
        stale = asyncio.create_task(box.next_command(1, 1))
        await asyncio.sleep(0)
        await box.post(1, LearnerStarted(generation=1, step=0))
        await box.set_restore(RestorePoint(step=4, checkpoint="a/step-000004"))
        assert await box.hello() == (2, RestorePoint(step=4, checkpoint="a/step-000004"))
        with pytest.raises(EngineError, match="replaced by 2"):
            await stale
        await box.post(1, LearnerStarted(generation=1, step=9))
        await box.post(2, LearnerStarted(generation=2, step=4))
        assert await box.next_event() == LearnerStarted(generation=2, step=4)
        assert not await box.send(1, PublishWeights(version=9)), "made for a learner in another state"
        assert await box.send(2, StopLearner())
        assert await box.next_command(2, 0) == StopLearner()

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_failure_wakes_the_controller() -> None:
    async def scenario() -> None:
        box = mailbox()
        waiting = asyncio.create_task(box.next_event())
        await asyncio.sleep(0)
        await box.fail("rank 1 died")
        assert await waiting == LearnerFailed(reason="rank 1 died")

    asyncio.run(asyncio.wait_for(scenario(), 5))
