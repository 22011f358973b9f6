"""The controller's side of the mailbox, over the real mailbox without Ray: restarts at awkward moments, sudden ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import Mock

import pytest

from cluster.learner_client import LearnerClient, LearnerRestarted
from data.errors import EngineError
from data.wire import LearnerStarted, PublishWeights, RestorePoint, StepDone, TrainStep, WeightsReady, WeightUpdate
from learner.mailbox import Mailbox


class Handle:
    """A mailbox seen as a Ray actor handle."""

    def __init__(self, box: Mailbox) -> None:
        self._box = box

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._box, name)
        return type("Remote", (), {"remote": staticmethod(method)})


async def come_up(box: Mailbox, step: int) -> int:
    generation, _ = await box.hello()
    await box.post(generation, LearnerStarted(generation=generation, step=step))
    return generation


def play(scenario: Callable[[Mailbox, LearnerClient, asyncio.Future[None]], Awaitable[None]]) -> None:
    async def run() -> None:
        box = Mailbox(RestorePoint(step=0, checkpoint=None))
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await scenario(box, LearnerClient(Handle(box), finished, start_timeout_s=0.5), finished)

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_restart_while_nobody_waits_is_noticed_by_the_next_command_and_nothing_is_trained_twice() -> None:
    async def scenario(box: Mailbox, client: LearnerClient, _: asyncio.Future[None]) -> None:
        await come_up(box, 0)
        await client.started()
        second = await come_up(box, 0)  # while the controller rolls out
        with pytest.raises(LearnerRestarted):
            await client.train(TrainStep(step=1, shards=()))
        # The new ranks never saw the step of the old state; the next command is the one that they get.
        publishing = asyncio.create_task(client.publish(0))
        assert await box.next_command(second, 0) == PublishWeights(version=0)
        ready = WeightsReady(update=WeightUpdate(version=0, buckets=()))
        await box.post(second, ready)
        assert await publishing == ready

    play(scenario)


def test_a_restart_in_the_middle_of_a_step_is_noticed_at_once() -> None:
    async def scenario(box: Mailbox, client: LearnerClient, _: asyncio.Future[None]) -> None:
        first = await come_up(box, 0)
        await client.started()
        training = asyncio.create_task(client.train(TrainStep(step=1, shards=())))
        await box.next_command(first, 0)
        await box.post(first, StepDone(step=1, metrics={}, seconds={}))
        await come_up(box, 0)
        with pytest.raises(LearnerRestarted) as restarted:
            await training
        assert (restarted.value.step, client.step) == (0, 0)

    play(scenario)


def test_a_learner_that_ends_stops_the_work_that_goes_on_beside_it() -> None:
    async def scenario(box: Mailbox, client: LearnerClient, finished: asyncio.Future[None]) -> None:
        await come_up(box, 0)
        await client.started()
        cancelled = asyncio.Event()

        async def roll_out_for_ever() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                cancelled.set()

        watching = asyncio.create_task(client.while_alive(roll_out_for_ever()))
        await asyncio.sleep(0.05)
        finished.set_result(None)
        with pytest.raises(EngineError, match="the learner failed"):
            await watching
        assert cancelled.is_set()

    play(scenario)


def test_a_learner_that_never_comes_up_is_not_waited_for_without_end() -> None:
    async def scenario(box: Mailbox, client: LearnerClient, _: asyncio.Future[None]) -> None:
        with pytest.raises(EngineError, match=r"not up within 0\.5 s"):
            await client.started()

    play(scenario)


def test_an_answer_that_nobody_waits_for_any_more_may_fail_in_silence() -> None:
    """SIGTERM cancels the wait; then the mailbox dies, and with it the answer that it owed."""

    async def scenario(box: Mailbox, client: LearnerClient, _: asyncio.Future[None]) -> None:
        reported: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: reported.append(about["message"]))
        owed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        box.next_event = Mock(return_value=owed)  # type: ignore[method-assign]
        waiting = asyncio.create_task(client.started())
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        owed.set_exception(RuntimeError("the actor died"))
        await asyncio.sleep(0.02)
        del waiting, owed  # asyncio reports when the last one who could have looked is gone
        gc.collect()
        assert reported == []

    play(scenario)
