"""The graph as synthesis needs it: what diseases have, lack and may have, under an open world.

A missing edge proves nothing: nobody may have looked. So a statement has four values (`Status`): a source makes it, or
it follows from one (has), a source denies it (denied), it is neither made nor implied nor likely (absent), or it could
well be true (unsure). Only what is denied or absent may make an option wrong. Unsure is

- a term above, below or beside (a common parent with) a finding of the disease, of its subtypes, its supertypes or its
  family (entries with the same base name);
- a finding that a fair share of the most similar diseases have: an edge that the features make likely;
- a finding without a place in an ontology: nobody can say what lies above or beside it;
- a finding that inferred facets speak of, in a disease that has such facets: some of them are lost on the way;
- anything disputed, and anything about a disease of which little is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from data.synthesis.drugs import Drugs
from data.synthesis.facts import bound

Status = Literal["has", "denied", "absent", "unsure"]
KNOWN_FROM = 5
"""A disease with fewer findings is too little known to say that it lacks something."""
NEIGHBOURS = 25
LIKELY_SHARE = 0.16
"""A finding that more than this share of the nearest diseases have may be a missing edge."""
_MOST_SHARED = 1500
_KEPT = 250


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is known of a disease and its kin, closed upwards. All are numbers of nodes."""

    facts: frozenset[int]
    closure: frozenset[int]
    parents: frozenset[int]
    denied: frozenset[int]


class World(Drugs):
    """The facts, and the reasoning over what they leave open."""

    @cached_property
    def _profiles(self) -> dict[int, Profile]:
        return {}

    def profile(self, disease: int) -> Profile:
        if disease not in self._profiles:
            facts: set[int] = set()
            for member in self.kin(disease):
                facts |= self.findings(member).keys() | self.disputed.get("has_phenotype", {}).get(member, set())
            facts |= {other for term in facts for other in self.namesakes.get(term, ())}
            closure = facts.union(*(self.implied(term) for term in facts))
            parents = set().union(*(self.parents(term) for term in facts))
            denied = self.denials.get("has_phenotype", {}).get(disease, set())
            self._profiles[disease] = Profile(
                facts=frozenset(facts), closure=frozenset(closure), parents=frozenset(parents), denied=frozenset(denied)
            )
        return self._profiles[disease]

    @cached_property
    def _status(self) -> dict[tuple[int, int], Status]:
        return {}

    def status(self, disease: int, term: int) -> Status:
        """Whether a disease has a finding; see the head of this file."""
        key = (disease, term)
        if key not in self._status:
            bound(self._status)
            self._status[key] = self._find_status(disease, term)
        return self._status[key]

    def _find_status(self, disease: int, term: int) -> Status:
        profile = self.profile(disease)
        if term in self.closed(disease):
            return "has"
        if self.namesakes.get(term, frozenset()) & profile.closure:
            return "unsure"
        if term in profile.closure or not profile.facts.isdisjoint(self.above(term)):
            return "unsure"
        if term in profile.denied or not profile.denied.isdisjoint(self.above(term)):
            return "denied"
        if len(self.findings(disease)) < KNOWN_FROM or not profile.parents.isdisjoint(self.parents(term)):
            return "unsure"
        if not self.parents(term) or (term in self.inferred_terms and self._has_inferred(disease)):
            return "unsure"
        return "unsure" if self.likely(disease, term) else "absent"

    def _has_inferred(self, disease: int) -> bool:
        return not self.inferred_diseases.isdisjoint({disease, *self.referred(disease)})

    # --- similarity ---------------------------------------------------------------------------------------------------

    @cached_property
    def _closed(self) -> dict[int, frozenset[int]]:
        return {}

    def closed(self, disease: int) -> frozenset[int]:
        """The findings of a disease and all above them."""
        if disease not in self._closed:
            findings = self.findings(disease)
            self._closed[disease] = frozenset(findings).union(*(self.above(term) for term in findings))
        return self._closed[disease]

    @cached_property
    def described(self) -> Any:
        """Numbers of the diseases with findings, sorted, [described]."""
        known = sorted(d for d in self.of_relation("has_phenotype") if self.graph.types[d] == "disease")
        return np.array(known, dtype=np.int64)

    @cached_property
    def having(self) -> dict[int, Any]:
        """Finding -> sorted places in `described` of the diseases that have it or something below it."""
        found: dict[int, list[int]] = defaultdict(list)
        for place, disease in enumerate(self.described.tolist()):
            for term in self.closed(disease):
                found[term].append(place)
        return {term: np.array(diseases, dtype=np.int32) for term, diseases in found.items()}

    @cached_property
    def _information(self) -> dict[int, float]:
        total = len(self.of_relation("has_phenotype")) or 1
        return {
            t: float(np.log(total / len(d))) for t, d in self.having.items() if len(d) <= max(_MOST_SHARED, total // 8)
        }

    def information(self, term: int) -> float:
        """What a finding tells: -log of the share of diseases that have it; 0 for very common ones."""
        return self._information.get(term, 0.0)

    @cached_property
    def _weights(self) -> Any:
        weights = np.zeros(len(self.described))
        for term, diseases in self.having.items():
            weights[diseases] += self._information.get(term, 0.0)
        return weights

    def similarities(self, disease: int) -> Any:
        """Weighted Jaccard of findings with all, [described]; a finding weighs what it tells (-log of its share)."""
        shared = np.zeros(len(self.described))
        for term in sorted(self.closed(disease)):
            if term in self._information:
                shared[self.having[term]] += self._information[term]
        own = sum(self._information.get(term, 0.0) for term in sorted(self.closed(disease)))
        union = self._weights + own - shared
        return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)

    @cached_property
    def _nearest(self) -> dict[int, tuple[tuple[int, float], ...]]:
        return {}

    def nearest(self, disease: int) -> tuple[tuple[int, float], ...]:
        """The most similar diseases, the nearest first, with their similarity."""
        if disease not in self._nearest:
            scores = self.similarities(disease)
            scores[self.described == disease] = 0.0
            # Rounded, so that ties fall the same way on any machine.
            rounded = np.round(scores, 9)
            top = np.lexsort((self.described, -rounded))[:_KEPT]
            self._nearest[disease] = tuple((int(self.described[n]), float(rounded[n])) for n in top if rounded[n] > 0)
        return self._nearest[disease]

    def likely(self, disease: int, term: int) -> bool:
        """True when enough of the nearest diseases have a finding that its absence here may be a gap."""
        near = [n for n, _ in self.nearest(disease)[:NEIGHBOURS]]
        return bool(near) and sum(term in self.closed(n) for n in near) > LIKELY_SHARE * len(near)

    @cached_property
    def perhaps_having(self) -> dict[int, Any]:
        """As `having`, with what diseases have under other identifiers (`referred`) and findings under other names."""
        found: dict[int, list[int]] = defaultdict(list)
        for place, disease in enumerate(self.described.tolist()):
            findings = {t for member in {disease, *self.referred(disease)} for t in self.findings(member)}
            for term in findings.union(*(self.implied(t) for t in findings)):
                found[term].append(place)
        return {term: np.array(diseases, dtype=np.int32) for term, diseases in found.items()}

    def with_all(self, terms: Iterable[int], *, perhaps: bool = False) -> list[int]:
        """Every disease that has all of some findings, or something below each; with ``perhaps``, that may have."""
        having = self.perhaps_having if perhaps else self.having
        lists = sorted((having[term] for term in terms if term in having), key=len)
        if not lists:
            return []
        found = lists[0]
        for other in lists[1:]:
            found = np.intersect1d(found, other, assume_unique=True)
        return [int(n) for n in self.described[found]]
