"""Queries on a graph small enough to know by heart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import hypothesis.strategies as st
import networkx
import pytest
from hypothesis import given, settings

from data.errors import DataError
from data.graph.build import build
from data.graph.export import subgraph, to_networkx, write_as
from data.graph.paths import explain, typed_paths
from data.graph.queries import KnowledgeGraph
from data.graph.schema import RELATIONS, Edge, Entity
from data.graph.store import read, validate, write
from tests.data.graph.helpers import batch

ENTITIES = (
    Entity(id="MONDO:1", type="disease", name="Rare one", tags=("rare",), prevalence=0.3, synonyms=("R1",)),
    Entity(id="MONDO:2", type="disease", name="Measured", prevalence=1e-4),
    Entity(id="MONDO:3", type="disease", name="Plain", synonyms=("shared name",)),
    Entity(id="MONDO:4", type="disease", name="Hub of diseases"),
    Entity(id="HP:1", type="phenotype", name="Tremor", synonyms=("shared name",), xrefs=("UMLS:1",)),
    Entity(id="HP:2", type="phenotype", name="Fever", xrefs=("UMLS:2",), alt_ids=("HP:9",)),
    Entity(id="HP:3", type="phenotype", name="Finding", xrefs=("UMLS:2",)),
    Entity(id="DRUGBANK:1", type="drug", name="Alphadrug"),
    Entity(id="HGNC:1", type="gene", name="FBN1"),
)
FACTS = (
    *(("MONDO:4", "has_phenotype", f"HP:{n}") for n in (1, 2, 3)),
    *(("MONDO:2", "has_phenotype", f"HP:{n}") for n in (1, 2)),
    ("MONDO:1", "has_phenotype", "HP:1"),
    ("MONDO:1", "associated_with_gene", "HGNC:1"),
    ("DRUGBANK:1", "treats", "MONDO:2"),
    ("DRUGBANK:1", "treats", "MONDO:4"),
    ("MONDO:1", "is_a", "MONDO:3"),
    ("MONDO:3", "is_a", "MONDO:4"),
    ("HP:1", "is_a", "HP:3"),
)
DENIED = (("MONDO:1", "has_phenotype", "HP:2"), ("DRUGBANK:1", "treats", "MONDO:1"))


def edges(rows: Iterable[tuple[str, str, str]], negated: bool = False) -> list[Edge]:
    return [
        Edge(subject=s, predicate=p, object=o, negated=negated, file="f", row=i) for i, (s, p, o) in enumerate(rows, 1)
    ]


@pytest.fixture(scope="module")
def graph() -> KnowledgeGraph:
    return KnowledgeGraph(build([batch("a", *ENTITIES, *edges(FACTS), *edges(DENIED, negated=True))]))


def names(graph: KnowledgeGraph, numbers: object) -> list[str]:
    return sorted(graph.ids[n] for n in numbers)  # type: ignore[attr-defined]


def test_finding_by_identifier_name_synonym_and_reference(graph: KnowledgeGraph) -> None:
    fever = graph.find("HP:2")
    assert graph.find("HP:9") == graph.find("fever") == fever
    assert graph.find("UMLS:1") == graph.find("HP:1") and graph.ids[graph.find("r1")] == "MONDO:1"
    with pytest.raises(DataError, match="HP:1 \\(phenotype\\), MONDO:3 \\(disease\\)"):
        graph.find("shared name")
    for unknown in ("UMLS:2", "nothing like this", "HP:77"):  # UMLS:2 is claimed by two and names neither
        with pytest.raises(DataError, match="nothing called"):
            graph.find(unknown)


def test_facts_and_denials_from_both_ends(graph: KnowledgeGraph) -> None:
    one, fever, alphadrug = graph.find("MONDO:1"), graph.find("HP:2"), graph.find("Alphadrug")
    assert names(graph, graph.facts(one, "has_phenotype")) == ["HP:1"]
    assert names(graph, graph.denials(one, "has_phenotype")) == ["HP:2"]
    assert names(graph, graph.facts(fever, "phenotype_of")) == ["MONDO:2", "MONDO:4"]
    assert names(graph, graph.denials(fever, "phenotype_of")) == ["MONDO:1"]
    assert names(graph, graph.denials(alphadrug, "treats")) == names(graph, [one])
    assert names(graph, graph.ancestors(one)) == ["MONDO:3", "MONDO:4"]


def test_neighbourhoods(graph: KnowledgeGraph) -> None:
    one = graph.find("MONDO:1")
    assert {graph.ids[n]: d for n, d in graph.neighbourhood(one, 2).items()} == {
        "MONDO:1": 0, "HP:1": 1, "HGNC:1": 1, "MONDO:2": 2, "MONDO:4": 2
    }  # fmt: skip
    assert names(graph, graph.neighbourhood(one, 3, ("has_phenotype",))) == ["HP:1", "MONDO:1"]
    with pytest.raises(DataError, match="lie within"):
        graph.neighbourhood(one, 3, most=2)


def test_rarity_trusts_flags_then_prevalence_then_degree(graph: KnowledgeGraph) -> None:
    assert [graph.rarity(graph.find(i)).basis for i in ("MONDO:1", "MONDO:2", "MONDO:3")] == [
        "flag",
        "prevalence",
        "degree",
    ]
    assert graph.rarity(graph.find("MONDO:1")).score == 1.0, "the flag goes before a prevalence of 30 %"
    assert graph.rarity(graph.find("MONDO:2")).score == pytest.approx(0.5)
    assert graph.rarity(graph.find("MONDO:3")).score > graph.rarity(graph.find("MONDO:4")).score
    assert graph.degrees[graph.find("MONDO:3")] == 0, "is-a is no fact about it"
    assert graph.rarity(graph.find("MONDO:3")).score == 1.0, "nothing known is as rare as can be"


@pytest.mark.parametrize(
    ("tags", "by"),
    [(("rare:do_slim",), ""), (("rare:do_slim", "rare:omim"), "omim"), (("complex:hetionet", "rare:omim"), ""),
     (("complex:hetionet", "rare:orphanet"), "orphanet"), (("rare:omim", "rare:orphanet"), "omim, orphanet")],
)  # fmt: skip
def test_whose_word_makes_a_disease_rare(tags: tuple[str, ...], by: str) -> None:
    graph = KnowledgeGraph(build([batch("a", Entity(id="MONDO:1", type="disease", name="x", tags=tags))]))
    rarity = graph.rarity(0)
    assert ("rare" in graph.node(0).tags) == bool(by)
    assert rarity.basis == ("flag" if by else "degree") and rarity.detail == (
        f"flagged as rare by {by}" if by else "0 facts"
    )
    assert rarity.score == 1.0


def test_typed_paths(graph: KnowledgeGraph) -> None:
    found = [str(p) for p in typed_paths(graph, graph.find("MONDO:1"), ("has_phenotype", "phenotype_of", "treated_by"))]
    assert found == [
        f"MONDO:1 -has_phenotype-> HP:1 -phenotype_of-> {disease} -treated_by-> DRUGBANK:1"
        for disease in ("MONDO:2", "MONDO:4")
    ]
    assert not list(typed_paths(graph, graph.find("HP:1"), ("phenotype_of",), types=("gene",)))
    with pytest.raises(DataError, match="unknown"):
        list(typed_paths(graph, 0, ("shows",)))
    with pytest.raises(DataError, match="1 types for 2"):
        list(typed_paths(graph, 0, ("treats", "has_phenotype"), types=("disease",)))


def test_an_explanation_goes_through_what_is_specific(graph: KnowledgeGraph) -> None:
    path = explain(graph, graph.find("MONDO:1"), graph.find("DRUGBANK:1"))
    assert path.ids == ("MONDO:1", "HP:1", "MONDO:2", "DRUGBANK:1"), "MONDO:4 has more facts than MONDO:2"
    assert [s.relation for s in path.steps] == ["has_phenotype", "phenotype_of", "treated_by"]
    assert explain(graph, 0, 0).steps == ()
    with pytest.raises(DataError, match="no path"):
        explain(graph, graph.find("MONDO:3"), graph.find("HP:2"))
    assert explain(graph, graph.find("MONDO:3"), graph.find("HP:2"), taxonomic=True).ids == (
        "MONDO:3",
        "MONDO:4",
        "HP:2",
    )


def test_no_explanation_leads_through_a_mode_of_inheritance() -> None:
    mode = Entity(id="HP:6", type="inheritance", name="Dominant")
    people = [Entity(id=f"MONDO:{n}", type="disease", name=f"d{n}") for n in (1, 2)]
    facts = [("MONDO:1", "has_inheritance", "HP:6"), ("MONDO:2", "has_inheritance", "HP:6")]
    graph = KnowledgeGraph(build([batch("a", mode, *people, *edges(facts))]))
    with pytest.raises(DataError, match="no path"):
        explain(graph, graph.find("MONDO:1"), graph.find("MONDO:2"))
    assert len(explain(graph, graph.find("MONDO:1"), graph.find("HP:6")).steps) == 1, "it may end there"
    assert len(explain(graph, graph.find("HP:6"), graph.find("MONDO:2")).steps) == 1, "and begin there"


pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25)


@settings(max_examples=80)
@given(pairs, st.integers(0, 9), st.integers(0, 9))
def test_explanations_are_shortest_paths(rows: list[tuple[int, int]], start: int, end: int) -> None:
    genes = [Entity(id=f"HGNC:{n}", type="gene", name=f"G{n}") for n in range(10)]
    facts = tuple((f"HGNC:{a}", "gene_interacts_with", f"HGNC:{b}") for a, b in rows)
    graph = KnowledgeGraph(build([batch("a", *genes, *edges(facts))]))
    plain = networkx.Graph()
    plain.add_nodes_from(range(10))
    plain.add_edges_from((a, b) for a, b in rows if a != b)
    try:
        expected = networkx.shortest_path_length(plain, start, end)
    except networkx.NetworkXNoPath:
        with pytest.raises(DataError):
            explain(graph, start, end, most_hops=10)
        return
    path = explain(graph, start, end, most_hops=10)
    assert len(path.steps) == expected and path.ids[-1] == f"HGNC:{end}"
    assert all(plain.has_edge(int(a[5:]), int(b[5:])) for a, b in zip(path.ids, path.ids[1:], strict=False))


def test_export_of_a_part(graph: KnowledgeGraph, tmp_path: Path) -> None:
    part = subgraph(graph, graph.neighbourhood(graph.find("MONDO:1")))
    made = to_networkx(part)
    assert sorted(made) == ["HGNC:1", "HP:1", "MONDO:1"] and made.number_of_edges() == 2
    assert {d["predicate"] for _, _, d in made.edges(data=True)} == {"has_phenotype", "associated_with_gene"}
    write_as(part, str(tmp_path / "part.graphml"))
    assert networkx.read_graphml(tmp_path / "part.graphml").nodes["MONDO:1"]["name"] == "Rare one"
    write_as(part, str(tmp_path / "part.json"))
    assert len(json.loads((tmp_path / "part.json").read_text())["nodes"]) == 3
    write_as(part, str(tmp_path / "part"))
    again = KnowledgeGraph.load(str(tmp_path / "part"))
    assert validate(again.tables) == [] and names(again, range(len(again))) == sorted(made)
    assert again.statement(0).source == "a", "evidence goes along"


def test_disputed_statements_make_no_entity_telling(tmp_path: Path) -> None:
    entities = (Entity(id="MONDO:1", type="disease", name="d"), Entity(id="HP:1", type="phenotype", name="p"))
    row = (("MONDO:1", "has_phenotype", "HP:1"),)
    built = build([batch("a", *entities, *edges(row), *edges(row, negated=True))])
    assert write(built, str(tmp_path / "a"))["counts"]["related_by_type"] == {"disease": 0, "phenotype": 0}
    taken = tmp_path / "file"
    taken.write_text("mine")
    with pytest.raises(DataError, match=r"is a file, .* Remedy: name a folder"):
        write(built, str(taken))
    assert taken.read_text() == "mine"


def test_a_store_that_was_touched_is_refused(graph: KnowledgeGraph, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no graph"):
        read(str(tmp_path))
    write(graph.tables, str(tmp_path))
    edges_file = tmp_path / "edges.parquet"
    content = edges_file.read_bytes()
    edges_file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"edges\.parquet .* is not what the manifest describes"):
        read(str(tmp_path))
    edges_file.unlink()
    with pytest.raises(DataError, match=r"edges\.parquet is missing"):
        read(str(tmp_path))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("fleming-graph/1", "fleming-graph/0"))
    with pytest.raises(DataError, match="schema"):
        read(str(tmp_path))


def test_validation_sees_what_is_wrong(graph: KnowledgeGraph) -> None:
    from dataclasses import replace

    tables = graph.tables
    assert validate(tables) == []
    assert validate(replace(tables, nodes=tables.nodes.slice(1)))[0].endswith("edges lead to no node")
    flipped = tables.edges.set_column(
        tables.edges.schema.get_field_index("object"), tables.edges.schema.field("object"), tables.edges["subject"]
    )
    assert any("to itself" in problem for problem in validate(replace(tables, edges=flipped)))


def test_every_relation_reads_both_ways() -> None:
    words = [word for r in RELATIONS.values() for word in {r.name, r.inverse}]
    assert len(words) == len(set(words)), "a word must say which way it is meant"
