"""Worker processes under one roof: a time limit per item, restarts with back-off, and quarantine of what kills them.

Who waits for whom
    score()    waits for a free worker per chunk of items, then for one frame per item
    a worker   whose next verdict is not whole within `workers.item_timeout_s` is killed with everything it started; the
               item it was at has a strike and goes to the end of the line, the others go on in a fresh worker
    an item    with `workers.strikes` strikes is quarantined: it fails at once from then on
    a batch    that a worker has no memory to read is nobody's fault yet: its items are sent one by one
    an error   of a verifier (it raised, the judge did not answer) is tried once more; the worker lives on
    a restart  waits `workers.backoff_s`, doubled for each death in a row, at most `workers.max_backoff_s`

Plain asyncio on one event loop, without Ray: the reward actor, the HTTP service and the command line all stand on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pickle
import signal
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from data.errors import ConfigError, SetupError
from reward_service.config import RewardConfig, WorkerConfig
from reward_service.worker import HEADER, Failure, FailureKind, Outcome, ScoredItem, ScoreItem, Started, Unread, frame

CHUNK_ITEMS = 64
"""Items handed to a worker at once; a large request is spread over workers in such chunks."""
CHUNK_CHARS = 1 << 20
"""Characters in such a chunk, unless one item has more: a worker holds a chunk twice, at up to 4 bytes each."""
FRAME_BYTES = 1 << 20
"""The largest verdict that is read: scores are small, and a worker that says more is not to be trusted."""
ERROR_ATTEMPTS = 2
_START_ATTEMPTS = 3
_GONE_TIMEOUT_S = 5.0
_KNOWN_STRIKES = 10_000
_READ_BYTES = 1 << 16


class _WorkerDied(Exception):
    """The worker is gone, and why the item it was at is to blame."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class _BatchUnread(Exception):
    """The worker is gone and no item had begun: the batch alone was more than it can hold."""


class _Worker:
    """One slot for a process: started when first needed, killed when it misbehaves, started anew."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._buffer = bytearray()
        self.deaths_in_a_row = 0
        self.restarts = 0

    @property
    def settings(self) -> WorkerConfig:
        return self._config.workers

    @property
    def process(self) -> asyncio.subprocess.Process | None:
        """The process that is there now."""
        return self._process

    async def ensure(self) -> None:
        """Have a process that has said `Started`.

        Raises:
            ConfigError: the settings cannot be served.
            SetupError: no process comes up.
        """
        problem = ""
        for _ in range(_START_ATTEMPTS):
            if self._process is not None and self._process.returncode is None:
                return
            self.kill()  # one that died while nobody asked it anything: no item is to blame
            if self.deaths_in_a_row:
                pause = self.settings.backoff_s * 2 ** min(self.deaths_in_a_row - 1, 20)
                await asyncio.sleep(min(pause, self.settings.max_backoff_s))
                self.restarts += 1
            try:
                await self._spawn()
                started = await self._next(self.settings.start_timeout_s)
                if not isinstance(started, Started):
                    raise _WorkerDied("crash", f"it said {type(started).__name__} first")
            except _WorkerDied as died:
                self.kill()
                problem = died.detail
                continue
            except BaseException:
                self.kill()  # cancelled half-way: nobody would read its `Started`
                raise
            if started.problem:
                self.kill()
                raise ConfigError(started.problem[0], remedy=started.problem[1])
            return
        raise SetupError(
            f"no reward worker comes up ({problem})",
            remedy=f"raise rewards.workers.memory_mib (now {self.settings.memory_mib}) or start_timeout_s",
        )

    async def run(self, items: Sequence[ScoreItem]) -> AsyncIterator[Outcome]:
        """One outcome per item, in order.

        Raises:
            _WorkerDied: at the first item without an outcome.
            _BatchUnread: before any item began.
        """
        process = self._process
        assert process is not None and process.stdin is not None
        # A dead worker shows on the reading side. On uvloop, where Serve runs, a closed pipe is a RuntimeError.
        with contextlib.suppress(ConnectionError, RuntimeError):
            process.stdin.write(frame(list(items)))
        for _ in items:
            outcome = cast(Outcome | Unread, await self._next(self._config.item_timeout_s))
            if isinstance(outcome, Unread):
                self.kill()
                raise _BatchUnread
            if isinstance(outcome, Failure) and outcome.kind == "memory":
                self.kill()
                raise _WorkerDied("memory", outcome.detail)
            yield outcome

    def kill(self) -> None:
        """End the process and what it started; harmless when there is none."""
        process, self._process = self._process, None
        if process is None:
            return
        self.deaths_in_a_row += 1
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        transport = getattr(process, "_transport", None)
        # Nothing that it forked may keep its pipes open. The transport itself ends with the process: closing it here
        # would take the exit code from whoever watches the process.
        for pipe in (transport.get_pipe_transport(fd) if transport is not None else None for fd in (0, 1)):
            if pipe is not None:
                pipe.close()

    async def _spawn(self) -> None:
        checkout = str(Path(__file__).resolve().parents[1])
        paths = dict.fromkeys([checkout, *(path for path in sys.path if path)])
        self._buffer = bytearray()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "reward_service", str(os.getpid()), str(self.settings.memory_mib)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._process.stdin.write(frame(self._config))

    async def _next(self, timeout_s: float) -> Any:
        """The next frame, whole within ``timeout_s``: bytes that dribble in buy no time."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._frame()
        except TimeoutError:
            self.kill()
            raise _WorkerDied("timeout", f"no verdict within {timeout_s:g} s") from None
        except EOFError:  # how it ended is asked outside the verdict's time
            code = await self._exit_code()
            self.kill()
            raise _WorkerDied("crash", f"the worker ended with exit code {code}") from None

    async def _frame(self) -> Any:
        while True:
            if len(self._buffer) >= HEADER.size:
                size = HEADER.unpack_from(self._buffer)[0]
                if size > FRAME_BYTES:
                    self.kill()
                    raise _WorkerDied("crash", f"the worker began a verdict of {size} bytes")
                end = HEADER.size + size
                if len(self._buffer) >= end:
                    packed = bytes(self._buffer[HEADER.size : end])
                    del self._buffer[:end]
                    return pickle.loads(packed)
            process = self._process
            if process is None or process.stdout is None:
                raise _WorkerDied("crash", "the worker is gone")
            read = await process.stdout.read(_READ_BYTES)
            if not read:
                raise EOFError
            self._buffer += read

    async def _exit_code(self) -> int | str:
        # A process that closed its output may still run.
        with contextlib.suppress(TimeoutError):
            if self._process is not None:
                return await asyncio.wait_for(self._process.wait(), 1.0)
        return "unknown"


