"""A real Ray cluster of several raylets on this machine, with token authentication on.

It is started by `ray start`, as on real nodes, in a home of its own with its own token: the processes of another
cluster on this machine are not touched, and it has no part of the environment of the tests.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
MARK = "FLEMING_TEST_CLUSTER"
ATTEMPTS, START_S = 4, 90.0


@dataclass(frozen=True, kw_only=True)
class TokenCluster:
    """``address`` is the dashboard's URL, ``gcs`` what ``ray.init`` takes; ``home`` holds the token."""

    address: str
    gcs: str
    home: Path
    environment: dict[str, str]

    def run(self, *arguments: str, timeout_s: float = 600.0, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of a user of this cluster, to its end."""
        return subprocess.run(
            arguments,
            cwd=CHECKOUT,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def fleming(self, *arguments: str, timeout_s: float = 600.0, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "cluster", *arguments, timeout_s=timeout_s, **more)

    def members(self) -> set[psutil.Process]:
        """Every live process that carries this cluster's mark, and all below: Ray's workers overwrite the mark."""
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.environment[MARK]:
                    found |= {process, *process.children(recursive=True)}
        return {process for process in found if _lives(process)}


@contextlib.contextmanager
def token_cluster(folder: Path, nodes: Sequence[str]) -> Iterator[TokenCluster]:
    """A head that takes no work, and one raylet per entry of ``nodes``: its further arguments of ``ray start``.

    Example: ``with token_cluster(tmp_path, ["--num-cpus=1", "--num-cpus=2"]) as cluster: ...``.
    """
    home = folder / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    gcs_port, dashboard_port = _free_ports(2)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
    environment |= {
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        MARK: secrets.token_hex(8),
    }
    # The nodes have the dependencies and no code: what runs there must have been sent.
    on_nodes = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    cluster = TokenCluster(
        address=f"http://127.0.0.1:{dashboard_port}", gcs=f"127.0.0.1:{gcs_port}", home=home, environment=environment
    )
    temporary = Path(f"/tmp/fleming-{environment[MARK]}")  # short: sockets have paths of at most 107 characters
    try:
        head = ["--head", f"--port={gcs_port}", f"--dashboard-port={dashboard_port}", "--num-cpus=0"]
        _start(cluster, [*head, f"--temp-dir={temporary}"], on_nodes)
        for number, more in enumerate(nodes):
            # A folder each: nodes that share one delete the working dir of a job under each other's feet.
            own = ["--temp-dir", f"{temporary}-{number}"]
            _start(cluster, [f"--address={cluster.gcs}", *own, *more.split()], on_nodes)
        yield cluster
    finally:
        _end(cluster)
        for left in temporary.parent.glob(f"{temporary.name}*"):
            shutil.rmtree(left, ignore_errors=True)


def _start(cluster: TokenCluster, arguments: list[str], environment: dict[str, str]) -> None:
    """One node. A raylet ends itself when its agents are not up within 15 s, which a busy machine does not always
    allow, and ``ray start`` then waits for it for long: it is tried again."""
    names = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")
    ports = [f"--{name}-port={port}" for name, port in zip(names, _free_ports(len(names)), strict=True)]
    command = [*RAY, "start", *arguments, *ports, "--disable-usage-stats", "--object-store-memory=200000000"]
    before, said = cluster.members(), ""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, env=environment, cwd="/", capture_output=True, text=True, timeout=START_S, check=False
            )
            said = done.stdout + done.stderr
            if done.returncode == 0:
                return
        for process in cluster.members() - before:
            with contextlib.suppress(psutil.Error):
                process.kill()
    raise AssertionError(f"no node of Ray came up in {ATTEMPTS} attempts of {START_S:g} s: {said}")


def _end(cluster: TokenCluster) -> None:
    """Not ``ray stop``, which ends every Ray on the machine."""
    members: set[psutil.Process] = set()
    for _ in range(2):  # twice: a raylet that is dying may start one more
        members |= cluster.members()
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(list(members), timeout=10)
    left = [process for process in members | cluster.members() if _lives(process)]
    assert not left, left


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
