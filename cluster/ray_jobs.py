"""Ray jobs as Fleming uses them: connect, submit, follow, stop; every refusal in plain words.

Everything goes over HTTP to the cluster's dashboard; nothing here starts Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data.errors import RunStateError, SetupError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PATIENCE_S = 120.0
"""Seconds without an answer after which a cluster counts as lost."""
STOP_WAIT_S = 60.0
"""Seconds that a stopped driver has to end its parts in good order, before Ray kills it."""
INTERRUPTED = 130
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")

TOKEN_REMEDY = (
    "export RAY_AUTH_MODE=token, and put the cluster's token (on its head: `ray get-auth-token`) "
    "into ~/.ray/auth_token or RAY_AUTH_TOKEN"
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job. ``exit_code`` is None while it runs, and when its command never ran; times are seconds since 1970."""

    id: str
    status: str
    run: str
    command: str
    message: str
    exit_code: int | None
    started: float | None
    ended: float | None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def code(self) -> int:
        """What a shell should get: the job's own exit code, 130 for a stopped job, 1 when the command never ran."""
        if self.status == "STOPPED":
            return INTERRUPTED
        if self.status == "SUCCEEDED":
            return 0
        return self.exit_code or 1


class RayJobs:
    """The jobs of one cluster.

    Args:
        address: URL of the dashboard, ``http://HEAD:8265``.

    Raises:
        SetupError: nobody answers there, or not to us (token).
    """

    def __init__(self, address: str) -> None:
        self.address = _url(address)
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        with _plainly(self.address), _no_other_address():
            from ray.job_submission import JobSubmissionClient

            try:
                self._client: Any = JobSubmissionClient(self.address)
            except (ValueError, KeyError) as error:  # an address without a host; an answer that is not Ray's
                raise ConnectionError(str(error)) from error

    def submit(
        self, command: str, *, job_id: str, working_dir: str, environment: dict[str, str], metadata: dict[str, str]
    ) -> str:
        """Send a job; returns its id.

        Args:
            working_dir: a zip file here, or a URI that the cluster reads.
        """
        runtime_env = {
            "working_dir": working_dir,
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_WAIT_S:.0f}", **environment},
        }
        with _plainly(self.address):
            submitted: str = self._client.submit_job(
                entrypoint=command, submission_id=job_id, runtime_env=runtime_env, metadata=metadata
            )
        return submitted

    def list(self) -> list[Job]:
        """Every submitted job, the newest first."""
        with _plainly(self.address):
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: -(job.started or 0.0))

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            RunStateError: there is none of that name.
        """
        with _plainly(self.address, job_id=job_id):
            return _job(self._client.get_job_info(job_id))

    def stop(self, job_id: str, *, wait_s: float = STOP_WAIT_S + 30.0) -> Job:
        """Ask a job to end in good order, and wait until it has.

        Raises:
            SetupError: it has not within ``wait_s`` seconds.
        """
        with _plainly(self.address, job_id=job_id):
            self._client.stop_job(job_id)
        until = time.monotonic() + wait_s
        while not (job := self.get(job_id)).is_final:
            if time.monotonic() > until:
                raise SetupError(
                    f"job {job_id} is still {job.status} {wait_s:g} s after it was told to stop",
                    remedy=f"look at its log with `fleming logs {job_id}`, and at the cluster with `ray status`",
                )
            time.sleep(0.5)
        return job

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Hand what the job prints to ``write``, from its first line, until it has ended.

        A connection that breaks is made anew, and what was shown is not shown again.

        Raises:
            SetupError: the cluster gives no answer for two minutes. The job may well go on.
        """
        return asyncio.run(self._follow(job_id, write))

    async def _follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        import aiohttp

        shown, heard = 0, time.monotonic()
        while True:
            seen = 0
            try:
                async for chunk in self._client.tail_job_logs(job_id):
                    heard = time.monotonic()
                    seen += len(chunk)
                    if seen > shown:
                        write(chunk[len(chunk) - (seen - shown) :])
                        shown = seen
                job = self.get(job_id)
                heard = time.monotonic()
                if job.is_final:
                    return job
            except (aiohttp.ClientError, OSError, RuntimeError, SetupError):
                if time.monotonic() - heard > PATIENCE_S:
                    raise SetupError(
                        f"{self.address} has given no answer for {PATIENCE_S:g} s; job {job_id} may still run",
                        remedy=f"look again with `fleming logs {job_id} --address {self.address}`",
                    ) from None
            await asyncio.sleep(0.5)


def new_job_id(run: str) -> str:
    """An id that says the run and is not taken: ``fleming-NAME-20261124-150102``."""
    return f"fleming-{run}-{time.strftime('%Y%m%d-%H%M%S')}"


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        run=(details.metadata or {}).get("fleming_run", ""),
        command=details.entrypoint,
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
    )


def _url(address: str) -> str:
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme not in ("", "http", "https"):
        raise SetupError(
            f"--address {address!r} is no URL of a dashboard",
            remedy=f"give http://HEAD:8265 (default {DEFAULT_ADDRESS})",
        )
    return (address if scheme else f"http://{address}").rstrip("/")


@contextlib.contextmanager
def _no_other_address() -> Iterator[None]:
    """Ray's client takes these two variables over what it is told; the user was asked, and this is the answer."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextlib.contextmanager
def _plainly(address: str, *, job_id: str = "") -> Iterator[None]:
    """What Ray's client raises, as an error with a remedy."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        refused = "refuses our token" if "invalid" in str(error).lower() else "wants a token, and we sent none"
        raise SetupError(f"the cluster at {address} {refused}", remedy=TOKEN_REMEDY) from error
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise SetupError(
            f"no Ray dashboard answers at {address}",
            remedy="give the head's dashboard with --address http://HEAD:8265, or forward it to this machine: "
            "ssh -L 8265:127.0.0.1:8265 HEAD",
        ) from error
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if job_id and re.search(r"status code 404|does not exist", text):
            raise RunStateError(
                f"there is no job {job_id} at {address}", remedy="list them with `fleming jobs`"
            ) from error
        raise SetupError(
            f"the cluster at {address} refuses: {text[:500]}", remedy="is it up, and of the same Ray version?"
        ) from error
