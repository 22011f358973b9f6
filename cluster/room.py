"""Room for the recipe on a cluster: there, on its way, or refused with a table. Never a silent wait.

Who waits for whom
    the driver      goes on at once when all places fit on the nodes that are there
    an autoscaler   when there is one, it is told of every place, and the driver waits for its nodes, saying so
    without one     nodes may be joining just now: `SETTLE_S` seconds, then the table
    both            wait for ``run.wait_for_nodes_s`` where the recipe says it
    a local Ray     has the nodes that it has
Before that, what a job that has ended still holds on the cluster is let go.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state.exception import RayStateApiException

from cluster.config import Recipe
from cluster.placement import Part, amounts_text, parts_of, table, without_room
from cluster.ray_jobs import FINAL
from data.errors import SetupError

SETTLE_S = 15.0
"""Seconds that a cluster without an autoscaler may take to get its nodes together; the table comes within 30."""
AUTOSCALER_S = 1800.0
"""Seconds that an autoscaler may take; a cloud needs minutes for a node with GPUs and an image of many GB."""
SAY_EVERY_S = 30.0
POLL_S = 1.0


def wait_for_room(recipe: Recipe, say: Callable[[str], None], *, local: bool) -> None:
    """Return when every place of the recipe has a node; ask the autoscaler for what lacks.

    Args:
        say: takes a line for the user.
        local: Ray was started for this run, and no node will come.

    Raises:
        SetupError: the cluster cannot hold the recipe; with the table.
    """
    if not local:
        let_go_of_ended_jobs()
    nodes = nodes_there()
    parts, missing = _fit(recipe, nodes)
    if missing:
        autoscaled = not local and has_autoscaler()
        with _requested(parts) if autoscaled else contextlib.nullcontext():
            nodes, parts, missing = _await(recipe, say, _patience(recipe, local=local, autoscaled=autoscaled))
    if missing:
        raise SetupError(
            f"the cluster cannot hold the recipe:\n{table(parts, nodes, missing)}\n",
            remedy="change the keys named, or add nodes",
        )
    _say_if_busy(parts, say)


def let_go_of_ended_jobs() -> None:
    """Remove placement groups of jobs that are over.

    Ray Train starts its worker group anew when the ranks die; when the job is stopped in that moment, the new group's
    placement group outlives it, and its CPUs and GPUs are lost to the cluster (seen with Ray 2.60).
    """
    from ray.util.state import list_jobs, list_placement_groups

    with contextlib.suppress(RayStateApiException):  # the dashboard may be off: then they stay, as without us
        ended = {job.job_id for job in list_jobs(limit=10_000) if job.job_id and job.status in FINAL}
        for group in list_placement_groups(detail=True, limit=10_000):
            if group.state != "REMOVED" and not group.is_detached and group.creator_job_id in ended:
                identity = ray.PlacementGroupID(bytes.fromhex(group.placement_group_id))
                remove_placement_group(PlacementGroup(identity))


def _patience(recipe: Recipe, *, local: bool, autoscaled: bool) -> float:
    """Seconds to wait for nodes that are not there."""
    if local:
        return 0.0
    if recipe.run.wait_for_nodes_s is not None:
        return recipe.run.wait_for_nodes_s
    return AUTOSCALER_S if autoscaled else SETTLE_S


def nodes_there() -> list[dict[str, float]]:
    """What every live node offers, in use or not."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def has_autoscaler() -> bool:
    """True when somebody may bring nodes: KubeRay and ``ray up`` mark theirs with the name of their group."""
    return any(node["Alive"] and node.get("Labels", {}).get("ray.io/node-group") for node in ray.nodes())


def _fit(recipe: Recipe, nodes: list[dict[str, float]]) -> tuple[list[Part], dict[str, int]]:
    on_gpu = recipe.learner.device == "cuda" or any(node.get("GPU") for node in nodes)
    parts = parts_of(recipe, on_gpu=on_gpu)
    return parts, without_room(parts, nodes)


def _await(
    recipe: Recipe, say: Callable[[str], None], patience_s: float
) -> tuple[list[dict[str, float]], list[Part], dict[str, int]]:
    began, said = time.monotonic(), -SAY_EVERY_S
    while True:
        nodes = nodes_there()
        parts, missing = _fit(recipe, nodes)
        waited = time.monotonic() - began
        if not missing or waited > patience_s:
            return nodes, parts, missing
        if waited - said >= SAY_EVERY_S:
            said = waited
            lacking = [p for p in parts if p.name in missing]
            what = "; ".join(f"{missing[p.name]} x ({amounts_text(p.place)}) for {p.name}" for p in lacking)
            say(f"waiting  for nodes: {what}. {len(nodes)} are there; {patience_s - waited:.0f} s to go")
        time.sleep(POLL_S)


@contextlib.contextmanager
def _requested(parts: list[Part]) -> Any:
    """Tell the autoscaler of every place, and take it back: a request stays in force until the next one."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[part.place for part in parts for _ in range(part.count) if part.place])
    try:
        yield
    finally:
        request_resources(bundles=[])


def _say_if_busy(parts: list[Part], say: Callable[[str], None]) -> None:
    """The cluster could hold the recipe, but others may be using it."""
    free = ray.available_resources()
    for name in ("CPU", "GPU"):
        asked = sum(part.place.get(name, 0.0) * part.count for part in parts)
        if asked > free.get(name, 0.0) + 1e-6:
            say(
                f"waiting  for other work on this cluster to free {name}s: {asked:g} asked, "
                f"{free.get(name, 0.0):g} free (`ray status`)"
            )
