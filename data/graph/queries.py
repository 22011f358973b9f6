"""Questions to a graph: who is this, what is known about it, what is denied, how connected and how rare is it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from data.errors import DataError
from data.graph.merge import Node
from data.graph.names import normal_name
from data.graph.schema import RELATIONS, curie, rare_by
from data.graph.store import end_codes, read
from data.graph.tables import CODED, Graph

RARE_BELOW = 1 / 2000
"""A disease of fewer people than this is rare (European Union, Regulation 141/2000)."""
_FALSE_NUMBER = -1


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One edge, with its evidence. Where it stands: ``source``, ``file``, ``row``; see `data.graph.schema.Edge`."""

    subject: str
    predicate: str
    object: str
    negated: bool
    disputed: bool
    frequency: float | None
    frequency_text: str
    onset: str
    sex: str
    modifier: str
    file: str
    row: int
    reference: str
    source: str
    source_version: str
    licence: str
    subject_said: str
    object_said: str


@dataclass(frozen=True, kw_only=True, order=True)
class Step:
    """A fact read from one of its ends. ``relation`` is the relation's name, or its inverse when read backwards."""

    relation: str
    target: str
    edge: int


@dataclass(frozen=True, kw_only=True)
class Rarity:
    """How rare an entity is: ``score`` from 0 (common) to 1 (rare), and what that rests on, most trusted first."""

    score: float
    basis: Literal["flag", "prevalence", "degree"]
    detail: str


@dataclass(frozen=True, kw_only=True)
class Links:
    """Neighbours of all nodes: those of node n are ``targets[first[n]:first[n + 1]]``; ``edges`` lead there."""

    first: Any
    targets: Any
    edges: Any

    def around(self, frontier: Any) -> tuple[Any, Any, Any]:
        """Where from, where to and by which edge, for every link at the nodes of ``frontier``, [links] each."""
        counts = self.first[frontier + 1] - self.first[frontier]
        shift = np.repeat(self.first[frontier] - np.r_[0, np.cumsum(counts)[:-1]], counts)
        places = np.arange(int(counts.sum())) + shift
        return np.repeat(frontier, counts), self.targets[places], self.edges[places]


