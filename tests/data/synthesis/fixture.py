"""A made-up graph in which every form of question has rings: diseases with findings, gene, drugs and tests."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from data.graph.build import SourceBatch, build
from data.graph.queries import KnowledgeGraph
from data.graph.schema import Edge, Entity, SourceInfo

DISEASES = 24
_SYLLABLES = [a + b for a, b in itertools.product("bdfgklmnprstvz", "aeiou")]
_MODES = ("HP:0000006", "HP:0000007", "HP:0001417")
_DIGITS = "零一二三四五六七八九"


def _name(kind: str, index: int) -> str:
    rng = random.Random(f"{kind} {index}")
    return "".join(rng.choice(_SYLLABLES) for _ in range(5)).capitalize() + kind


def _chinese(kind: str, index: int) -> str:
    return kind + "".join(_DIGITS[int(digit)] for digit in f"{index:03d}")


def _entities() -> Iterator[Entity]:
    for i in range(DISEASES):
        yield Entity(id=f"ORPHA:{i}", type="disease", name=_name("osis", i), synonyms=(_chinese("病", i),),
                     tags=("rare",) if i % 3 else ())  # fmt: skip
        yield Entity(id=f"OMIM:{i}", type="disease", name=_name("itis", i), synonyms=(_chinese("症", i),))
        yield Entity(id=f"NCBIGENE:{i}", type="gene", name=f"GEN{i}X", synonyms=(_chinese("基因", i),))
        for kind, zh, number in (("drug", "药", 0), ("drug", "替药", 100), ("drug", "禁药", 200)):
            yield Entity(
                id=f"DRUGBANK:{number + i}", type=kind, name=_name("mab", number + i), synonyms=(_chinese(zh, i),)
            )
        yield Entity(id=f"NDFRT:{i}", type="drug_class", name=_name("ase blockers", i), synonyms=(_chinese("类", i),))
        yield Entity(id=f"LAB:{i}", type="lab_test", name=_name("gram", i), synonyms=(_chinese("检", i),))
    for i in range(DISEASES * 12 + 6):
        yield Entity(id=f"HP:9{i:06d}", type="phenotype", name=_name("algia", i), synonyms=(_chinese("征", i),))
        yield Entity(id=f"HP:8{i:06d}", type="phenotype", name=_name("pathy", i), synonyms=(_chinese("总", i),))
    words = ("Autosomal dominant inheritance", "Autosomal recessive inheritance", "X-linked inheritance")
    for mode, name, zh in zip(_MODES, words, ("显性", "隐性", "伴性"), strict=True):
        yield Entity(id=mode, type="inheritance", name=name, synonyms=(zh,))


def _edges() -> Iterator[Edge]:
    row = itertools.count(1)

    def edge(subject: str, predicate: str, object_: str, negated: bool = False, share: float = float("nan")) -> Edge:
        return Edge(subject=subject, predicate=predicate, object=object_, negated=negated, frequency=share,
                    file="made_up.tsv", row=next(row))  # fmt: skip

    for i in range(DISEASES):
        for prefix, start in (("ORPHA", 12 * i), ("OMIM", 12 * i + 6)):
            for k in range(6):
                yield edge(f"{prefix}:{i}", "has_phenotype", f"HP:9{start + k:06d}", share=0.5 + k / 20)
            for k in range(6):  # findings that many share, so that there are neighbours and plausible distractors
                if (i + k) % 3:
                    yield edge(f"{prefix}:{i}", "has_phenotype", f"HP:9{DISEASES * 12 + k:06d}")
            yield edge(f"{prefix}:{i}", "associated_with_gene", f"NCBIGENE:{i}")
            yield edge(f"{prefix}:{i}", "has_inheritance", _MODES[i % 3])
        yield edge(f"ORPHA:{i}", "has_phenotype", f"HP:9{12 * ((i + 1) % DISEASES):06d}", negated=True)
        yield edge(f"DRUGBANK:{i}", "treats", f"ORPHA:{i}")
        yield edge(f"DRUGBANK:{i}", "in_class", f"NDFRT:{i}")
        yield edge(f"DRUGBANK:{100 + i}", "in_class", f"NDFRT:{i}")
        yield edge(f"DRUGBANK:{200 + i}", "contraindicated_in", f"ORPHA:{i}")
        yield edge(f"ORPHA:{i}", "measured_by", f"LAB:{i}")
    for i in range(DISEASES * 12 + 6):  # every finding has its own place in an ontology
        yield edge(f"HP:9{i:06d}", "is_a", f"HP:8{i:06d}")
    for i in range(0, DISEASES, 4):  # four diseases that share their drugs, each with one that is denied
        for a, b in itertools.permutations(range(i, i + 4), 2):
            far = (b + 4) % DISEASES
            yield edge(f"DRUGBANK:{b}", "treats", f"ORPHA:{a}")
            yield edge(f"DRUGBANK:{far}", "treats", f"ORPHA:{a}", negated=True)


def made_up_graph() -> KnowledgeGraph:
    info = SourceInfo(name="made_up", version="1", licence="CC0-1.0", citation="none")
    return KnowledgeGraph(build([SourceBatch(info=info, records=[*_entities(), *_edges()])]))
