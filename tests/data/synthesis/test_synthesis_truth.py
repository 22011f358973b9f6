"""What may be called wrong under an open world, and when a text gives an answer away."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from data.graph.build import SourceBatch, build
from data.graph.queries import KnowledgeGraph
from data.graph.schema import Edge, Entity, SourceInfo
from data.synthesis.forms import genes_of
from data.synthesis.wording import in_sentence, listed, option_text
from data.synthesis.words import clashes, leaks
from data.synthesis.world import World

_FINDINGS = {
    "HP:1": "Cataract", "HP:2": "Nuclear cataract", "HP:3": "Lens opacity of the rim", "HP:4": "Seizure",
    "HP:5": "Ataxia", "HP:6": "Deafness", "HP:7": "Scoliosis", "HP:8": "Fever", "HP:9": "Rash",
    "SYMP:1": "Hearing loss", "SYMP:2": "Sneezing",
}  # fmt: skip


def _world(edges: Sequence[Edge] = ()) -> World:
    info = SourceInfo(name="t", version="1", licence="CC0-1.0", citation="none")
    synonyms = {"HP:6": ("Hearing loss",)}
    entities = [Entity(id=i, type="phenotype", name=n, synonyms=synonyms.get(i, ())) for i, n in _FINDINGS.items()]
    entities += [
        Entity(id=i, type="phenotype", name=n) for i, n in (("HP:0", "Eye finding"), ("HP:00", "Skin finding"))
    ]
    names = {"OMIM:1": "Alpha syndrome 1", "OMIM:2": "Alpha syndrome 2", "OMIM:3": "Beta disease"}
    entities += [Entity(id=i, type="disease", name=n) for i, n in names.items()]
    facts = [("OMIM:1", t) for t in ("HP:2", "HP:4", "HP:5", "HP:6", "HP:7")] + [("OMIM:2", "HP:8"), ("OMIM:3", "HP:9")]
    rows: list[Edge] = [Edge(subject=s, predicate="has_phenotype", object=o, file="f", row=1) for s, o in facts]
    rows += [Edge(subject=s, predicate="is_a", object=o, file="f", row=1)
             for s, o in (("HP:2", "HP:1"), ("HP:1", "HP:0"), ("HP:3", "HP:1"), ("HP:9", "HP:00"))]  # fmt: skip
    return World.of(KnowledgeGraph(build([SourceBatch(info=info, records=[*entities, *rows, *edges])])))


def _status(world: World, disease: str, term: str) -> str:
    return world.status(world.graph.find(disease), world.graph.ids.index(term))


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("HP:2", "has"),  # stated
        ("HP:1", "has"),  # follows by is-a
        ("HP:3", "unsure"),  # beside a finding: a common parent
        ("HP:8", "unsure"),  # a finding of the next subtype
        ("SYMP:1", "unsure"),  # a synonym of a finding, in another vocabulary
        ("HP:9", "absent"),
        ("SYMP:2", "unsure"),  # nothing says where it belongs
    ],
)
def test_status(term: str, expected: str) -> None:
    assert _status(_world(), "OMIM:1", term) == expected


def test_denials_hold_below_and_disputes_leave_open() -> None:
    denied = Edge(subject="OMIM:3", predicate="has_phenotype", object="HP:1", negated=True, file="f", row=2)
    assert _status(_world([denied]), "OMIM:3", "HP:2") == "denied"
    assert _status(_world([denied]), "OMIM:3", "HP:4") == "unsure"  # little is known of the disease
    against = Edge(subject="OMIM:1", predicate="has_phenotype", object="HP:4", negated=True, file="f", row=2)
    assert _status(_world([against]), "OMIM:1", "HP:4") == "unsure"


def test_a_finding_that_similar_diseases_have_is_no_distractor() -> None:
    twin = [
        Edge(subject="OMIM:3", predicate="has_phenotype", object=t, file="f", row=3) for t in ("HP:2", "HP:4", "HP:5")
    ]
    assert _status(_world(twin), "OMIM:1", "HP:9") == "unsure"


def _told_by(source: str, *edges: tuple[str, str, str]) -> SourceBatch:
    info = SourceInfo(name=source, version="1", licence="CC0-1.0", citation="none")
    rows = [Edge(subject=s, predicate=p, object=o, file="f", row=n) for n, (s, p, o) in enumerate(edges, 1)]
    ends = {end for s, _, o in edges for end in (s, o)}
    kinds = {"OMIM": "disease", "HP": "phenotype", "NCBIGENE": "gene"}
    names = {"NCBIGENE:9": "-", "OMIM:1": "Alpha disease", "OMIM:2": "Beta disease", **_FINDINGS}
    entities = [
        Entity(id=i, type=kinds[i.split(":")[0]], name=names.get(i, i.replace(":", " number "))) for i in sorted(ends)
    ]
    return SourceBatch(info=info, records=[*entities, *rows])


def test_risk_loci_and_nameless_loci_are_no_causes() -> None:
    stated = _told_by("hpo", *(("OMIM:1", "associated_with_gene", f"NCBIGENE:{n}") for n in (1, 9)))
    loose = _told_by("hetionet", ("OMIM:1", "associated_with_gene", "NCBIGENE:2"))
    world = World.of(KnowledgeGraph(build([stated, loose])))
    disease = world.graph.find("OMIM:1")
    assert [world.graph.ids[g] for g in genes_of(world, disease)] == ["NCBIGENE:1"]


def test_what_inferred_facets_speak_of_is_never_absent_where_there_are_facets() -> None:
    """The importer loses some of them: HP:8 may be one that was lost for the first disease, not for the second."""
    places = [(f"HP:{n}", "is_a", f"HP:{n}0") for n in range(4, 10)]
    rows = [("OMIM:1", "has_phenotype", f"HP:{n}") for n in (4, 5, 6, 7, 2)]
    stated = _told_by("hpo", *rows, *[("OMIM:2", p, o) for _, p, o in rows], *places)
    facets = _told_by("disease_ontology", ("OMIM:1", "has_phenotype", "HP:4"), ("OMIM:3", "has_phenotype", "HP:8"))
    world = World.of(KnowledgeGraph(build([stated, facets])))
    assert (_status(world, "OMIM:1", "HP:8"), _status(world, "OMIM:2", "HP:8")) == ("unsure", "absent")


def test_leaks() -> None:
    assert leaks(["Infantile hypercalcemia"], "A child has hypercalcemic crises")
    assert leaks(["Dilated cardiomyopathy"], "cardiomyopathies run in the family")
    assert leaks(["FBN1"], "a variant in FBN1")
    assert not leaks(["Autosomal recessive inheritance"], "How is this disorder inherited?")
    assert not leaks(["Marfan syndrome"], "Which syndrome has long fingers?")


def test_clashes() -> None:
    assert clashes(["Usher syndrome type 1"], ["Usher syndrome type 2"])
    assert not clashes(["Marfan syndrome"], ["Usher syndrome"])


def test_wording_of_names_in_a_sentence_and_as_options() -> None:
    names = ["Sternal cleft", "Marfan syndrome", *(f"Malformation {n} of sternal bone" for n in range(6))]
    entities = [Entity(id=f"OMIM:{n}", type="disease", name=name) for n, name in enumerate(names)]
    entities += [Entity(id="HP:1", type="phenotype", name="muscle pain"),
                 Entity(id="HP:2", type="phenotype", name="pH of blood lowered"),
                 Entity(id="DRUGBANK:1", type="drug", name="Valproic Acid")]  # fmt: skip
    info = SourceInfo(name="t", version="1", licence="CC0-1.0", citation="none")
    world = World.of(KnowledgeGraph(build([SourceBatch(info=info, records=entities)])))
    number = world.graph.ids.index
    assert [in_sentence(world, number(f"OMIM:{n}"), "en") for n in (0, 1)] == ["sternal cleft", "Marfan syndrome"]
    said = [option_text(world, number(i), "en") for i in ("HP:1", "HP:2", "DRUGBANK:1", "OMIM:1")]
    assert said == ["Muscle pain", "pH of blood lowered", "Valproic acid", "Marfan syndrome"]


def test_lists_in_a_sentence_keep_items_apart() -> None:
    assert listed(["fever", "rash", "cough"]) == "fever, rash and cough"
    assert listed(["nausea and vomiting", "diarrhea"]) == "nausea and vomiting; and diarrhea"
    assert listed(["ataxia"]) == "ataxia"
