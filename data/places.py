"""A place on a node: what one engine or one learner rank asks of it, as Ray counts it."""

from __future__ import annotations

GROUP_SHARE = 0.001
"""What a place takes of its node group's resource: a node that offers 1 of it has room for any number of places."""


def place(cpus: float, gpus: float, node_group: str) -> dict[str, float]:
    """Ray resources of one place.

    Args:
        node_group: custom resource that marks the nodes meant for it; empty for any node.

    Example: ``place(1, 2, "engines") == {"CPU": 1, "GPU": 2, "engines": 0.001}``.
    """
    amounts = {"CPU": cpus, "GPU": gpus} | ({node_group: GROUP_SHARE} if node_group else {})
    return {name: amount for name, amount in amounts.items() if amount}
