"""The two Arrow tables of a graph, nodes and edges, and the graph that holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from data.graph.merge import Conflict
from data.graph.schema import SourceInfo

TEXT = pa.string()
CODED = pa.dictionary(pa.int32(), TEXT)
TEXTS = pa.list_(pa.field("item", TEXT, nullable=False))


def _field(name: str, kind: Any, nullable: bool = False) -> Any:
    return pa.field(name, kind, nullable=nullable)


NODE_SCHEMA = pa.schema(
    [
        *(_field(name, TEXT) for name in ("id", "type", "name")),
        *(_field(name, TEXTS) for name in ("ids", "synonyms", "xrefs")),
        _field("definition", TEXT),
        _field("tags", TEXTS),
        _field("prevalence", pa.float64(), nullable=True),
        _field("sources", TEXTS),
    ]
)
"""One row per entity, sorted by id. ``ids``: all its identifiers in the sources, the preferred one first."""

EDGE_SCHEMA = pa.schema(
    [
        *(_field(name, CODED) for name in ("subject", "predicate", "object")),
        _field("negated", pa.bool_()),
        _field("disputed", pa.bool_()),
        _field("frequency", pa.float32(), nullable=True),
        *(_field(name, CODED) for name in ("frequency_text", "onset", "sex", "modifier", "file")),
        _field("row", pa.int32()),
        *(_field(name, CODED) for name in ("reference", "source", "source_version", "licence")),
        *(_field(name, CODED) for name in ("subject_said", "object_said")),
    ]
)
"""One row per statement of a source, sorted. A fact is a row that is neither ``negated`` nor ``disputed``."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A merged graph as two Arrow tables, and the report of its making."""

    nodes: Any
    edges: Any
    sources: tuple[SourceInfo, ...]
    conflicts: tuple[Conflict, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
