"""What a medical graph is made of: typed entities, typed relations with inverse and allowed ends, edges with evidence.

Identifiers are CURIEs, a prefix and a local id: ``HP:0001166``, ``MONDO:0007947``, ``ORPHA:558``, ``DRUGBANK:DB00843``.
An edge is one statement of one source. Two sources that say the same make two edges, each with its own evidence; a
statement that something is *not* so is an edge with ``negated=True`` and never a fact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data.errors import DataError

SCHEMA_VERSION = "fleming-graph/1"

ENTITY_TYPES: Mapping[str, str] = {
    "disease": "a disease or syndrome",
    "phenotype": "a symptom, sign or other abnormal finding",
    "imaging_finding": "a finding that an image shows",
    "lab_test": "a laboratory test",
    "imaging_test": "an imaging procedure",
    "procedure": "any other diagnostic or therapeutic procedure",
    "drug": "a substance that is or was given as a drug",
    "chemical": "a substance",
    "drug_class": "a pharmacological class or role",
    "mechanism": "a biological process, molecular function or pathway",
    "cellular_component": "a part of a cell",
    "gene": "a gene or its product",
    "anatomy": "an organ, tissue or region of the body",
    "cell": "a kind of cell",
    "inheritance": "a mode of inheritance",
    "onset": "age of onset or clinical course",
    "modifier": "a clinical modifier such as severity",
    "organism": "an organism, for instance a pathogen",
    "exposure": "an environmental or dietary exposure",
}
SUBTYPE_OF: Mapping[str, str] = {"drug": "chemical", "imaging_finding": "phenotype"}
"""The narrower type wins when two sources describe one entity in these two ways."""

_FINDING = frozenset({"phenotype", "imaging_finding"})
_SUBSTANCE = frozenset({"drug", "chemical"})
_DISEASE = frozenset({"disease"})
_GENE = frozenset({"gene"})
_BODY = frozenset({"anatomy", "cell"})
_PROCESS = frozenset({"mechanism", "cellular_component"})
_EXPOSURE = frozenset({"exposure", "chemical", "drug", "organism"})
ANY: frozenset[str] = frozenset(ENTITY_TYPES)


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A kind of edge, read from subject to object.

    Example: ``RELATIONS["treats"]``: subject a drug, object a disease, read backwards as "treated by". A symmetric
    relation has itself as inverse and is stored with its ends in order. ``taxonomic`` relations say where an entity
    stands in a vocabulary and tell nothing medical about it.
    """

    name: str
    inverse: str
    subjects: frozenset[str]
    objects: frozenset[str]
    taxonomic: bool = False

    @property
    def symmetric(self) -> bool:
        return self.name == self.inverse


def _relations(*rows: tuple[str, str, frozenset[str], frozenset[str]]) -> dict[str, Relation]:
    taxonomic = {"is_a", "near_in_hierarchy"}
    return {
        name: Relation(name=name, inverse=inverse, subjects=subjects, objects=objects, taxonomic=name in taxonomic)
        for name, inverse, subjects, objects in rows
    }


