"""Where the controller and the learner meet: commands go in, events come out.

Who waits for whom
    ranks       wait in `next_command(generation, index)` until the controller appends command number `index`
    controller  waits in `next_event()` until rank 0 posts
    a restart   rank 0 of a new worker group calls `hello`, which begins a new generation: commands of the old one are
                dropped, a rank of the old one that still asks is refused, and the controller sees `LearnerStarted`

The logic is plain asyncio (`Mailbox`); `MailboxActor` is the thin Ray actor around it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import ray

from data.errors import EngineError
from data.wire import LearnerCommand, LearnerEvent, LearnerFailed, RestorePoint


class Mailbox:
    """A command log and an event queue between one controller and the ranks of one worker group."""

    def __init__(self, restore: RestorePoint) -> None:
        self._restore = restore
        self._generation = 0
        self._commands: dict[int, LearnerCommand] = {}
        self._sent = 0
        self._events: deque[LearnerEvent] = deque()
        self._changed = asyncio.Condition()

    async def hello(self) -> tuple[int, RestorePoint]:
        """Called by rank 0 of a worker group that came up; returns its generation and where to begin."""
        async with self._changed:
            self._generation += 1
            self._commands.clear()
            self._sent = 0
            self._events.clear()  # what the dead generation still said no longer describes the learner
            self._changed.notify_all()
            return self._generation, self._restore

    async def set_restore(self, restore: RestorePoint) -> None:
        """Called by the controller once a commit is written: a restarted learner begins there."""
        self._restore = restore

    async def restore_point(self) -> RestorePoint:
        """Where a restarted learner would begin; its checkpoint must not be deleted."""
        return self._restore

    async def send(self, generation: int, command: LearnerCommand) -> bool:
        """Append a command for every rank of ``generation``.

        Returns False, and does nothing, when that generation has been replaced: the command was made for a learner in
        another state.
        """
        async with self._changed:
            if generation != self._generation:
                return False
            self._commands[self._sent] = command
            # The controller sends a command when the one before it has been answered, so all ranks have that one; older
            # ones would only keep their batches in the object store.
            self._commands.pop(self._sent - 2, None)
            self._sent += 1
            self._changed.notify_all()
            return True

    async def next_command(self, generation: int, index: int) -> LearnerCommand:
        """Wait for command number ``index`` of ``generation``.

        Raises:
            EngineError: the caller belongs to a worker group that has been replaced.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: generation != self._generation or index in self._commands)
            if generation != self._generation:
                raise EngineError(
                    f"learner generation {generation} was replaced by {self._generation}",
                    remedy="none needed: the new worker group goes on",
                )
            return self._commands[index]

    async def post(self, generation: int, event: LearnerEvent) -> None:
        """Called by rank 0; events of a replaced generation are dropped."""
        async with self._changed:
            if generation == self._generation:
                self._events.append(event)
                self._changed.notify_all()

    async def fail(self, reason: str) -> None:
        """Called by whoever runs the trainer when it has ended for good."""
        async with self._changed:
            self._events.append(LearnerFailed(reason=reason))
            self._changed.notify_all()

    async def next_event(self) -> LearnerEvent:
        """Wait for the learner's next event, oldest first."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._events))
            return self._events.popleft()


MailboxActor: Any = ray.remote(num_cpus=0, max_concurrency=1000)(Mailbox)
"""`Mailbox` as an async Ray actor; every rank and the controller may wait in it at once."""
