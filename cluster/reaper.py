"""Ends every process of a run when its driver is gone, however it went.

The reaper holds the reading end of a pipe from the driver: when the driver exits, is killed or crashes, the pipe
closes, and what the driver had started is killed. It knows them in two ways, since each misses some: by a token in the
environment, which every child inherits but processes that rename themselves (Ray's) overwrite, and as descendants of
the driver, looked at once a second while it lives. A run on a cluster that others started needs none of this: there Ray
ends the workers of a job whose driver is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
import uuid

import psutil

TOKEN = "FLEMING_RUN_TOKEN"
GRACE_S = 3.0
PATIENCE_S = 20.0
WATCH_S = 1.0
IN_GOOD_ORDER = b"."


class Reaper:
    """Started by the driver; lives in a session of its own so that a signal to the driver's group spares it."""

    def __init__(self) -> None:
        token = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), token],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env={key: value for key, value in os.environ.items() if key != TOKEN},
        )
        os.environ[TOKEN] = token

    def release(self) -> None:
        """Let the reaper sweep up what a clean shutdown left, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(IN_GOOD_ORDER)
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=GRACE_S + PATIENCE_S + 5)
        os.environ.pop(TOKEN, None)


def processes_of(token: str) -> set[psutil.Process]:
    """Every process on this machine whose environment carries ``token``."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(TOKEN) == token:
                found.add(process)
    return found


def watch(driver: psutil.Process) -> set[psutil.Process]:
    """Wait until the driver closes the pipe; returns every descendant it was seen with.

    A driver that ends in good order ends Ray itself and may have children of its own that are none of our business:
    then nothing is returned, and the token alone decides.
    """
    seen: set[psutil.Process] = set()
    while not select.select([sys.stdin], [], [], WATCH_S)[0]:
        with contextlib.suppress(psutil.Error):
            seen |= set(driver.children(recursive=True))
    return set() if sys.stdin.buffer.read(1) == IN_GOOD_ORDER else seen


def sweep(token: str, seen: set[psutil.Process], spared: set[int]) -> None:
    """Kill what carries ``token`` or was seen below the driver until nothing of it is left."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        left = [process for process in seen | processes_of(token) if process.pid not in spared and _lives(process)]
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil compares start times: a stranger with a reused number is not touched
        time.sleep(0.3)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


if __name__ == "__main__":
    parent = psutil.Process(os.getppid())
    descendants = watch(parent)
    time.sleep(GRACE_S if _lives(parent) else 0.5)  # a driver that ends in good order has ended its processes itself
    sweep(sys.argv[1], descendants, spared={parent.pid, os.getpid()})
