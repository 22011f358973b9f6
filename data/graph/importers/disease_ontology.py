"""The Disease Ontology: HumanDO.tsv, DO_rare_slim.obo, allXREFinDO.tsv and inferred facets (anatomy, symptoms ...)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data.graph.build import SourceBatch
from data.graph.names import normal_name
from data.graph.obo import OboTerm, read_obo
from data.graph.reading import fail, find_file, identifier_at, name_at, rows
from data.graph.schema import Edge, Entity, SourceInfo, curie

CITATION = "Baron JA et al. The DO-KB Knowledgebase: a 20-year journey. Nucleic Acids Res 2024;52:D1305"
_FACETS = {
    "anatomy": ("affects_anatomy", "anatomy"),
    "cell_type": ("affects_anatomy", "cell"),
    "chebi": ("caused_by_exposure", "chemical"),
    "food_material": ("caused_by_exposure", "exposure"),
    "disease_driver": ("caused_by_exposure", "exposure"),
    "inheritance_pattern": ("has_inheritance", "inheritance"),
    "ncbitaxon": ("caused_by_organism", "organism"),
    "onset": ("has_onset", "onset"),
    "phenotype": ("has_phenotype", "phenotype"),
    "symptom": ("has_phenotype", "phenotype"),
}
"""Facet -> relation and type. Left out: evidence, sequence, transmission_process, omim_susceptibility."""
_ORGANISMS = "ncbitaxon"
_CAUSE = ("has material basis in", "caused by")
_CARRIER = ("transmitted", "has vector", "vector", "host", "carried by", "bite", "reservoir")
_ROLE = re.compile(
    r"\b(has[_ ]material[_ ]basis[_ ]in|caused by|transmitted|has[_ ]vector|vector|host|carried by|bite|reservoir|"
    r"has[_ ]symptom|located[_ ]in|results[_ ]in|which|such as|include|may be|in (?:humans|patients))s?\b",
    re.IGNORECASE,
)
"""What a definition says next: a cause, a carrier, or neither of them."""
_GENERIC_SHARE = 0.2
"""A term that more than this share of a facet's diseases has says nothing ("anatomical structure")."""


def read(location: str) -> SourceBatch:
    """The Disease Ontology of a folder. Only HumanDO.tsv must be there; what else is there is used.

    HumanDO.tsv names parents by label; a label that two diseases share is resolved by neither and its rows are refused.

    Raises:
        DataError: a file is missing, cut, has another header, or names an unknown parent, with its line.
    """
    folder = Path(location)
    main = find_file(folder, "HumanDO.tsv")
    slim = folder / "DO_rare_slim.obo"
    rare, version = {}, "unknown"
    if slim.is_file():
        ontology = read_obo(slim)
        rare, version = dict(ontology.terms), ontology.version.split("/")[2] if "/" in ontology.version else "unknown"
    info = SourceInfo(
        name="disease_ontology", version=version, licence="CC0-1.0", citation=CITATION, url="disease-ontology.org"
    )
    return SourceBatch(info=info, records=_records(folder, main, slim, rare))


def _records(folder: Path, main: Path, slim: Path, rare: dict[str, OboTerm]) -> Iterator[Entity | Edge]:
    yield from _hierarchy(main)
    for term in rare.values():
        yield Entity(
            id=term.id, type="disease", name=term.name, synonyms=term.synonyms, xrefs=tuple(map(curie, term.xrefs)),
            alt_ids=term.alt_ids, definition=term.definition, tags=("rare:do_slim",),
        )  # fmt: skip
        for parent in term.parents:
            yield Edge(subject=term.id, predicate="is_a", object=parent, file=slim.name, row=term.line)
    if (folder / "allXREFinDO.tsv").is_file():
        yield from _references(folder / "allXREFinDO.tsv")
    for name in ("facets.tsv.gz", "facets.tsv"):
        if (folder / name).is_file():
            yield from _facets(folder / name)
            return


def _hierarchy(path: Path) -> Iterator[Entity | Edge]:
    table = list(rows(path, ("id", "label", "subClassOf"), quoted=True))
    named: dict[str, set[str]] = defaultdict(set)
    for _, (identifier, label, _) in table:
        named[label].add(identifier)
    for line, (identifier, label, parent) in table:
        yield Entity(
            id=identifier_at(path, line, identifier), type="disease", name=name_at(path, line, identifier, label)
        )
        if not parent:
            continue
        parents = named.get(parent, set())
        if len(parents) == 1:
            yield Edge(subject=identifier, predicate="is_a", object=next(iter(parents)), file=path.name, row=line)
        elif parents:
            raise fail(path, line, f"{parent!r} is the label of {', '.join(sorted(parents))}", "rename one of them")
        elif parent != "disease":  # the root has no row of its own
            raise fail(path, line, f"the parent {parent!r} of {identifier} has no row")
        else:
            yield Edge(subject=identifier, predicate="is_a", object="DOID:4", file=path.name, row=line)
    if "disease" not in named:
        yield Entity(id="DOID:4", type="disease", name="disease")


