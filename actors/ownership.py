"""No engine outlives its owner: vLLM's child processes watch the process that asked for them.

vLLM ends its children when the parent leaves in good order. After a `kill -9` of the parent its engine core blocks on a
socket for ever and its workers on the core. So each worker starts a watcher, which ends the worker and the engine core
between them as soon as the owner is gone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

OWNER_VARIABLE = "FLEMING_ENGINE_OWNER"
POLL_SECONDS = 0.5


def process_stamp(pid: int) -> str:
    """``"PID:START"``, START in clock ticks since boot: tells a process from a later one with the same number.

    The stamp of a process that is gone, or dead and not yet reaped, is the empty string.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{pid}:{fields[19]}"


def watch_owner(stamp: str, *, poll_seconds: float = POLL_SECONDS) -> threading.Thread | None:
    """Start a daemon thread that ends this process within 2 s after the process of ``stamp`` has gone.

    A parent between this process and the owner (vLLM's engine core) is killed too. Returns None when there is nothing
    to watch: no stamp, or this process is the owner itself.
    """
    owner = int(stamp.partition(":")[0] or 0)
    name = f"fleming-owner-watch-{stamp}"
    if owner in (0, os.getpid()):
        return None
    for thread in threading.enumerate():
        if thread.name == name:
            return thread
    parent = os.getppid()
    between = process_stamp(parent) if parent not in (owner, 1) else ""

    def watch() -> None:
        while process_stamp(owner) == stamp:
            time.sleep(poll_seconds)
        # An orphan's former parent may already be another process: only the very same one is ended.
        if between and process_stamp(parent) == between:
            os.kill(parent, signal.SIGKILL)
        os._exit(1)

    thread = threading.Thread(target=watch, name=name, daemon=True)
    thread.start()
    return thread
