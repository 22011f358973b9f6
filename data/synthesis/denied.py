"""Non-indications: which of these drugs is not indicated, answered by physicians' explicit denials.

These cannot stand in rings: the wrong options are drugs of the same disease. They are balanced instead: a drug that is
the answer must be a distractor elsewhere, as often as chance has it. What cannot be balanced is dropped.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection

from data.synthesis.forms import FORMS, Ruling
from data.synthesis.rings import Item, Ring
from data.synthesis.words import leaks
from data.synthesis.world import World

_ROUNDS = 1
Draft = tuple[int, int, tuple[int, ...]]
"""Disease, the drug that is not indicated, the drugs that are."""


def non_indications(world: World, members: Collection[int], options: int, rng: random.Random) -> list[Ring]:
    """Balanced questions on the diseases of a split, in random order; empty when no source denies an indication."""
    indicated = {d: _indicated(world, d) for d in sorted(members)}
    pairs = [
        (disease, drug) for drug, targets in sorted(world.denials.get("treats", {}).items())
        for disease in sorted(targets)
        if len(indicated.get(disease, ())) >= options - 1 and drug not in world.mentioned_drugs(disease)
    ]  # fmt: skip
    drafts = [pair for pair in pairs if not _told(world, *pair) for _ in range(_ROUNDS)]
    rng.shuffle(drafts)
    kept = _balanced(drafts, indicated, options, rng)
    return [_ring(world, disease, drug, rest, rng) for disease, drug, rest in kept]


def _indicated(world: World, disease: int) -> list[int]:
    """Drugs stated to treat a disease, without doubt."""
    stated = set(world.inverse("treats").get(disease, {}))
    doubted = {d for d, targets in world.disputed.get("treats", {}).items() if disease in targets}
    return sorted(stated - doubted)


def _told(world: World, disease: int, drug: int) -> bool:
    return leaks(world.all_names(drug), world.readable(disease))


def _balanced(
    drafts: list[tuple[int, int]], indicated: dict[int, list[int]], options: int, rng: random.Random
) -> list[Draft]:
    """Drafts with distractors, thinned until every answer is a distractor elsewhere, and at least as often."""
    while drafts:
        kept = _assign(drafts, indicated, options, rng)
        answers, others = Counter(drug for _, drug, _ in kept), Counter(n for _, _, rest in kept for n in rest)
        surplus = {x: times - others[x] for x, times in answers.items()}
        left: list[tuple[int, int]] = []
        for disease, drug, _ in kept:
            if surplus[drug] > 0:
                surplus[drug] -= 1
            else:
                left.append((disease, drug))
        if len(left) == len(kept):
            return kept
        drafts = left
    return []


def _assign(
    drafts: list[tuple[int, int]], indicated: dict[int, list[int]], options: int, rng: random.Random
) -> list[Draft]:
    """Distractors for each draft: those that owe the most to their part as answers."""
    balance = Counter({drug: (options - 1) * times for drug, times in Counter(drug for _, drug in drafts).items()})
    made: list[Draft] = []
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for disease, drug in drafts:
        ranked = sorted(indicated[disease], key=lambda n: (-balance[n], rng.random()))
        rest = tuple(ranked[: options - 1])
        key = (disease, drug, tuple(sorted(rest)))
        if key not in seen:
            seen.add(key)
            made.append((disease, drug, rest))
            balance.subtract(rest)
    return made


def _ring(world: World, disease: int, drug: int, rest: tuple[int, ...], rng: random.Random) -> Ring:
    options = [drug, *rest]
    rng.shuffle(options)
    name = world.readable
    rulings: dict[int, tuple[Ruling, ...]] = {}
    for n in rest:
        said = f"{name(n)} is indicated in {name(disease)}"
        rulings[n] = (Ruling(because="indicated", detail=said, edges=((n, "treats", disease),)),)
    item = Item(disease=disease, answer=drug, way=(drug,), options=tuple(options), rulings=rulings)
    return Ring(form=FORMS["non_indication"], zone="near", items=(item,))
