"""Whether a recipe fits, what the table says when it does not, and for whom the run waits."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from cluster import room
from cluster.config import Recipe, load_recipe
from cluster.placement import Part, local_cpus, parts_of, table, without_room
from data.errors import SetupError

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


def recipe(*settings: str) -> Recipe:
    return load_recipe(QUICKSTART, list(settings))


def part(name: str, count: int, cpus: float, gpus: float = 0.0, group: str = "") -> Part:
    return Part(name=name, count=count, cpus=cpus, gpus=gpus, node_group=group, keys=f"{name}.keys")


def test_the_sum_fits_but_no_node_holds_an_engine() -> None:
    engines = part("rollouts", 4, 1, gpus=2)
    assert without_room([engines], [{"CPU": 8, "GPU": 1}] * 8) == {"rollouts": 4}
    assert without_room([engines], [{"CPU": 8, "GPU": 8}]) == {}


def test_large_places_go_first() -> None:
    small, large = part("rewards", 4, 1), part("learner", 1, 4)
    assert without_room([small, large], [{"CPU": 4}, {"CPU": 4}]) == {}


def test_a_node_group_keeps_others_out_and_in() -> None:
    engines = part("rollouts", 2, 1, group="engines")
    assert without_room([engines], [{"CPU": 64}]) == {"rollouts": 2}
    assert without_room([engines], [{"CPU": 1}, {"CPU": 2, "engines": 1}]) == {}


def test_fractions_of_cpus_share_a_laptop() -> None:
    laptop = recipe("rollouts.cpus_per_actor=0.5", "rollouts.actors=2", "learner.cpus_per_rank=0.25", "learner.ranks=4")
    parts = parts_of(laptop, on_gpu=False)
    assert without_room(parts, [{"CPU": 2.0}]) == {}
    assert without_room(parts, [{"CPU": 1.9}]) != {}
    assert local_cpus(parts, cores=1) == 2
    assert local_cpus(parts, cores=8) == 8


@given(
    st.lists(st.integers(0, 8), max_size=6),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), max_size=3),
)
def test_what_is_said_to_fit_fits_and_more_room_never_hurts_one_part(
    nodes: list[int], asked: list[tuple[int, int, int]]
) -> None:
    offered = [{"CPU": float(size), "GPU": float(size)} for size in nodes]
    parts = [part(f"p{index}", count, cpus, gpus) for index, (count, cpus, gpus) in enumerate(asked)]
    missing = without_room(parts, offered)
    if not missing:
        assert sum(p.count * p.cpus for p in parts) <= sum(nodes)
    assert all(0 < missing[p.name] <= p.count for p in parts if p.name in missing)
    for one in parts:
        alone = without_room([one], offered).get(one.name, 0)
        assert without_room([one], [*offered, {"CPU": 9.0, "GPU": 9.0}]).get(one.name, 0) <= alone


def test_the_table_names_parts_numbers_and_keys() -> None:
    parts = parts_of(recipe("rollouts.actors=4", "rollouts.tensor_parallel=2", "learner.ranks=2"), on_gpu=True)
    nodes = [{"CPU": 8.0, "GPU": 1.0, "node:10.0.0.1": 1.0}] * 3
    text = table(parts, nodes, without_room(parts, nodes))
    rollouts, learner, together, there = (line for line in text.splitlines()[1:])
    assert "4 x (1 CPU, 2 GPU)" in rollouts and "4 of 4" in rollouts and "rollouts.tensor_parallel" in rollouts
    assert "2 x (1 CPU, 1 GPU)" in learner and "4 of" not in learner
    assert "6 CPU, 10 GPU" in together
    assert "24 CPU, 3 GPU" in there and "3 x (8 CPU, 1 GPU)" in there


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """A cluster whose nodes the test appends; nothing is in use."""
    nodes: list[dict[str, float]] = [{"CPU": 1.0}]
    monkeypatch.setattr(room, "nodes_there", lambda: list(nodes))
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": sum(node["CPU"] for node in nodes)})
    monkeypatch.setattr(room, "has_autoscaler", lambda: False)
    monkeypatch.setattr(room, "let_go_of_ended_jobs", lambda: None)
    monkeypatch.setattr(room, "SETTLE_S", 0.2)
    monkeypatch.setattr(room, "POLL_S", 0.02)
    return nodes


def test_a_cluster_that_cannot_grow_gets_the_table(cluster: list[dict[str, float]]) -> None:
    with pytest.raises(SetupError, match=r"(?s)cannot hold.*learner +8 x \(1 CPU\) +8 of 8.*learner\.ranks"):
        room.wait_for_room(recipe("learner.ranks=8"), lambda line: None, local=False)


def test_a_local_ray_that_lacks_gpus_is_told_at_once(
    cluster: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster[:] = [{"CPU": 8.0, "GPU": 1.0}]
    monkeypatch.setattr(room, "SETTLE_S", 60.0)
    with pytest.raises(SetupError, match=r"(?s)no room for.*1 of 1.*learner\.ranks"):
        room.wait_for_room(recipe(), lambda line: None, local=True)


def test_it_gets_it_within_30_seconds() -> None:
    assert room.SETTLE_S < 25


def test_an_autoscaler_is_asked_and_waited_for_and_the_request_taken_back(
    cluster: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    requests: list[Any] = []

    def request_resources(*, bundles: list[dict[str, float]]) -> None:
        requests.append(bundles)
        cluster.extend({"CPU": 4.0} for _ in bundles[:1])

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", request_resources)
    monkeypatch.setattr(room, "has_autoscaler", lambda: True)
    room.wait_for_room(recipe("learner.ranks=4"), said.append, local=False)
    assert requests == [[{"CPU": 1.0}] * 5, []]

    cluster[:] = [{"CPU": 1.0}]
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda *, bundles: requests.append(bundles))
    began = time.monotonic()
    with pytest.raises(SetupError, match="cannot hold the recipe"):
        room.wait_for_room(recipe("learner.ranks=4", "run.wait_for_nodes_s=0.5"), said.append, local=False)
    assert time.monotonic() - began >= 0.5
    assert any("waiting  for nodes: 4 x (1 CPU) for learner" in line for line in said)
    assert requests[-1] == []


def test_a_busy_cluster_is_said_to_be_busy(cluster: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.append({"CPU": 4.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 0.5})
    said: list[str] = []
    room.wait_for_room(recipe(), said.append, local=False)
    assert said == ["waiting  for other work on this cluster to free CPUs: 2 asked, 0.5 free (`ray status`)"]


def test_what_an_ended_job_holds_is_let_go_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [SimpleNamespace(job_id=name, status=status) for name, status in (("01", "STOPPED"), ("02", "RUNNING"))]
    jobs.append(SimpleNamespace(job_id=None, status="FAILED"))
    kinds = [("01", "CREATED", False), ("01", "REMOVED", False), ("01", "CREATED", True), ("02", "CREATED", False)]
    groups = [
        SimpleNamespace(placement_group_id=f"{number:036x}", creator_job_id=job, state=state, is_detached=detached)
        for number, (job, state, detached) in enumerate(kinds)
    ]
    removed: list[str] = []
    monkeypatch.setattr("ray.util.state.list_jobs", lambda **_: jobs)
    monkeypatch.setattr("ray.util.state.list_placement_groups", lambda **_: groups)
    monkeypatch.setattr(room, "remove_placement_group", lambda group: removed.append(group.id.hex()))
    room.let_go_of_ended_jobs()
    assert removed == [f"{0:036x}"]
