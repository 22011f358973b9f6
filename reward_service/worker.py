"""The process in which verifiers run: one that can be killed at any moment without harm to anything else.

`python -m reward_service PARENT_PID MEMORY_MIB`. Frames on stdin and stdout: 4 bytes of length, then a pickle. In: the
config, then batches of items. Out: one `Started`, then one frame per item, in order, as soon as it is judged: the
parent tells from the gap which item hangs, and how long. A batch that does not fit into memory is answered by one
`Unread`. What a verifier prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Literal

from data.errors import FlemingError
from data.records import Question, Score
from reward_service.config import RewardConfig
from reward_service.registry import load_verifier
from reward_service.reward import score_text, verifier_version
from reward_service.verdict import VerificationError

HEADER = struct.Struct("<I")

FailureKind = Literal[
    "error",  # the verifier raised, or said what is no verdict
    "unverifiable",  # the question has no verifier that could judge it: no use in trying again
    "memory",  # it wanted more memory than a worker has
    "timeout",  # it took too long, and its worker was killed
    "crash",  # its worker died
    "quarantined",  # it has killed its workers before, and is not tried again
]


@dataclass(frozen=True, kw_only=True)
class ScoreItem:
    """One completion to judge. ``finished`` is False when the token limit cut it."""

    question: Question
    text: str
    finished: bool = True


@dataclass(frozen=True, kw_only=True)
class ScoredItem:
    """The score of an item and the version of what judged it."""

    score: Score
    verifier_version: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """No score: why, after how many attempts. An outcome of its own, never a reward of 0."""

    kind: FailureKind
    detail: str
    attempts: int = 1


Outcome = ScoredItem | Failure


@dataclass(frozen=True, kw_only=True)
class Started:
    """The first frame of a worker. ``problem``: why the settings cannot be served; (problem, remedy) of an error."""

    problem: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Unread:
    """Instead of outcomes: the batch itself is larger than the worker. No item had begun."""


def frame(message: object) -> bytes:
    """A message as it travels."""
    packed = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(packed)) + packed


def score_item(item: ScoreItem, config: RewardConfig) -> Outcome:
    """Score one item in this process. `MemoryError` passes: the process is not to be trusted after it."""
    try:
        score = score_text(item.question, item.text, config, finished=item.finished)
        return ScoredItem(score=score, verifier_version=verifier_version(item.question, config))
    except VerificationError as error:
        return Failure(kind="error", detail=str(error))
    except FlemingError as error:
        return Failure(kind="unverifiable", detail=str(error))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # a defect of ours must not look like a crash of the worker
        return Failure(kind="error", detail=f"{type(error).__name__}: {str(error)[:200]}")


def serve(source: IO[bytes], write: Callable[[bytes], None]) -> None:
    """Answer batches until the source ends."""
    config: RewardConfig = _receive(source)
    try:
        for name, target in config.user_verifiers.items():
            load_verifier(target, name)
    except FlemingError as error:
        write(frame(Started(problem=(error.problem, error.remedy))))
        return
    write(frame(Started()))
    while True:
        try:
            batch: list[ScoreItem] = _receive(source)
        except EOFError:
            return
        except MemoryError:
            write(frame(Unread()))
            os._exit(3)
        for item in batch:
            try:
                packed = frame(score_item(item, config))
            except MemoryError:
                write(frame(Failure(kind="memory", detail="the verifier wanted more memory than a worker has")))
                os._exit(3)  # what it still holds is given back with the process
            write(packed)


def _receive(source: IO[bytes]) -> Any:
    header = source.read(HEADER.size)
    if len(header) < HEADER.size:
        raise EOFError
    return pickle.loads(source.read(HEADER.unpack(header)[0]))


def _limit(memory_mib: int, parent: int) -> None:
    """No more memory than allowed, no core files, and no life after the parent's."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, Linux only
    if os.getppid() != parent:
        os._exit(0)


def main() -> int:
    parent, memory_mib = int(sys.argv[1]), int(sys.argv[2])
    _limit(memory_mib, parent)
    out = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(out, view) :]

    serve(sys.stdin.buffer, write)
    return 0
