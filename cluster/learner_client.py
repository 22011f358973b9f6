"""The controller's view of the learner: one command out, its event back, and no waiting for a learner that is gone."""

from __future__ import annotations

import asyncio
import contextlib
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

    ``mailbox`` is the handle of a `MailboxActor`, ``finished`` the object reference of the running `LearnerRun` call:
    when that ends first, the learner has failed.
    """

    def __init__(self, mailbox: Any, finished: Any) -> None:
        self._mailbox = mailbox
        self._ended = _future(finished)
        self._ended.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # its failure is read where it matters

    async def started(self) -> LearnerStarted:
        """Wait until the first worker group is up."""
        return await self._expect(LearnerStarted)

    async def train(self, command: TrainStep) -> tuple[StepDone, WeightsReady | None, CheckpointSaved | None]:
        """One optimiser step, with the weights and the checkpoint that the command asks for."""
        await self._send(command)
        done = await self._expect(StepDone)
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
            await self._mailbox.send.remote(StopLearner())
            await asyncio.wait_for(asyncio.shield(self._ended), timeout_s)

    async def _send(self, command: LearnerCommand) -> None:
        await self._mailbox.send.remote(command)

    async def _expect(self, kind: type[EventT]) -> EventT:
        event = await self._next_event()
        if isinstance(event, LearnerFailed):
            raise EngineError(
                f"the learner failed: {event.reason}", remedy="mend the cause and run the same command with --resume"
            )
        if isinstance(event, LearnerStarted) and kind is not LearnerStarted:
            raise LearnerRestarted(event.step)
        if not isinstance(event, kind):
            raise EngineError(
                f"the learner answered {event} where {kind.__name__} was due", remedy="report this as a defect"
            )
        return event

    async def _next_event(self) -> LearnerEvent:
        event, finished = _future(self._mailbox.next_event.remote()), self._ended
        await asyncio.wait({event, finished}, return_when=asyncio.FIRST_COMPLETED)
        if event.done():
            result: LearnerEvent = event.result()
            return result
        event.cancel()
        try:
            finished.result()
        except RayError as error:
            return LearnerFailed(reason=str(error).strip().splitlines()[-1])
        return LearnerFailed(reason="the train loop ended before it was told to")


def _future(reference: Any) -> asyncio.Future[Any]:
    return asyncio.ensure_future(_await(reference))


async def _await(reference: Any) -> Any:
    return await reference


def kill(actor: Any) -> None:
    """End an actor now, if it still lives."""
    with contextlib.suppress(Exception):
        ray.kill(actor, no_restart=True)
