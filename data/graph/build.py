"""From batches of many sources to one graph: entities merged, edges led to them, checked, sorted, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data.errors import DataError
from data.graph.columns import EdgeColumns, in_order
from data.graph.merge import Claim, Conflict, Merged, merge
from data.graph.obo import refuse_cycles
from data.graph.schema import ENTITY_TYPES, RELATIONS, Edge, Entity, SourceInfo, is_curie
from data.graph.tables import EDGE_SCHEMA, NODE_SCHEMA, Graph

_SAMPLES = 1000
"""At most so many conflicts of a kind are listed one by one; all are counted."""


@dataclass(frozen=True, kw_only=True)
class SourceBatch:
    """What an importer gives: where it is from, and entities and edges in any order, read as they are asked for."""

    info: SourceInfo
    records: Iterable[Entity | Edge]


def build(batches: Iterable[SourceBatch]) -> Graph:
    """Merge sources into one graph. The order of the batches does not matter; names of sources must differ.

    Raises:
        DataError: a source was given twice, says nothing, uses an unknown type or relation, or its is-a edges go in a
            circle.
    """
    columns = EdgeColumns()
    claims: list[Claim] = []
    given: dict[str, dict[str, int]] = {}
    for batch in sorted(batches, key=lambda batch: batch.info.name):
        if batch.info.name in given:
            raise DataError(
                f"source {batch.info.name!r} was given twice", remedy="give each source one name of its own"
            )
        entities_before, edges_before = len(claims), len(columns)
        _collect(batch, claims, columns)
        given[batch.info.name] = {"entities": len(claims) - entities_before, "edges": len(columns) - edges_before}
        if not any(given[batch.info.name].values()):
            raise DataError(f"source {batch.info.name!r} holds no entity and no edge", remedy="check its files")
    merged = merge(claims)
    del claims
    edges, conflicts, counts = _edges(columns, merged)
    listed, by_kind = _counted(merged.conflicts + conflicts)
    report = {
        "given": given,
        "identifiers": sum(len(node.ids) for node in merged.nodes),
        "joins": merged.joins,
        "conflicts": by_kind,
        "edges": counts,
    }
    return Graph(
        nodes=_node_table(merged), edges=edges, sources=tuple(columns.sources), conflicts=listed, report=report
    )


def _collect(batch: SourceBatch, claims: list[Claim], columns: EdgeColumns) -> None:
    columns.begin(batch.info)
    name = batch.info.name
    taxonomy: dict[str, list[tuple[str, str, int]]] = {}
    for record in batch.records:
        if isinstance(record, Edge):
            if record.predicate not in RELATIONS:
                raise DataError(
                    f"{name}, {record.file} line {record.row}: relation {record.predicate!r} is unknown",
                    remedy=f"map it to one of {', '.join(RELATIONS)}",
                )
            if record.predicate == "is_a" and not record.negated:
                taxonomy.setdefault(record.file, []).append((record.subject, record.object, record.row))
            columns.add(record)
        else:
            _check_entity(record, name)
            claims.append((name, record))
    for file, edges in taxonomy.items():
        refuse_cycles(edges, f"{name}, {file}")


def _check_entity(entity: Entity, source: str) -> None:
    if entity.type not in ENTITY_TYPES:
        raise DataError(
            f"{source}: {entity.id} has the unknown type {entity.type!r}",
            remedy=f"map it to one of {', '.join(ENTITY_TYPES)}",
        )
    if not is_curie(entity.id) or not entity.name.strip():
        raise DataError(
            f"{source}: entity {entity.id!r} with name {entity.name!r}", remedy="give it an id PREFIX:LOCAL and a name"
        )


def _counted(conflicts: list[Conflict]) -> tuple[tuple[Conflict, ...], dict[str, int]]:
    counts: Counter[str] = Counter()
    listed: list[Conflict] = []
    for conflict in sorted(set(conflicts)):
        counts[conflict.kind] += 1
        if counts[conflict.kind] <= _SAMPLES:
            listed.append(conflict)
    return tuple(listed), dict(sorted(counts.items()))


# --- edges ------------------------------------------------------------------------------------------------------------


def _edges(columns: EdgeColumns, merged: Merged) -> tuple[Any, list[Conflict], dict[str, int]]:
    said = columns.ends.texts
    node_of_code = np.fromiter((merged.node_of.get(text, -1) for text in said), dtype=np.int32, count=len(said))
    predicates = columns.predicates.texts
    arrays = columns.arrays()
    arrays["subject_said"], arrays["object_said"] = arrays["subject"], arrays["object"]
    arrays["subject"], arrays["object"] = node_of_code[arrays["subject_said"]], node_of_code[arrays["object_said"]]
    vocabulary = {name: interner.texts for name, interner in columns.texts.items()}
    vocabulary |= {"predicate": predicates, "subject_said": said, "object_said": said}
    counts = {"given": len(arrays["negated"])}
    conflicts: list[Conflict] = []
    _keep(arrays, _known_ends(arrays, vocabulary, columns.sources, conflicts), counts, "unknown end")
    _keep(arrays, _typed_ends(arrays, vocabulary, merged, columns.sources, conflicts), counts, "ends of wrong type")
    _keep(arrays, arrays["subject"] != arrays["object"], counts, "ends merged into one")
    _order_ends(arrays, predicates)
    for name in list(vocabulary):
        arrays[name], vocabulary[name] = in_order(arrays[name], vocabulary[name])
    _sort(arrays)
    _keep(arrays, _first_of_its_kind(arrays), counts, "the same row twice")
    arrays["disputed"] = _contradictions(arrays, vocabulary, merged, conflicts)
    arrays["disputed"] |= _circles(arrays, vocabulary, merged, conflicts)
    arrays["disputed"] |= _denied_above_a_fact(arrays, vocabulary, merged, conflicts)
    counts |= {
        "kept": len(arrays["negated"]),
        "negated": int(arrays["negated"].sum()),
        "disputed": int(arrays["disputed"].sum()),
    }
    return _edge_table(arrays, vocabulary, merged, columns.sources), conflicts, counts


def _keep(arrays: dict[str, Any], mask: Any, counts: dict[str, int], why: str) -> None:
    dropped = int(len(mask) - mask.sum())
    counts[f"dropped: {why}"] = dropped
    if dropped:
        for name in arrays:
            arrays[name] = arrays[name][mask]


def _known_ends(
    arrays: dict[str, Any], vocabulary: dict[str, list[str]], sources: list[SourceInfo], conflicts: list[Conflict]
) -> Any:
    known: Any = (arrays["subject"] >= 0) & (arrays["object"] >= 0)
    for i in np.flatnonzero(~known):
        missing, other = ("subject", "object") if arrays["subject"][i] < 0 else ("object", "subject")
        ends = {side: vocabulary[f"{side}_said"][arrays[f"{side}_said"][i]] for side in (missing, other)}
        conflicts.append(
            Conflict(
                kind="unknown end", subject=ends[missing], other=ends[other],
                detail=_place(arrays, vocabulary, i), source=sources[arrays["source"][i]].name,
            )
        )  # fmt: skip
    return known


def _place(arrays: dict[str, Any], vocabulary: dict[str, list[str]], i: int) -> str:
    relation = vocabulary["predicate"][arrays["predicate"][i]]
    return f"{relation}, {vocabulary['file'][arrays['file'][i]]} line {arrays['row'][i]}"


def _typed_ends(
    arrays: dict[str, Any], vocabulary: dict[str, list[str]], merged: Merged, sources: list[SourceInfo],
    conflicts: list[Conflict],
) -> Any:  # fmt: skip
    types = list(ENTITY_TYPES)
    kind = np.array([types.index(node.type) for node in merged.nodes] or [0], dtype=np.int32)
    allowed = np.zeros((len(vocabulary["predicate"]) or 1, len(types), len(types)), dtype=bool)
    for code, name in enumerate(vocabulary["predicate"]):
        relation = RELATIONS[name]
        for a, subject in enumerate(types):
            for b, object_ in enumerate(types):
                allowed[code, a, b] = subject in relation.subjects and object_ in relation.objects
    fits: Any = allowed[arrays["predicate"], kind[arrays["subject"]], kind[arrays["object"]]]
    for i in np.flatnonzero(~fits):
        subject, object_ = merged.nodes[arrays["subject"][i]], merged.nodes[arrays["object"][i]]
        detail = f"{subject.type} {_place(arrays, vocabulary, i)}, {object_.type}"
        conflicts.append(
            Conflict(kind="ends of wrong type", subject=subject.id, other=object_.id, detail=detail,
                     source=sources[arrays["source"][i]].name)
        )  # fmt: skip
    return fits


def _order_ends(arrays: dict[str, Any], predicates: list[str]) -> None:
    """Symmetric relations are stored with the smaller end first."""
    symmetric = np.array([RELATIONS[name].symmetric for name in predicates] or [False])
    swap = symmetric[arrays["predicate"]] & (arrays["subject"] > arrays["object"])
    for a, b in (("subject", "object"), ("subject_said", "object_said")):
        arrays[a], arrays[b] = np.where(swap, arrays[b], arrays[a]), np.where(swap, arrays[a], arrays[b])


_SORT = ("subject", "predicate", "object", "negated", "source", "file", "reference", "frequency_text", "onset",
         "sex", "modifier", "licence", "subject_said", "object_said", "frequency", "row")  # fmt: skip


def _sort(arrays: dict[str, Any]) -> None:
    order = np.lexsort([arrays[name] for name in reversed(_SORT)])
    for name in arrays:
        arrays[name] = arrays[name][order]


def _first_of_its_kind(arrays: dict[str, Any]) -> Any:
    """Rows that differ from the one before in anything but the line; a file may state a fact twice."""
    first = np.ones(len(arrays["negated"]), dtype=bool)
    if len(first) > 1:
        same = np.ones(len(first) - 1, dtype=bool)
        for name in _SORT:
            if name not in ("frequency", "row"):
                same &= arrays[name][1:] == arrays[name][:-1]
        first[1:] = ~same
    return first


def _facts(arrays: dict[str, Any]) -> Any:
    """A number for each fact (subject, predicate, object), the same for all edges that state or deny it."""
    changed = np.zeros(len(arrays["negated"]), dtype=np.int64)
    if len(changed):
        for name in ("subject", "predicate", "object"):
            changed[1:] |= arrays[name][1:] != arrays[name][:-1]
    return np.cumsum(changed)


def _contradictions(
    arrays: dict[str, Any], vocabulary: dict[str, list[str]], merged: Merged, conflicts: list[Conflict]
) -> Any:
    facts = _facts(arrays)
    size = int(facts[-1]) + 1 if len(facts) else 0
    denied = np.bincount(facts, weights=arrays["negated"], minlength=size)
    total = np.bincount(facts, minlength=size)
    both: Any = ((denied > 0) & (denied < total))[facts] if size else np.zeros(0, dtype=bool)
    starts: Any = np.flatnonzero(both & np.r_[True, facts[1:] != facts[:-1]]) if size else []
    for i in starts:
        subject, object_ = merged.nodes[arrays["subject"][i]].id, merged.nodes[arrays["object"][i]].id
        detail = vocabulary["predicate"][arrays["predicate"][i]]
        conflicts.append(Conflict(kind="contradiction", subject=subject, other=object_, detail=detail))
    return both


def _circles(
    arrays: dict[str, Any], vocabulary: dict[str, list[str]], merged: Merged, conflicts: list[Conflict]
) -> Any:
    """Is-a edges between entities that lie above each other once sources are merged."""
    import networkx

    circular = np.zeros(len(arrays["negated"]), dtype=bool)
    if "is_a" not in vocabulary["predicate"]:
        return circular
    rows = np.flatnonzero((arrays["predicate"] == vocabulary["predicate"].index("is_a")) & ~arrays["negated"])
    taxonomy = networkx.DiGraph(zip(arrays["subject"][rows].tolist(), arrays["object"][rows].tolist(), strict=True))
    component: dict[int, int] = {}
    for number, members in enumerate(networkx.strongly_connected_components(taxonomy)):
        if len(members) > 1:
            component.update(dict.fromkeys(members, number))
            ids = sorted(merged.nodes[m].id for m in members)
            conflicts.append(Conflict(kind="circle", subject=ids[0], other=ids[1], detail=" ".join(ids)))
    for row in rows if component else []:
        a, b = int(arrays["subject"][row]), int(arrays["object"][row])
        circular[row] = a in component and component[a] == component.get(b)
    return circular


def _denied_above_a_fact(
    arrays: dict[str, Any], vocabulary: dict[str, list[str]], merged: Merged, conflicts: list[Conflict]
) -> Any:
    """Denials of a term while a fact of the same subject and relation leads to a term below it by is-a.

    "No seizure" and "focal seizure" cannot both hold; the fact is the more precise of the two and stays.
    """
    disputed = np.zeros(len(arrays["negated"]), dtype=bool)
    sound = ~arrays["disputed"]
    denials = np.flatnonzero(arrays["negated"] & sound)
    if not len(denials) or "is_a" not in vocabulary["predicate"]:
        return disputed
    keys = arrays["subject"].astype(np.int64) * len(vocabulary["predicate"]) + arrays["predicate"]
    facts: dict[int, list[int]] = {}
    for i in np.flatnonzero(~arrays["negated"] & sound & np.isin(keys, keys[denials])):
        facts.setdefault(int(keys[i]), []).append(int(arrays["object"][i]))
    is_a = (arrays["predicate"] == vocabulary["predicate"].index("is_a")) & ~arrays["negated"] & sound
    above = _Above(arrays["subject"][is_a], arrays["object"][is_a])
    for i in denials:
        term = int(arrays["object"][i])
        below = [fact for fact in facts.get(int(keys[i]), ()) if term in above.of(fact)]
        if below:
            disputed[i] = True
            subject, object_ = merged.nodes[arrays["subject"][i]].id, merged.nodes[term].id
            detail = f"{vocabulary['predicate'][arrays['predicate'][i]]}, but {merged.nodes[min(below)].id}"
            conflicts.append(Conflict(kind="denied above a fact", subject=subject, other=object_, detail=detail))
    return disputed


class _Above:
    """Everything above a node by is-a; ``subjects`` are sorted."""

    def __init__(self, subjects: Any, objects: Any) -> None:
        self._subjects, self._objects = subjects, objects
        self._known: dict[int, frozenset[int]] = {}

    def of(self, node: int) -> frozenset[int]:
        if node not in self._known:
            found: set[int] = set()
            todo = [node]
            while todo:
                first, last = np.searchsorted(self._subjects, [(here := todo.pop()), here + 1])
                new = set(self._objects[first:last].tolist()) - found
                found |= new
                todo += new
            self._known[node] = frozenset(found - {node})
        return self._known[node]


# --- tables -----------------------------------------------------------------------------------------------------------


def _edge_table(
    arrays: dict[str, Any], vocabulary: dict[str, list[str]], merged: Merged, sources: list[SourceInfo]
) -> Any:
    ids = [node.id for node in merged.nodes]
    vocabulary = vocabulary | {"subject": ids, "object": ids}
    vocabulary |= {"source": [s.name for s in sources], "source_version": [s.version for s in sources]}
    arrays["source_version"] = arrays["source"]
    made = []
    for column in EDGE_SCHEMA:
        values = arrays.pop(column.name) if column.name != "source" else arrays["source"]
        if pa.types.is_dictionary(column.type):
            texts = pa.array(vocabulary[column.name], pa.string())
            made.append(pa.DictionaryArray.from_arrays(pa.array(values, pa.int32()), texts))
        else:
            mask = np.isnan(values) if column.name == "frequency" else None
            made.append(pa.array(values, column.type, mask=mask))
    return pa.Table.from_arrays(made, schema=EDGE_SCHEMA)


def _node_table(merged: Merged) -> Any:
    def column(name: str) -> Iterator[Any]:
        return (getattr(node, name) for node in merged.nodes)

    return pa.Table.from_arrays([pa.array(list(column(f.name)), f.type) for f in NODE_SCHEMA], schema=NODE_SCHEMA)
