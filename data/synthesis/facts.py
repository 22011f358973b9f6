"""The facts of a graph by relation, in both directions, with kinship and rarity of diseases."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from data.graph.merge import normal_name
from data.graph.queries import RARE_BELOW, KnowledgeGraph
from data.graph.schema import rare_by
from data.graph.store import end_codes
from data.sources.hpo_files import family_of
from data.synthesis.words import clashes, plain, turned

Band = Literal["rare", "common", "unrated"]
FINDING_TYPES = ("phenotype", "imaging_finding")
_GENERAL = ("abnormal", "functional", "constitutional", "neoplasm", "morphological", "all", "phenotypic", "clinical")
_VAGUE = "MESH:"
"""Symptoms that MeSH alone knows are headings ("Neurologic Manifestations"), not findings."""
_MENDELIAN = ("OMIM:", "ORPHA:", "DECIPHER:")
_COMMON_SOURCES = ("hetionet", "indications")
_LOOSE_SOURCES = ("hetionet", "primekg")
"""Their genes of a disease are risk loci too, their symptoms co-mentions: true, but neither cause nor picture."""
_INFERRED_SOURCE = "disease_ontology"
"""Its facets are inferred, and the importer loses some: what it does not say of a disease is no sign of absence."""
_MOST_REMEMBERED = 400_000

Pairs = dict[int, dict[int, float]]
"""Subject -> object -> share of patients, NaN when not given."""


@dataclass
class Facts:
    """Facts by relation, in both directions. Built once, then only read."""

    graph: KnowledgeGraph
    facts: dict[str, Pairs] = field(default_factory=lambda: defaultdict(lambda: defaultdict(dict)))
    denials: dict[str, dict[int, set[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    disputed: dict[str, dict[int, set[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    lay: dict[str, list[str]] = field(default_factory=dict)
    """Identifier of a finding -> names that patients use."""
    chains: dict[tuple[str, int], dict[int, list[tuple[int, ...]]]] = field(default_factory=dict)
    """Memory of `data.synthesis.forms.chains`."""
    _codes: dict[str, int] = field(default_factory=dict)
    _key: Any = None
    _order: Any = None

    @classmethod
    def of(cls, graph: KnowledgeGraph) -> Self:
        """Index a graph; some seconds for half a million statements."""
        world = cls(graph=graph)
        subjects, objects = end_codes(graph.tables)
        edges = graph.tables.edges
        predicates = edges["predicate"].to_pylist()
        negated, disputed = edges["negated"].to_numpy(), edges["disputed"].to_numpy()
        shares = edges["frequency"].to_numpy(zero_copy_only=False)
        rows = zip(subjects.tolist(), predicates, objects.tolist(), negated, disputed, shares.tolist(), strict=True)
        for subject, predicate, object_, denied, doubted, share in rows:
            if doubted:
                world.disputed[predicate][subject].add(object_)
            elif denied:
                world.denials[predicate][subject].add(object_)
            else:
                known = world.facts[predicate][subject]
                old = known.get(object_, float("nan"))
                known[object_] = share if not old >= share else old
        world.index_edges(subjects, predicates, objects)
        world.facts = {relation: dict(pairs) for relation, pairs in world.facts.items()}
        world.denials = {relation: dict(pairs) for relation, pairs in world.denials.items()}
        world.disputed = {relation: dict(pairs) for relation, pairs in world.disputed.items()}
        return world

    def index_edges(self, subjects: Any, predicates: list[str], objects: Any) -> None:
        """Make every edge findable by its ends and relation."""
        names = sorted(set(predicates))
        lookup = {name: code for code, name in enumerate(names)}
        kind = np.fromiter((lookup[name] for name in predicates), dtype=np.int64, count=len(predicates))
        size = len(self.graph)
        self._codes = lookup
        self._key = (subjects.astype(np.int64) * (len(names) or 1) + kind) * size + objects
        self._order = np.argsort(self._key, kind="stable")
        self._key = self._key[self._order]

    def rows_of(self, edge: tuple[int, str, int]) -> list[int]:
        """Rows of the edge table that state, or deny, an edge."""
        subject, predicate, object_ = edge
        if predicate not in self._codes:
            return []
        key = (subject * len(self._codes) + self._codes[predicate]) * len(self.graph) + object_
        first, last = np.searchsorted(self._key, [key, key + 1])
        return [int(row) for row in self._order[first:last]]

    # --- vocabulary ---------------------------------------------------------------------------------------------------

    def of_relation(self, relation: str) -> Pairs:
        return self.facts.get(relation, {})

    @cached_property
    def _inverse(self) -> dict[str, Pairs]:
        return {}

    def inverse(self, relation: str) -> Pairs:
        """Object -> subject -> share of a relation."""
        if relation not in self._inverse:
            turned: Pairs = defaultdict(dict)
            for subject, objects in self.of_relation(relation).items():
                for object_, share in objects.items():
                    turned[object_][subject] = share
            self._inverse[relation] = dict(turned)
        return self._inverse[relation]

    @cached_property
    def _above(self) -> dict[int, frozenset[int]]:
        return {}

    def above(self, node: int) -> frozenset[int]:
        """Everything above a node by is-a, itself left out."""
        if node not in self._above:
            found: set[int] = set()
            todo = [node]
            while todo:
                new = self.of_relation("is_a").get(todo.pop(), {}).keys() - found - {node}
                found |= new
                todo += new
            self._above[node] = frozenset(found)
        return self._above[node]

    def parents(self, node: int) -> set[int]:
        return set(self.of_relation("is_a").get(node, {}))

    @cached_property
    def namesakes(self) -> dict[int, frozenset[int]]:
        """Finding -> other findings with a name or synonym in common: one thing in two vocabularies, left unmerged.

        MeSH turns names round ("Hearing Loss, High-Frequency"), so those are also read the other way.
        """
        holders: dict[str, list[int]] = defaultdict(list)
        for n, kind in enumerate(self.graph.types):
            if kind in FINDING_TYPES:
                texts = self.all_names(n)
                for name in {normal_name(text) for text in (*texts, *map(turned, texts))} - {""}:
                    holders[name].append(n)
        found: dict[int, set[int]] = defaultdict(set)
        for group in holders.values():
            for n in group if len(group) > 1 else ():
                found[n].update(other for other in group if other != n)
        return {n: frozenset(others) for n, others in found.items()}

    @cached_property
    def _implied(self) -> dict[int, frozenset[int]]:
        return {}

    def implied(self, term: int) -> frozenset[int]:
        """What a finding says under all names: itself, its namesakes, what lies above any of them, and so on."""
        if term not in self._implied:
            found = {term}
            todo = [term]
            while todo:
                node = todo.pop()
                new = (self.parents(node) | self.namesakes.get(node, frozenset())) - found
                found |= new
                todo += new
            self._implied[term] = frozenset(found)
        return self._implied[term]

    def related(self, first: int, second: int) -> bool:
        """True when one is the other or lies above it."""
        return first == second or first in self.above(second) or second in self.above(first)

    @cached_property
    def synonyms(self) -> list[list[str]]:
        return [list(names) for names in self.graph.tables.nodes["synonyms"].to_pylist()]

    @cached_property
    def askable(self) -> frozenset[int]:
        """Findings that are specific and short enough to be read in a vignette or an option."""
        names, types = self.graph.names, self.graph.types
        used = set().union(*(terms for terms in self.of_relation("has_phenotype").values()))
        return frozenset(
            n for n in used
            if types[n] in FINDING_TYPES and not self.graph.ids[n].startswith(_VAGUE)
            and len(names[n]) <= 60 and not names[n].lower().startswith(_GENERAL)
        )  # fmt: skip

    # --- diseases -----------------------------------------------------------------------------------------------------

    @cached_property
    def diseases(self) -> tuple[int, ...]:
        """Diseases with a readable name about which there is a fact to ask for."""
        named = (n for n, kind in enumerate(self.graph.types) if kind == "disease")
        return tuple(n for n in named if n in self._told and 3 <= len(self.graph.names[n]) <= 90)

    @cached_property
    def _told(self) -> set[int]:
        told: set[int] = set()
        for relation in ("has_phenotype", "associated_with_gene", "has_inheritance", "measured_by"):
            told |= self.of_relation(relation).keys()
        for relation in ("treats", "contraindicated_in"):
            told |= self.inverse(relation).keys()
        return told

    @cached_property
    def _by_source(self) -> dict[str, dict[str, set[tuple[int, int]]]]:
        """Relation -> source -> pairs it states, for the relations where the kind of source matters."""
        edges = self.graph.tables.edges
        subjects, objects = end_codes(self.graph.tables)
        columns = (edges[name].to_pylist() for name in ("predicate", "source", "negated"))
        found: dict[str, dict[str, set[tuple[int, int]]]] = defaultdict(lambda: defaultdict(set))
        for subject, object_, relation, source, denied in zip(
            subjects.tolist(), objects.tolist(), *columns, strict=True
        ):
            if relation in ("associated_with_gene", "has_phenotype") and not denied:
                found[relation][source].add((subject, object_))
        return found

    @cached_property
    def _firm(self) -> dict[str, set[tuple[int, int]]]:
        sources = self._by_source
        return {
            relation: set().union(*(pairs for name, pairs in said.items() if name not in _LOOSE_SOURCES))
            for relation, said in sources.items()
        }

    def firm(self, relation: str, disease: int, object_: int) -> bool:
        """True when a source of causes, or of clinical pictures, says so: more than an association or a co-mention."""
        return (disease, object_) in self._firm.get(relation, set())

    @cached_property
    def inferred_terms(self) -> frozenset[int]:
        """The findings that inferred facets speak of, under all their names."""
        terms = {term for _, term in self._by_source["has_phenotype"][_INFERRED_SOURCE]}
        return frozenset(terms.union(*(self.namesakes.get(term, frozenset()) for term in terms)))

    @cached_property
    def inferred_diseases(self) -> frozenset[int]:
        """The diseases that have inferred facets."""
        return frozenset(disease for disease, _ in self._by_source["has_phenotype"][_INFERRED_SOURCE])

    @cached_property
    def inferred_only(self) -> frozenset[int]:
        """The diseases whose findings are inferred facets and nothing else."""
        said = self._by_source["has_phenotype"]
        stated = {disease for name, pairs in said.items() if name != _INFERRED_SOURCE for disease, _ in pairs}
        return self.inferred_diseases - stated

    def findings(self, disease: int) -> dict[int, float]:
        return self.of_relation("has_phenotype").get(disease, {})

    def share(self, disease: int, term: int) -> float:
        """Share of patients with a finding; 0.5 when no source gives one."""
        share = self.findings(disease).get(term, float("nan"))
        return share if share == share else 0.5

    @cached_property
    def _families(self) -> tuple[dict[int, str], dict[str, list[int]]]:
        of: dict[int, str] = {}
        members: dict[str, list[int]] = defaultdict(list)
        for disease, kind in enumerate(self.graph.types):
            if kind == "disease":
                of[disease] = family_of(self.graph.names[disease])
                members[of[disease]].append(disease)
        return of, members

    def family(self, disease: int) -> str:
        """The base name of a disease; what shares it is never told apart, and lies in one split."""
        return self._families[0][disease]

    @cached_property
    def _referred(self) -> dict[int, set[int]]:
        """Diseases joined by a refused cross reference, by the name of one, or by an entry in between: perhaps one.

        The entry in between refers to both, or both refer to it; it need not be in the graph.
        """
        nodes = self.graph.tables.nodes
        owner = {i: n for n, ids in enumerate(nodes["ids"].to_pylist()) for i in ids}
        found: dict[int, set[int]] = defaultdict(set)
        first: dict[str, int] = {}
        for n, xrefs in enumerate(nodes["xrefs"].to_pylist()):
            if self.graph.types[n] != "disease":
                continue
            for xref in xrefs:
                other = owner.get(xref, first.setdefault(xref, n) if xref.startswith(_MENDELIAN) else n)
                if other != n and self.graph.types[other] == "disease":
                    found[n].add(other)
                    found[other].add(n)
        for n, others in self._called_alike().items():
            for other in others:
                found[n].add(other)
                found[other].add(n)
        return {n: others.union(*(found[other] for other in others)) for n, others in list(found.items())}

    def _called_alike(self) -> dict[int, set[int]]:
        """Disease -> other diseases with its preferred name among their names."""
        holders: dict[str, set[int]] = defaultdict(set)
        diseases = [n for n, kind in enumerate(self.graph.types) if kind == "disease"]
        for n in diseases:
            for text in self.all_names(n):
                holders[normal_name(text)].add(n)
        return {n: holders[normal_name(self.graph.names[n])] - {n} for n in diseases}

    def referred(self, disease: int) -> set[int]:
        """What may be the disease under another identifier; see `_referred`."""
        return self._referred.get(disease, set())

    @cached_property
    def _kin(self) -> dict[int, frozenset[int]]:
        return {}

    def kin(self, disease: int) -> frozenset[int]:
        """The disease, its family, what lies above and below it by is-a, and what a refused reference joins to it."""
        if disease not in self._kin:
            kin = {disease, *self._families[1][self.family(disease)]} | self.above(disease)
            kin |= self.referred(disease)
            todo = [disease]
            while todo:
                new = self.inverse("is_a").get(todo.pop(), {}).keys() - kin
                kin |= new
                todo += new
            self._kin[disease] = frozenset(kin)
        return self._kin[disease]

    @cached_property
    def _confusable(self) -> dict[tuple[int, int], bool]:
        return {}

    def confusable(self, first: int, second: int) -> bool:
        """True when two entries may speak of one disease; see `_may_be_one`."""
        key = (first, second)
        if key not in self._confusable:
            bound(self._confusable)
            self._confusable[key] = self._may_be_one(first, second)
        return self._confusable[key]

    def _may_be_one(self, first: int, second: int) -> bool:
        """True when two entries may speak of one disease: kin, a gene in common, or names that say nearly the same."""
        if second in self.kin(first) or first in self.kin(second):
            return True
        genes = self.of_relation("associated_with_gene")
        if genes.get(first, {}).keys() & genes.get(second, {}).keys():
            return True
        return clashes(self.all_names(first), self.all_names(second))

    def all_names(self, node: int) -> list[str]:
        return [self.graph.names[node], *self.synonyms[node]]

    # --- rarity -------------------------------------------------------------------------------------------------------

    @cached_property
    def _rarity(self) -> dict[int, tuple[float, Band]]:
        nodes = self.graph.tables.nodes
        columns = (nodes[name].to_pylist() for name in ("type", "tags", "prevalence", "ids", "sources"))
        found: dict[int, tuple[float, Band]] = {}
        for number, (kind, tags, prevalence, ids, sources) in enumerate(zip(*columns, strict=True)):
            if kind != "disease":
                continue
            if rare_by(tags):
                found[number] = (1.0, "rare")
            elif prevalence:
                score = float(min(1.0, max(0.0, (-np.log10(prevalence) - 1) / 6)))
                found[number] = (score, "rare" if prevalence < RARE_BELOW else "common")
            elif set(sources) & {*_COMMON_SOURCES} or not any(i.startswith(_MENDELIAN) for i in ids):
                found[number] = (0.0, "common")
            else:
                found[number] = (0.5, "unrated")
        return found

    def rarity(self, disease: int) -> float:
        """1: a source flags it as rare; by prevalence where given; 0: none of the rare-disease catalogues lists it.

        0.5: a catalogue of hereditary diseases lists it (OMIM, Orphanet, DECIPHER) and no source says how rare it is.
        """
        return self._rarity[disease][0]

    def band(self, disease: int) -> Band:
        return self._rarity[disease][1]

    @cached_property
    def ordinary_words(self) -> frozenset[str]:
        """Words that names write small inside, not as persons and places: "sternal", not "Marfan"."""
        small: Counter[str] = Counter()
        large: Counter[str] = Counter()
        for name, kind in zip(self.graph.names, self.graph.types, strict=True):
            if kind == "disease" or kind in FINDING_TYPES:
                for word in name.split(" ")[1:]:
                    (small if word.islower() else large)[word.lower()] += 1
        return frozenset(word for word, times in small.items() if times >= 5 and times > 9 * large[word])

    def readable(self, node: int) -> str:
        """The preferred name as it stands in a text."""
        return plain(self.graph.names[node])


def bound(memory: dict[Any, Any]) -> None:
    """Forget everything rather than grow without end."""
    if len(memory) > _MOST_REMEMBERED:
        memory.clear()
