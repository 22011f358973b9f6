"""MONDO: the disease ontology that ties OMIM, Orphanet, DO and MeSH together, from its OBO file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.graph.build import SourceBatch
from data.graph.obo import Ontology, read_obo
from data.graph.reading import find_file
from data.graph.schema import Edge, Entity, SourceInfo, curie

CITATION = "Vasilevsky NA et al. Mondo: unifying diseases for the world, by the world. medRxiv 2022.04.13.22273750"
LICENCE = "CC BY 4.0"
RELATION_OF = {
    "predisposes_towards": "predisposes_to",
    "disease_has_feature": "has_feature",
    "disease_has_major_feature": "has_feature",
    "disease_causes_feature": "has_feature",
    "disease_has_location": "affects_anatomy",
    "has_material_basis_in_germline_mutation_in": "caused_by_gene",
}
"""MONDO's relations that say something medical -> ours."""


def read(location: str) -> SourceBatch:
    """MONDO from mondo.obo (or a folder with it). Diseases outside humans and obsolete terms are left out.

    Raises:
        DataError: the file is missing, cut, malformed, or its is-a edges go in a circle, with the line.
    """
    ontology = read_obo(find_file(Path(location), "mondo.obo"))
    version = ontology.version.rsplit("/", 1)[-1] or "unknown"
    info = SourceInfo(
        name="mondo", version=version, licence=LICENCE, citation=CITATION, url="mondo.monarchinitiative.org"
    )
    return SourceBatch(info=info, records=_records(ontology))


def _records(ontology: Ontology) -> Iterator[Entity | Edge]:
    for term in ontology.terms.values():
        if not term.id.startswith("MONDO:"):
            continue
        yield Entity(
            id=term.id, type="disease", name=term.name, synonyms=term.synonyms,
            xrefs=tuple(curie(xref) for xref in term.xrefs if ":" in xref and " " not in xref and "//" not in xref),
            alt_ids=term.alt_ids, definition=term.definition,
            tags=("rare:mondo",) if any(subset.endswith("rare") for subset in term.subsets) else (),
        )  # fmt: skip
        for parent in term.parents:
            if parent.startswith("MONDO:"):
                yield Edge(subject=term.id, predicate="is_a", object=parent, file=ontology.name, row=term.line)
        for relation, target in term.relations:
            predicate = RELATION_OF.get(relation)
            if predicate:
                yield Edge(
                    subject=term.id, predicate=predicate, object=gene_or_term(target), file=ontology.name, row=term.line
                )


def gene_or_term(target: str) -> str:
    """MONDO writes genes as addresses: ".../hgnc/3603" is ``HGNC:3603``."""
    return curie(target.rsplit("/", 1)[-1], "HGNC") if "/hgnc/" in target else curie(target)
