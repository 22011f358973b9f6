"""Does the recipe fit the cluster? What its parts ask for, what is there, and what to change.

A part is a number of equal places: one per engine, rank or reward actor. A place lies on one node, so the sums alone
decide nothing: four engines of two GPUs each do not fit on eight nodes of one. The largest places are put down first,
each on the first node with room (first fit, decreasing), as a scheduler with an empty cluster could.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.config import Recipe
from data.places import place

TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Part:
    """``count`` places of one half of the recipe, and the recipe's keys that change what they ask for.

    Example: ``Part(name="rollouts", count=4, cpus=1.0, gpus=2.0, node_group="", keys="rollouts.actors, ...")``.
    """

    name: str
    count: int
    cpus: float
    gpus: float
    node_group: str
    keys: str

    @property
    def place(self) -> dict[str, float]:
        """What one place asks of its node, as Ray counts it."""
        return place(self.cpus, self.gpus, self.node_group)


def parts_of(recipe: Recipe, *, on_gpu: bool) -> list[Part]:
    """The parts of a recipe. On a cluster with GPUs engines and ranks take whole ones."""
    rollouts, learner, rewards = recipe.rollouts, recipe.learner, recipe.rewards
    return [
        Part(
            name="rollouts",
            count=rollouts.actors,
            cpus=rollouts.cpus_per_actor,
            gpus=rollouts.tensor_parallel if on_gpu else 0,
            node_group=rollouts.node_group,
            keys="rollouts.actors, rollouts.cpus_per_actor" + (", rollouts.tensor_parallel" if on_gpu else ""),
        ),
        Part(
            name="learner",
            count=learner.ranks,
            cpus=learner.cpus_per_rank,
            gpus=1 if on_gpu and learner.device != "cpu" else 0,
            node_group=learner.node_group,
            keys="learner.ranks, learner.cpus_per_rank",
        ),
        Part(
            name="rewards",
            count=rewards.actors,
            cpus=rewards.cpus_per_actor,
            gpus=0,
            node_group=rewards.node_group,
            keys="rewards.actors, rewards.cpus_per_actor",
        ),
    ]


def without_room(parts: Sequence[Part], nodes: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """Part -> places for which no node has room; empty when all fit.

    Args:
        nodes: what each node offers, as Ray counts it (``{"CPU": 8.0, "GPU": 1.0}``).
    """
    left = [dict(node) for node in nodes]
    missing: dict[str, int] = {}
    for part in sorted(parts, key=lambda part: (-part.gpus, -part.cpus)):
        for _ in range(part.count):
            room = next((node for node in left if _has_room(node, part.place)), None)
            if room is None:
                missing[part.name] = missing.get(part.name, 0) + 1
                continue
            for name, amount in part.place.items():
                room[name] -= amount
    return missing


def _has_room(node: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) + TOLERANCE >= amount for name, amount in asked.items())


def table(parts: Sequence[Part], nodes: Sequence[Mapping[str, float]], missing: Mapping[str, int]) -> str:
    """What is asked, what is there and what to change, as plain text of a few lines."""
    rows = [("part", "asks for", "no room for", "change")]
    for part in parts:
        if part.place:
            asked = f"{part.count} x ({amounts_text(part.place)})"
            lacks = f"{missing[part.name]} of {part.count}" if part.name in missing else "-"
            rows.append((part.name, asked, lacks, part.keys))
    total = {
        name: sum(amount for part in parts for key, amount in _times(part).items() if key == name)
        for name in ("CPU", "GPU")
    }
    rows.append(("together", amounts_text(total), "", ""))
    there = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    rows.append(("there", amounts_text(there), "", f"on {len(nodes)} nodes: {_nodes_text(nodes)}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]).rstrip() for row in rows]
    return "\n".join(f"  {line}" for line in lines)


def amounts_text(amounts: Mapping[str, float]) -> str:
    """``{"CPU": 2.0, "GPU": 1.0}`` -> "2 CPU, 1 GPU"; a share of a node group is its name: "1 CPU, group engines"."""
    texts = [
        f"{amount:g} {name}" if name in ("CPU", "GPU") else f"group {name}"
        for name, amount in amounts.items()
        if amount or name == "CPU"
    ]
    return ", ".join(texts)


def _times(part: Part) -> dict[str, float]:
    return {name: amount * part.count for name, amount in part.place.items()}


def _nodes_text(nodes: Sequence[Mapping[str, float]]) -> str:
    """Equal nodes together, the most frequent first; a cluster of thousands stays one line."""
    kinds: dict[str, int] = {}
    for node in nodes:
        groups = [f"{name!r}" for name in node if name not in ("CPU", "GPU", "memory", "object_store_memory")]
        marks = [group for group in groups if ":" not in group]  # node:1.2.3.4 and accelerator_type:X are Ray's own
        text = amounts_text({name: node.get(name, 0.0) for name in ("CPU", "GPU")}) + "".join(f" {m}" for m in marks)
        kinds[text] = kinds.get(text, 0) + 1
    listed = sorted(kinds.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{count} x ({text})" for text, count in listed[:6])
    return shown + (f" and {len(listed) - 6} other kinds" if len(listed) > 6 else "")


def local_cpus(parts: Sequence[Part], cores: int) -> int:
    """Ray CPUs of a laptop: they are counters, not cores, and every place must fit."""
    return max(cores, math.ceil(sum(part.count * part.cpus for part in parts) - TOLERANCE))
