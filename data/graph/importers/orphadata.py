"""Orphadata's XML products: names and alignments (1), findings (4), genes (6), prevalence and ages of onset (9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from data.errors import DataError
from data.graph.build import SourceBatch
from data.graph.schema import Edge, Entity, SourceInfo, curie

CITATION = "Orphadata: Free access data from Orphanet. (c) INSERM 1999. Available on orphadata.com"
LICENCE = "CC BY 4.0"
_PRODUCTS = ("product1", "product4", "product6", "product9_prev", "product9_ages")
_FREQUENCIES = {"Obligate": 1.0, "Very frequent": 0.9, "Frequent": 0.55, "Occasional": 0.17, "Very rare": 0.025,
                "Excluded": 0.0}  # fmt: skip
_CAUSAL = "Disease-causing"
_PREVALENCE_CLASSES = {">1 / 1000": 1e-3, "6-9 / 10 000": 7.5e-4, "1-5 / 10 000": 3e-4, "1-9 / 100 000": 5e-5,
                       "1-9 / 1 000 000": 5e-6, "<1 / 1 000 000": 5e-7}  # fmt: skip
"""Share of the population in the middle of each class."""
_SILENT = frozenset({"", "No data available", "All ages", "Unknown", "Not applicable", "Not yet documented"})
_ONSETS = {"Antenatal": ("HP:0030674", "Antenatal onset"), "Neonatal": ("HP:0003623", "Neonatal onset"),
           "Infancy": ("HP:0003593", "Infantile onset"), "Childhood": ("HP:0011463", "Childhood onset"),
           "Adolescent": ("HP:0003621", "Juvenile onset"), "Adult": ("HP:0003581", "Adult onset"),
           "Elderly": ("HP:0003584", "Late onset")}  # fmt: skip
_INHERITANCES = {"Autosomal dominant": ("HP:0000006", "Autosomal dominant inheritance"),
                 "Autosomal recessive": ("HP:0000007", "Autosomal recessive inheritance"),
                 "X-linked recessive": ("HP:0001419", "X-linked recessive inheritance"),
                 "X-linked dominant": ("HP:0001423", "X-linked dominant inheritance"),
                 "Y-linked": ("HP:0001450", "Y-linked inheritance"),
                 "Mitochondrial inheritance": ("HP:0001427", "Mitochondrial inheritance"),
                 "Multigenic/multifactorial": ("HP:0001426", "Multifactorial inheritance"),
                 "Oligogenic": ("HP:0010983", "Oligogenic inheritance"),
                 "Semi-dominant": ("HP:0032113", "Semidominant inheritance")}  # fmt: skip
Handler = Callable[[Element, str, str, int], Iterator[Entity | Edge]]

_RARE = ("rare:orphanet",)


def read(location: str) -> SourceBatch:
    """Orphadata of a folder with some of en_product1.xml, en_product4.xml, en_product6.xml, en_product9_prev.xml,
    en_product9_ages.xml (any language prefix); or one such file.

    Entries whose name begins with OBSOLETE are left out; an alignment counts as the same disease only when it is exact.

    Raises:
        DataError: no product is there, or a file is cut, malformed, or says something unknown, with line or ORPHA code.
    """
    place = Path(location)
    files = [place] if place.is_file() else sorted(place.glob("*_product*.xml"))
    files = [file for file in files if any(product in file.stem for product in _PRODUCTS)]
    if not files:
        raise DataError(f"{location} holds no *_product*.xml of Orphadata", remedy="see docs/graph.md for the files")
    versions = sorted({_version(file) for file in files})
    info = SourceInfo(
        name="orphadata", version=", ".join(versions), licence=LICENCE, citation=CITATION, url="www.orphadata.com"
    )
    return SourceBatch(info=info, records=(record for file in files for record in _records(file)))


def _version(path: Path) -> str:
    try:
        for _, element in ElementTree.iterparse(path, events=("start",)):
            return str(element.get("date", "unknown")).split()[0]
    except ElementTree.ParseError as error:
        raise _damaged(path, error) from None
    return "unknown"


def _damaged(path: Path, error: ElementTree.ParseError) -> DataError:
    return DataError(f"{path.name} line {error.position[0]}: {error}", remedy="download the file again, whole")


def _records(path: Path) -> Iterator[Entity | Edge]:
    product = next(name for name in reversed(_PRODUCTS) if name in path.stem)
    handler = _HANDLERS[product]
    place = expected = 0
    try:
        for disorder, source, promised in _disorders(path):
            place, expected = place + 1, promised
            code, name = _text(disorder, "OrphaCode") or _text(disorder, "OrphaNumber"), _text(disorder, "Name")
            if not code or not name:
                raise DataError(
                    f"{path.name}: disorder number {place} has no OrphaCode or Name",
                    remedy="the form of the file changed",
                )
            if not name.upper().startswith("OBSOLETE"):
                identifier = curie(code, "ORPHA")
                yield Entity(id=identifier, type="disease", name=name, tags=_RARE)
                for record in handler(disorder, identifier, path.name, place):
                    yield record if not source or isinstance(record, Entity) else _with_reference(record, source)
    except ElementTree.ParseError as error:
        raise _damaged(path, error) from None
    if place == 0 or (expected and expected != place):
        raise DataError(f"{path.name} holds {place} disorders of {expected}", remedy="download the file again, whole")


def _disorders(path: Path) -> Iterator[tuple[Element, str, int]]:
    """Each disorder, the source that its set of findings names, and how many the file says to hold."""
    expected, inside = 0, False
    for event, element in ElementTree.iterparse(path, events=("start", "end")):
        if event == "start":
            if element.tag in ("DisorderList", "HPODisorderSetStatusList"):
                expected = int(element.get("count", "0"))
            inside = inside or element.tag == "HPODisorderSetStatus"
        elif element.tag == "HPODisorderSetStatus":
            inside = False
            disorder = element.find("Disorder")
            if disorder is not None:
                yield disorder, _text(element, "Source"), expected
            element.clear()
        elif element.tag == "Disorder" and not inside:
            yield element, "", expected
            element.clear()


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _with_reference(edge: Edge, source: str) -> Edge:
    from dataclasses import replace

    return replace(edge, reference=" ".join(part for part in (edge.reference, source) if part))


def _names(disorder: Element, identifier: str, file: str, place: int) -> Iterator[Entity | Edge]:
    xrefs = []
    for reference in disorder.iterfind("ExternalReferenceList/ExternalReference"):
        relation = _text(reference, "DisorderMappingRelation/Name")
        local = _text(reference, "Reference")
        if relation.startswith("E ") and local:
            xrefs.append(curie(local, _text(reference, "Source")))
    definition = disorder.findtext(".//SummaryInformation/TextSectionList/TextSection/Contents") or ""
    yield Entity(
        id=identifier, type="disease", name=_text(disorder, "Name"), xrefs=tuple(xrefs), definition=definition.strip(),
        synonyms=tuple(s.text.strip() for s in disorder.iterfind("SynonymList/Synonym") if s.text), tags=_RARE,
    )  # fmt: skip


def _findings(disorder: Element, identifier: str, file: str, place: int) -> Iterator[Entity | Edge]:
    for found in disorder.iterfind("HPODisorderAssociationList/HPODisorderAssociation"):
        term, name = _text(found, "HPO/HPOId"), _text(found, "HPO/HPOTerm")
        said = _text(found, "HPOFrequency/Name")
        frequency = _FREQUENCIES.get(said.split(" (")[0])
        if not term or frequency is None:
            raise DataError(f"{file}: {identifier} has finding {term!r} with frequency {said!r}", remedy="unknown form")
        yield Entity(id=term, type="phenotype", name=name or term)
        yield Edge(
            subject=identifier, predicate="has_phenotype", object=term, negated=frequency == 0.0, frequency=frequency,
            frequency_text=said, modifier=_text(found, "DiagnosticCriteria/Name"), file=file, row=place,
        )  # fmt: skip


def _genes(disorder: Element, identifier: str, file: str, place: int) -> Iterator[Entity | Edge]:
    for found in disorder.iterfind("DisorderGeneAssociationList/DisorderGeneAssociation"):
        gene = found.find("Gene")
        if gene is None:
            raise DataError(f"{file}: {identifier} has a gene association without gene", remedy="the form changed")
        references = {
            _text(r, "Source"): _text(r, "Reference") for r in gene.iterfind("ExternalReferenceList/ExternalReference")
        }
        symbol = _text(gene, "Symbol") or _text(gene, "Name")
        chosen = next((s for s in ("HGNC", "Ensembl") if references.get(s)), "")
        target = curie(references[chosen], chosen) if chosen else curie(gene.get("id", "0"), "ORPHAGENE")
        yield Entity(id=target, type="gene", name=symbol, synonyms=(_text(gene, "Name"),))
        said, status = (
            _text(found, "DisorderGeneAssociationType/Name"),
            _text(found, "DisorderGeneAssociationStatus/Name"),
        )
        yield Edge(
            subject=identifier, predicate="caused_by_gene" if said.startswith(_CAUSAL) else "associated_with_gene",
            object=target, modifier=said if status in ("", "Assessed") else f"{said} ({status.lower()})", file=file,
            row=place, reference=_text(found, "SourceOfValidation"),
        )  # fmt: skip


def _prevalence(disorder: Element, identifier: str, file: str, place: int) -> Iterator[Entity | Edge]:
    """Point prevalence; worldwide figures go before regional ones, validated before others."""
    best: list[tuple[bool, bool, float]] = []
    for found in disorder.iterfind("PrevalenceList/Prevalence"):
        if _text(found, "PrevalenceType/Name") != "Point prevalence":
            continue
        said = _text(found, "PrevalenceClass/Name")
        mean = float(_text(found, "ValMoy") or 0) / 100_000  # given per 100,000
        share = mean or _PREVALENCE_CLASSES.get(said, 0.0)
        if not share and said not in _SILENT:
            raise DataError(f"{file}: {identifier} has the prevalence class {said!r}", remedy="the form changed")
        if share:
            world = _text(found, "PrevalenceGeographic/Name") == "Worldwide"
            best.append((world, _text(found, "PrevalenceValidationStatus/Name") == "Validated", share))
    if best:
        yield Entity(id=identifier, type="disease", name=_text(disorder, "Name"), prevalence=max(best)[2], tags=_RARE)


def _ages(disorder: Element, identifier: str, file: str, place: int) -> Iterator[Entity | Edge]:
    for path, known, predicate, kind in (
        ("AverageAgeOfOnsetList/AverageAgeOfOnset/Name", _ONSETS, "has_onset", "onset"),
        ("TypeOfInheritanceList/TypeOfInheritance/Name", _INHERITANCES, "has_inheritance", "inheritance"),
    ):
        for found in disorder.iterfind(path):
            said = (found.text or "").strip()
            if said in _SILENT:
                continue
            if said not in known:
                raise DataError(f"{file}: {identifier} has {kind} {said!r}", remedy=f"known: {', '.join(known)}")
            term, name = known[said]
            yield Entity(id=term, type=kind, name=name)
            yield Edge(subject=identifier, predicate=predicate, object=term, file=file, row=place)


_HANDLERS: dict[str, Handler] = {
    "product1": _names, "product4": _findings, "product6": _genes, "product9_prev": _prevalence, "product9_ages": _ages,
}  # fmt: skip
