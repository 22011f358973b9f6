"""One entity from what several sources say about it: identifiers joined by cross references, conflicts reported.

A cross reference is a claim, and claims contradict each other. Joins are therefore made from the best supported claim
down to the least, and one that would put two identifiers of the same vocabulary into one entity, or two types, is
refused and reported. The order in which sources come does not matter: claims are sorted by support and identifier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from data.graph.names import normal_name as normal_name  # also told from here
from data.graph.schema import SUBTYPE_OF, Entity, preference, prefix_of, rare_by

NOT_AN_IDENTITY = frozenset(
    {
        "ICD10",
        "ICD10CM",
        "ICD11",
        "ICD9",
        "ICD9CM",
        "ICDO",
        "PMID",
        "OMIMPS",
        "GARD",
        "EFO",
        "SNOMEDCT",
        "MEDDRA",
        "KEGG",
    }
)
"""Vocabularies whose codes group entities, or which the graph does not hold: never a ground to merge."""


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class Conflict:
    """Something that sources do not agree on. ``kind`` is one of `KINDS`."""

    kind: str
    subject: str
    other: str
    detail: str
    source: str = ""


KINDS: Mapping[str, str] = {
    "two types": "sources give one identifier two types; the type of the preferred source was taken",
    "cross-type reference": "a cross reference joins entities of two types; not merged",
    "one to many": "merging would join two identifiers of one vocabulary; not merged",
    "one name, two entities": "entities of one type have the same preferred name; not merged",
    "one identifier, two names": "sources call one identifier by names of which no source knows both; all are kept",
    "joined on one unsupported reference": "merged because one source says so; no name or synonym is shared",
    "contradiction": "the same fact is stated and denied; both are kept, marked disputed",
    "denied above a fact": "a term is denied while one below it by is-a is a fact; the denial is marked disputed",
    "circle": "is-a edges of several sources go in a circle once merged; marked disputed",
    "unknown end": "an edge leads to an entity that no source describes; dropped",
    "ends of wrong type": "an edge joins types that its relation does not join; dropped",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """An entity after merging. ``ids`` are all identifiers that sources describe it by, the preferred one first."""

    id: str
    type: str
    name: str
    ids: tuple[str, ...]
    synonyms: tuple[str, ...]
    xrefs: tuple[str, ...]
    definition: str
    tags: tuple[str, ...]
    prevalence: float | None
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Nodes sorted by identifier, the node of every identifier, and what did not agree."""

    nodes: list[Node]
    node_of: dict[str, int]
    conflicts: list[Conflict]
    joins: dict[str, int] = field(default_factory=dict)


Claim = tuple[str, Entity]
"""Source name and what it says."""


def merge(claims: Iterable[Claim]) -> Merged:
    """Merge what sources say about entities; the same claims in any order give the same result."""
    said: dict[str, list[Claim]] = {}
    for source, entity in claims:
        said.setdefault(entity.id, []).append((source, entity))
    conflicts: list[Conflict] = []
    for group in said.values():
        if len(group) > 1:
            group.sort(key=lambda claim: (claim[0], repr(claim[1])))
    owner = _former_ids(said)
    types = {identifier: _type_of(identifier, group, conflicts) for identifier, group in said.items()}
    joiner = _Joiner(types)
    joins: Counter[str] = Counter()
    for how, a, b, alone in _candidates(said, owner, types):
        done = joiner.join(a, b, how)
        joins[done] += 1
        if done and alone:
            detail = f"{said[a][0][1].name}, {said[b][0][1].name}"
            kind = "joined on one unsupported reference"
            conflicts.append(Conflict(kind=kind, subject=a, other=b, detail=detail, source=alone))
    conflicts += joiner.conflicts + _names_apart(said)
    clusters: dict[str, list[str]] = {}
    for identifier in said:
        clusters.setdefault(joiner.root(identifier), []).append(identifier)
    groups = sorted((sorted(members, key=preference) for members in clusters.values()), key=lambda m: m[0])
    nodes = [_node(members, said, types) for members in groups]
    conflicts += _names_shared(nodes)
    node_of = {identifier: index for index, node in enumerate(nodes) for identifier in node.ids}
    for former, current in owner.items():
        node_of.setdefault(former, node_of[current])
    joins.pop("", None)
    return Merged(nodes=nodes, node_of=node_of, conflicts=sorted(set(conflicts)), joins=dict(sorted(joins.items())))


