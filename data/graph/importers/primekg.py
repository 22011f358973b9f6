"""PrimeKG: kg.csv, 30 relations among ten kinds of entity; every edge stands there twice, once from each end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.graph.build import SourceBatch
from data.graph.reading import fail, find_file, identifier_at, rows
from data.graph.schema import RELATIONS, Edge, Entity, SourceInfo

CITATION = "Chandak P, Huang K, Zitnik M. Building a knowledge graph to enable precision medicine. Sci Data 2023;10:67"
LICENCE = "CC0-1.0 (Harvard Dataverse), parts under the licences of their sources"
_END = ("index", "id", "type", "name", "source")
HEADER = ("relation", "display_relation", *(f"x_{name}" for name in _END), *(f"y_{name}" for name in _END))
TYPES = {
    "gene/protein": "gene", "drug": "drug", "disease": "disease", "effect/phenotype": "phenotype", "anatomy": "anatomy",
    "biological_process": "mechanism", "molecular_function": "mechanism", "pathway": "mechanism",
    "cellular_component": "cellular_component", "exposure": "exposure",
}  # fmt: skip
_PREFIXES = {"NCBI": ("NCBIGENE", 0), "DrugBank": ("DRUGBANK", 0), "HPO": ("HP", 7), "MONDO": ("MONDO", 7),
             "MONDO_grouped": ("MONDO", 7), "GO": ("GO", 7), "REACTOME": ("REACTOME", 0), "UBERON": ("UBERON", 7),
             "CTD": ("MESH", 0)}  # fmt: skip
"""Source -> our prefix, and the digits to which its bare numbers are filled up ("5044" is MONDO:0005044)."""
RELATION_OF = {
    "protein_protein": ("gene_interacts_with", "gene", False), "drug_protein": ("binds", "drug", False),
    "contraindication": ("contraindicated_in", "drug", False), "indication": ("treats", "drug", False),
    "off-label use": ("used_off_label_for", "drug", False), "drug_drug": ("interacts_with_drug", "drug", False),
    "phenotype_protein": ("associated_with_gene", "phenotype", False),
    "disease_phenotype_negative": ("has_phenotype", "disease", True),
    "disease_phenotype_positive": ("has_phenotype", "disease", False),
    "disease_protein": ("associated_with_gene", "disease", False), "drug_effect": ("causes_side_effect", "drug", False),
    "molfunc_protein": ("participates_in", "gene", False), "cellcomp_protein": ("participates_in", "gene", False),
    "bioprocess_protein": ("participates_in", "gene", False), "pathway_protein": ("participates_in", "gene", False),
    "exposure_disease": ("caused_by_exposure", "disease", False),
    "exposure_protein": ("affects_process", "exposure", False),
    "exposure_bioprocess": ("affects_process", "exposure", False),
    "exposure_molfunc": ("affects_process", "exposure", False),
    "exposure_cellcomp": ("affects_process", "exposure", False),
    "exposure_exposure": ("related_to", "exposure", False),
    "anatomy_protein_present": ("expresses", "anatomy", False),
    "anatomy_protein_absent": ("expresses", "anatomy", True),
    **{f"{kind}_{kind}": ("near_in_hierarchy", "", False) for kind in (
        "phenotype", "disease", "bioprocess", "molfunc", "cellcomp", "pathway", "anatomy")},
}  # fmt: skip
"""Relation -> ours, the type that stands as its subject, and whether it denies. Both directions of a parent-child pair
stand in the file, so which one is the parent is not known: near_in_hierarchy."""


def read(location: str) -> SourceBatch:
    """PrimeKG from kg.csv (or a folder with it).

    A grouped disease ("13924_12592") takes the first identifier of its group; the others become former ids.

    Raises:
        DataError: the file is missing or cut, has another header, an unknown relation, type or source, with its line.
    """
    path = find_file(Path(location), "kg.csv")
    info = SourceInfo(
        name="primekg", version="2.1", licence=LICENCE, citation=CITATION, url="zitniklab.hms.harvard.edu"
    )
    return SourceBatch(info=info, records=_records(path))


def _records(path: Path) -> Iterator[Entity | Edge]:
    ends: dict[tuple[str, str], str] = {}
    for line, row in rows(path, HEADER, delimiter=",", quoted=True):
        relation, display, _, x_id, x_type, x_name, x_source, _, y_id, y_type, y_name, y_source = row
        if relation not in RELATION_OF:
            raise fail(path, line, f"relation {relation!r} is unknown", f"known: {', '.join(RELATION_OF)}")
        for identifier, kind, name, source in ((x_id, x_type, x_name, x_source), (y_id, y_type, y_name, y_source)):
            if (source, identifier) not in ends:
                entity = _entity(path, line, identifier, kind, name, source)
                ends[(source, identifier)] = entity.id
                yield entity
        predicate, subject_type, negated = RELATION_OF[relation]
        subject, object_ = ends[(x_source, x_id)], ends[(y_source, y_id)]
        symmetric = RELATIONS[predicate].symmetric
        if (symmetric and subject > object_) or (not symmetric and TYPES[x_type] != subject_type):
            subject, object_ = object_, subject
        modifier = "" if display in (relation, "associated with", "interacts with") else display
        yield Edge(
            subject=subject,
            predicate=predicate,
            object=object_,
            negated=negated,
            modifier=modifier,
            file=path.name,
            row=line,
        )


def _entity(path: Path, line: int, identifier: str, kind: str, name: str, source: str) -> Entity:
    if kind not in TYPES:
        raise fail(path, line, f"type {kind!r} is unknown", f"known: {', '.join(TYPES)}")
    if source not in _PREFIXES:
        raise fail(path, line, f"source {source!r} is unknown", f"known: {', '.join(_PREFIXES)}")
    prefix, digits = _PREFIXES[source]
    parts = [part.zfill(digits) for part in identifier.split("_")] if digits else [identifier]
    first, *others = [identifier_at(path, line, part, prefix) for part in parts]
    return Entity(id=first, type=TYPES[kind], name=name or first, alt_ids=tuple(others))
