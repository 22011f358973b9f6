"""A graph on disk: nodes and edges as Parquet, a manifest (counts, sources, licences, content hash), a merge report."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import DataError
from data.graph.merge import KINDS, Conflict
from data.graph.schema import ENTITY_TYPES, RELATIONS, SCHEMA_VERSION, SourceInfo
from data.graph.tables import CODED, EDGE_SCHEMA, NODE_SCHEMA, TEXT, Graph
from data.storage import Storage

_AGAIN = "build the graph again: fleming graph build"
NODES, EDGES, MANIFEST, REPORT = "nodes.parquet", "edges.parquet", "manifest.json", "merge_report.json"


def taxonomic_mask(edges: Any) -> Any:
    """True for the edges that only say where an entity stands in a vocabulary, [edges]."""
    names = [name for name, relation in RELATIONS.items() if relation.taxonomic]
    return pc.is_in(edges["predicate"].cast(TEXT), value_set=pa.array(names)).to_numpy(zero_copy_only=False)


def end_codes(graph: Graph) -> tuple[Any, Any]:
    """Row numbers of nodes for the subject and object of every edge, [edges] each."""
    position = {identifier: index for index, identifier in enumerate(graph.nodes["id"].to_pylist())}
    return tuple(_codes(graph.edges[side], position) for side in ("subject", "object"))


def _codes(column: Any, position: dict[str, int]) -> Any:
    parts = []
    for chunk in column.chunks:
        lookup = np.array([position.get(text, -1) for text in chunk.dictionary.to_pylist()] or [-1], dtype=np.int32)
        parts.append(lookup[chunk.indices.to_numpy(zero_copy_only=False)])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)


def counts(graph: Graph) -> dict[str, Any]:
    """Entities per type, those with a fact that is not taxonomic, isolated ones, edges per relation and source."""
    subjects, objects = end_codes(graph)
    facts = ~graph.edges["negated"].to_numpy() & ~graph.edges["disputed"].to_numpy()
    telling = ~taxonomic_mask(graph.edges) & facts
    size = graph.nodes.num_rows
    related, touched = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for ends in (subjects, objects):
        touched[ends] = True
        related[ends[telling]] = True
    types = np.array(graph.nodes["type"].to_pylist(), dtype=object)
    names = [name for name in ENTITY_TYPES if (types == name).any()]
    return {
        "nodes": size,
        "edges": graph.edges.num_rows,
        "facts": int(facts.sum()),
        "nodes_by_type": {name: int((types == name).sum()) for name in names},
        "related_by_type": {name: int(((types == name) & related).sum()) for name in names},
        "isolated_by_type": {name: int(((types == name) & ~touched).sum()) for name in names},
        "isolated": int((~touched).sum()),
        "edges_by_relation": _tally(graph.edges["predicate"]),
        "edges_by_source": _tally(graph.edges["source"]),
        "negated_by_source": _tally(graph.edges["source"].filter(graph.edges["negated"])),
    }


def _tally(column: Any) -> dict[str, int]:
    return dict(sorted((entry["values"], entry["counts"]) for entry in column.cast(TEXT).value_counts().to_pylist()))


def write(graph: Graph, location: str) -> dict[str, Any]:
    """Write a graph into a folder or URI; the same graph gives the same bytes. Returns the manifest.

    Raises:
        DataError: the place is a file.
        SetupError: the place cannot be written.
    """
    storage = Storage.open(location)
    if storage.exists() and not storage.is_directory():
        raise DataError(f"{location} is a file, and a graph is a folder", remedy="name a folder, or one to be made")
    packed = {NODES: _parquet(graph.nodes), EDGES: _parquet(graph.edges)}
    by_kind = graph.report.get("conflicts", {})
    report = {
        **graph.report,
        "kinds": {kind: text for kind, text in KINDS.items() if kind in by_kind},
        "listed": [dataclasses.asdict(conflict) for conflict in graph.conflicts],
    }
    manifest = {
        "schema": SCHEMA_VERSION,
        "content_hash": _hash(packed),
        "counts": counts(graph),
        "sources": [dataclasses.asdict(source) for source in graph.sources],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in packed.items()},
    }
    for name, content in packed.items():
        storage.write(name, content)
    storage.write(REPORT, _json(report))
    storage.write(MANIFEST, _json(manifest))  # last: a folder without a manifest is no graph
    return manifest


def _parquet(table: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=1 << 18, store_schema=True)
    return sink.getvalue()


def _hash(packed: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(packed):
        digest.update(name.encode() + b"\0" + hashlib.sha256(packed[name]).digest())
    return digest.hexdigest()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def read_manifest(location: str) -> dict[str, Any]:
    """The manifest of a graph.

    Raises:
        DataError: there is no graph, or one of another schema.
    """
    storage = Storage.open(location)
    if not storage.exists(MANIFEST):
        raise DataError(f"{location} holds no graph ({MANIFEST} is missing)", remedy="make one: fleming graph build")
    manifest = _parsed(storage.read(MANIFEST), MANIFEST, location)
    lacking = (
        [] if manifest.get("schema") != SCHEMA_VERSION else sorted({"counts", "files", "sources"} - manifest.keys())
    )
    if lacking:
        raise DataError(f"{MANIFEST} in {location} lacks {', '.join(lacking)}", remedy=_AGAIN)
    if manifest.get("schema") != SCHEMA_VERSION:
        raise DataError(
            f"{location} has schema {manifest.get('schema')!r}, this version reads {SCHEMA_VERSION!r}",
            remedy=_AGAIN,
        )
    return manifest


def _parsed(content: bytes, name: str, location: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:  # no JSON, or no UTF-8
        raise DataError(f"{name} in {location} is damaged ({error})", remedy=_AGAIN) from None
    if not isinstance(found, dict):
        raise DataError(f"{name} in {location} holds no mapping", remedy=_AGAIN)
    return found


def read(location: str) -> Graph:
    """Read a graph back, checked against the hashes of its manifest.

    Raises:
        DataError: there is none, or a file was changed, cut or lost after it was written.
    """
    manifest = read_manifest(location)
    storage = Storage.open(location)
    tables: dict[str, Any] = {}
    for name, schema in ((NODES, NODE_SCHEMA), (EDGES, EDGE_SCHEMA)):
        if not storage.exists(name):
            raise DataError(f"{name} is missing in {location}", remedy=_AGAIN)
        content = storage.read(name)
        if hashlib.sha256(content).hexdigest() != manifest["files"].get(name):
            raise DataError(
                f"{name} in {location} is not what the manifest describes",
                remedy="build the graph again, or copy it whole",
            )
        tables[name] = pq.read_table(io.BytesIO(content), read_dictionary=[f.name for f in schema if f.type == CODED])
        tables[name] = tables[name].cast(schema)
    report = _parsed(storage.read(REPORT), REPORT, location) if storage.exists(REPORT) else {"listed": []}
    try:
        listed = tuple(Conflict(**conflict) for conflict in report.pop("listed"))
    except (KeyError, TypeError) as error:
        raise DataError(f"{REPORT} in {location} is damaged ({error})", remedy=_AGAIN) from None
    report.pop("kinds", None)
    sources = tuple(SourceInfo(**source) for source in manifest["sources"])
    return Graph(nodes=tables[NODES], edges=tables[EDGES], sources=sources, conflicts=listed, report=report)


def validate(graph: Graph) -> list[str]:
    """What is wrong with a graph, in words; empty when it is sound."""
    problems: list[str] = []
    ids = graph.nodes["id"].to_pylist()
    if ids != sorted(set(ids)):
        problems.append("nodes are not sorted by identifier, or one is repeated")
    owners = Counter(identifier for group in graph.nodes["ids"].to_pylist() for identifier in group)
    problems += [f"{identifier} belongs to {n} nodes" for identifier, n in owners.most_common(5) if n > 1]
    subjects, objects = end_codes(graph)
    if (subjects < 0).any() or (objects < 0).any():
        problems.append(f"{int(((subjects < 0) | (objects < 0)).sum())} edges lead to no node")
        return problems
    if (subjects == objects).any():
        problems.append(f"{int((subjects == objects).sum())} edges lead from a node to itself")
    types = np.array(graph.nodes["type"].to_pylist(), dtype=object)
    predicates = np.array(graph.edges["predicate"].to_pylist(), dtype=object)
    for name in sorted(set(predicates)):
        relation = RELATIONS.get(name)
        rows = predicates == name
        if relation is None:
            problems.append(f"relation {name!r} is unknown")
        elif not set(types[subjects[rows]]) <= relation.subjects or not set(types[objects[rows]]) <= relation.objects:
            problems.append(f"{name} joins types that it may not join")
    for name in ("source", "source_version", "licence"):
        empty = sum(1 for text in graph.edges[name].unique().to_pylist() if not text)
        if empty:
            problems.append(f"edges without {name}")
    return problems + _undisputed_contradictions(graph, subjects, objects, predicates)


def _undisputed_contradictions(graph: Graph, subjects: Any, objects: Any, predicates: Any) -> list[str]:
    negated, disputed = graph.edges["negated"].to_numpy(), graph.edges["disputed"].to_numpy()
    keys = [
        zip(subjects[m], predicates[m], objects[m], strict=True) for m in (negated & ~disputed, ~negated & ~disputed)
    ]
    both = set(keys[0]) & set(keys[1])
    return [f"{len(both)} facts are stated and denied without being marked disputed"] if both else []
