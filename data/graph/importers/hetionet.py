"""Hetionet v1: nodes.tsv and edges as .sif, with 24 relations; edges carry the licence of the source they came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.graph.build import SourceBatch
from data.graph.reading import fail, find_file, identifier_at, name_at, rows
from data.graph.schema import Edge, Entity, SourceInfo

CITATION = (
    "Himmelstein DS et al. Systematic integration of biomedical knowledge prioritizes drugs for repurposing. "
    "eLife 2017;6:e26726"
)
LICENCE = "CC0-1.0, parts under the licences of their sources"
KINDS = {
    "Anatomy": ("", "anatomy"),
    "Biological Process": ("", "mechanism"),
    "Cellular Component": ("", "cellular_component"),
    "Compound": ("DRUGBANK", "drug"),
    "Disease": ("", "disease"),
    "Gene": ("NCBIGENE", "gene"),
    "Molecular Function": ("", "mechanism"),
    "Pathway": ("PATHWAYCOMMONS", "mechanism"),
    "Pharmacologic Class": ("NDFRT", "drug_class"),
    "Side Effect": ("UMLS", "phenotype"),
    "Symptom": ("MESH", "phenotype"),
}
"""Kind of node -> prefix (none when the id brings its own) and entity type."""
RELATION_OF = {
    "AdG": "downregulates", "AeG": "expresses", "AuG": "upregulates", "CbG": "binds", "CcSE": "causes_side_effect",
    "CdG": "downregulates", "CpD": "palliates", "CrC": "resembles", "CtD": "treats", "CuG": "upregulates",
    "DaG": "associated_with_gene", "DdG": "downregulates", "DlA": "affects_anatomy", "DpS": "has_phenotype",
    "DrD": "resembles", "DuG": "upregulates", "GcG": "gene_covaries_with", "GiG": "gene_interacts_with",
    "GpBP": "participates_in", "GpCC": "participates_in", "GpMF": "participates_in", "GpPW": "participates_in",
    "Gr>G": "gene_regulates", "PCiC": "in_class",
}  # fmt: skip
_LICENCES = {
    "CcSE": "CC BY-NC-SA 4.0 (SIDER)",
    "CbG": "mixed: CC BY-NC (DrugBank), CC BY-SA 3.0 (BindingDB), CC BY 4.0 (DrugCentral)",
    "DaG": "mixed: ODbL (DisGeNET), CC BY 4.0 (DISEASES), EBI (GWAS Catalog), none stated (DOAF)",
    "GiG": "mixed: no licence stated by some of the sources", "GcG": "none stated (Evolutionary Rate Covariation)",
    "GpBP": "CC BY 4.0 (Gene Ontology)", "GpCC": "CC BY 4.0 (Gene Ontology)", "GpMF": "CC BY 4.0 (Gene Ontology)",
    "CrC": "CC BY-NC (DrugBank)", "CtD": "CC0-1.0 (PharmacotherapyDB)", "CpD": "CC0-1.0 (PharmacotherapyDB)",
    "DpS": "public domain (MEDLINE)", "DlA": "public domain (MEDLINE)", "DrD": "public domain (MEDLINE)",
}  # fmt: skip
_BACKWARDS = ("PCiC",)


def read(location: str) -> SourceBatch:
    """Hetionet of a folder with nodes.tsv and edges*.sif.gz (the full release, or a part of it).

    Raises:
        DataError: a file is missing or cut, has another header, an unknown kind of node or of edge, with its line.
    """
    folder = Path(location)
    nodes = find_file(folder, "nodes.tsv", "hetionet-v1.0-nodes.tsv")
    edges = find_file(folder, "edges.sif", "hetionet-v1.0-edges.sif", "edges-5k.sif")
    info = SourceInfo(name="hetionet", version="1.0", licence=LICENCE, citation=CITATION, url="het.io")
    return SourceBatch(info=info, records=_records(nodes, edges))


def _records(nodes: Path, edges: Path) -> Iterator[Entity | Edge]:
    identifiers: dict[str, str] = {}
    for line, (said, name, kind) in rows(nodes, ("id", "name", "kind")):
        if kind not in KINDS:
            raise fail(nodes, line, f"kind {kind!r} is unknown", f"known: {', '.join(KINDS)}")
        prefix, entity_type = KINDS[kind]
        local = said.removeprefix(f"{kind}::")
        identifiers[said] = identifier_at(nodes, line, local.removeprefix("PC7_"), prefix)
        # Hetionet chose its 137 diseases as common complex ones; OMIM lists inherited forms of them by the same names.
        tags = ("complex:hetionet",) if kind == "Disease" else ()
        yield Entity(id=identifiers[said], type=entity_type, name=name_at(nodes, line, said, name), tags=tags)
    for line, (source, metaedge, target) in rows(edges, ("source", "metaedge", "target")):
        predicate = RELATION_OF.get(metaedge)
        if predicate is None:
            raise fail(edges, line, f"relation {metaedge!r} is unknown", f"known: {', '.join(RELATION_OF)}")
        for end in (source, target):
            if end not in identifiers:
                raise fail(edges, line, f"{end!r} is not in {nodes.name}")
        subject, object_ = (target, source) if metaedge in _BACKWARDS else (source, target)
        yield Edge(
            subject=identifiers[subject], predicate=predicate, object=identifiers[object_], file=edges.name, row=line,
            licence=_LICENCES.get(metaedge, ""),
        )  # fmt: skip
