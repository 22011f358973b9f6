"""Facts straight from the source files, and a judge of synthesised questions that shares no code with their synthesis.

Nothing here imports the graph or the synthesis: files are split at tabs, identifiers joined by the cross references of
the Disease Ontology and by equal names. The judge derives the answer of a question anew and says what is wrong with it.
"""

from __future__ import annotations

import csv
import gzip
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

_EXCLUDED = "HP:0040285"
_GENERIC_WORDS = """
syndrome disease disorder abnormality abnormal inheritance deficiency autosomal dominant recessive congenital familial
infantile juvenile primary chronic severe isolated susceptibility increased decreased elevated reduced concentration
activity circulating idiopathic hereditary nonsyndromic related associated without multiple neonatal secondary
"""
_GENERIC = frozenset(_GENERIC_WORDS.split())


def _norm(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.lower().replace("'", ""))
    return " ".join(re.findall(r"[a-z0-9]+", "".join(c for c in plain if not unicodedata.combining(c))))


def _ids(text: str) -> str:
    head, _, local = text.partition(":")
    return {"MIM": "OMIM", "ORDO": "ORPHA", "Orphanet": "ORPHA", "MSH": "MESH"}.get(head, head) + ":" + local


def _contradicts(mode: str, definition: str) -> bool:
    """True for an inferred "autosomal" of a disease that its definition puts on the X chromosome."""
    return "autosomal" in mode and re.search(r"chromosome X|\bX[pq]\d", definition) is not None


