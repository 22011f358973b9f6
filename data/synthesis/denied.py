"""Non-indications: which of these drugs is not indicated, answered by physicians' explicit denials.

These cannot stand in rings: the wrong options are drugs of the same disease. They are balanced instead. Every drug that
is an option is an answer in other questions, and a question is taken only while each of its drugs has been the answer
about as often as chance has it: with four options once for three times that it was wrong (`_SLACK` bounds the lead and
the lag). A denial gives several questions, each with other drugs beside it. What cannot be balanced is left out.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from data.synthesis.forms import FORMS, Ruling, Triple
from data.synthesis.rings import Item, Ring
from data.synthesis.words import leaks
from data.synthesis.world import World

_SLACK = 2
"""How many answers a drug may be ahead of, or behind, its due: one for every ``options - 1`` times it was wrong."""
_MOST_PER_DENIAL = 8
_SETS_TRIED = 40
_INDICATED = ("treats", "palliates")
Draft = tuple[int, int, tuple[int, ...]]
"""Disease, the drug that is not indicated, the drugs that are."""


def non_indications(world: World, members: Collection[int], options: int, rng: random.Random) -> list[Ring]:
    """Balanced questions on the diseases of a split, in random order; empty when no source denies an indication."""
    denials = [
        (disease, drug) for drug, targets in sorted(world.denials.get("treats", {}).items())
        for disease in sorted(targets & set(members))
        if drug not in world.mentioned_drugs(disease) and not leaks(world.all_names(drug), world.readable(disease))
    ]  # fmt: skip
    indicated = {disease: _indicated(world, disease) for disease, _ in denials}
    kept = _closed(denials, indicated, options)
    drafts = _balanced(kept, indicated, options, rng)
    rng.shuffle(drafts)
    return [_ring(world, disease, drug, rest, rng) for disease, drug, rest in drafts]


def _indicated(world: World, disease: int) -> frozenset[int]:
    """Drugs stated to change a disease or to ease it, without doubt."""
    stated = {drug for relation in _INDICATED for drug in world.inverse(relation).get(disease, {})}
    doubted = {
        drug for relation in _INDICATED for drug, targets in world.disputed.get(relation, {}).items()
        if disease in targets
    }  # fmt: skip
    return frozenset(stated - doubted)


def _closed(
    denials: list[tuple[int, int]], indicated: Mapping[int, frozenset[int]], options: int
) -> list[tuple[int, int]]:
    """The denials whose drug and whose other options are answers and options alike: a drug that is only one of the two
    would tell."""
    while True:
        answers = {drug for _, drug in denials}
        enough = [(d, x) for d, x in denials if len((indicated[d] & answers) - {x}) >= options - 1]
        wrong = set().union(*(indicated[d] & answers for d, _ in enough))
        kept = [(d, x) for d, x in enough if x in wrong]
        if len(kept) == len(denials):
            return kept
        denials = kept


def _balanced(
    denials: Sequence[tuple[int, int]], indicated: Mapping[int, frozenset[int]], options: int, rng: random.Random
) -> list[Draft]:
    """Questions added one by one, the drug that lags most first, until none can be added within the slack."""
    answers = {drug for _, drug in denials}
    lead: Counter[int] = Counter()
    times: Counter[tuple[int, int]] = Counter()
    made: list[Draft] = []
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    order = list(denials)
    slack = _SLACK * (options - 1)
    while True:
        rng.shuffle(order)
        order.sort(key=lambda pair: (lead[pair[1]], times[pair]))
        for disease, drug in order:
            if times[disease, drug] >= _MOST_PER_DENIAL or lead[drug] + options - 1 > slack:
                continue
            able = [n for n in sorted((indicated[disease] & answers) - {drug}) if lead[n] > -slack]
            able.sort(key=lambda n: (-lead[n], rng.random()))
            rest = next(
                (found for found in itertools.islice(itertools.combinations(able, options - 1), _SETS_TRIED)
                 if (disease, drug, tuple(sorted(found))) not in seen), None,
            )  # fmt: skip
            if rest is not None:
                break
        else:
            return made
        seen.add((disease, drug, tuple(sorted(rest))))
        times[disease, drug] += 1
        lead[drug] += options - 1
        lead.subtract(rest)
        made.append((disease, drug, rest))


def _ring(world: World, disease: int, drug: int, rest: tuple[int, ...], rng: random.Random) -> Ring:
    options = [drug, *rest]
    rng.shuffle(options)
    name = world.readable
    rulings: dict[int, tuple[Ruling, ...]] = {}
    for n in rest:
        edges: list[Triple] = [
            (n, word, disease) for word in _INDICATED if disease in world.of_relation(word).get(n, {})
        ]
        said = f"{name(n)} is indicated in {name(disease)}"
        rulings[n] = (Ruling(because="indicated", detail=said, edges=tuple(edges)),)
    item = Item(disease=disease, answer=drug, way=(drug,), options=tuple(options), rulings=rulings)
    return Ring(form=FORMS["non_indication"], zone="near", items=(item,))
