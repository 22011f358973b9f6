"""Whole runs as a user starts them: a process of its own, the real command, a short recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cluster.run_store import RunStore
from data.storage import Storage

CHECKOUT = Path(__file__).resolve().parents[2]
RECIPE = "recipes/quickstart.yaml"
# Two ZeRO-3 ranks, and fewer steps than the quickstart: enough to tell learning from chance.
SHORT = (
    "learner.ranks=2",
    "loop.steps=18",
    "loop.checkpoint_every=3",
    "loop.evaluation.every=9",
    "run.dashboard=false",
)


def command(
    storage: Path, name: str, *overrides: str, recipe: str = RECIPE, sabotage: str = "", resume: bool = False
) -> list[str]:
    """The command line of a run; ``sabotage`` goes through `tests.integration.sabotaged`."""
    program = ["-m", "tests.integration.sabotaged", sabotage] if sabotage else ["-m", "cluster"]
    settings = (*SHORT, f"run.storage={storage}", f"run.name={name}", *overrides)
    options = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, *program, "run", recipe, *options, *(["--resume"] if resume else [])]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a run in the background; what it prints goes to ``log``."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(CHECKOUT)
    with log.open("ab") as output:
        return subprocess.Popen(arguments, cwd=CHECKOUT, stdout=output, stderr=subprocess.STDOUT, env=environment)


def finish(arguments: list[str], log: Path, timeout_s: float) -> str:
    """Run to the end; returns what it printed and fails with it when the exit code is not 0."""
    process = start(arguments, log)
    code = process.wait(timeout_s)
    text = log.read_text()
    assert code == 0, f"exit code {code}\n{text[-4000:]}"
    return text


def say(text: str) -> None:
    """A figure for whoever reads the output of the test (``pytest -s``)."""
    sys.stdout.write(f"\n{text}\n")


def store(storage: Path, name: str) -> RunStore:
    return RunStore(Storage.open(str(storage / name)))


def events(storage: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (storage / name / "events.jsonl").read_text().splitlines()]


def family(process: subprocess.Popen[bytes]) -> dict[int, float]:
    """Process id -> start time of a run's driver and everything below it."""
    driver = psutil.Process(process.pid)
    return {one.pid: one.create_time() for one in [driver, *driver.children(recursive=True)]}


def alive(members: dict[int, float]) -> list[str]:
    """Command lines of those that still run."""
    found = []
    for pid, started in members.items():
        try:
            process = psutil.Process(pid)
            if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{pid} {' '.join(process.cmdline())[:120]}")
        except psutil.NoSuchProcess:
            continue
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, poll_s: float = 0.2) -> float:
    """Seconds until ``condition`` holds; fails after ``timeout_s``."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout_s, f"{what}: not within {timeout_s} s"
        time.sleep(poll_s)
    return time.monotonic() - begun