class KnowledgeGraph:
    """A graph in memory, ready to be asked.

    Facts are edges that are neither negated nor disputed; every query speaks of facts unless it says otherwise. Numbers
    of nodes and edges are rows of the tables.
    """

    def __init__(self, graph: Graph) -> None:
        self.tables = graph
        table = graph.edges.unify_dictionaries().combine_chunks()
        self._columns: dict[str, tuple[Any, list[str] | None]] = {}
        for column in table.schema:
            whole = table[column.name].combine_chunks()
            whole = whole.chunk(0) if hasattr(whole, "num_chunks") and whole.num_chunks else whole
            if column.type == CODED and table.num_rows:
                codes = whole.indices.to_numpy(zero_copy_only=False)
                self._columns[column.name] = (codes, whole.dictionary.to_pylist())
            else:
                self._columns[column.name] = (whole.to_numpy(zero_copy_only=False), None)
        self.ids: list[str] = graph.nodes["id"].to_pylist()
        self.types: list[str] = graph.nodes["type"].to_pylist()
        self.names: list[str] = graph.nodes["name"].to_pylist()
        self._subjects, self._objects = end_codes(graph)
        self._facts = ~(self._columns["negated"][0].astype(bool) | self._columns["disputed"][0].astype(bool))
        size = len(self.ids)
        self._out = np.searchsorted(self._subjects, np.arange(size + 1))
        self._by_object = np.argsort(self._objects, kind="stable")
        self._in = np.searchsorted(self._objects[self._by_object], np.arange(size + 1))

    @classmethod
    def load(cls, location: str) -> KnowledgeGraph:
        """Load a stored graph; see `data.graph.store.read` for what may go wrong."""
        return cls(read(location))

    def __len__(self) -> int:
        return len(self.ids)

    # --- who is this --------------------------------------------------------------------------------------------------

    @cached_property
    def _number_of(self) -> dict[str, int]:
        numbers: dict[str, int] = {}
        for number, xrefs in enumerate(self.tables.nodes["xrefs"].to_pylist()):
            for identifier in xrefs:
                # A code that several entities refer to names none of them.
                numbers[identifier] = _FALSE_NUMBER if identifier in numbers else number
        for number, ids in enumerate(self.tables.nodes["ids"].to_pylist()):
            numbers.update(dict.fromkeys(ids, number))
        return numbers

    @cached_property
    def _numbers_of_name(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for position, names in enumerate(zip(self.names, self.tables.nodes["synonyms"].to_pylist(), strict=True)):
            for name in dict.fromkeys(normal_name(text) for text in (names[0], *names[1])):
                found.setdefault(name, []).append(position)
        return found

    def find(self, text: str) -> int:
        """The number of the entity with this identifier (in any source's spelling), name or synonym.

        A preferred name goes before a synonym. Raises:
            DataError: nothing, or several entities equally well, are called so.
        """
        if ":" in text and " " not in text:
            number = self._number_of.get(text, self._number_of.get(curie(text), _FALSE_NUMBER))
            if number != _FALSE_NUMBER:
                return number
        wanted = normal_name(text)
        found = self._numbers_of_name.get(wanted, []) if wanted else []
        exact = [number for number in found if normal_name(self.names[number]) == wanted]
        best = exact or found
        if len(best) == 1:
            return best[0]
        if not best:
            raise DataError(f"the graph holds nothing called {text!r}", remedy="try an identifier such as HP:0001166")
        listed = ", ".join(f"{self.ids[n]} ({self.types[n]})" for n in best[:6])
        raise DataError(f"{text!r} may be {listed}", remedy="use one of these identifiers")

    def node(self, number: int) -> Node:
        row = self.tables.nodes.slice(number, 1).to_pylist()[0]
        lists = {name: tuple(row[name]) for name in ("ids", "synonyms", "xrefs", "tags", "sources")}
        return Node(**{**row, **lists})

    # --- what is known ------------------------------------------------------------------------------------------------

    def edges_of(self, number: int) -> Any:
        """Rows of all edges at a node, facts or not, as subject or as object, [edges]."""
        ends = self._by_object[self._in[number] : self._in[number + 1]]
        return np.r_[np.arange(self._out[number], self._out[number + 1]), ends]

    def statement(self, edge: int) -> Statement:
        """An edge with its evidence."""
        values: dict[str, Any] = {}
        for name, (column, texts) in self._columns.items():
            value = column[edge]
            values[name] = texts[value] if texts is not None else value.item() if hasattr(value, "item") else value
        frequency = values["frequency"]
        values["frequency"] = None if frequency is None or math.isnan(frequency) else float(frequency)
        return Statement(**values)

    def predicate(self, edge: int) -> str:
        codes, texts = self._columns["predicate"]
        return str(texts[codes[edge]]) if texts is not None else str(codes[edge])

    def steps(
        self, number: int, relations: Collection[str] | None = None, *, taxonomic: bool = False
    ) -> Iterator[Step]:
        """Facts at a node, each as it reads from there, in a stable order.

        Args:
            relations: only these, by name or inverse ("treats", "treated_by"); None for all.
            taxonomic: with is-a and its like.
        """
        for edge in self.edges_of(number):
            if not self._facts[edge]:
                continue
            relation = RELATIONS[self.predicate(edge)]
            if (
                relation.taxonomic
                and not taxonomic
                and not (relations and {relation.name, relation.inverse} & {*relations})
            ):
                continue
            forwards = self._subjects[edge] == number
            word = relation.name if forwards else relation.inverse
            if relations is None or word in relations:
                target = int(self._objects[edge] if forwards else self._subjects[edge])
                yield Step(relation=word, target=self.ids[target], edge=int(edge))

    def links(self, *, taxonomic: bool = False) -> Links:
        """Every fact from both of its ends, as arrays for searches over the whole graph."""
        return self._all_links if taxonomic else self._telling_links

    @cached_property
    def _all_links(self) -> Links:
        return _links(self._subjects, self._objects, np.flatnonzero(self._facts), len(self.ids))

    @cached_property
    def _telling_links(self) -> Links:
        return _links(self._subjects, self._objects, np.flatnonzero(self._facts & self._telling), len(self.ids))

    @cached_property
    def _telling(self) -> Any:
        codes, texts = self._columns["predicate"]
        telling = np.array([not RELATIONS[name].taxonomic for name in texts or ()], dtype=bool)
        return telling[codes] if len(codes) else np.zeros(0, dtype=bool)

    def step(self, edge: int, start: int) -> Step:
        """An edge as it reads from one of its ends."""
        relation = RELATIONS[self.predicate(edge)]
        forwards = self._subjects[edge] == start
        target = int(self._objects[edge] if forwards else self._subjects[edge])
        return Step(relation=relation.name if forwards else relation.inverse, target=self.ids[target], edge=edge)

    def facts(self, number: int, relation: str) -> list[int]:
        """Numbers of the entities that a relation (by name or inverse) leads to, sorted, each once."""
        return sorted({self._position(step.target) for step in self.steps(number, (relation,))})

    def denials(self, number: int, relation: str) -> list[int]:
        """Entities that sources say the relation does *not* lead to, without those that are disputed.

        What is denied of a term is denied of what lies below it; that is left to the caller (`ancestors`).
        """
        negated, disputed = self._columns["negated"][0], self._columns["disputed"][0]
        found = set()
        for edge in self.edges_of(number):
            kind = RELATIONS[self.predicate(edge)]
            forwards = self._subjects[edge] == number
            if negated[edge] and not disputed[edge] and relation == (kind.name if forwards else kind.inverse):
                found.add(int(self._objects[edge] if forwards else self._subjects[edge]))
        return sorted(found)

    def ancestors(self, number: int) -> set[int]:
        """All entities above a node by is-a, itself left out."""
        found: set[int] = set()
        todo = [number]
        while todo:
            above = {self._position(step.target) for step in self.steps(todo.pop(), ("is_a",))} - found - {number}
            found |= above
            todo += above
        return found

    def neighbourhood(
        self, number: int, hops: int = 1, relations: Collection[str] | None = None, *, most: int = 100_000
    ) -> dict[int, int]:
        """Entities within some hops of a node, with their distance; the node itself at 0.

        Raises:
            DataError: more than ``most`` entities would be met.
        """
        distance = {number: 0}
        frontier = [number]
        for hop in range(1, hops + 1):
            reached = {self._position(step.target) for n in frontier for step in self.steps(n, relations)}
            frontier = sorted(reached - distance.keys())
            distance.update(dict.fromkeys(frontier, hop))
            if len(distance) > most:
                raise DataError(
                    f"{len(distance)} entities lie within {hop} hops of {self.ids[number]}",
                    remedy="ask for fewer hops or for certain relations",
                )
        return distance

    def _position(self, identifier: str) -> int:
        return self._number_of[identifier]

    # --- how connected, how rare --------------------------------------------------------------------------------------

    @cached_property
    def degrees(self) -> Any:
        """Number of different facts at every node, taxonomic ones left out, [nodes]."""
        codes = self._columns["predicate"][0]
        kept = self._facts & self._telling
        size = len(self.ids)
        s, o = self._subjects[kept].astype(np.int64), self._objects[kept].astype(np.int64)
        facts = (
            np.unique(np.stack([s, o, codes[kept].astype(np.int64)], axis=1), axis=0) if len(s) else np.zeros((0, 3))
        )
        ends = [facts[:, side].astype(np.int64) for side in (0, 1)]
        return np.bincount(ends[0], minlength=size) + np.bincount(ends[1], minlength=size)

    @cached_property
    def _degrees_of_type(self) -> dict[str, Any]:
        types = np.array(self.types, dtype=object)
        return {name: np.sort(self.degrees[types == name]) for name in sorted(set(self.types))}

    def rarity(self, number: int) -> Rarity:
        """How rare an entity is: by a rare-disease flag, else by prevalence, else by how few facts it has for its type.

        Prevalence is scored on a logarithmic scale from 1 in 10 (0) to 1 in 10 million (1). Flags: see
        `data.graph.schema.rare_by`. By facts, the score is the share of its type that has at least as many, so an
        entity without any scores 1.
        """
        node = self.node(number)
        if flagged := rare_by(tag for tag in node.tags if tag != "rare") or rare_by(node.tags):
            return Rarity(score=1.0, basis="flag", detail=f"flagged as rare by {', '.join(flagged)}")
        if node.prevalence is not None and node.prevalence > 0:
            score = min(1.0, max(0.0, (-math.log10(node.prevalence) - 1) / 6))
            kind = "rare" if node.prevalence < RARE_BELOW else "not rare"
            return Rarity(score=score, basis="prevalence", detail=f"1 in {round(1 / node.prevalence):,} people, {kind}")
        degree = int(self.degrees[number])
        among = self._degrees_of_type[node.type]
        score = 1.0 - float(np.searchsorted(among, degree, side="left")) / len(among)
        return Rarity(score=score, basis="degree", detail=f"{degree} facts")


def _links(subjects: Any, objects: Any, edges: Any, size: int) -> Links:
    here = np.r_[subjects[edges], objects[edges]]
    order = np.argsort(here, kind="stable")
    first = np.searchsorted(here[order], np.arange(size + 1))
    return Links(first=first, targets=np.r_[objects[edges], subjects[edges]][order], edges=np.r_[edges, edges][order])


def relation_names(words: Sequence[str]) -> list[str]:
    """Check names or inverse names of relations.

    Raises:
        DataError: one of them is unknown.
    """
    known = {name for relation in RELATIONS.values() for name in (relation.name, relation.inverse)}
    unknown = [word for word in words if word not in known]
    if unknown:
        raise DataError(f"relations {unknown} are unknown", remedy=f"use some of {', '.join(sorted(known))}")
    return list(words)
