"""What a person would look at while a run goes on: Ray's dashboard, its metrics, a real Prometheus, `fleming watch`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.monitoring.catalogue import METRICS
from cluster.monitoring.panels import dashboard
from tests.integration.runs import CHECKOUT

NO_PROMETHEUS = "prometheus is not on this machine (Debian and Ubuntu: apt-get install prometheus)"
SCRAPE = "1s"
# In the short run: one optimiser step per batch, so nothing is recomputed before it.
NOT_IN_THE_RUN = ("grpo.",)
ABSENT = {metric.exported for metric in METRICS.values() if metric.needs.startswith(NOT_IN_THE_RUN)}
LASTING = {metric.exported for metric in METRICS.values() if not metric.needs.startswith(NOT_IN_THE_RUN)}


def fetch(url: str) -> Any:
    """A JSON answer; with Ray's token, which a local dashboard asks for."""
    token = os.environ.get("RAY_AUTH_TOKEN") or (Path.home() / ".ray" / "auth_token").read_text().strip()
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def watch(target: str) -> str:
    """``fleming watch TARGET --once`` as a person types it."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-m", "cluster", "watch", target, "--once"]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Prometheus:
    """A real Prometheus that scrapes what Ray's service discovery names."""

    address: str
    process: subprocess.Popen[bytes]

    def query(self, expr: str) -> list[dict[str, Any]]:
        url = f"{self.address}/api/v1/query?query={urllib.parse.quote(expr)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.loads(answer.read())
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def names(self) -> set[str]:
        return {row["metric"]["__name__"] for row in self.query('{__name__=~"ray_fleming_.+"}')}

    def rules(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.address}/api/v1/rules", timeout=10) as answer:
            groups = json.loads(answer.read())["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def prometheus(session: Path, folder: Path) -> Iterator[Prometheus]:
    """Start one with the configuration that Ray wrote and the run added its rules to, only in more of a hurry."""
    if shutil.which("prometheus") is None:
        pytest.skip(NO_PROMETHEUS)
    folder.mkdir()
    written = session / "metrics" / "prometheus"
    settings = yaml.safe_load((written / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    settings["rule_files"] = [str(written / file) for file in settings["rule_files"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Prometheus(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(20)


@dataclass
class Observation:
    """What was seen of a run while it went on."""

    actors: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    ranks: list[dict[str, Any]]
    exported: set[str] = field(default_factory=set)
    panels: dict[str, dict[str, int]] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)
    watched: dict[str, str] = field(default_factory=dict)


def wait_for(condition: Callable[[], bool], alive: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait while the run is alive; whatever goes wrong in a look counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and alive():
        with contextlib.suppress(OSError, KeyError, ValueError):
            if condition():
                return
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {timeout_s} s, or the run had ended before")


def observe(run: Path, alive: Callable[[], bool], folder: Path) -> Observation:
    """Look at the run in the directory ``run`` from every side, while ``alive()``."""
    live = run / "live.json"
    wait_for(lambda: bool(json.loads(live.read_text())["dashboard"]), alive, 300, "the address of the dashboard")
    address = json.loads(live.read_text())["dashboard"]
    raylet = fetch(f"{address}/nodes?view=summary")["data"]["summary"][0]["raylet"]
    session = Path(raylet["sessionDir"])
    settings = session / "metrics" / "prometheus" / "prometheus.yml"
    wait_for(lambda: "fleming_alerts.yml" in settings.read_text(), alive, 60, "the alerts in Ray's configuration")
    with prometheus(session, folder) as server:
        wait_for(lambda: server.names() >= LASTING, alive, 500, "every metric of the table in Prometheus")
        panels = {
            panel["title"]: {
                target["expr"]: len(server.query(concrete(target["expr"]))) for target in panel.get("targets", [])
            }
            for panel in dashboard()["panels"]
            if panel["type"] != "row"
        }
        found = Observation(
            actors=fetch(f"{address}/api/v0/actors?detail=1")["data"]["result"]["result"],
            jobs=fetch(f"{address}/api/jobs/"),
            ranks=_ranks(fetch(f"{address}/api/train/v2/runs/v1")),
            exported=server.names(),
            panels=panels,
            rules=server.rules(),
        )
        found.watched = {target: watch(target) for target in (str(run), address)}
    return found


def concrete(expr: str) -> str:
    """A panel's query with Grafana's variables filled in."""
    return expr.replace("$__rate_interval", "30s").replace("$run", ".+").replace("$SessionName", ".+")


def _ranks(runs: Any) -> list[dict[str, Any]]:
    return [worker for run in runs["train_runs"] for attempt in run["attempts"] for worker in attempt["workers"]]
