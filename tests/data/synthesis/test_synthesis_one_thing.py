"""One thing under several names and identifiers: what that leaves open, in the synthesis and for its judge."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.graph.build import SourceBatch, build
from data.graph.queries import KnowledgeGraph
from data.graph.schema import Edge, Entity, SourceInfo
from data.synthesis.forms import FORMS, false_for
from data.synthesis.world import World
from tests.data.synthesis.raw_facts import Judge, Raw

_FINDINGS = tuple(f"HP:{n}" for n in range(1, 6))
_AR, _AD = "HP:0000007", "HP:0000006"


def _world(*edges: tuple[str, str, str], xrefs: dict[str, tuple[str, ...]] | None = None) -> World:
    info = SourceInfo(name="hpo", version="1", licence="CC0-1.0", citation="none")
    kinds = {"OMIM": "disease", "DOID": "disease", "NCBIGENE": "gene"}
    names = {
        "HP:70": "Hearing impairment", "HP:71": "High-frequency hearing loss", "MESH:1": "Hearing Loss, High-Frequency",
        "OMIM:1": "Alpha disease", "OMIM:2": "Beta disease", "OMIM:3": "Gamma disease",
    }  # fmt: skip
    ends = {end for s, _, o in edges for end in (s, o)} | set(xrefs or {})
    entities = [
        Entity(
            id=i, synonyms=("Beta disease",) if i == "OMIM:4" else (),
            type="inheritance" if i in (_AR, _AD) else kinds.get(i.split(":")[0], "phenotype"),
            name=names.get(i, i.replace(":", " number ")), xrefs=(xrefs or {}).get(i, ()),
        ) for i in sorted(ends)
    ]  # fmt: skip
    rows = [Edge(subject=s, predicate=p, object=o, file="f", row=n) for n, (s, p, o) in enumerate(edges, 1)]
    return World.of(KnowledgeGraph(build([SourceBatch(info=info, records=[*entities, *rows])])))


def test_a_name_turned_round_is_the_finding_and_all_above_it() -> None:
    places = [(term, "is_a", f"{term}0") for term in _FINDINGS]
    facts = [("OMIM:1", "has_phenotype", term) for term in (*_FINDINGS, "MESH:1")]
    world = _world(*places, *facts, ("HP:71", "is_a", "HP:70"), ("HP:70", "is_a", "HP:9"))
    assert world.status(world.graph.find("OMIM:1"), world.graph.ids.index("HP:70")) == "unsure"


@pytest.mark.parametrize(
    "xrefs",
    [
        {"OMIM:1": ("OMIM:2",)},  # refused: one entity may not have two identifiers of a vocabulary
        {"DOID:1": ("OMIM:1", "OMIM:2")},
        {"OMIM:1": ("ORPHA:7",), "OMIM:2": ("ORPHA:7",), "DOID:1": ("ORPHA:7", "ORPHA:8"), "DOID:2": ("ORPHA:8",)},
    ],
)
def test_a_vignette_may_fit_what_two_entries_of_one_disease_have(xrefs: dict[str, tuple[str, ...]]) -> None:
    facts = [("OMIM:1", "has_phenotype", "HP:1"), ("OMIM:2", "has_phenotype", "HP:2")]
    world = _world(*facts, ("OMIM:3", "has_phenotype", "HP:3"), xrefs=xrefs)
    seen = [world.graph.ids.index(term) for term in ("HP:1", "HP:2")]
    assert world.with_all(seen) == []
    assert {world.graph.find("OMIM:1"), world.graph.find("OMIM:2")} & set(world.with_all(seen, perhaps=True))


@pytest.mark.parametrize(("joined", "ruled_out"), [({}, True), ({"OMIM:1": ("OMIM:2",)}, False)])
def test_a_mode_stays_open_when_another_entry_states_none(joined: dict[str, tuple[str, ...]], ruled_out: bool) -> None:
    world = _world(
        ("OMIM:1", "has_inheritance", _AR), ("OMIM:3", "has_inheritance", _AD), ("OMIM:2", "has_phenotype", "HP:1"),
        ("OMIM:1", "associated_with_gene", "NCBIGENE:1"), xrefs=joined,
    )  # fmt: skip
    disease, gene, mode = (world.graph.ids.index(i) for i in ("OMIM:1", "NCBIGENE:1", _AD))
    assert (false_for(world, FORMS["inheritance"], disease, gene, mode) is not None) == ruled_out


def test_a_vignette_may_fit_what_entries_of_one_name_have() -> None:
    world = _world(("OMIM:4", "has_phenotype", "HP:1"), ("OMIM:2", "has_phenotype", "HP:2"))
    seen = [world.graph.ids.index(term) for term in ("HP:1", "HP:2")]
    assert len(world.with_all(seen, perhaps=True)) == 2  # "Beta disease" is a synonym of the one, the name of the other


# --- the judge --------------------------------------------------------------------------------------------------------

_X_LINKED = "has_material_basis_in heterozygous mutation in the ABC1 gene on chromosome Xq28."
_FACET = '"DOID:1"\t"one"\t"{text}"\t"inheritance_pattern"\t"autosomal dominant inheritance"\t"GENO:0000147"\n'


def _judge(tmp_path: Path, text: str = _X_LINKED) -> Judge:
    """A judge of a few raw lines: gene ABC1 of an X-linked disease, gene T of another, a class with a small letter."""
    terms = {"HP:1": "Atrial defect", "HP:2": "Autism", _AD: "Autosomal dominant inheritance",
             "HP:0001423": "X-linked dominant inheritance"}  # fmt: skip
    blocks = [f'[Term]\nid: {i}\nname: {name}\nsynonym: "ASD" EXACT abbreviation []\n' for i, name in terms.items()]
    rows = [("OMIM:1", "one", "HP:0001423", "I"), ("OMIM:2", "two", _AD, "I"), ("OMIM:1", "one", "HP:1", "P")]
    files = {
        "hp.obo": "".join(blocks),
        "phenotype.hpoa": "".join(f"{d}\t{n}\t\t{t}\t\t\t\t\t\t\t{a}\t\n" for d, n, t, a in rows),
        "genes_to_phenotype.txt": "head\nNCBIGene:7\tABC1\t\t\t\tOMIM:1\nNCBIGene:8\tT\t\t\t\tOMIM:2\n",
        "disease_ontology/HumanDO.tsv": "id\tlabel\tparent\nDOID:1\tone\t\n",
        "disease_ontology/DO_rare_slim.obo": "",
        "disease_ontology/allXREFinDO.tsv": "DOID:1\tone\tMIM:1\n",
        "disease_ontology/facets.tsv.gz": _FACET.format(text=text),
        "hetionet/nodes.tsv": "Compound::D1\tdrug\t\nPharmacologic Class::C1\talpha Blockers\t\n"
        "Disease::DOID:1\tone\tDisease\n",
        "hetionet/edges-5k.sif.gz": "Compound::D1\tCtD\tDisease::DOID:1\nPharmacologic Class::C1\tPCiC\tCompound::D1\n",
        "indications/indications.tsv": "head\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return Judge(Raw(tmp_path, tmp_path))


def _asked(
    form: str, stem: str, right: str, wrong: str, visible: tuple[str, ...]
) -> tuple[SimpleNamespace, SimpleNamespace]:
    options = [SimpleNamespace(label=label, text=text) for label, text in (("A", right), ("B", wrong))]
    question = SimpleNamespace(stem=stem, options=options, answer_label="A", answer_text=right)
    return question, SimpleNamespace(form=form, disease="DOID:1", visible=visible)


_MODE = ("inheritance", "T wave inverted; a variant in ABC1.", "X-linked dominant inheritance",
         "Autosomal dominant inheritance", ("NCBIGENE:7",))  # fmt: skip


@pytest.mark.parametrize(
    "asked",
    [
        _MODE,  # "T" is no gene here, and the facet contradicts its own definition
        ("finding", "What is found?", "Atrial defect", "Autism", ("DOID:1",)),  # "ASD" is short for both
        ("mechanism", "Which class?", "Alpha blockers", "Beta blockers", ("DOID:1",)),
    ],
)
def test_the_judge_is_not_misled(tmp_path: Path, asked: tuple[str, str, str, str, tuple[str, ...]]) -> None:
    assert _judge(tmp_path).faults(*_asked(*asked)) == []


def test_the_judge_still_hears_a_facet_that_agrees_with_its_definition(tmp_path: Path) -> None:
    agreeing = re.sub("Xq28", "12q24", _X_LINKED)
    assert _judge(tmp_path, agreeing).faults(*_asked(*_MODE)) == ["option B is right as well"]