def _former_ids(said: Mapping[str, Sequence[Claim]]) -> dict[str, str]:
    """Former id -> the current one, where the former is not itself described; the smallest of several."""
    owner: dict[str, str] = {}
    for identifier, group in said.items():
        for _, entity in group:
            for former in entity.alt_ids:
                if former not in said:
                    owner[former] = min(identifier, owner.get(former, identifier))
    return owner


def _type_of(identifier: str, group: Sequence[Claim], conflicts: list[Conflict]) -> str:
    """The type that most sources give; the narrower of two kin; else the first in the alphabet of sources."""
    votes = Counter(entity.type for _, entity in group)
    if len(votes) == 1:
        return group[0][1].type
    narrow = [kind for kind in votes if SUBTYPE_OF.get(kind) in votes]
    if len(votes) == 2 and narrow:
        return narrow[0]
    best = max(votes.values())
    chosen = next(entity.type for _, entity in group if votes[entity.type] == best)
    detail = ", ".join(f"{source}: {entity.type}" for source, entity in group)
    conflicts.append(Conflict(kind="two types", subject=identifier, other=chosen, detail=detail))
    return chosen


def _names_apart(said: Mapping[str, Sequence[Claim]]) -> list[Conflict]:
    """Identifiers to which two sources give names, and no synonym leads from one to the other."""
    conflicts: list[Conflict] = []
    for identifier, group in said.items():
        called = {normal_name(entity.name): (source, entity.name) for source, entity in reversed(group)}
        if len(called) < 2:
            continue
        sets = [{normal_name(text) for text in (entity.name, *entity.synonyms)} for _, entity in group]
        first, *others = sorted(called)
        for other in others:
            if not any({first, other} <= names for names in sets) and called[first][0] != called[other][0]:
                detail = " and ".join(f"{source}: {name}" for source, name in (called[first], called[other]))
                conflicts.append(
                    Conflict(kind="one identifier, two names", subject=identifier, other=identifier, detail=detail)
                )
    return conflicts


def _names_shared(nodes: Sequence[Node]) -> list[Conflict]:
    """Entities of one type, or of a type and its narrower one, that are called the same."""
    holders: dict[tuple[str, str], list[Node]] = {}
    for node in nodes:
        if name := normal_name(node.name):
            holders.setdefault((SUBTYPE_OF.get(node.type, node.type), name), []).append(node)
    return [
        Conflict(kind="one name, two entities", subject=first.id, other=other.id, detail=f"{first.type} {first.name}")
        for first, *others in holders.values()
        for other in others
    ]


def _candidates(
    said: Mapping[str, Sequence[Claim]], owner: Mapping[str, str], types: Mapping[str, str]
) -> list[tuple[str, str, str, str]]:
    """Pairs that may be one entity, best supported first: how, first id, second id, the only source if no name fits."""
    support: dict[tuple[str, str], set[str]] = {}
    names = {identifier: {normal_name(e.name) for _, e in group} for identifier, group in said.items()}
    all_names = {
        identifier: names[identifier] | {normal_name(s) for _, e in group for s in e.synonyms}
        for identifier, group in said.items()
    }
    for identifier, group in said.items():
        for source, entity in group:
            for xref in entity.xrefs:
                target = xref if xref in said else owner.get(xref, "")
                if target and target != identifier and prefix_of(target) not in NOT_AN_IDENTITY:
                    pair = (identifier, target) if identifier < target else (target, identifier)
                    support.setdefault(pair, set()).update({source, f"{identifier}>"})
    ranked = [
        (not names[a] & names[b], not all_names[a] & all_names[b], -len(claimed), preference(a), preference(b), a, b)
        for (a, b), claimed in support.items()
    ]
    by_reference = [
        (
            "cross reference",
            a,
            b,
            min(s for s in support[(a, b)] if ">" not in s) if strange and supporters == -2 else "",
        )
        for _, strange, supporters, _, _, a, b in sorted(ranked)
    ]
    return by_reference + [(*pair, "") for pair in _same_names(names, types)]