class Raw:
    """The raw statements. Diseases, findings, genes and drugs keep the identifiers of their files."""

    def __init__(self, hpo: Path, shared: Path) -> None:
        self.name: dict[str, str] = {}
        self.called: dict[str, set[str]] = defaultdict(set)
        self.up: dict[str, set[str]] = defaultdict(set)
        self.same: dict[str, set[str]] = defaultdict(set)
        self.has: dict[str, set[str]] = defaultdict(set)
        self.denied: dict[str, set[str]] = defaultdict(set)
        self.modes: dict[str, set[str]] = defaultdict(set)
        self.genes: dict[str, set[str]] = defaultdict(set)
        self.symbols: dict[str, set[str]] = defaultdict(set)
        self.treats: dict[str, set[str]] = defaultdict(set)
        self.palliates: dict[str, set[str]] = defaultdict(set)
        self.no_indication: dict[str, set[str]] = defaultdict(set)
        self.classes: dict[str, set[str]] = defaultdict(set)
        self._obo(hpo / "hp.obo")
        self._annotations(hpo)
        self._ontology(shared / "disease_ontology")
        self._hetionet(shared / "hetionet")
        self._indications(shared / "indications" / "indications.tsv")
        self._equal_names()

    def _call(self, identifier: str, text: str) -> None:
        self.name.setdefault(identifier, text)
        self.called[_norm(text)].add(identifier)
        if identifier.startswith("MESH:") and text.count(", ") == 1:  # "Syncope, Vasovagal"
            self.called[_norm(" ".join(reversed(text.split(", "))))].add(identifier)

    def _obo(self, path: Path) -> None:
        current = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                current = ""
            elif line.startswith("id: "):
                current = line[4:].strip()
            elif line.startswith("name: "):
                self._call(current, line[6:])
            elif line.startswith("synonym: ") and " abbreviation [" not in line:  # "ASD": atrial, or autism
                self._call(current, line.split('"')[1])
            elif line.startswith("is_a: "):
                self.up[current].add(line[6:].split(" ")[0])
            elif line.startswith("alt_id: "):
                self.same[line[8:].strip()].add(current)
            elif line.startswith("xref: ") and current:
                self.same[_ids(line[6:].split(" ")[0])].add(current)

    def _annotations(self, folder: Path) -> None:
        for line in (folder / "phenotype.hpoa").read_text(encoding="utf-8").splitlines():
            cells = line.split("\t")
            if line.startswith("#") or cells[0] == "database_id":
                continue
            disease, name, qualifier, term, frequency, aspect = (cells[i] for i in (0, 1, 2, 3, 7, 10))
            self._call(disease, name)
            if aspect in "PH":
                no = qualifier == "NOT" or frequency == _EXCLUDED or re.match(r"0+/\d|0+(\.0+)?%", frequency)
                (self.denied if no else self.has)[disease].add(term)
            elif aspect == "I" and qualifier != "NOT":
                self.modes[disease].add(term)
        for line in (folder / "genes_to_phenotype.txt").read_text(encoding="utf-8").splitlines()[1:]:
            cells = line.split("\t")
            if cells[5] not in ("-", ""):
                self.genes[cells[5]].add(cells[0].removeprefix("NCBIGene:"))
                self.symbols[cells[1]].add(cells[0].removeprefix("NCBIGene:"))

    def _ontology(self, folder: Path) -> None:
        labels: dict[str, str] = {}
        rows = list(csv.reader((folder / "HumanDO.tsv").open(encoding="utf-8"), delimiter="\t"))[1:]
        for identifier, label, _ in rows:
            labels[label] = identifier
            self._call(identifier, label)
        for identifier, _, parent in rows:
            if parent in labels:
                self.up[identifier].add(labels[parent])
        current = ""
        for line in (folder / "DO_rare_slim.obo").read_text(encoding="utf-8").splitlines():
            if line.startswith("id: "):
                current = line[4:].strip()
            elif line.startswith("synonym: "):
                self._call(current, line.split('"')[1])
        for identifier, _, xref in csv.reader((folder / "allXREFinDO.tsv").open(encoding="utf-8"), delimiter="\t"):
            if _ids(xref).startswith(("OMIM:", "ORPHA:", "DECIPHER:")):
                self.same[identifier].add(_ids(xref))
                self.same[_ids(xref)].add(identifier)
        with gzip.open(folder / "facets.tsv.gz", "rt", encoding="utf-8") as lines:
            for disease, _, text, facet, keyword, target in csv.reader(lines, delimiter="\t"):
                if facet in ("symptom", "phenotype"):
                    self._call(target, keyword)
                    self.has[disease].add(target)
                elif facet == "inheritance_pattern" and not _contradicts(keyword, text):
                    self._call(target, keyword)
                    self.modes[disease].add(target)

    def _hetionet(self, folder: Path) -> None:
        names = {}
        for row in csv.reader((folder / "nodes.tsv").open(encoding="utf-8"), delimiter="\t"):
            names[row[0]] = row[1]
            if row[0].startswith("Gene::"):
                self.symbols[row[1]].add(row[0].removeprefix("Gene::"))
        with gzip.open(folder / "edges-5k.sif.gz", "rt", encoding="utf-8") as lines:
            for source, kind, target in csv.reader(lines, delimiter="\t"):
                a, b = source.partition("::")[2], target.partition("::")[2]
                if kind == "DpS":
                    b = f"MESH:{b}"
                    self._call(b, names[target])
                    self._call(a, names[source])
                    self.has[a].add(b)
                elif kind == "DaG":
                    self.genes[a].add(b)
                elif kind in ("CtD", "CpD"):
                    self._call(f"DRUG:{a}", names[source])
                    self._call(b, names[target])
                    (self.treats if kind == "CtD" else self.palliates)[b].add(f"DRUG:{a}")
                elif kind == "PCiC":
                    self._call(f"DRUG:{b}", names[target])
                    self.classes[f"DRUG:{b}"].add(names[source])

    def _indications(self, path: Path) -> None:
        store = {"DM": self.treats, "SYM": self.palliates, "NOT": self.no_indication}
        for disease, drug, name, drug_name, category, *_ in list(
            csv.reader(path.open(encoding="utf-8"), delimiter="\t")
        )[1:]:
            self._call(disease, name)
            self._call(f"DRUG:{drug}", drug_name)
            store[category][disease].add(f"DRUG:{drug}")

    def _equal_names(self) -> None:
        for group in self.called.values():
            diseases = sorted(i for i in group if i.startswith(("OMIM:", "ORPHA:", "DOID:", "DECIPHER:")))
            main = [i for i in diseases if _norm(self.name[i]) in self.called and i in self.called[_norm(self.name[i])]]
            for a in main:
                self.same[a] |= {b for b in main if _norm(self.name[a]) == _norm(self.name[b])} - {a}
            terms = {i for i in group if i.startswith(("HP:", "MESH:", "SYMP:"))}
            for term in terms:
                self.same[term] |= terms - {term}

    # --- derived ------------------------------------------------------------------------------------------------------

    def cluster(self, identifier: str) -> set[str]:
        """Identifiers one or two references away: more than the graph merges, so wrong options are judged harder."""
        near = {identifier} | self.same[identifier]
        return near | {b for a in near for b in self.same[a]}

    def above(self, term: str) -> set[str]:
        found: set[str] = set()
        todo = [term]
        while todo:
            node = todo.pop()
            new = (
                self.up.get(node, set())
                | {s for s in self.same.get(node, ()) if s.startswith(("HP:", "MESH:", "SYMP:"))}
            ) - found
            found |= new
            todo += new
        return found | {term}

    @cached_property
    def profiles(self) -> dict[str, set[str]]:
        """Disease -> its findings and all above them, those of its cluster with them."""
        own = {d: set().union(*(self.above(t) for t in terms)) for d, terms in self.has.items()}
        known = {m for d in own for m in self.cluster(d)}
        return {d: set().union(*(own.get(m, set()) for m in self.cluster(d))) for d in known}

    @cached_property
    def diseases_of_gene(self) -> dict[str, set[str]]:
        turned: dict[str, set[str]] = defaultdict(set)
        for disease, genes in self.genes.items():
            for gene in genes:
                turned[gene].add(disease)
        return turned

    def of(self, store: dict[str, set[str]], diseases: Iterable[str]) -> set[str]:
        return {x for d in diseases for m in self.cluster(d) for x in store.get(m, ())}

    def named(self, text: str, prefixes: tuple[str, ...]) -> set[str]:
        return {i for i in self.called.get(_norm(text), ()) if i.startswith(prefixes)}


