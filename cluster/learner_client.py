"""The controller's view of the learner: one command out, its event back, and no waiting for a learner that is gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from data.errors import EngineError
from data.wire import (
    CheckpointSaved,
    ExportModel,
    LearnerCommand,
    LearnerEvent,
    LearnerFailed,
    LearnerStarted,
    LoadCheckpoint,
    ModelExported,
    PublishWeights,
    RestorePoint,
    SaveCheckpoint,
    StepDone,
    StopLearner,
    TrainStep,
    WeightsReady,
)

EventT = TypeVar("EventT", StepDone, WeightsReady, CheckpointSaved, ModelExported, LearnerStarted)


class LearnerRestarted(Exception):
    """Ray Train replaced the worker group; it stands at ``step`` and the controller must roll back to there."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class LearnerClient:
    """Sends commands through the mailbox and awaits the events that answer them.

    A command is meant for the worker group that was last heard of: the mailbox refuses it when another one has come up
    meanwhile, and that surfaces as `LearnerRestarted`, as does a restart in the middle of a wait.

    Args:
        mailbox: handle of a `MailboxActor`.
        finished: object reference of the running `LearnerRun` call; when that ends first, the learner has failed.
        start_timeout_s: seconds a worker group may take to come up.
    """

    def __init__(self, mailbox: Any, finished: Any, *, start_timeout_s: float) -> None:
        self._mailbox = mailbox
        self._start_timeout_s = start_timeout_s
        self._generation = 0
        self.step = 0  # where the learner stands
        self._ended = in_background(finished)

    async def while_alive(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``, and cancel it at once when the learner ends meanwhile.

        Raises:
            EngineError: the learner ended first.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _failed(self._why_ended())
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        task.result()

    async def started(self) -> LearnerStarted:
        """Wait until a worker group is up.

        Raises:
            EngineError: it was not within ``start_timeout_s``.
        """
        try:
            return await asyncio.wait_for(self._expect(LearnerStarted), self._start_timeout_s)
        except TimeoutError as error:
            raise EngineError(
                f"the learner's ranks were not up within {self._start_timeout_s:g} s",
                remedy="is the cluster full (`ray status`)? Lower learner.ranks or raise learner.start_timeout_s",
            ) from error

    async def load(self, restore: RestorePoint) -> None:
        """Have the learner stand at ``restore``."""
        await self._send(LoadCheckpoint(restore=restore))
        event = await self._expect(LearnerStarted)
        if event.step != restore.step:
            raise LearnerRestarted(event.step)

    async def train(self, command: TrainStep) -> tuple[StepDone, WeightsReady | None, CheckpointSaved | None]:
        """One optimiser step, with the weights and the checkpoint that the command asks for."""
        await self._send(command)
        done = await self._expect(StepDone)
        self.step = done.step
        ready = await self._expect(WeightsReady) if command.publish else None
        saved = await self._expect(CheckpointSaved) if command.checkpoint else None
        return done, ready, saved

    async def publish(self, version: int) -> WeightsReady:
        """Have the current weights gathered and put on the object store as policy ``version``."""
        await self._send(PublishWeights(version=version))
        return await self._expect(WeightsReady)

    async def checkpoint(self, step: int) -> CheckpointSaved:
        """Have the learner's state after ``step`` saved."""
        await self._send(SaveCheckpoint(step=step))
        return await self._expect(CheckpointSaved)

    async def export(self, target: str) -> ModelExported:
        """Have the current policy written as a model directory under the run's storage."""
        await self._send(ExportModel(target=target))
        return await self._expect(ModelExported)

    async def set_restore(self, restore: RestorePoint) -> None:
        await self._mailbox.set_restore.remote(restore)

    async def stop(self, timeout_s: float) -> None:
        """Ask the learner to leave in good order; give up waiting after ``timeout_s`` seconds."""
        with contextlib.suppress(RayError, TimeoutError):
            await self._mailbox.send.remote(self._generation, StopLearner())
            await asyncio.wait_for(asyncio.shield(self._ended), timeout_s)

    async def _send(self, command: LearnerCommand) -> None:
        if not await self._mailbox.send.remote(self._generation, command):
            raise LearnerRestarted((await self.started()).step)

    async def _expect(self, kind: type[EventT]) -> EventT:
        event = await self._next_event()
        if isinstance(event, LearnerFailed):
            raise _failed(event.reason)
        if isinstance(event, LearnerStarted):
            self._generation, self.step = event.generation, event.step
            if kind is not LearnerStarted:
                raise LearnerRestarted(event.step)
        if not isinstance(event, kind):
            raise EngineError(
                f"the learner answered {event} where {kind.__name__} was due", remedy="report this as a defect"
            )
        return event

    async def _next_event(self) -> LearnerEvent:
        event = in_background(self._mailbox.next_event.remote())
        await asyncio.wait({event, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        if event.done():
            result: LearnerEvent = event.result()
            return result
        event.cancel()
        return LearnerFailed(reason=self._why_ended())

    def _why_ended(self) -> str:
        try:
            self._ended.result()
        except RayError as error:
            return str(error).strip().splitlines()[-1]
        return "the train loop ended before it was told to"


def _failed(reason: str) -> EngineError:
    return EngineError(f"the learner failed: {reason}", remedy="mend the cause and run the same command with --resume")


def in_background(reference: Awaitable[Any]) -> asyncio.Future[Any]:
    """What an object reference gives, as a future that may be left alone.

    Whoever waits for it reads its failure. When nobody does any more, as after Ctrl-C or SIGTERM, the death of the
    actor that owed the answer is no news, and asyncio does not report it as an exception that was never retrieved.
    """
    future = asyncio.ensure_future(_result_of(reference))
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


async def _result_of(reference: Awaitable[Any]) -> Any:
    return await reference


def kill(actor: Any) -> None:
    """End an actor now, if it still lives."""
    with contextlib.suppress(Exception):
        ray.kill(actor, no_restart=True)
