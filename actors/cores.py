"""Which cores of a host belong to which engine. Engines of one host, also those of different runs, agree through file
locks: the kernel drops them when the holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from data.errors import EngineError


class CoreClaim:
    """``count`` cores that nobody else claims while this object holds them.

    Args:
        count: cores wanted, of those that this process may run on; the lowest free ones, so that they are neighbours.
        folder: where the locks lie; by default one place per user and host.

    Raises:
        EngineError: fewer are free. None is held then.
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir(), f"fleming-cores-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        self._locks: dict[int, int] = {}
        mine = sorted(os.sched_getaffinity(0))
        for core in mine:
            if len(self._locks) < count:
                self._take(core, folder / str(core))
        if len(self._locks) < count:
            free = len(self._locks)
            self.release()
            raise EngineError(
                f"a rollout engine takes {count} cores for itself, but {free} of this host's {len(mine)} are free",
                remedy="lower rollouts.cpu_threads or rollouts.actors, or set rollouts.bind_cores=false",
            )

    def _take(self, core: int, path: Path) -> None:
        # The engine's processes do not inherit it (Python opens with O_CLOEXEC), so it ends with its holder.
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            self._locks[core] = lock

    @property
    def cores(self) -> tuple[int, ...]:
        """Core numbers, ascending."""
        return tuple(self._locks)

    def release(self) -> None:
        """Let go of all of them."""
        while self._locks:
            os.close(self._locks.popitem()[1])
