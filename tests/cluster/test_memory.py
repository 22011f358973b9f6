"""Memory by role: the kernel's own numbers, and a title says what a process is there for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cluster.memory import ROLES, memory_metrics, read_status, role_of
from cluster.monitoring.catalogue import METRICS

HOLD = "held = b'x' * (200 << 20); del held; print(1, flush=True); input()"


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::RayTrainWorker.__execute", "learner"),
        ("VLLM::Worker_TP0", "engine"),
        ("VLLM::EngineCore", "engine"),
        ("ray::RolloutActor.sample", "rollout"),
        ("ray::RewardActor", "reward"),
        ("raylet --node_ip", "ray"),
        ("", "ray"),
    ],
)
def test_roles(title: str, role: str) -> None:
    assert role_of(title) == role


def test_a_peak_that_has_passed_is_still_seen() -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline()
        figures = memory_metrics()
        status = read_status(child.pid)
    finally:
        child.communicate(b"\n")
    assert status["VmHWM"] > 200 << 20 > status["VmRSS"]
    assert figures["memory/ray_peak_mib"] > 200 > figures["memory/ray_rss_mib"]
    own = read_status(os.getpid())["VmRSS"] / 2**20
    assert figures["memory/driver_rss_mib"] == pytest.approx(own, rel=0.05)


def test_every_figure_is_in_the_catalogue() -> None:
    assert {f"memory/{role}_{end}" for role in ROLES for end in ("rss_mib", "peak_mib")} <= set(METRICS)
    assert set(memory_metrics()) <= set(METRICS)
