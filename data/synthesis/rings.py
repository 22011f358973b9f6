"""Rings: questions that share one set of options, each option the answer of exactly one of them.

Distractors of ordinary make differ from answers in some way: they are more common, shorter, more famous. A reader who
sees only the options then does better than chance. In a ring every option is the answer once and a distractor as often
as any other, so options alone say nothing, whatever the classifier. The price is that every disease of a ring must rule
out the answers of all others, which the search below makes sure of.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from data.synthesis.forms import Form, Ruling, alike, chains, denial, false_for, genes_of, step
from data.synthesis.words import clashes, leaks
from data.synthesis.world import World

ZONES = ("near", "near", "middle", "far")
"""How similar the diseases of a ring are, drawn per ring: the 60 nearest, the next 190, any."""
_NEAR = 60
_TRIES = 36
_LEAST_VISIBLE, _MOST_VISIBLE = 3, 8
_FREQUENT = 0.3


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question before it has words. ``way``: the chain from the disease to the answer. Numbers are nodes."""

    disease: int
    answer: int
    way: tuple[int, ...]
    gene: int | None = None
    other: int | None = None
    visible: tuple[int, ...] = ()
    rulings: dict[int, tuple[Ruling, ...]] = field(default_factory=dict)
    options: tuple[int, ...] = ()
    similarity: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Items with one set of options."""

    form: Form
    zone: str
    items: tuple[Item, ...]


class RingMaker:
    """Searches rings among diseases of one split. Each draw has its own generator: order and workers do not matter."""

    def __init__(self, world: World, options: int, temperature: float) -> None:
        self._world = world
        self._options = options
        self._temperature = temperature

    def ring(
        self, form: Form, anchor: int, pool: Sequence[int], members: frozenset[int], rng: random.Random
    ) -> Ring | None:
        """A ring around ``anchor`` among the diseases of ``pool`` of the split ``members``; None when none is found."""
        zone = rng.choice(ZONES)
        first = self._start(form, anchor, members, rng)
        if first is None:
            return None
        size = 3 if form.answer == "inheritance" else self._options
        ring = [first]
        for candidate in self._candidates(form, first, zone, pool, members, rng)[:_TRIES]:
            item = self._joining(form, candidate, ring, members, rng)
            if item is not None:
                ring.append(item)
            if len(ring) == size:
                finished = self._finish(form, ring, rng)
                if finished is not None:
                    return Ring(form=form, zone=zone, items=finished)
                ring.pop()
        return None

    # --- members ------------------------------------------------------------------------------------------------------

    def _start(self, form: Form, disease: int, members: frozenset[int], rng: random.Random) -> Item | None:
        ways = self._ways(form, disease, members)
        if not ways:
            return None
        answer = rng.choice(sorted(ways))
        return Item(disease=disease, answer=answer, way=rng.choice(ways[answer]), gene=self._gene(form, disease, rng))

    def _ways(self, form: Form, disease: int, members: frozenset[int]) -> dict[int, list[tuple[int, ...]]]:
        """Chains that stay inside the split and do not give the answer away by its name."""
        world = self._world
        types = world.graph.types
        kept: dict[int, list[tuple[int, ...]]] = {}
        for answer, ways in chains(world, form, disease).items():
            others = {n for way in ways for n in way if types[n] == "disease"}
            kept_out = {n for n in others if n not in members or alike(world, disease, n)}
            inside = [way for way in ways if kept_out.isdisjoint(way)]
            if inside and not (form.start == "named" and leaks(world.all_names(answer), world.readable(disease))):
                kept[answer] = inside
        return kept

    def _gene(self, form: Form, disease: int, rng: random.Random) -> int | None:
        if form.start not in ("gene", "gene_vignette"):
            return None
        world = self._world
        return rng.choice([g for g in genes_of(world, disease) if len(step(world, g, "gene_associated_with")) <= 4])

    def _candidates(
        self, form: Form, first: Item, zone: str, pool: Sequence[int], members: frozenset[int], rng: random.Random
    ) -> list[int]:
        """Diseases to try, in an order that favours the rare and what a source denies of the first one."""
        world = self._world
        if form.answer == "inheritance":
            return self._by_mode(form, first, pool, rng)
        near = [n for n, _ in world.nearest(first.disease) if n in members]
        chosen = {"near": near[:_NEAR], "middle": near[_NEAR:], "far": []}[zone]
        chosen = [n for n in chosen if n in self._pool_set(pool)]
        if len(chosen) < self._options * 3:
            chosen = [*chosen, *rng.sample(pool, min(len(pool), 80))]
        if zone == "far" and world.band(first.disease) == "common":
            chosen = [*chosen, *(n for n in rng.sample(pool, min(len(pool), 600)) if world.band(n) == "common")]
        denied = self._denied_answers(form, first.disease)
        # A ring about a common disease is to be about common diseases: else those would hardly be asked about.
        common = world.band(first.disease) == "common"
        # What is known from inferred facets alone can rule out little of another such disease.
        usual = {n for n in chosen if world.band(n) == "common" and n not in world.inferred_only}
        wanted = {n: (1.5 * (n in usual) if common else world.rarity(n)) for n in chosen}
        key = {
            n: (not denied.isdisjoint(self._world_answers(form, n)) if denied else False,
                -math.log(1.0 - rng.random()) / math.exp(wanted[n] / self._temperature))
            for n in dict.fromkeys(chosen) if n != first.disease
        }  # fmt: skip
        return sorted(key, key=lambda n: (not key[n][0], key[n][1], n))

    def _by_mode(self, form: Form, first: Item, pool: Sequence[int], rng: random.Random) -> list[int]:
        """Some diseases of every other mode of inheritance, the modes in turn; most diseases have one of two modes."""
        groups: dict[int, list[int]] = {}
        for disease in rng.sample(pool, min(len(pool), 400)):
            for mode in chains(self._world, form, disease):
                groups.setdefault(mode, []).append(disease)
        groups.pop(first.answer, None)
        lists = [groups[mode][:8] for mode in sorted(groups)]
        rng.shuffle(lists)
        turns = [found[i] for i in range(8) for found in lists if i < len(found)]
        return [n for n in dict.fromkeys(turns) if n != first.disease]

    def _pool_set(self, pool: Sequence[int]) -> frozenset[int]:
        if getattr(self, "_pool_of", None) is not pool:
            self._pool_of = pool
            self._pool_members = frozenset(pool)
        return self._pool_members

    def _denied_answers(self, form: Form, disease: int) -> set[int]:
        world = self._world
        if form.chain == ("has_phenotype",) and form.start == "named":
            return world.denials.get("has_phenotype", {}).get(disease, set()) & world.askable
        if form.chain == ("treated_by",):
            return world.denied_drugs.get(disease, set())
        return set()

    def _world_answers(self, form: Form, disease: int) -> set[int]:
        return set(step(self._world, disease, form.chain[0]))

    def _joining(
        self, form: Form, disease: int, ring: Sequence[Item], members: frozenset[int], rng: random.Random
    ) -> Item | None:
        """An item of a further disease whose answer is wrong for the ring's, and the other way round."""
        world = self._world
        if any(world.confusable(disease, item.disease) for item in ring):
            return None
        ways = self._ways(form, disease, members)
        if not ways:
            return None
        gene = self._gene(form, disease, rng)
        if form.chain and not all(false_for(world, form, disease, gene, item.answer) for item in ring):
            return None
        denied = [a for a in sorted(ways) if a in self._denied_answers(form, ring[0].disease)]
        answers = sorted(ways)
        rng.shuffle(answers)
        for answer in [*denied, *answers][:8]:
            if self._apart(answer, ring) and all(false_for(world, form, i.disease, i.gene, answer) for i in ring):
                return Item(disease=disease, answer=answer, way=rng.choice(ways[answer]), gene=gene)
        return None

    def _apart(self, answer: int, ring: Sequence[Item]) -> bool:
        world = self._world
        texts = {world.readable(item.answer).lower() for item in ring}
        if world.readable(answer).lower() in texts or any(world.related(answer, item.answer) for item in ring):
            return False
        if world.graph.types[answer] in ("gene", "inheritance"):
            return True
        return not any(clashes(world.all_names(answer), world.all_names(item.answer)) for item in ring)

    # --- vignettes and reasons ----------------------------------------------------------------------------------------

    def _finish(self, form: Form, ring: Sequence[Item], rng: random.Random) -> tuple[Item, ...] | None:
        finished: list[Item] = []
        scores = {item.disease: dict(self._world.nearest(item.disease)) for item in ring}
        for index, item in enumerate(ring):
            others = [other for other in ring if other is not item]
            visible = self._vignette(form, item, others, rng) if form.vignette else ()
            if visible is None:
                return None
            rulings = {other.answer: self._rulings(form, item, other, visible) for other in others}
            if not all(rulings.values()) or not self._holds_for_all(form, item, others, visible):
                return None
            options = [each.answer for each in ring]
            rng.shuffle(options)
            similarity = sum(scores[item.disease].get(o.disease, 0.0) for o in others) / len(others)
            finished.append(
                replace(item, visible=visible, rulings=rulings, options=tuple(options), similarity=similarity,
                        other=ring[(index + 1) % len(ring)].disease if form.pair else None)
            )  # fmt: skip
        return tuple(finished)

    def _rulings(self, form: Form, item: Item, other: Item, visible: Sequence[int]) -> tuple[Ruling, ...]:
        said = false_for(self._world, form, item.disease, item.gene, other.answer)
        if said is None:
            return ()
        if not form.vignette:
            return (said,)
        out = ruled_out(self._world, other.disease, visible)
        if out is None and form.start == "vignette":
            return ()
        kept = [ruling for ruling in (said, out) if ruling is not None and ruling.detail]
        return tuple(kept)

    def _vignette(self, form: Form, item: Item, others: Sequence[Item], rng: random.Random) -> tuple[int, ...] | None:
        """Findings that the disease has, as many as possible shared with the others, and enough that tell it apart."""
        world = self._world
        hidden = [*world.all_names(item.answer), world.graph.names[item.disease]]
        pool = [
            t for t in sorted(world.findings(item.disease))
            if t in world.askable and world.share(item.disease, t) >= _FREQUENT and not leaks(hidden, world.readable(t))
        ]  # fmt: skip
        firm = [t for t in pool if world.firm("has_phenotype", item.disease, t)]
        if len(firm) > _LEAST_VISIBLE:  # symptoms that are only mentioned beside the disease make odd patients
            pool = firm
        rng.shuffle(pool)
        states = {t: [world.status(other.disease, t) for other in others] for t in pool[:24]}
        pool = pool[:24]
        pool.sort(key=lambda t: -sum(state == "has" for state in states[t]))
        chosen: list[int] = []
        for term in [t for t in pool if "has" in states[t]][: rng.choice((1, 2, 2, 3))]:
            self._take(term, chosen)
        telling = sorted(pool, key=lambda t: -sum(s in ("absent", "denied") for s in states[t]))
        for term in telling:
            enough = all(ruled_out(world, other.disease, chosen) for other in others) or form.start == "gene_vignette"
            if enough and len(chosen) >= _LEAST_VISIBLE and self._identified(item.disease, chosen):
                break
            if len(chosen) >= _MOST_VISIBLE:
                return None
            self._take(term, chosen)
        else:
            if len(chosen) < _LEAST_VISIBLE or not self._identified(item.disease, chosen):
                return None
        rng.shuffle(chosen)
        return tuple(chosen)

    def _holds_for_all(self, form: Form, item: Item, others: Sequence[Item], visible: Sequence[int]) -> bool:
        """True when answer and options are what they are for every disease that may have all that is visible."""
        if form.start != "vignette" or not form.chain:
            return True
        world = self._world
        for fitting in world.with_all(visible, perhaps=True):
            if fitting == item.disease:
                continue
            if fitting in item.way or not all(false_for(world, form, fitting, None, o.answer) for o in others):
                return False
            if "gene_associated_with" in form.chain and fitting not in world.kin(item.disease):
                return False
        return True

    def _take(self, term: int, chosen: list[int]) -> None:
        if all(not self._world.related(term, known) for known in chosen):
            chosen.append(term)

    def _identified(self, disease: int, visible: Sequence[int]) -> bool:
        """True when no disease of the whole graph, but this one and what may be the same, has all that is visible."""
        world = self._world
        return all(n == disease or world.confusable(disease, n) for n in world.with_all(visible))


def ruled_out(world: World, disease: int, visible: Sequence[int]) -> Ruling | None:
    """Why a vignette does not fit a disease: it denies a finding, or lacks two of them; None when it may fit."""
    states = {term: world.status(disease, term) for term in visible}
    name = world.readable
    denied = [t for t, state in states.items() if state == "denied"]
    if denied:
        edges = tuple(edge for t in denied for edge in denial(world, disease, t))
        said = f"a source denies {', '.join(map(name, denied))} in {name(disease)}"
        return Ruling(because="denied", detail=said, edges=edges)
    lacking = [t for t, state in states.items() if state == "absent"]
    if len(lacking) < 2:
        return None
    return Ruling(because="absent", detail=f"{name(disease)} lacks {', '.join(map(name, lacking))}")
