"""The Human Phenotype Ontology as questions need it: terms with their ancestors, diseases with what they have and lack.

`data/graph/` reads the files (`obo.py`, `hpo_release.py`); the rules of truth are here: alternative ids are mapped,
obsolete terms dropped, and a row that says "NOT" or a frequency of 0 denies its finding instead of stating it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from data.errors import DataError
from data.graph.hpo_release import annotation_rows, hpo_directory, parse_frequency
from data.graph.obo import parse_obo_bytes

__all__ = [
    "Disease",
    "Hpo",
    "Term",
    "family_of",
    "hpo_directory",
    "load_hpo",
    "parse_frequency",
    "parse_hpoa",
    "parse_obo",
]

PHENOTYPIC_ABNORMALITY = "HP:0000118"
# "Noonan syndrome 4", "Usher syndrome, type IIA", "X disease type 2B", "Y syndrome, autosomal recessive 3".
_INHERITED = r"(,? (autosomal|x-linked|y-linked|mitochondrial)( (dominant|recessive))?)?"
_NUMBER = r",?( type)? ?([0-9]{1,3}|[ivx]{1,5})?[a-z]?"
_SUBTYPE = re.compile(f"{_INHERITED}{_NUMBER}$")


@dataclass(frozen=True, kw_only=True)
class Term:
    """A current term and its direct parents ("is_a")."""

    id: str
    name: str
    parents: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Disease:
    """A disease entry. ``findings``: term -> share of patients, None when not given. ``negated``: said not to occur."""

    id: str
    name: str
    family: str
    findings: Mapping[str, float | None]
    negated: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Hpo:
    """Terms and annotated diseases of one release. ``version`` is its date."""

    version: str
    terms: Mapping[str, Term]
    diseases: Mapping[str, Disease]

    @cached_property
    def _ancestors(self) -> dict[str, frozenset[str]]:
        return {}

    def ancestors(self, term: str) -> frozenset[str]:
        """All terms above ``term``, itself left out."""
        known = self._ancestors
        if term not in known:
            parents = self.terms[term].parents
            known[term] = frozenset(parents).union(*(self.ancestors(parent) for parent in parents))
        return known[term]

    def related(self, first: str, second: str) -> bool:
        """True when one is the other or lies above it."""
        return first == second or first in self.ancestors(second) or second in self.ancestors(first)

    def is_finding(self, term: str) -> bool:
        return PHENOTYPIC_ABNORMALITY in self.ancestors(term)

    @cached_property
    def facts_of_family(self) -> dict[str, frozenset[str]]:
        """Every term annotated to any entry of a family, however rare."""
        facts: dict[str, set[str]] = {}
        for disease in self.diseases.values():
            facts.setdefault(disease.family, set()).update(disease.findings)
        return {family: frozenset(terms) for family, terms in facts.items()}

    def is_false_for(self, term: str, facts: Iterable[str], *, sure: bool) -> bool:
        """True when ``term`` may be called absent from a disease with ``facts``.

        ``sure``: a row denies it, so it only must not contradict a fact. Otherwise siblings of facts are refused too.
        """
        parents = set(self.terms[term].parents)
        return not any(
            self.related(term, fact) or (not sure and parents.intersection(self.terms[fact].parents)) for fact in facts
        )


def load_hpo(directory: str = "") -> Hpo:
    """Read a release of the HPO, a few seconds.

    Raises:
        DataError: see `hpo_directory`; or a file is not what its name says.
    """
    folder = hpo_directory(directory)
    with open(folder / "hp.obo", encoding="utf-8") as lines:
        terms, current_id = parse_obo(lines)
    if PHENOTYPIC_ABNORMALITY not in terms:
        raise DataError(
            f"hp.obo in {folder} has no {PHENOTYPIC_ABNORMALITY}", remedy="use the hp.obo of an HPO release"
        )
    with open(folder / "phenotype.hpoa", encoding="utf-8") as lines:
        version, diseases = parse_hpoa(lines, current_id)
    return Hpo(version=version, terms=terms, diseases=diseases)


def parse_obo(lines: Iterable[str]) -> tuple[dict[str, Term], dict[str, str]]:
    """The current terms by id, and a map from every (alternative) id to the current id; obsolete terms are gone.

    Raises:
        DataError: the text is no ontology, with the line.
    """
    ontology = parse_obo_bytes("".join(lines).encode(), "hp.obo")
    terms: dict[str, Term] = {}
    current: dict[str, str] = {}
    for term in ontology.terms.values():
        terms[term.id] = Term(id=term.id, name=term.name, parents=term.parents)
        current.update(dict.fromkeys([term.id, *term.alt_ids], term.id))
    return terms, current


def parse_hpoa(lines: Iterable[str], current_id: Mapping[str, str]) -> tuple[str, dict[str, Disease]]:
    """Version and diseases of an annotation file. Only aspect P (findings) counts, in ids that are current.

    Raises:
        DataError: the header is not that of an annotation file, or a row is cut.
    """
    names: dict[str, str] = {}
    findings: dict[str, dict[str, float | None]] = {}
    negated: dict[str, set[str]] = {}
    version, rows = annotation_rows(lines)
    for row in rows:
        term = current_id.get(row.term)
        if term is None or row.aspect != "P":
            continue
        names.setdefault(row.disease, row.name)
        frequency = parse_frequency(row.frequency_text)
        if row.negated or frequency == 0.0:
            negated.setdefault(row.disease, set()).add(term)
        else:
            known = findings.setdefault(row.disease, {})
            known[term] = max((f for f in (known.get(term), frequency) if f is not None), default=None)
    return version, {
        disease: Disease(
            id=disease,
            name=name,
            family=family_of(name),
            findings=findings.get(disease, {}),
            negated=frozenset(negated.get(disease, ())),
        )
        for disease, name in names.items()
    }


def family_of(name: str) -> str:
    """The base name of a disease, without subtype. Example: "Noonan syndrome 4" -> "noonan syndrome"."""
    lowered = " ".join(name.split(";")[0].lower().split())
    match = _SUBTYPE.search(lowered)
    # A lone letter at the end of a word is no subtype: only strip what follows a space.
    base = lowered[: match.start()] if match and match.group().startswith((" ", ",")) else lowered
    return base.strip(" ,") or lowered
