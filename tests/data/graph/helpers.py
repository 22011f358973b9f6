"""Graphs from sources or from records in memory, and what they say, for the tests."""

from __future__ import annotations

from collections.abc import Iterator

from data.graph.build import SourceBatch, build
from data.graph.importers.registry import open_sources
from data.graph.queries import KnowledgeGraph, Statement
from data.graph.schema import Edge, Entity, SourceInfo


def loaded(*sources: str) -> KnowledgeGraph:
    return KnowledgeGraph(build(open_sources(sources)))


def statements(graph: KnowledgeGraph) -> Iterator[Statement]:
    for edge in range(graph.tables.edges.num_rows):
        yield graph.statement(edge)


def said(graph: KnowledgeGraph, *, taxonomic: bool = False) -> set[tuple[str, str, str, bool]]:
    """Statements as the source named their ends: subject, predicate, object, negated."""
    return {
        (s.subject_said, s.predicate, s.object_said, s.negated)
        for s in statements(graph)
        if taxonomic or s.predicate not in ("is_a", "near_in_hierarchy")
    }


def batch(name: str, *records: Entity | Edge) -> SourceBatch:
    return SourceBatch(info=SourceInfo(name=name, version="1", licence="CC0-1.0", citation=""), records=records)
