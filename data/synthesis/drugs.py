"""Drugs of diseases: what is given for a disease, what is given near it, and what physicians say is not indicated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from functools import cached_property

from data.synthesis.facts import Facts

_MENTIONED = ("treats", "palliates", "used_off_label_for")


class Drugs(Facts):
    """The facts, and which drugs a disease and its surroundings have."""

    @cached_property
    def _drugs(self) -> dict[int, frozenset[int]]:
        return {}

    def mentioned_drugs(self, disease: int) -> frozenset[int]:
        """Drugs that any source gives for a disease or its kin in any way, disputed or not."""
        if disease not in self._drugs:
            self._drugs[disease] = frozenset(self._find_drugs(self.kin(disease)))
        return self._drugs[disease]

    @cached_property
    def _areas(self) -> dict[int, frozenset[int]]:
        return {}

    def area_drugs(self, disease: int) -> frozenset[int]:
        """Drugs of a disease and of all that stand in its branch of a disease ontology or are said to resemble it.

        Indications are published slowly: a drug for one cancer may well treat another. Without a denial it is no
        distractor.
        """
        if disease not in self._areas:
            near = set(self.kin(disease))
            branches = self.branches(disease)
            for member in self.kin(disease):
                near |= self.of_relation("resembles").get(member, {}).keys()
                near |= self.inverse("resembles").get(member, {}).keys()
            near |= {d for d in self._treated if branches & self.branches(d)}
            self._areas[disease] = frozenset(self._find_drugs(near)) | self.mentioned_drugs(disease)
        return self._areas[disease]

    @cached_property
    def _treated(self) -> list[int]:
        found: set[int] = set().union(*(self.inverse(relation).keys() for relation in _MENTIONED))
        return sorted(n for n in found if self.graph.types[n] == "disease")

    def branches(self, disease: int) -> set[int]:
        """What lies above a disease and two steps or more below the top of its ontology."""
        above = {disease, *self.above(disease)}
        top = {n for n in above if not self.parents(n)}
        second = {n for n in above if self.parents(n) & top}
        return above - top - second

    @cached_property
    def denied_drugs(self) -> dict[int, set[int]]:
        """Disease -> drugs that a source says have no indication in it."""
        found: dict[int, set[int]] = defaultdict(set)
        for drug, targets in self.denials.get("treats", {}).items():
            for disease in targets:
                found[disease].add(drug)
        return dict(found)

    def _find_drugs(self, diseases: Collection[int]) -> set[int]:
        found: set[int] = set()
        for relation in _MENTIONED:
            for member in diseases:
                found |= self.inverse(relation).get(member, {}).keys()
        wanted = set(diseases)
        found |= {drug for drug, targets in self.disputed.get("treats", {}).items() if targets & wanted}
        return found

    def classes(self, drug: int) -> set[int]:
        return set(self.of_relation("in_class").get(drug, {}))
