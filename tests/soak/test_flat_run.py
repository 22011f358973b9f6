"""Two hundred steps in one process tree: what a run holds at the end is what it held at the beginning.

A run that leaks a little per step dies after a day on a cluster; here the first and the last quarter of its steps are
compared, process by process: resident memory, objects in Ray's store, and processor time per step.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest

from cluster.memory import read_status, role_of
from cluster.run_store import RunStore
from tests.integration import runs

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5400)]

STEPS = 200
SMALL = (
    "learner.ranks=1",
    "learner.cpu_threads=1",  # one thread waits for no other: a busy machine slows the run down and does not stop it
    "rollouts.cpu_threads=1",
    "warm_up.steps=80",
    f"loop.steps={STEPS}",
    "loop.questions_per_step=16",
    "loop.samples_per_question=4",
    "loop.checkpoint_every=20",
    "loop.evaluation.every=0",
    # Memory of the KV cache becomes resident block by block as blocks are first used: a small one is all in use early.
    "rollouts.kv_cache_gib=0.0625",
    "data.questions.hpo.train_questions=1000",
    "grpo.optimizer.learning_rate=1e-5",  # so slow that the groups carry a signal to the last step
)
"""Small batches of the quickstart's policy, so that a step takes seconds; commits and weight updates as in any run."""
TASK_HISTORY = 2_000
"""Finished tasks that Ray's GCS remembers for the dashboard. Its default, 100,000, is not reached here, so GCS would
grow to the last step."""
GROWTH_MIB = 24.0
GROWTH_SHARE = 0.05
"""A process may grow by the larger of the two between the quarters: heaps breathe, and a leak of a tenth of a MiB per
step (15 MiB) would show in a process of a few hundred."""


CLOCK_SHARE = 0.05
"""Part of a core that a process may spend by the clock (heartbeats, live figures), not by the step."""


@dataclass
class Watch:
    """Samples of every process of a run, and of Ray's object store, over its steps."""

    driver: subprocess.Popen[bytes]
    step: Callable[[], int]
    rss: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    store: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))

    def until_the_end(self, every_s: float) -> None:
        while self.driver.poll() is None:
            step = self.step()
            if step >= 1:
                self._look(step)
            time.sleep(every_s)

    def _look(self, step: int) -> None:
        for process in self._family():
            try:
                title = " ".join(process.cmdline())[:40] if process.pid != self.driver.pid else "driver"
                status, cpu = read_status(process.pid), process.cpu_times()
            except (psutil.NoSuchProcess, OSError):
                continue
            if status:
                name = f"{role_of(title) if title != 'driver' else title} {process.pid} {title}"
                self.rss[name].append((step, status["VmRSS"] / 2**20))
                self.cpu[name].append((step, cpu.user + cpu.system))
        for name, value in self._object_store().items():
            self.store[name].append((step, value))

    def _family(self) -> list[psutil.Process]:
        try:
            driver = psutil.Process(self.driver.pid)
            return [driver, *driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _object_store(self) -> Mapping[str, float]:
        """What Ray's own metrics say of this node's store; empty when its agent does not answer."""
        for process in self._family():
            try:
                if not " ".join(process.cmdline()).startswith("ray::DashboardAgent"):
                    continue
                ports = [c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            except psutil.Error:
                continue
            for port in ports:
                text = _get(f"http://127.0.0.1:{port}/metrics")
                found = re.findall(r"^ray_object_store_(num_local_objects|used_memory)\{.*\} (\S+)$", text, re.M)
                if found:
                    return {name: float(value) for name, value in found}
        return {}


def _get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (OSError, ValueError, HTTPException):  # some of the agent's ports speak gRPC
        return ""


def quarters(samples: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Values of the first and the last quarter of the steps, without the start and the end of the run."""
    first = [value for step, value in samples if STEPS * 0.05 < step <= STEPS * 0.25]
    last = [value for step, value in samples if STEPS * 0.75 < step < STEPS]
    return first, last


def slope(samples: list[tuple[int, float]], low: float, high: float) -> float:
    """Growth per step between two shares of the run."""
    inside = [(step, value) for step, value in samples if STEPS * low <= step <= STEPS * high]
    (first_step, first), (last_step, last) = inside[0], inside[-1]
    return (last - first) / (last_step - first_step)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watch, RunStore]]:
    storage = tmp_path_factory.mktemp("runs")
    store, log = runs.store(storage, "flat"), storage / "flat.log"

    def step() -> int:
        return sum(name.startswith("step-") for name in store.storage.list("segments"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_task_events_max_num_task_in_gcs", str(TASK_HISTORY))
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # by default every ten seconds, which are thirty steps
        driver = runs.start(runs.command(storage, "flat", *SMALL), log)
    watch = Watch(driver, step)
    watch.until_the_end(every_s=2.0)
    assert driver.returncode == 0, Path(log).read_text()[-4000:]
    yield watch, store


def lived_through(samples: list[tuple[int, float]]) -> bool:
    steps = [step for step, _ in samples]
    return min(steps) <= STEPS * 0.1 and max(steps) >= STEPS * 0.95


def test_no_process_grows(watched: tuple[Watch, RunStore]) -> None:
    watch, _ = watched
    grown = []
    seen = set()
    for name, samples in sorted(watch.rss.items()):
        if not lived_through(samples):
            continue
        first, last = map(statistics.median, quarters(samples))
        seen.add(name.split()[0])
        runs.say(f"{first:8.0f} MiB -> {last:8.0f} MiB  {name}")
        if last - first > max(GROWTH_MIB, GROWTH_SHARE * first):
            grown.append((name, first, last))
    assert {"driver", "learner", "engine", "rollout", "reward", "ray"} <= seen
    assert grown == []


def test_no_object_stays_behind(watched: tuple[Watch, RunStore]) -> None:
    watch, _ = watched
    assert set(watch.store) == {"num_local_objects", "used_memory"}
    for name, samples in watch.store.items():
        # What is on its way comes and goes within a step; what stays behind lies below the lowest of many looks.
        early, late = quarters(samples)
        first, last = min(early), min(late)
        runs.say(f"object store, {name}: {first:,.0f} -> {last:,.0f}, lowest of {len(late)} looks")
        assert len(late) >= 5
        assert last <= 1.1 * first + 2, name


def test_a_step_takes_as_long_at_the_end(watched: tuple[Watch, RunStore]) -> None:
    watch, store = watched
    rows = store.committed_metrics()
    assert len(rows) == STEPS
    wall = [statistics.median(part) for part in quarters([(int(row["step"]), row["seconds/step"]) for row in rows])]
    runs.say(f"seconds per step: {wall[0]:.2f} -> {wall[1]:.2f}")
    # Work per step is compared by processor time: the wall clock of a shared machine measures its other users.
    for role in ("driver", "learner", "engine"):
        samples = next(s for name, s in watch.cpu.items() if name.startswith(role) and lived_through(s))
        # Not to the very end: there the run draws its pictures.
        first, last = slope(samples, 0.05, 0.25), slope(samples, 0.75, 0.98)
        runs.say(f"processor seconds per step of the {role}: {first:.2f} -> {last:.2f}")
        assert last < 1.2 * first + 0.05 + CLOCK_SHARE * max(0.0, wall[1] - wall[0]), role