RELATIONS: Mapping[str, Relation] = _relations(
    ("is_a", "has_subtype", ANY, ANY),
    ("near_in_hierarchy", "near_in_hierarchy", ANY, ANY),
    ("has_phenotype", "phenotype_of", _DISEASE, _FINDING),
    ("has_inheritance", "inheritance_of", _DISEASE, frozenset({"inheritance"})),
    ("has_onset", "onset_of", _DISEASE, frozenset({"onset"})),
    ("has_modifier", "modifier_of", _DISEASE, frozenset({"modifier", "onset"})),
    ("has_feature", "feature_of", _DISEASE, _DISEASE | _FINDING),
    ("predisposes_to", "predisposed_by", _DISEASE, _DISEASE),
    ("resembles", "resembles", _DISEASE | _SUBSTANCE, _DISEASE | _SUBSTANCE),
    ("affects_anatomy", "affected_in", _DISEASE, _BODY),
    ("caused_by_gene", "gene_causes", _DISEASE, _GENE),
    ("associated_with_gene", "gene_associated_with", _DISEASE | _FINDING, _GENE),
    ("upregulates", "upregulated_by", _DISEASE | _SUBSTANCE | _BODY | _GENE, _GENE),
    ("downregulates", "downregulated_by", _DISEASE | _SUBSTANCE | _BODY | _GENE, _GENE),
    ("caused_by_exposure", "exposure_causes", _DISEASE, _EXPOSURE),
    ("caused_by_organism", "organism_causes", _DISEASE, frozenset({"organism"})),
    ("treats", "treated_by", _SUBSTANCE, _DISEASE | _FINDING),
    ("palliates", "palliated_by", _SUBSTANCE, _DISEASE | _FINDING),
    ("contraindicated_in", "has_contraindication", _SUBSTANCE, _DISEASE | _FINDING),
    ("used_off_label_for", "off_label_use_of", _SUBSTANCE, _DISEASE | _FINDING),
    ("causes_side_effect", "side_effect_of", _SUBSTANCE, _FINDING | _DISEASE),
    ("interacts_with_drug", "interacts_with_drug", _SUBSTANCE, _SUBSTANCE),
    ("binds", "bound_by", _SUBSTANCE, _GENE),
    ("has_role", "role_of", _SUBSTANCE, frozenset({"drug_class"}) | _SUBSTANCE),
    ("derived_from", "source_of", _SUBSTANCE, _SUBSTANCE),
    ("in_class", "class_includes", _SUBSTANCE, frozenset({"drug_class"})),
    ("expresses", "expressed_in", _BODY, _GENE),
    ("gene_interacts_with", "gene_interacts_with", _GENE, _GENE),
    ("gene_covaries_with", "gene_covaries_with", _GENE, _GENE),
    ("gene_regulates", "gene_regulated_by", _GENE, _GENE),
    ("participates_in", "has_participant", _GENE, _PROCESS),
    ("part_of", "has_part", ANY, ANY),
    ("regulates", "regulated_by", _PROCESS, _PROCESS),
    ("affects_process", "process_affected_by", _EXPOSURE, _PROCESS | _GENE),
    ("measured_by", "measures", _FINDING | _DISEASE, frozenset({"lab_test", "imaging_test", "procedure"})),
    ("related_to", "related_to", ANY, ANY),
)

_PREFIXES = {
    "orphanet": "ORPHA", "ordo": "ORPHA", "orpha": "ORPHA", "mim": "OMIM", "omim": "OMIM", "omimps": "OMIMPS",
    "msh": "MESH", "mesh": "MESH", "umls": "UMLS", "umls_cui": "UMLS", "nci": "NCIT", "ncit": "NCIT",
    "sctid": "SNOMEDCT",
    "meddra": "MEDDRA", "ncbi gene": "NCBIGENE", "ncbigene": "NCBIGENE", "entrez": "NCBIGENE", "ensembl": "ENSEMBL",
    "drugbank": "DRUGBANK", "chebi": "CHEBI", "doid": "DOID", "mondo": "MONDO", "hp": "HP", "hgnc": "HGNC",
    "icd10cm": "ICD10CM", "icd-10": "ICD10", "icd10": "ICD10", "icd-11": "ICD11", "icd9cm": "ICD9CM",
    "ncbitaxon": "NCBITAXON",
}  # fmt: skip
_CURIE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*:\S+")
PREFERENCE: tuple[str, ...] = (
    "MONDO", "HP", "HGNC", "DRUGBANK", "GO", "UBERON", "CL", "CHEBI", "DOID", "ORPHA", "OMIM", "DECIPHER", "NCBIGENE",
    "SYMP", "MESH", "UMLS",
)  # fmt: skip
"""Which of several merged identifiers names the entity: the first of these, then the alphabet."""


