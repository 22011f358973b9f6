"""PharmacotherapyDB: drug-disease pairs that physicians judged: disease-modifying, symptomatic, no indication."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.graph.build import SourceBatch
from data.graph.reading import fail, find_file, identifier_at, name_at, rows
from data.graph.schema import Edge, Entity, SourceInfo

CITATION = "Himmelstein DS et al. PharmacotherapyDB 1.0. figshare 2016, doi:10.6084/m9.figshare.3103054"
_COLUMNS = ("doid_id", "drugbank_id", "disease", "drug", "category", "n_curators", "n_resources")
_CATEGORIES = {"DM": ("treats", False), "SYM": ("palliates", False), "NOT": ("treats", True)}


def read(location: str) -> SourceBatch:
    """The catalogue of a folder (or file) indications.tsv. Category NOT becomes "treats", denied: the best distractors.

    Raises:
        DataError: the file is missing or cut, has another header or an unknown category, with its line.
    """
    path = find_file(Path(location), "indications.tsv")
    info = SourceInfo(
        name="indications", version="1.0", licence="CC0-1.0", citation=CITATION, url="github.com/dhimmel/indications"
    )
    return SourceBatch(info=info, records=_records(path))


def _records(path: Path) -> Iterator[Entity | Edge]:
    seen: set[str] = set()
    for line, (disease, drug, disease_name, drug_name, category, curators, resources) in rows(path, _COLUMNS):
        if category not in _CATEGORIES:
            raise fail(path, line, f"category {category!r} is unknown", f"known: {', '.join(_CATEGORIES)}")
        predicate, negated = _CATEGORIES[category]
        ends = (identifier_at(path, line, drug, "DRUGBANK"), identifier_at(path, line, disease))
        for identifier, kind, name in ((ends[0], "drug", drug_name), (ends[1], "disease", disease_name)):
            if identifier not in seen:
                seen.add(identifier)
                yield Entity(id=identifier, type=kind, name=name_at(path, line, identifier, name))
        yield Edge(
            subject=ends[0], predicate=predicate, object=ends[1], negated=negated, file=path.name, row=line,
            reference=f"{category}, {curators} of 3 curators, {resources} of 4 resources",
        )  # fmt: skip
