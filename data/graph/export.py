"""A graph, or a part of it, for other tools: networkx, GraphML, node-link JSON, or a graph of its own on disk."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.errors import DataError
from data.graph import store
from data.graph.queries import KnowledgeGraph
from data.graph.tables import Graph


def subgraph(graph: KnowledgeGraph, numbers: Collection[int]) -> Graph:
    """The chosen nodes and every edge among them, negated ones included, as a graph that can be stored."""
    chosen = np.zeros(len(graph), dtype=bool)
    chosen[list(numbers)] = True
    subjects, objects = store.end_codes(graph.tables)
    edges = graph.tables.edges.filter(pa.array(chosen[subjects] & chosen[objects]))
    return Graph(nodes=graph.tables.nodes.filter(pa.array(chosen)), edges=edges, sources=graph.tables.sources)


def to_networkx(graph: Graph) -> Any:
    """A `networkx.MultiDiGraph`: nodes with type and name, edges keyed by relation and row, with evidence."""
    import networkx

    made = networkx.MultiDiGraph()
    for row in graph.nodes.to_pylist():
        identifier = row.pop("id")
        made.add_node(identifier, **{name: value for name, value in row.items() if value not in (None, [], "")})
    for number, row in enumerate(graph.edges.to_pylist()):
        subject, predicate, target = row.pop("subject"), row.pop("predicate"), row.pop("object")
        kept = {name: value for name, value in row.items() if value not in (None, "")}
        made.add_edge(subject, target, key=f"{predicate}#{number}", predicate=predicate, **kept)
    return made


def write_as(graph: Graph, location: str) -> None:
    """Write a graph as .graphml or .json (node-link); any other name becomes a folder in Fleming's own form.

    Raises:
        DataError: the file cannot be written.
    """
    kind = Path(location).suffix.lower()
    if kind not in (".graphml", ".json"):
        store.write(graph, location)
        return
    import networkx

    made = to_networkx(graph)
    try:
        if kind == ".json":
            text = json.dumps(networkx.node_link_data(made, edges="edges"), ensure_ascii=False, indent=1)
            Path(location).write_text(text + "\n", encoding="utf-8")
            return
        for _, content in made.nodes(data=True):  # GraphML knows no lists
            content.update({name: " | ".join(value) for name, value in content.items() if isinstance(value, list)})
        networkx.write_graphml(made, location)
    except OSError as error:
        raise DataError(f"cannot write {location}: {error}", remedy="check that the folder exists") from error