def _references(path: Path) -> Iterator[Entity]:
    found: dict[str, tuple[str, list[str]]] = {}
    for line, (identifier, label, xref) in rows(path, ("id", "label", "xref"), quoted=True):
        if ":" in xref and " " not in xref:
            found.setdefault(identifier_at(path, line, identifier), (label, []))[1].append(
                identifier_at(path, line, xref)
            )
    for identifier, (label, xrefs) in found.items():
        yield Entity(id=identifier, type="disease", name=label, xrefs=tuple(xrefs))


def _facets(path: Path) -> Iterator[Entity | Edge]:
    """Inferred links. They hold each term with all its ancestors; only those that the definition bears out are taken.

    An organism may be cause, vector or host, and the facet does not say which: see `_causes`.
    """
    header = ("id", "name", "definition", "facet", "import_keyword", "import_id")
    lines: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    names: dict[tuple[str, str], str] = {}
    texts: dict[str, tuple[str, str]] = {}
    for line, (disease, label, definition, facet, keyword, target) in rows(path, header, quoted=True):
        if facet in _FACETS and ":" in target:
            term = identifier_at(path, line, target)
            lines[facet].setdefault((disease, term), line)
            names.setdefault((facet, term), keyword)
            texts[disease] = (label, definition)
    used: dict[tuple[str, str], None] = {}
    for facet, pairs in lines.items():
        predicate, _ = _FACETS[facet]
        labels = {target: names[(facet, target)] for _, target in pairs}
        chosen = _causes(set(pairs), labels, texts) if facet == _ORGANISMS else _specific(set(pairs), labels, texts)
        for disease, target in chosen:
            used[(facet, target)] = None
            yield Edge(
                subject=disease, predicate=predicate, object=target, file=path.name, row=pairs[(disease, target)],
                reference="inferred from the definition",
            )  # fmt: skip
    for facet, target in used:
        if not target.startswith("HP:"):  # the HPO gives its own terms their types
            yield Entity(id=target, type=_FACETS[facet][1], name=names[(facet, target)])


def _specific(
    pairs: set[tuple[str, str]], labels: Mapping[str, str], texts: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str]]:
    """Pairs (disease, term) without those that follow from a more specific term of the same disease.

    An ancestor holds for every disease of its descendant. So a term goes when another term of the disease belongs to a
    strict part of its diseases. Where terms of a disease have the very same diseases, the file does not tell ancestor
    from descendant: those stay that the disease's name or definition names. That may drop a true link.

    Args:
        labels: term -> its label. texts: disease -> its name and definition.
    """
    diseases_of: dict[str, set[str]] = defaultdict(set)
    terms_of: dict[str, list[str]] = defaultdict(list)
    for disease, term in sorted(pairs):
        diseases_of[term].add(disease)
        terms_of[disease].append(term)
    limit = max(3.0, _GENERIC_SHARE * len(terms_of))
    chosen: list[tuple[str, str]] = []
    for disease, terms in terms_of.items():
        groups: dict[frozenset[str], list[str]] = defaultdict(list)
        for term in terms:
            if len(diseases_of[term]) <= limit and not any(diseases_of[o] < diseases_of[term] for o in terms):
                groups[frozenset(diseases_of[term])].append(term)
        for group in groups.values():
            kept = group if len(group) == 1 else _named(group, labels, texts[disease])
            chosen.extend((disease, term) for term in kept)
    return chosen


def _causes(
    pairs: set[tuple[str, str]], labels: Mapping[str, str], texts: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str]]:
    """Pairs whose organism the definition names as the cause, and nowhere as vector, host or way of transmission."""
    terms_of: dict[str, list[str]] = defaultdict(list)
    for disease, term in sorted(pairs):
        terms_of[disease].append(term)
    chosen: list[tuple[str, str]] = []
    for disease, terms in terms_of.items():
        parts = _ROLE.split(texts[disease][1])  # text, role, text, role, text ...
        roles = list(zip(parts[1::2], parts[2::2], strict=True))
        causes = [text for role, text in roles if role.lower().replace("_", " ") in _CAUSE]
        carriers = [text for role, text in roles if role.lower().replace("_", " ") in _CARRIER]
        named = _named(terms, labels, causes)
        chosen.extend((disease, term) for term in named if not _named([term], labels, carriers))
    return chosen


def _named(terms: Iterable[str], labels: Mapping[str, str], texts: Iterable[str]) -> list[str]:
    """Those terms whose label stands in one of the texts, without labels that only stand there as part of another."""
    spaced = [f" {normal_name(text)} " for text in texts]
    words = {term: f" {normal_name(labels[term].partition(' <')[0])} " for term in terms}
    found = [term for term, said in words.items() if said.strip() and any(said in text for text in spaced)]
    return [t for t in found if not any(words[t] in words[other] and words[t] != words[other] for other in found)]
