"""The rooms have common names: a Ray actor and a vLLM worker must import this checkout's, as the driver does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.doctor import ROOMS
from learner.config import TinyPolicyConfig
from learner.tiny_policy import build_tiny_policy
from tests.integration.room_probe import RoomProbe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def probe(checkout: Path) -> Iterator[Any]:
    """An actor on a Ray that is started as a run starts its own."""
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(checkout)}},
    )
    yield ray.remote(num_cpus=0)(RoomProbe).remote()
    ray.shutdown()


def test_rooms_of_this_checkout_in_a_ray_actor(probe: Any, checkout: Path) -> None:
    found = ray.get(probe.origins.remote(), timeout=60)
    assert int(found.pop("pid")) != os.getpid()
    assert found == {room: str(checkout / room / "__init__.py") for room in ROOMS}


def test_rooms_of_this_checkout_in_a_vllm_worker(probe: Any, checkout: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny = TinyPolicyConfig(hidden_size=32, layers=1, heads=2, kv_heads=1, vocab_size=300, max_positions=64)
    build_tiny_policy(tiny, ["a finding of a disease"] * 4, model)
    actor = ray.get(probe.origins.remote(), timeout=60)["pid"]
    workers = ray.get(probe.worker_origins.remote(str(model)), timeout=150)
    assert len(workers) == 1
    assert workers[0].pop("pid") not in (actor, str(os.getpid()))
    assert workers[0] == {room: str(checkout / room / "__init__.py") for room in ROOMS}
