"""What a synthesis made: form x hops x rare or common, and the coverage that favouring the rare bought."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from data.synthesis.compose import GENERATOR_VERSION, Made
from data.synthesis.config import SynthesisConfig
from data.synthesis.forms import DRUG_FORMS, FORMS
from data.synthesis.generate import Plan, rng_of
from data.synthesis.world import World

BANDS = ("rare", "common", "unrated")


def report_of(plan: Plan, made: Sequence[Made]) -> dict[str, Any]:
    """Counts of closed-book questions (twins apart), and coverage against uniform sampling. No times: bytes repeat."""
    closed = [one for one in made if not one.explanation.twin_of]
    table = Counter((one.explanation.form, one.explanation.band) for one in closed)
    diseases = {one.explanation.disease for one in closed}
    hops = [one.explanation.hops for one in closed]
    reasons = Counter(b for one in closed for r in one.explanation.reasons for b in r.because)
    return {
        "generator": GENERATOR_VERSION,
        "questions": len(closed),
        "twins": len(made) - len(closed),
        "splits": dict(sorted(Counter(one.question.split for one in closed).items())),
        "forms": {
            form: {"hops": FORMS[form].hops, **{band: table[form, band] for band in BANDS}}
            for form in FORMS if plan.config.weights.get(form, 0)
        },
        "bands": {band: sum(table[form, band] for form in FORMS) for band in BANDS},
        "drug_questions": sum(one.explanation.form in DRUG_FORMS for one in closed),
        "mean_hops": round(sum(hops) / len(hops), 3),
        "diseases": len(diseases),
        "rare_diseases": len({one.explanation.disease for one in closed if one.explanation.band == "rare"}),
        "reasons": dict(sorted(reasons.items())),
        "zones": dict(sorted(Counter(one.explanation.zone for one in closed).items())),
        "coverage": coverage(plan, len({one.explanation.ring for one in closed})),
    }  # fmt: skip


def coverage(plan: Plan, rings: int) -> dict[str, dict[str, float]]:
    """Distinct diseases, and rare ones, among as many anchors drawn in three ways from the pool of `diagnosis`.

    ``by_facts``: as topological sampling without weights does, which picks a fact at random and so its disease;
    ``uniform``: every disease alike; ``rare_first``: by this configuration's weights, without replacement.
    """
    world, config = plan.world, plan.config
    pool = sorted(d for (form, _), found in plan.pools.items() if form == "diagnosis" for d in found)
    if not pool:
        return {}
    count = min(rings, len(pool))
    rng = rng_of(config.seed, "coverage")
    by_facts = rng.choices(pool, weights=[len(world.findings(d)) for d in pool], k=count)
    uniform = rng.choices(pool, k=count)
    keys = _race(world, pool, config, rng)
    first = sorted(pool, key=lambda d: keys[d])[:count]
    return {name: _share(world, drawn) for name, drawn in
            (("by_facts", by_facts), ("uniform", uniform), ("rare_first", first))}  # fmt: skip


def _race(world: World, pool: Sequence[int], config: SynthesisConfig, rng: random.Random) -> dict[int, float]:
    return {d: -math.log(1.0 - rng.random()) / math.exp(world.rarity(d) / config.temperature) for d in pool}


def _share(world: World, drawn: Sequence[int]) -> dict[str, float]:
    rare = [d for d in drawn if world.band(d) == "rare"]
    return {
        "anchors": len(drawn),
        "diseases": len(set(drawn)),
        "rare_diseases": len(set(rare)),
        "rare_share": round(len(rare) / max(1, len(drawn)), 4),
    }