def _same_names(names: Mapping[str, set[str]], types: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Pairs of one type and one preferred name from two vocabularies, when each holds the name once."""
    holders: dict[tuple[str, str], dict[str, list[str]]] = {}
    for identifier, called in names.items():
        family = SUBTYPE_OF.get(types[identifier], types[identifier])
        for name in called:
            if len(name) > 3 or (len(name) > 1 and not name.isascii()):  # 糖尿病 is long enough
                by_prefix = holders.setdefault((family, name), {})
                by_prefix.setdefault(prefix_of(identifier), []).append(identifier)
    pairs: set[tuple[str, str, str]] = set()
    for by_prefix in holders.values():
        alone = sorted((ids[0] for ids in by_prefix.values() if len(ids) == 1), key=preference)
        pairs.update(("same name", alone[0], other) for other in alone[1:])
    return sorted(pairs, key=lambda pair: (preference(pair[1]), preference(pair[2])))


class _Joiner:
    """Union-find that refuses a join of two types, or of two identifiers of one vocabulary."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._parent: dict[str, str] = {}
        self._prefixes: dict[str, dict[str, str]] = {}
        self._type: dict[str, str] = {}
        self._given = types
        self.conflicts: list[Conflict] = []

    def root(self, identifier: str) -> str:
        parent = self._parent
        root = identifier
        while root in parent:
            root = parent[root]
        while identifier != root:
            parent[identifier], identifier = root, parent[identifier]
        return root

    def join(self, a: str, b: str, how: str) -> str:
        """Join two identifiers; returns ``how`` when it was done, "" when they were one already or may not be."""
        first, second = sorted((self.root(a), self.root(b)), key=preference)
        if first == second:
            return ""
        kinds = (self._type.get(first, self._given[first]), self._type.get(second, self._given[second]))
        if kinds[0] != kinds[1] and SUBTYPE_OF.get(kinds[0]) != kinds[1] and SUBTYPE_OF.get(kinds[1]) != kinds[0]:
            detail = f"{kinds[0]} and {kinds[1]}"
            self.conflicts.append(Conflict(kind="cross-type reference", subject=a, other=b, detail=detail))
            return ""
        mine = self._prefixes.setdefault(first, {prefix_of(first): first})
        others = self._prefixes.get(second, {prefix_of(second): second})
        clash = sorted(set(mine) & set(others))
        if clash:
            detail = f"{how}: {mine[clash[0]]} and {others[clash[0]]} would become one"
            self.conflicts.append(Conflict(kind="one to many", subject=a, other=b, detail=detail))
            return ""
        self._parent[second] = first
        mine.update(others)
        self._prefixes.pop(second, None)
        self._type[first] = kinds[0] if kinds[0] in SUBTYPE_OF else kinds[1]
        return how


def _node(members: Sequence[str], said: Mapping[str, Sequence[Claim]], types: Mapping[str, str]) -> Node:
    claims = [claim for member in members for claim in said[member]]
    kinds = {types[member] for member in members}
    narrow = sorted(kind for kind in kinds if SUBTYPE_OF.get(kind) in kinds)
    names: dict[str, str] = {}
    for text in (name for _, e in claims for name in (e.name, *e.synonyms)):
        if text.strip():
            names.setdefault(text.strip().casefold(), text.strip())
    ordered = list(names.values())
    others = {x for _, e in claims for x in (*e.xrefs, *e.alt_ids)} - set(members)
    tags = {tag for _, e in claims for tag in e.tags}
    prevalences = [e.prevalence for _, e in claims if e.prevalence is not None]
    return Node(
        id=members[0],
        type=narrow[0] if narrow else types[members[0]],
        name=ordered[0] if ordered else members[0],
        ids=tuple(members),
        synonyms=tuple(ordered[1:]),
        xrefs=tuple(sorted(others)),
        definition=next((e.definition for _, e in claims if e.definition), ""),
        tags=tuple(sorted(tags | {"rare"} if rare_by(tags) else tags)),
        prevalence=max(prevalences, default=None),
        sources=tuple(sorted({source for source, _ in claims})),
    )
