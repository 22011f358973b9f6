"""Merging: independent of order, never two identifiers of a vocabulary in one entity, conflicts reported."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from data.errors import DataError
from data.graph.build import SourceBatch, build
from data.graph.merge import merge
from data.graph.names import normal_name
from data.graph.queries import KnowledgeGraph
from data.graph.schema import RELATIONS, Edge, Entity, curie, prefix_of
from data.graph.store import read, validate, write
from tests.data.graph.helpers import batch
from tests.data.graph.sources import write_all

PREFIXES = ("MONDO", "DOID", "OMIM", "HP", "MESH")
TYPES = ("disease", "phenotype", "imaging_finding")
ALONE = "joined on one unsupported reference"
NAMES = ("Fever", "fever", "Long fingers", "Marfan syndrome", "Tremor")
identifiers = st.builds(lambda prefix, number: f"{prefix}:{number}", st.sampled_from(PREFIXES), st.integers(1, 4))
entities = st.builds(
    Entity,
    id=identifiers,
    type=st.sampled_from(TYPES),
    name=st.sampled_from(NAMES),
    synonyms=st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
    xrefs=st.lists(identifiers, max_size=2).map(tuple),
    alt_ids=st.lists(identifiers, max_size=1).map(tuple),
    tags=st.sampled_from([(), ("rare",)]),
    prevalence=st.sampled_from([None, 0.1, 1e-6]),
)
edges = st.builds(
    Edge,
    subject=identifiers,
    predicate=st.sampled_from(["has_phenotype", "resembles", "has_feature"]),
    object=identifiers,
    negated=st.booleans(),
    frequency=st.sampled_from([float("nan"), 0.5, 0.25]),
    reference=st.sampled_from(["", "PMID:1"]),
    row=st.integers(1, 9),
)
contents = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.tuples(st.lists(entities, min_size=1, max_size=6), st.lists(edges, max_size=6)),
    min_size=1,
)
Content = dict[str, tuple[list[Entity], list[Edge]]]


def batches(content: Content) -> list[SourceBatch]:
    return [batch(name, *described, *stated) for name, (described, stated) in content.items()]


@settings(max_examples=150)
@given(contents, st.randoms(use_true_random=False))
def test_the_order_of_sources_and_of_their_rows_does_not_matter(content: Content, rng: random.Random) -> None:
    first = build(batches(content))
    shuffled = {name: (rng.sample(e, len(e)), rng.sample(r, len(r))) for name, (e, r) in content.items()}
    names = rng.sample(sorted(shuffled), len(shuffled))
    second = build(batches({name: shuffled[name] for name in names}))
    assert first.nodes.equals(second.nodes) and first.edges.equals(second.edges)
    assert first.conflicts == second.conflicts and first.report == second.report


@settings(max_examples=150)
@given(contents)
def test_what_is_built_is_sound(content: Content) -> None:
    graph = build(batches(content))
    assert validate(graph) == []
    rows = graph.nodes.to_pylist()
    for row in rows:
        prefixes = [prefix_of(identifier) for identifier in row["ids"]]
        assert len(prefixes) == len(set(prefixes)), "two identifiers of one vocabulary in one entity"
    described = {e.id for entities_, _ in content.values() for e in entities_}
    assert sorted(i for row in rows for i in row["ids"]) == sorted(described), "every identifier has exactly one entity"
    loaded = KnowledgeGraph(graph)
    for edge in range(graph.edges.num_rows):
        statement = loaded.statement(edge)
        subject, target = loaded.node(loaded.find(statement.subject)), loaded.node(loaded.find(statement.object))
        relation = RELATIONS[statement.predicate]
        assert subject.type in relation.subjects and target.type in relation.objects


@settings(max_examples=60)
@given(contents)
def test_parquet_round_trip(tmp_path_factory: pytest.TempPathFactory, content: Content) -> None:
    graph = build(batches(content))
    folder = str(tmp_path_factory.mktemp("graph"))
    write(graph, folder)
    again = read(folder)
    assert again.nodes.equals(graph.nodes) and again.edges.to_pylist() == graph.edges.to_pylist()
    assert (again.sources, again.conflicts, again.report) == (graph.sources, graph.conflicts, graph.report)


def test_a_build_is_the_same_to_the_byte(tmp_path: Path, checkout: Path) -> None:
    """In two processes with different hash seeds, from sources in two orders."""
    sources = write_all(tmp_path)
    code = (
        "import sys; from data.graph.build import build; from data.graph.importers.registry import open_sources; "
        "from data.graph.store import write; write(build(open_sources(sys.argv[2:])), sys.argv[1])"
    )
    for seed, order in ((1, sources), (2, sources[::-1])):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"out{seed}"), *order],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(checkout)}, check=True, timeout=60,
        )  # fmt: skip
    for name in ("nodes.parquet", "edges.parquet", "manifest.json", "merge_report.json"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes(), name


def disease(identifier: str, name: str = "", *xrefs: str, **more: object) -> Entity:
    return Entity(id=identifier, type="disease", name=name or f"name of {identifier}", xrefs=xrefs, **more)  # type: ignore[arg-type]


def test_the_better_supported_of_two_claims_wins() -> None:
    """DOID:1 is claimed by MONDO:1 and, with the same name, by MONDO:2, which gets it; the other is reported."""
    merged = merge(
        [
            ("mondo", disease("MONDO:1", "one", "DOID:1")),
            ("mondo", disease("MONDO:2", "two", "DOID:1")),
            ("do", disease("DOID:1", "two")),
        ]
    )
    assert [node.ids for node in merged.nodes] == [("MONDO:1",), ("MONDO:2", "DOID:1")]
    assert [(c.kind, c.subject, c.other) for c in merged.conflicts] == [("one to many", "DOID:1", "MONDO:1")]


def test_types_are_not_mixed_and_narrow_ones_win() -> None:
    merged = merge(
        [
            ("a", Entity(id="HP:1", type="phenotype", name="Spots on MRI", xrefs=("UMLS:1", "DOID:1"))),
            ("b", Entity(id="UMLS:1", type="imaging_finding", name="x")),
            ("c", disease("DOID:1", "Spots")),
        ]
    )
    assert [(node.id, node.type) for node in merged.nodes] == [("DOID:1", "disease"), ("HP:1", "imaging_finding")]
    assert [c.kind for c in merged.conflicts] == ["cross-type reference", ALONE]


def test_the_same_name_joins_only_within_a_type_and_when_it_is_the_only_one() -> None:
    merged = merge(
        [
            ("a", Entity(id="HP:1", type="phenotype", name="Fever")),
            ("b", Entity(id="SYMP:1", type="phenotype", name="fever")),
            ("b", disease("DOID:1", "Fever")),
            ("a", Entity(id="HP:2", type="phenotype", name="Cough")),
            ("b", Entity(id="SYMP:2", type="phenotype", name="cough")),
            ("b", Entity(id="SYMP:3", type="phenotype", name="Cough")),
        ]
    )
    assert sorted(node.ids for node in merged.nodes) == [
        ("DOID:1",), ("HP:1", "SYMP:1"), ("HP:2",), ("SYMP:2",), ("SYMP:3",)
    ]  # fmt: skip
    assert merged.joins == {"same name": 1}


def test_one_name_in_two_entities_and_two_names_of_one_identifier_are_reported() -> None:
    merged = merge(
        [
            ("a", disease("DOID:1", "metabolic syndrome")),
            ("b", disease("DOID:1", "insulin resistance")),
            ("a", disease("DOID:2", "flu", synonyms=("influenza",))),
            ("b", disease("DOID:2", "Influenza")),
            ("a", disease("OMIM:3", "ataxia 1")),
            ("a", disease("OMIM:4", "Ataxia-1")),
            ("a", Entity(id="HP:5", type="phenotype", name="ataxia 1")),
        ]
    )
    assert [(c.kind, c.subject, c.other, c.detail) for c in merged.conflicts] == [
        ("one identifier, two names", "DOID:1", "DOID:1", "b: insulin resistance and a: metabolic syndrome"),
        ("one name, two entities", "OMIM:3", "OMIM:4", "disease ataxia 1"),
    ]


def test_a_join_that_one_reference_alone_supports_is_reported() -> None:
    drug = [Entity(id=i, type="drug", name=name, synonyms=also, xrefs=xrefs) for i, name, also, xrefs in (
        ("DRUGBANK:1", "odd one", (), ("CHEBI:1",)), ("CHEBI:1", "benzothiazole", (), ()),
        ("DRUGBANK:2", "acid", (), ("CHEBI:2",)), ("CHEBI:2", "salt", ("Acid",), ()),
        ("DRUGBANK:3", "left", (), ("CHEBI:3",)), ("CHEBI:3", "right", (), ("DRUGBANK:3",)))]  # fmt: skip
    merged = merge([("a", entity) for entity in drug])
    assert len(merged.nodes) == 3
    assert [(c.kind, c.subject, c.other, c.source) for c in merged.conflicts] == [(ALONE, "CHEBI:1", "DRUGBANK:1", "a")]


def test_codes_that_group_diseases_do_not_join_them() -> None:
    claims = [
        ("a", disease("DOID:1", "", "ICD10CM:E1")),
        ("a", disease("ICD10CM:E1")),
        ("a", disease("OMIM:2", "", "ICD10CM:E1")),
    ]
    assert len(merge(claims).nodes) == 3


def test_former_identifiers_lead_to_the_current_one() -> None:
    graph = build([batch("a", disease("MONDO:1", alt_ids=("MONDO:9",)), disease("MONDO:2"),
                         Edge(subject="MONDO:9", predicate="resembles", object="MONDO:2"))])  # fmt: skip
    assert graph.edges["subject"].to_pylist() == ["MONDO:1"] and graph.edges["subject_said"].to_pylist() == ["MONDO:9"]


def test_contradictions_between_sources_are_found_after_merging() -> None:
    finding = Entity(id="HP:1", type="phenotype", name="Tremor")
    stated = Edge(subject="MONDO:1", predicate="has_phenotype", object="HP:1")
    denied = Edge(subject="OMIM:1", predicate="has_phenotype", object="HP:1", negated=True)
    graph = build(
        [batch("a", disease("MONDO:1", "x", "OMIM:1"), finding, stated), batch("b", disease("OMIM:1"), denied)]
    )
    assert graph.edges["disputed"].to_pylist() == [True, True] and graph.report["conflicts"] == {
        "contradiction": 1,
        ALONE: 1,
    }
    loaded = KnowledgeGraph(graph)
    assert loaded.facts(0, "has_phenotype") == loaded.denials(0, "has_phenotype") == []


@pytest.mark.parametrize(("disease_", "disputed"), [("MONDO:1", True), ("MONDO:2", False)])
def test_a_denial_above_a_fact_of_the_same_disease_is_disputed(disease_: str, disputed: bool) -> None:
    """MONDO:1 lacks seizures and has a focal motor one, two steps below; MONDO:2 only lacks them."""
    findings = [Entity(id=f"HP:{n}", type="phenotype", name=f"finding {n}") for n in (1, 2, 3, 4)]
    tree = [Edge(subject=f"HP:{a}", predicate="is_a", object=f"HP:{b}") for a, b in ((2, 1), (3, 2), (4, 1))]
    told = [Edge(subject="MONDO:1", predicate="has_phenotype", object="HP:3"),
            Edge(subject="MONDO:2", predicate="has_phenotype", object="HP:1")]  # fmt: skip
    denied = [Edge(subject=disease_, predicate="has_phenotype", object=f"HP:{n}", negated=True) for n in (2, 4)]
    graph = build([batch("a", disease("MONDO:1"), disease("MONDO:2"), *findings, *tree, *told, *denied)])
    loaded = KnowledgeGraph(graph)
    number = loaded.find(disease_)
    expected = ["HP:4"] if disputed else ["HP:2", "HP:4"]
    assert [loaded.ids[n] for n in loaded.denials(number, "has_phenotype")] == expected
    assert len(loaded.facts(number, "has_phenotype")) == 1, "the fact stays"
    assert graph.report["conflicts"] == ({"denied above a fact": 1} if disputed else {})


def test_circles_that_merging_makes_are_disputed() -> None:
    graph = build(
        [
            batch("a", disease("MONDO:1", "p", "DOID:1"), disease("MONDO:2", "q", "DOID:2"),
                  Edge(subject="MONDO:1", predicate="is_a", object="MONDO:2")),
            batch("b", disease("DOID:1"), disease("DOID:2"), Edge(subject="DOID:2", predicate="is_a", object="DOID:1")),
        ]
    )  # fmt: skip
    assert graph.report["conflicts"] == {"circle": 1, ALONE: 2} and graph.edges["disputed"].to_pylist() == [True, True]
    circle = [Edge(subject=f"DOID:{a}", predicate="is_a", object=f"DOID:{b}") for a, b in ((1, 2), (2, 1))]
    with pytest.raises(DataError, match="goes in a circle"):
        build([batch("c", disease("DOID:1"), disease("DOID:2"), *circle)])


def test_edges_with_ends_that_do_not_fit_are_dropped_and_reported() -> None:
    graph = build(
        [batch("a", disease("DOID:1"), disease("DOID:2"), Edge(subject="DOID:1", predicate="treats", object="DOID:2"),
               Edge(subject="DOID:1", predicate="resembles", object="DOID:7"))]
    )  # fmt: skip
    assert graph.edges.num_rows == 0 and graph.report["conflicts"] == {"ends of wrong type": 1, "unknown end": 1}


@pytest.mark.parametrize(
    ("said", "prefix", "expected"),
    [("Orphanet:558", "", "ORPHA:558"), ("ORDO:558", "", "ORPHA:558"), ("MIM:PS118220", "", "OMIMPS:118220"),
     ("D005334", "MSH", "MESH:D005334"), ("SNOMEDCT_US_2025_09_01:5", "", "SNOMEDCT:5"), ("HGNC:5", "HGNC", "HGNC:5")],
)  # fmt: skip
def test_spellings_of_identifiers(said: str, prefix: str, expected: str) -> None:
    assert curie(said, prefix) == expected


@pytest.mark.parametrize("said", ["", "fever", ":5", "HP:", "HP: 5"])
def test_what_is_no_identifier(said: str) -> None:
    with pytest.raises(DataError, match="is no identifier"):
        curie(said)


def test_names_are_compared_by_their_words() -> None:
    assert normal_name("Crohn's disease") == normal_name("CROHNS  disease") != normal_name("Crohn disease, 2")


@pytest.mark.parametrize(
    ("one", "same"),
    [("α-thalassemia", "alpha thalassemia"), ("TNFα", "TNF-alpha"), ("β2-microglobulin", "beta2 microglobulin"),
     ("Ménière’s disease", "Meniere's disease"), ("Sjögren", "SJOGREN"), ("λ", "lambda"), ("µ-opioid", "mu opioid"),
     ("(−)-menthol", "(-)-Menthol"), ("5′-nucleotidase", "5'-nucleotidase"), ("糖尿病", "糖尿病 "), ("H₂O", "H2O")],
)  # fmt: skip
def test_names_that_are_the_same(one: str, same: str) -> None:
    assert normal_name(one) == normal_name(same) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("α-thalassemia", "β-thalassemia"), ("(+)-limonene", "(-)-limonene"), ("(+)-limonene", "limonene"),
     ("(±)-menthol", "(+)-menthol"), ("iron(2+)", "iron(3+)"), ("zinc(1+)", "zinc(1-)"), ("高血压", "低血压"),
     ("5'-nucleotidase", "5-nucleotidase"), ("4,4''-x", "4,4'-x"), ("N'-methylurea", "N-methylurea")],
)  # fmt: skip
def test_names_that_differ(one: str, other: str) -> None:
    assert normal_name(one) != normal_name(other)


def test_a_chinese_name_is_found_and_joins() -> None:
    graph = KnowledgeGraph(
        build(
            [batch("a", disease("MONDO:1", "糖尿病")), batch("b", disease("X:1", "糖尿病"), disease("X:2", "高血压"))]
        )
    )
    assert graph.node(graph.find("糖尿病")).ids == ("MONDO:1", "X:1") and graph.ids[graph.find("高血压")] == "X:2"
    with pytest.raises(DataError, match="nothing called"):
        graph.find("肺炎")