class WorkerHost:
    """Scores items in worker processes. One event loop; any number of concurrent calls.

    Example: ``host = WorkerHost(config); outcomes = await host.score(items); host.close()``. ``counters`` counts what
    became of items ("scored" and the kinds of `Failure`), and "restarts" and "strikes".
    """

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._workers = [_Worker(config) for _ in range(config.workers.processes)]
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        for worker in self._workers:
            self._idle.put_nowait(worker)
        self._strikes: OrderedDict[bytes, int] = OrderedDict()
        self._count: dict[str, int] = {}

    @property
    def counters(self) -> dict[str, int]:
        return {**self._count, "restarts": sum(worker.restarts for worker in self._workers)}

    async def ready(self) -> None:
        """Wait until one worker is up, so that settings which cannot be served are seen at the start.

        Raises:
            ConfigError, SetupError: see `_Worker.ensure`.
        """
        worker = await self._idle.get()
        try:
            await worker.ensure()
        finally:
            self._idle.put_nowait(worker)

    async def score(self, items: Sequence[ScoreItem]) -> list[Outcome]:
        """One outcome per item, in order; spread over the workers."""
        found = {index: outcome async for index, outcome in self.stream(items)}
        return [found[index] for index in range(len(items))]

    async def stream(self, items: Sequence[ScoreItem]) -> AsyncIterator[tuple[int, Outcome]]:
        """(index, outcome) of every item, as they come. Leaving early ends what still runs."""
        done: asyncio.Queue[tuple[int, Outcome]] = asyncio.Queue()
        longest = self._config.max_text_chars + 1  # one more than allowed is "too_long", and need not travel whole
        items = [item if len(item.text) <= longest else replace(item, text=item.text[:longest]) for item in items]
        tasks = [asyncio.create_task(self._chunk(items, chunk, done)) for chunk in _chunks(items)]
        everything = asyncio.gather(*tasks)
        try:
            for _ in items:
                getting = asyncio.create_task(done.get())
                both: set[asyncio.Future[Any]] = {getting, everything}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done() and everything.done():
                    getting.cancel()
                    everything.result()  # raises what stopped it
                yield await getting
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(BaseException):
                everything.exception()

    def close(self) -> None:
        """Kill every worker."""
        for worker in self._workers:
            worker.kill()

    async def aclose(self) -> None:
        """Kill every worker and wait until they are gone: an event loop that ends before them complains."""
        dying = [process for worker in self._workers if (process := worker.process) is not None]
        self.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(process.wait() for process in dying)), _GONE_TIMEOUT_S)

    async def _chunk(
        self, items: Sequence[ScoreItem], chunk: Sequence[int], done: asyncio.Queue[tuple[int, Outcome]]
    ) -> None:
        worker = await self._idle.get()
        try:
            await self._run(worker, items, list(chunk), done)
        finally:
            self._idle.put_nowait(worker)

    async def _run(
        self, worker: _Worker, items: Sequence[ScoreItem], waiting: list[int], done: asyncio.Queue[tuple[int, Outcome]]
    ) -> None:
        attempts = dict.fromkeys(waiting, 0)

        def settle(index: int, outcome: Outcome) -> None:
            name = "scored" if isinstance(outcome, ScoredItem) else outcome.kind
            self._count[name] = self._count.get(name, 0) + 1
            done.put_nowait((index, outcome))

        waiting = [index for index in waiting if not self._settle_quarantined(index, items[index], settle)]
        at_once = len(waiting)
        while waiting:
            await worker.ensure()
            again: list[int] = []
            left, later = waiting[:at_once], waiting[at_once:]
            try:
                async for outcome in worker.run([items[index] for index in left]):
                    worker.deaths_in_a_row = 0
                    index = left.pop(0)
                    attempts[index] += 1
                    if isinstance(outcome, Failure) and outcome.kind == "error" and attempts[index] < ERROR_ATTEMPTS:
                        again.append(index)
                    elif isinstance(outcome, Failure):
                        settle(index, Failure(kind=outcome.kind, detail=outcome.detail, attempts=attempts[index]))
                    else:
                        settle(index, outcome)
            except _WorkerDied as died:
                culprit = left.pop(0)
                attempts[culprit] += 1
                if self._strike(items[culprit]) < self._config.workers.strikes:
                    again.append(culprit)
                else:
                    settle(culprit, Failure(kind=died.kind, detail=died.detail, attempts=attempts[culprit]))
            except _BatchUnread:
                at_once = 1
                if len(left) == 1:
                    settle(left.pop(), Failure(kind="memory", detail="the item alone is more than a worker can hold"))
            except BaseException:
                worker.kill()  # cancelled half-way: what it would still send belongs to nobody
                raise
            waiting = left + later + again

    def _settle_quarantined(self, index: int, item: ScoreItem, settle: Any) -> bool:
        if not self._strikes or self._strikes.get(_digest(item), 0) < self._config.workers.strikes:
            return False
        settle(index, Failure(kind="quarantined", detail="it has killed its workers before", attempts=0))
        return True

    def _strike(self, item: ScoreItem) -> int:
        self._count["strikes"] = self._count.get("strikes", 0) + 1
        key = _digest(item)
        self._strikes[key] = self._strikes.get(key, 0) + 1
        self._strikes.move_to_end(key)
        while len(self._strikes) > _KNOWN_STRIKES:
            self._strikes.popitem(last=False)
        return self._strikes[key]


def _chunks(items: Sequence[ScoreItem]) -> Iterator[range]:
    """Runs of indices, each of no more than `CHUNK_ITEMS` items and `CHUNK_CHARS` characters, or of one item."""
    begin = chars = 0
    for index, item in enumerate(items):
        asked = item.question
        own = len(item.text) + len(asked.stem) + len(asked.context)
        own += sum(len(option.text) for option in asked.options) + sum(map(len, asked.accepted_answers))
        if index > begin and (index - begin == CHUNK_ITEMS or chars + own > CHUNK_CHARS):
            yield range(begin, index)
            begin, chars = index, 0
        chars += own
    if begin < len(items):
        yield range(begin, len(items))


def _digest(item: ScoreItem) -> bytes:
    said = f"{item.question.id}\x1f{item.question.source}\x1f{item.finished}\x1f{item.text}"
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()
