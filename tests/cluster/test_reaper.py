"""The reaper on real processes: children that carry the token, that rename themselves, that run away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CHECKOUT = Path(__file__).parents[2]

DRIVER = """
import subprocess, sys, time
from cluster.reaper import TOKEN, Reaper
import os
reaper = Reaper()
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
inheriting = subprocess.Popen(sleep, start_new_session=True)
nameless = subprocess.Popen(sleep, start_new_session=True, env={k: v for k, v in os.environ.items() if k != TOKEN})
print(inheriting.pid, nameless.pid, flush=True)
time.sleep(float(sys.argv[1]))
reaper.release()
print("released", flush=True)
"""


def start(seconds: float) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(seconds)], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    assert driver.stdout is not None
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    return driver, [psutil.Process(pid) for pid in pids]


@pytest.mark.timeout(60)
def test_a_killed_driver_takes_all_its_descendants_along() -> None:
    driver, children = start(600)
    time.sleep(2.5)  # the reaper looks once a second
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    gone, alive = psutil.wait_procs(children, timeout=15)
    assert (len(gone), alive) == (2, [])


@pytest.mark.timeout(60)
def test_a_clean_end_takes_only_what_carries_the_token() -> None:
    driver, (inheriting, nameless) = start(1.0)
    driver.wait()
    try:
        assert not inheriting.is_running() or inheriting.status() == psutil.STATUS_ZOMBIE
        assert nameless.is_running()
    finally:
        nameless.kill()
