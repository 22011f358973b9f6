"""Ends every process of a run when its driver is gone, however it went.

The driver marks its environment with a token before it starts Ray, so that every process of the run on this machine,
vLLM's and DeepSpeed's children included, inherits it. The reaper holds the reading end of a pipe from the driver: when
the driver exits, is killed or crashes, the pipe closes, and what still carries the token is killed. A run on a cluster
that others started needs none of this: there Ray ends the workers of a job whose driver is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid

import psutil

TOKEN = "FLEMING_RUN_TOKEN"
GRACE_S = 3.0
PATIENCE_S = 20.0


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
        self._process.stdin.close()
        self._process.wait(timeout=GRACE_S + PATIENCE_S + 5)
        os.environ.pop(TOKEN, None)


def processes_of(token: str) -> list[psutil.Process]:
    """Every process on this machine whose environment carries ``token``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def sweep(token: str, driver: int) -> None:
    """Kill what carries ``token`` until nothing does, the driver itself excepted."""
    deadline = time.monotonic() + PATIENCE_S
    time.sleep(GRACE_S if psutil.pid_exists(driver) else 0.5)
    while time.monotonic() < deadline:
        left = [process for process in processes_of(token) if process.pid not in (driver, os.getpid())]
        if not left:
            return
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        time.sleep(0.3)


if __name__ == "__main__":
    parent = os.getppid()
    while sys.stdin.buffer.read(1):
        pass
    sweep(sys.argv[1], parent)
