"""The forms of a question: what is visible, along which relations the answer lies, and what makes an option wrong.

A form starts at a disease, which is named, or hidden behind a vignette of its findings, behind a gene, or both. Its
chain leads from the disease to the answer. `false_for` is the other half: whether the answer of another chain may be
called wrong here, and why. It errs on the side of "no".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from data.graph.schema import RELATIONS
from data.synthesis.words import clashes
from data.synthesis.world import World

Start = Literal["named", "vignette", "gene", "gene_vignette"]
Triple = tuple[int, str, int]
"""Subject, relation, object, as the graph stores it."""

MODES = frozenset({"HP:0000006", "HP:0000007", "HP:0001417", "HP:0001419", "HP:0001423", "HP:0001427"})
"""Autosomal dominant and recessive, X-linked (dominant, recessive), mitochondrial: what a question may ask for."""
_SIMILAR = 0.35
"""Diseases this similar may share a gene that is not yet known."""
_FREQUENT = 0.3
_MOST_GENES = 3
_MOST_DISORDERS = 12
_MOST_CARRIERS = 24


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form. ``hops``: facts between what is visible and the answer. ``pair``: a second disease is named beside it."""

    name: str
    start: Start
    chain: tuple[str, ...]
    answer: str
    pair: bool = False

    @property
    def hops(self) -> int:
        return len(self.chain) + (self.start != "named") + self.pair

    @property
    def vignette(self) -> bool:
        return self.start in ("vignette", "gene_vignette")


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What rules an option out. ``because``: the kind of reason; ``edges``: the statements it rests on."""

    because: str
    detail: str
    edges: tuple[Triple, ...] = ()


_ALL = (
    Form(name="finding", start="named", chain=("has_phenotype",), answer="phenotype"),
    Form(name="diagnosis", start="vignette", chain=(), answer="disease"),
    Form(name="inheritance", start="gene_vignette", chain=("has_inheritance",), answer="inheritance"),
    Form(name="gene", start="vignette", chain=("associated_with_gene",), answer="gene"),
    Form(name="gene_finding", start="gene", chain=("has_phenotype",), answer="phenotype"),
    Form(name="discriminate", start="named", chain=("has_phenotype",), answer="phenotype", pair=True),
    Form(name="drug", start="named", chain=("treated_by",), answer="drug"),
    Form(name="drug_vignette", start="vignette", chain=("treated_by",), answer="drug"),
    Form(name="non_indication", start="named", chain=("treated_by",), answer="drug"),
    Form(name="mechanism", start="named", chain=("treated_by", "in_class"), answer="drug_class"),
    Form(name="mechanism_vignette", start="vignette", chain=("treated_by", "in_class"), answer="drug_class"),
    Form(name="allelic", start="vignette", chain=("associated_with_gene", "gene_associated_with"), answer="disease"),
    Form(name="allelic_finding", start="vignette",
         chain=("associated_with_gene", "gene_associated_with", "has_phenotype"), answer="phenotype"),
    Form(name="alternative_drug", start="vignette", chain=("treated_by", "in_class", "class_includes"), answer="drug"),
    Form(name="next_test", start="vignette", chain=("measured_by",), answer="test"),
    Form(name="contraindication", start="vignette", chain=("has_contraindication",), answer="drug"),
)  # fmt: skip
FORMS: Mapping[str, Form] = {form.name: form for form in _ALL}
DRUG_FORMS = frozenset(form.name for form in _ALL if {"treated_by", "has_contraindication"} & set(form.chain))

_FORWARDS = {
    name: relation.name == name for relation in RELATIONS.values() for name in (relation.name, relation.inverse)
}
_NAME = {name: relation.name for relation in RELATIONS.values() for name in (relation.inverse, relation.name)}


def triple(start: int, word: str, end: int) -> Triple:
    """The edge between two entities, turned as the graph stores it."""
    return (start, word, end) if _FORWARDS[word] else (end, _NAME[word], start)


def step(world: World, node: int, word: str) -> list[int]:
    """Where a relation, by name or inverse, leads from a node, sorted."""
    pairs = world.of_relation(word) if _FORWARDS[word] else world.inverse(_NAME[word])
    return sorted(pairs.get(node, {}))


def genes_of(world: World, disease: int) -> list[int]:
    """The causal genes of a disease that has few: with many, none of them is *the* gene.

    Risk loci do not count, nor does a locus without a gene, which some sources call "-".
    """
    genes = step(world, disease, "associated_with_gene")
    if len(genes) > _MOST_GENES:
        return []
    return [
        g for g in genes
        if world.firm("associated_with_gene", disease, g) and any(letter.isalpha() for letter in world.readable(g))
    ]  # fmt: skip


def chains(world: World, form: Form, disease: int) -> dict[int, list[tuple[int, ...]]]:
    """Answer -> the ways from a disease to it, each way without the disease itself."""
    memory = world.chains
    if (form.name, disease) not in memory:
        memory[form.name, disease] = _chains(world, form, disease)
    return memory[form.name, disease]


def _chains(world: World, form: Form, disease: int) -> dict[int, list[tuple[int, ...]]]:
    found: dict[int, list[tuple[int, ...]]] = {}
    if not form.chain:
        return {disease: [()]}
    if form.start in ("gene", "gene_vignette"):
        genes = [g for g in genes_of(world, disease) if len(step(world, g, "gene_associated_with")) <= 4]
        if not genes:
            return {}
    if "gene_associated_with" in form.chain and world.band(disease) == "common":
        return {}  # its genes are risk loci, and other disorders of a risk locus are anybody's
    for way in _walk(world, form, disease, ()):
        found.setdefault(way[-1], []).append(way)
    return found


def _walk(world: World, form: Form, disease: int, way: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if len(way) == len(form.chain):
        yield way
        return
    here = way[-1] if way else disease
    for target in _targets(world, form.chain[len(way)], disease, here):
        if target != disease and target not in way:
            yield from _walk(world, form, disease, (*way, target))


def _targets(world: World, word: str, disease: int, here: int) -> list[int]:
    if word == "associated_with_gene":
        return genes_of(world, here)
    if word == "gene_associated_with":
        others = step(world, here, word)
        if len(others) > _MOST_DISORDERS:
            return []
        return [n for n in others if world.firm("associated_with_gene", n, here) and _told_apart(world, disease, n)]
    if word == "has_phenotype":
        kept = world.disputed.get("has_phenotype", {}).get(here, set())
        return [t for t in step(world, here, word)
                if t in world.askable and t not in kept and world.share(here, t) >= _FREQUENT
                and not clashes(world.all_names(here), world.all_names(t))]  # fmt: skip
    if word == "has_inheritance":
        return [m for m in step(world, here, word) if world.graph.ids[m] in MODES]
    if word == "class_includes":
        return [n for n in step(world, here, word) if n not in world.mentioned_drugs(disease)]
    return step(world, here, word)


def _told_apart(world: World, first: int, second: int) -> bool:
    """True when two diseases of a gene are two: neither kin nor alike by name."""
    if world.graph.types[second] != "disease" or second in world.kin(first) or first in world.kin(second):
        return False
    return not clashes(world.all_names(first), world.all_names(second))


def alike(world: World, first: int, second: int) -> bool:
    """True when two diseases share so many findings that they may be one under two names."""
    return dict(world.nearest(first)).get(second, 0.0) >= _SIMILAR


# --- what makes an option wrong ---------------------------------------------------------------------------------------


def false_for(world: World, form: Form, disease: int, gene: int | None, answer: int) -> Ruling | None:
    """Why ``answer`` is wrong for a question about ``disease``, or None when it may be right.

    Args:
        gene: the visible gene, of forms that show one.
    """
    if not form.chain:
        return None if world.confusable(disease, answer) else Ruling(because="another disease", detail="")
    last = form.chain[-1]
    if last == "has_phenotype":
        return _no_finding(world, _carriers(world, form, disease, gene), answer)
    if last == "associated_with_gene":
        return _no_gene(world, disease, answer)
    if last == "gene_associated_with":
        return _no_disorder(world, disease, answer)
    if last == "has_inheritance":
        return _no_mode(world, disease, gene, answer)
    if last == "treated_by":
        return _no_drug(world, disease, answer)
    if last == "in_class":
        return _no_class(world, disease, answer)
    if last == "class_includes":
        return _no_class_mate(world, disease, answer)
    return _no_other(world, disease, last, answer)


def _carriers(world: World, form: Form, disease: int, gene: int | None) -> list[int]:
    """Every disease that the masked middle of a chain could stand for: an option must be wrong for each of them."""
    if form.name == "allelic_finding":
        genes = {g for d in world.kin(disease) for g in step(world, d, "associated_with_gene")}
        found = {d for g in genes for d in step(world, g, "gene_associated_with")} - {disease}
        return sorted(d for d in found if world.graph.types[d] == "disease")
    if form.start == "gene" and gene is not None:
        return [d for d in step(world, gene, "gene_associated_with") if world.graph.types[d] == "disease"]
    return [disease]


def _no_finding(world: World, carriers: list[int], term: int) -> Ruling | None:
    if len(carriers) > _MOST_CARRIERS:
        return None
    states = {carrier: world.status(carrier, term) for carrier in carriers}
    if not states or not set(states.values()) <= {"denied", "absent"}:
        return None
    name = world.readable
    denials = tuple(
        edge for carrier, state in states.items() if state == "denied" for edge in denial(world, carrier, term)
    )
    if set(states.values()) == {"denied"}:
        said = f"a source denies {name(term)} in {', '.join(map(name, carriers))}"
        return Ruling(because="denied", detail=said, edges=denials)
    said = f"{name(term)} is neither stated, implied nor likely in {', '.join(map(name, carriers))}"
    return Ruling(because="absent", detail=said, edges=denials)


def denial(world: World, disease: int, term: int) -> tuple[Triple, ...]:
    """The statement that denies a finding, or one above it, in a disease."""
    denied = world.profile(disease).denied
    return tuple((disease, "has_phenotype", t) for t in sorted(denied & {term, *world.above(term)}))[:1]


def _no_gene(world: World, disease: int, gene: int) -> Ruling | None:
    similar = {n for n, score in world.nearest(disease) if score >= _SIMILAR}
    for other in world.kin(disease) | similar:
        if gene in world.of_relation("associated_with_gene").get(other, {}):
            return None
    own = genes_of(world, disease)
    if not own:
        return None
    name = world.readable
    said = (
        f"{name(disease)} is tied to {', '.join(map(name, own))}; no source ties it, its kin or a similar disease to "
        f"{name(gene)}"
    )
    return Ruling(because="another gene", detail=said, edges=tuple((disease, "associated_with_gene", g) for g in own))


def _no_disorder(world: World, disease: int, other: int) -> Ruling | None:
    genes = {g for d in world.kin(disease) for g in step(world, d, "associated_with_gene")}
    mates = {d for g in genes for d in step(world, g, "gene_associated_with")}
    theirs = genes_of(world, other)
    if (
        not theirs
        or mates & world.kin(other)
        or any(clashes(world.all_names(other), world.all_names(m)) for m in mates)
    ):
        return None
    name = world.readable
    said = f"{name(other)} is tied to {', '.join(map(name, theirs))}, not to {', '.join(map(name, sorted(genes)))}"
    return Ruling(because="another gene", detail=said, edges=tuple((other, "associated_with_gene", g) for g in theirs))


def _no_mode(world: World, disease: int, gene: int | None, mode: int) -> Ruling | None:
    known: set[int] = set()
    for carrier in {disease, *(step(world, gene, "gene_associated_with") if gene is not None else ())}:
        # An entry that may be the carrier under another identifier and has no stated mode leaves the mode open.
        if not all(step(world, d, "has_inheritance") for d in {carrier, *world.referred(carrier)}):
            return None
        stated = {m for d in world.kin(carrier) for m in step(world, d, "has_inheritance")}
        known |= stated.union(*(world.disputed.get("has_inheritance", {}).get(d, ()) for d in world.kin(carrier)))
    if any(world.related(mode, m) for m in known):
        return None
    own = step(world, disease, "has_inheritance")
    said = f"every disorder of the gene is stated as {', '.join(map(world.readable, own))}"
    return Ruling(because="another mode", detail=said, edges=tuple((disease, "has_inheritance", m) for m in own))


def _no_drug(world: World, disease: int, drug: int) -> Ruling | None:
    name = world.readable
    if drug in world.denied_drugs.get(disease, ()):
        if drug in world.mentioned_drugs(disease):
            return None
        said = f"physicians judged {name(drug)} to have no indication in {name(disease)}"
        return Ruling(because="denied", detail=said, edges=((drug, "treats", disease),))
    nearby = world.area_drugs(disease)
    if drug in nearby or any(world.classes(drug) & world.classes(m) for m in world.mentioned_drugs(disease)):
        return None
    alike = world.of_relation("resembles").get(drug, {}).keys() | world.inverse("resembles").get(drug, {}).keys()
    if alike & world.mentioned_drugs(disease):
        return None
    said = (
        f"no source gives {name(drug)} for {name(disease)} or diseases near it, and it shares no class with such a drug"
    )
    return Ruling(because="absent", detail=said)


def _no_class(world: World, disease: int, drug_class: int) -> Ruling | None:
    for drug in sorted(world.area_drugs(disease)):
        if any(
            world.related(drug_class, c) or clashes(world.all_names(c), world.all_names(drug_class))
            for c in world.classes(drug)
        ):
            return None
    return Ruling(
        because="another class",
        detail=f"no drug for {world.readable(disease)} or diseases near it belongs to {world.readable(drug_class)}",
    )


def _no_class_mate(world: World, disease: int, drug: int) -> Ruling | None:
    mentioned = world.area_drugs(disease)
    if not world.classes(drug) or drug in mentioned or any(world.classes(drug) & world.classes(m) for m in mentioned):
        return None
    said = f"{world.readable(drug)} shares no class with any drug for {world.readable(disease)} or diseases near it"
    return Ruling(
        because="another class", detail=said, edges=tuple((drug, "in_class", c) for c in sorted(world.classes(drug)))
    )


def _no_other(world: World, disease: int, word: str, answer: int) -> Ruling | None:
    name = world.readable
    known = {t for member in world.kin(disease) for t in step(world, member, word)}
    if any(world.related(answer, k) or clashes(world.all_names(answer), world.all_names(k)) for k in known):
        return None
    edge = triple(disease, word, answer)
    if edge[2] in world.denials.get(edge[1], {}).get(edge[0], set()):
        return Ruling(because="denied", detail=f"a source denies it of {name(disease)}", edges=(edge,))
    return Ruling(because="absent", detail=f"no source states {name(answer)} for {name(disease)} or its kin")
