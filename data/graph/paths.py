"""Ways through a graph: paths along given relations, and the shortest explanation that joins two entities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import DataError
from data.graph.queries import KnowledgeGraph, Step, relation_names

_NO_LINK = frozenset({"inheritance", "onset", "modifier"})
"""Types that a path may end in, and not lead through."""


@dataclass(frozen=True, kw_only=True)
class GraphPath:
    """A way from ``start`` along facts. Example: ``OMIM:154700 -has_phenotype-> HP:0001166``."""

    start: str
    steps: tuple[Step, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.start, *(step.target for step in self.steps))

    def __str__(self) -> str:
        return self.start + "".join(f" -{step.relation}-> {step.target}" for step in self.steps)


def typed_paths(
    graph: KnowledgeGraph, start: int, relations: Sequence[str], *, types: Sequence[str] = ()
) -> Iterator[GraphPath]:
    """Every simple path from ``start`` along these relations, in this order; lazily, in a stable order.

    Args:
        relations: names or inverse names, one per hop, for instance ("has_phenotype", "phenotype_of", "treated_by").
        types: when given, the type that each hop must reach, "" for any; as long as ``relations``.

    Raises:
        DataError: an unknown relation, or another number of types than of relations.
    """
    relation_names(relations)
    if types and len(types) != len(relations):
        raise DataError(f"{len(types)} types for {len(relations)} relations", remedy="give one type per relation")
    yield from _extend(graph, (), (start,), relations, types)


def _extend(
    graph: KnowledgeGraph, steps: tuple[Step, ...], visited: tuple[int, ...], relations: Sequence[str],
    types: Sequence[str],
) -> Iterator[GraphPath]:  # fmt: skip
    if len(steps) == len(relations):
        yield GraphPath(start=graph.ids[visited[0]], steps=steps)
        return
    wanted = types[len(steps)] if types else ""
    seen: set[int] = set()
    for step in graph.steps(visited[-1], (relations[len(steps)],)):
        target = graph.find(step.target)
        if target not in seen and target not in visited and (not wanted or graph.types[target] == wanted):
            seen.add(target)
            yield from _extend(graph, (*steps, step), (*visited, target), relations, types)


def explain(graph: KnowledgeGraph, start: int, end: int, *, most_hops: int = 6, taxonomic: bool = False) -> GraphPath:
    """The shortest path of facts between two entities; among equally short ones, that through the most specific.

    Specific means: the degrees of the entities on the way add up to the least. A finding that a thousand diseases share
    explains little. A mode of inheritance, an age of onset or a modifier explains nothing: no path leads through one.

    Raises:
        DataError: no path of at most ``most_hops`` hops joins them.
    """
    if start == end:
        return GraphPath(start=graph.ids[start], steps=())
    links = graph.links(taxonomic=taxonomic)
    came_by = np.full(len(graph), -1, dtype=np.int64)
    came_from = np.full(len(graph), -1, dtype=np.int64)
    cost = np.full(len(graph), -1, dtype=np.int64)
    cost[start] = 0
    frontier = np.array([start])
    for _ in range(most_hops):
        origins, targets, edges = links.around(frontier)
        new = cost[targets] < 0
        origins, targets, edges = origins[new], targets[new], edges[new]
        totals = cost[origins] + graph.degrees[targets]
        order = np.lexsort([edges, origins, totals, targets])  # the cheapest way to each target comes first
        frontier, first = np.unique(targets[order], return_index=True)
        chosen = order[first]
        came_by[frontier], came_from[frontier], cost[frontier] = edges[chosen], origins[chosen], totals[chosen]
        if cost[end] >= 0:
            break
        frontier = np.array([n for n in frontier.tolist() if graph.types[n] not in _NO_LINK], dtype=np.int64)
        if not len(frontier):
            break
    if cost[end] < 0:
        raise DataError(
            f"no path of at most {most_hops} facts joins {graph.ids[start]} and {graph.ids[end]}",
            remedy="allow more hops, or is-a (--taxonomic)",
        )
    steps: list[Step] = []
    here = end
    while here != start:
        origin = int(came_from[here])
        steps.append(graph.step(int(came_by[here]), origin))
        here = origin
    return GraphPath(start=graph.ids[start], steps=tuple(reversed(steps)))
