"""One writer per run: a lease in the run directory, renewed while the controller lives."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator

import psutil

from data.errors import RunStateError
from data.storage import Storage

HEARTBEAT_S = 10.0
STALE_S = 60.0
KEY = "lease.json"


class Lease:
    """The right to write a run directory.

    A lease whose process is dead (same host) or whose heartbeat is older than a minute (another host) is taken over;
    any other holder keeps the run and the newcomer gets a `RunStateError`.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._nonce = uuid.uuid4().hex

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            RunStateError: another live process writes this run.
        """
        if self._storage.create_exclusive(KEY, self._content()):
            return
        with self._taking_over():
            holder = self._holder()
            if holder and _is_alive(holder):
                raise RunStateError(
                    f"run {self._storage.uri} is being written by process {holder['pid']} on {holder['host']}",
                    remedy="wait for it or stop it; to start another run, pass --set run.name=NAME",
                )
            self._storage.write(KEY, self._content())
        self.check()

    @contextlib.contextmanager
    def _taking_over(self) -> Iterator[None]:
        """Two newcomers must not both find the lease stale and take it: one looks and writes at a time.

        Object stores have no lock; there `check` before every commit is what stops the loser.
        """
        if not self._storage.is_local:
            yield
            return
        with open(self._storage.path(KEY) + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def check(self) -> None:
        """Raise unless the lease is still ours; called before every commit."""
        holder = self._holder()
        if holder.get("nonce") != self._nonce:
            raise RunStateError(
                f"the lease of run {self._storage.uri} was taken by process {holder.get('pid')} "
                f"on {holder.get('host')}",
                remedy="let that one go on; nothing after the last commit of this one counts",
            )

    def release(self) -> None:
        if self._holder().get("nonce") == self._nonce:
            self._storage.delete(KEY)

    def _holder(self) -> dict[str, object]:
        if not self._storage.exists(KEY):
            return {}
        try:
            holder: dict[str, object] = json.loads(self._storage.read(KEY))
        except ValueError as error:
            raise RunStateError(
                f"{self._storage.uri}/{KEY} is damaged",
                remedy="make sure that no other process writes this run, then delete the file",
            ) from error
        return holder

    async def keep(self) -> None:
        """Renew the heartbeat until cancelled; raises when the lease was lost."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self.check()
            self._storage.write(KEY, self._content())

    def _content(self) -> bytes:
        me = psutil.Process()
        return json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": me.create_time(),
                "heartbeat": time.time(),
                "nonce": self._nonce,
            }
        ).encode()


def _is_alive(holder: dict[str, object]) -> bool:
    if holder["host"] != socket.gethostname():
        return time.time() - float(str(holder["heartbeat"])) < STALE_S
    try:
        # A process id is reused in time; the start time tells the holder from a stranger with its number.
        started: float = psutil.Process(int(str(holder["pid"]))).create_time()
        return abs(started - float(str(holder["started"]))) < 1.0
    except psutil.NoSuchProcess:
        return False