def curie(text: str, prefix: str = "") -> str:
    """An identifier in its one spelling.

    Examples: ``curie("Orphanet:558") == "ORPHA:558"``, ``curie("MIM:PS118220") == "OMIMPS:118220"``,
    ``curie("D005334", "MSH") == "MESH:D005334"``.

    Raises:
        DataError: neither a prefix nor a local id can be seen in it.
    """
    head, colon, local = text.strip().partition(":") if not prefix else (prefix, ":", text.strip())
    if not (colon and head and local) or any(sign.isspace() for sign in local):
        raise DataError(f"{text!r} is no identifier", remedy="write PREFIX:LOCAL, for instance HP:0001166")
    if head.startswith("SNOMEDCT"):
        head = "SNOMEDCT"
    head = _PREFIXES.get(head.lower(), head)
    local = local.removeprefix(f"{head}:")
    if head == "OMIM" and local.startswith("PS"):
        return f"OMIMPS:{local[2:]}"
    return f"{head}:{local}"


def is_curie(text: str) -> bool:
    return _CURIE.fullmatch(text) is not None


def prefix_of(identifier: str) -> str:
    return identifier.partition(":")[0]


def preference(identifier: str) -> tuple[int, str]:
    """Sort key: the identifier that should name an entity comes first."""
    prefix = prefix_of(identifier)
    return (PREFERENCE.index(prefix) if prefix in PREFERENCE else len(PREFERENCE), identifier)


def rare_by(tags: Iterable[str]) -> tuple[str, ...]:
    """Who calls a disease rare, of those whose word decides; empty when nobody does.

    Tags are ``rare:SOURCE`` (``rare`` for one's own). The rare slim of the Disease Ontology (``rare:do_slim``) never
    decides: it holds asthma and prostate cancer. OMIM (``rare:omim``) lists the inherited forms of common diseases
    under their plain names, so it gives way where a source chose the disease as a common complex one
    (``complex:SOURCE``).
    """
    said = set(tags)
    complex_one = any(tag.startswith("complex:") for tag in said)
    doubtful = {"rare:do_slim", *(["rare:omim"] if complex_one else [])}
    return tuple(sorted(tag.partition(":")[2] or "a table" for tag in said - doubtful if tag.split(":")[0] == "rare"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Entity:
    """What one source says about one entity.

    Example: ``Entity(id="HP:0001166", type="phenotype", name="Arachnodactyly", synonyms=("Spider fingers",),
    xrefs=("UMLS:C0003706",), alt_ids=("HP:0001505",))``. ``xrefs`` claim to be the same entity elsewhere; ``alt_ids``
    are former ids. ``prevalence`` is a share of the population (1 in 10,000 = 1e-4). Tags say who
    calls a disease rare: see `rare_by`.
    """

    id: str
    type: str
    name: str
    synonyms: tuple[str, ...] = ()
    xrefs: tuple[str, ...] = ()
    alt_ids: tuple[str, ...] = ()
    definition: str = ""
    tags: tuple[str, ...] = ()
    prevalence: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """One statement of one source.

    Example: ``Edge(subject="OMIM:154700", predicate="has_phenotype", object="HP:0001166", frequency=0.9,
    frequency_text="HP:0040281", file="phenotype.hpoa", row=1234, reference="PMID:20301510")``.

    ``frequency`` is the share of patients, NaN when not given; ``frequency_text`` is how the source wrote it. ``file``
    and ``row`` (1 is the first line; for XML the place of the record) are the evidence row. ``licence`` is empty
    when it is that of the whole source.
    """

    subject: str
    predicate: str
    object: str
    negated: bool = False
    frequency: float = float("nan")
    frequency_text: str = ""
    onset: str = ""
    sex: str = ""
    modifier: str = ""
    file: str = ""
    row: int = 0
    reference: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """Where a batch of entities and edges comes from, with its licence and how to cite it."""

    name: str
    version: str
    licence: str
    citation: str
    url: str = ""