_DISEASE = ("OMIM:", "ORPHA:", "DOID:", "DECIPHER:")
_TERM = ("HP:", "MESH:", "SYMP:")
_GENE_FORMS = ("gene_finding", "inheritance")


class Judge:
    """Says what is wrong with a question, as lines of text; nothing when it is sound."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw

    def faults(self, question: Any, why: Any) -> list[str]:
        """``question`` and ``why`` are a Question and an Explanation; only their texts and identifiers are read."""
        return [*self._leaks(question), *self._visible(question, why), *self._truth(question, why)]

    def _leaks(self, question: Any) -> Iterator[str]:
        stem, answer = question.stem.lower(), question.answer_text.lower()
        if f" {_norm(answer)} " in f" {_norm(stem)} ":
            yield f"stem holds the answer {answer!r}"
        for word in re.findall(r"[a-z]{7,}", answer):
            if word not in _GENERIC and word in stem:
                yield f"stem holds {word!r} of the answer"

    def _visible(self, question: Any, why: Any) -> Iterator[str]:
        stem = f" {_norm(question.stem)} "
        for identifier in why.visible:
            if identifier.startswith(_TERM):
                names = self._names_of.get(identifier, ())
                if not any(all(f" {w} " in stem for w in name.split()) for name in names):
                    yield f"visible {identifier} {self.raw.name.get(identifier)} is not in the stem"

    @cached_property
    def _names_of(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name, ids in self.raw.called.items():
            for identifier in ids:
                found[identifier].append(name)
        return found

    def _truth(self, question: Any, why: Any) -> Iterator[str]:
        start = self._gene_diseases(question.stem, why) if why.form in _GENE_FORMS else self._start(why)
        right = {o.label: self._is_right(o.text, start, why) for o in question.options}
        if not right[question.answer_label]:
            yield f"answer {question.answer_text!r} does not follow from the sources"
        for label, truth in right.items():
            if truth and label != question.answer_label:
                yield f"option {label} is right as well"

    def _start(self, why: Any) -> set[str]:
        """The diseases that the visible part may speak of."""
        terms = [v for v in why.visible if v.startswith(_TERM)]
        if not terms:
            return {why.disease}
        return set.intersection(*(self._having.get(t, set()) for t in terms))

    @cached_property
    def _having(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for disease, profile in self.raw.profiles.items():
            for term in profile:
                found[term].add(disease)
        return found

    def _is_right(self, text: str, start: set[str], why: Any) -> bool:
        raw, form = self.raw, why.form
        if form == "diagnosis":
            return self._fits(text, why)
        if form in ("finding", "gene_finding", "discriminate"):
            return any(t in raw.profiles.get(m, ()) for d in start for m in raw.cluster(d) for t in self._terms(text))
        if form == "inheritance":
            return bool(raw.of(raw.modes, start) & raw.named(text, (*_TERM, "GENO:")))
        if form == "gene":
            return bool(raw.symbols[text] & raw.of(raw.genes, start))
        if form in ("allelic", "allelic_finding"):
            return self._allelic(text, start, form)
        return self._drug(text, start, form)

    def _terms(self, text: str) -> set[str]:
        return self.raw.named(text, _TERM)

    def _fits(self, text: str, why: Any) -> bool:
        terms = [v for v in why.visible if v.startswith(_TERM)]
        return any(all(t in self.raw.profiles.get(d, ()) for t in terms) for d in self.raw.named(text, _DISEASE))

    def _gene_diseases(self, stem: str, why: Any) -> set[str]:
        """All diseases of the visible gene, whose symbol stands in the stem; the T of "T wave" is a symbol too."""
        symbols = set(re.findall(r"[\w-]+", stem)) & self.raw.symbols.keys()
        shown = {v.removeprefix("NCBIGENE:") for v in why.visible}
        return {d for s in symbols for g in self.raw.symbols[s] & shown for d in self.raw.diseases_of_gene[g]}

    def _allelic(self, text: str, start: set[str], form: str) -> bool:
        raw = self.raw
        mates = {d for g in raw.of(raw.genes, start) for d in raw.diseases_of_gene[g]}
        mates = {m for d in mates for m in raw.cluster(d)}
        if form == "allelic":
            return bool(mates & raw.named(text, _DISEASE))
        own = {m for d in start for m in raw.cluster(d)}
        return any(t in raw.profiles.get(d, ()) for d in mates - own for t in self._terms(text))

    def _drug(self, text: str, start: set[str], form: str) -> bool:
        raw = self.raw
        treating, easing = raw.of(raw.treats, start), raw.of(raw.palliates, start)
        named = raw.named(text, ("DRUG:",))
        if form in ("drug", "drug_vignette"):
            return bool(named & (treating | easing))
        if form == "non_indication":
            return bool(named & raw.of(raw.no_indication, start)) or not named & (treating | easing)
        classes = {c for drug in treating | easing for c in raw.classes[drug]}
        if form == "alternative_drug":
            return any(raw.classes[drug] & classes for drug in named)
        return _norm(text) in {_norm(name) for name in classes}
