"""No engine outlives its owner: vLLM's child processes end when the process that asked for them is killed.

vLLM ends its children when the parent leaves in good order. After a `kill -9` of the parent its engine core waits on a
socket, for minutes or for ever, and its workers on the core. Two things end them, each enough by itself once the engine
is up:

    guardian   a small process beside the owner (this file, run as a script; standard library only). It is there before
               vLLM starts its first process, so it also covers an owner killed while a model loads.
    watcher    a thread in each vLLM worker, in case the guardian itself was killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

POLL_SECONDS = 0.5


def process_stamp(pid: int) -> str:
    """``"PID:START"``, START in clock ticks since boot: tells a process from a later one with the same number.

    The stamp of a process that is gone, or dead and not yet reaped, is the empty string.
    """
    fields = _stat(pid)
    return "" if not fields or fields[0] in "ZX" else f"{pid}:{fields[19]}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: 0 is the state, 1 the parent, 19 the start time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def descendants(roots: set[int]) -> set[int]:
    """Every process below ``roots``, without them."""
    parents = {
        int(entry): int(fields[1]) for entry in os.listdir("/proc") if entry.isdigit() and (fields := _stat(int(entry)))
    }
    found: set[int] = set()
    while fresh := {pid for pid, parent in parents.items() if parent in roots | found} - found - roots:
        found |= fresh
    return found


def watch_owner(stamp: str, *, poll_seconds: float = POLL_SECONDS) -> threading.Thread | None:
    """Start a daemon thread that ends this process within 2 s after the process of ``stamp`` has gone.

    A parent between this process and the owner (vLLM's engine core) is killed too. Returns None when there is nothing
    to watch: no stamp, or this process is the owner itself.
    """
    owner = int(stamp.partition(":")[0] or 0)
    if owner in (0, os.getpid()):
        return None
    parent = os.getppid()
    between = process_stamp(parent) if parent not in (owner, 1) else ""

    def watch() -> None:
        while process_stamp(owner) == stamp:
            time.sleep(poll_seconds)
        # An orphan's former parent may already be another process: only the very same one is ended.
        if between and process_stamp(parent) == between:
            os.kill(parent, signal.SIGKILL)
        os._exit(1)

    thread = threading.Thread(target=watch, name="fleming-owner-watch", daemon=True)
    thread.start()
    return thread


class Guardian:
    """A process that kills whatever this process has started since, when this process is gone."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", "-E", __file__, process_stamp(os.getpid())]
        # A session of its own: a signal to the owner's terminal or process group must not take the guardian along.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has noted what was there before
        self._process.stdout.close()

    def dismiss(self) -> None:
        """The owner has ended its children itself."""
        self._process.kill()
        self._process.wait()


def guard(stamp: str) -> None:
    """The guardian's life: note the owner's new descendants until the owner is gone, then kill them."""
    owner = int(stamp.partition(":")[0])
    before = descendants({owner}) | {os.getpid()}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    known: dict[int, str] = {}
    while process_stamp(owner) == stamp:
        # What was there before may still start children of its own: those are none of the guardian's either.
        known = {pid: process_stamp(pid) for pid in descendants({owner}) - before - descendants(before)}
        time.sleep(POLL_SECONDS)
    alive = {pid for pid, its in known.items() if its and process_stamp(pid) == its}
    for pid in alive | descendants(alive):  # those below may have come after the last look
        if not _is_resource_tracker(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is_resource_tracker(pid: int) -> bool:
    """Python's own helper: it removes shared memory left by the dead, then ends by itself."""
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    guard(sys.argv[1])
