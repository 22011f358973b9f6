"""Question synthesis as a whole: who is asked about and how often, in any number of processes, with the same bytes.

A job is (form, split, draw): its anchor comes from one order of diseases, its randomness from a generator seeded with
these three and the seed. Jobs run in waves whose make-up depends on earlier results alone, and results are taken in the
order of the jobs. So neither the number of workers nor their speed can change a byte.

The order puts rare diseases first: weighted sampling without replacement (Efraimidis and Spirakis 2006), key
``log(u) / w`` with ``w = exp(rarity / temperature)``, u uniform. When it is used up it begins again with fresh draws.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import DataError
from data.graph.queries import KnowledgeGraph
from data.sources.hpo import SPLITS
from data.synthesis.compose import Made, compose
from data.synthesis.config import SynthesisConfig
from data.synthesis.denied import non_indications
from data.synthesis.forms import FORMS, Form, chains
from data.synthesis.rings import RingMaker
from data.synthesis.wording import lay_names
from data.synthesis.world import KNOWN_FROM, World

_CHUNK = 16
_LEAST_FINDINGS = 4
_DRAWS_PER_ANCHOR = 60
_BARREN = 0.02
"""A form whose last wave gave fewer rings per draw than this has no more to give."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at a ring."""

    form: str
    split: str
    draw: int
    anchor: int


@dataclass
class Plan:
    """What all processes share: the world, the diseases of each split, and the anchors of each form."""

    world: World
    config: SynthesisConfig
    members: dict[str, frozenset[int]]
    pools: dict[tuple[str, str], tuple[int, ...]]


def rng_of(*parts: object) -> random.Random:
    """A generator that depends on its parts alone, on any machine."""
    return random.Random("|".join(map(str, parts)))


def prepare(graph: KnowledgeGraph, config: SynthesisConfig) -> Plan:
    """Index a graph and find which diseases can be asked about in which form."""
    world = World.of(graph)
    if config.language == "en":
        world.lay.update(lay_names())
    members: dict[str, set[int]] = {split: set() for split in SPLITS}
    for disease in world.diseases:
        members[split_of(world.family(disease), config)].add(disease)
    pools: dict[tuple[str, str], tuple[int, ...]] = {}
    for name, form in FORMS.items():
        if config.weights.get(name, 0) and name != "non_indication":
            able = [d for d in world.diseases if _able(world, form, d)]
            for split, inside in members.items():
                pools[name, split] = tuple(d for d in able if d in inside)
    return Plan(world=world, config=config, members={s: frozenset(m) for s, m in members.items()}, pools=pools)


def split_of(family: str, config: SynthesisConfig) -> str:
    """The split of a disease family, by hash: families never meet across splits."""
    digest = hashlib.blake2b(f"{config.seed}|{family}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < config.held_out_share:
        return "held_out"
    return "warm_up" if place < config.held_out_share + config.warm_up_share else "train"


def _able(world: World, form: Form, disease: int) -> bool:
    if form.vignette and sum(t in world.askable for t in world.findings(disease)) < _LEAST_FINDINGS:
        return False
    if form.answer in ("phenotype", "disease") and len(world.findings(disease)) < KNOWN_FROM:
        return False  # nothing can be said to be absent, so no ring will hold it
    return bool(chains(world, form, disease))


def order(world: World, pool: Sequence[int], temperature: float, common_share: float, rng: random.Random) -> list[int]:
    """Anchors, the rare ones sooner, with common ones mixed in at their share; see the head of this file."""
    keys = {d: -math.log(1.0 - rng.random()) / math.exp(world.rarity(d) / temperature) for d in pool}
    common = sorted((d for d in pool if world.band(d) == "common"), key=lambda d: (keys[d], d))
    others = sorted((d for d in pool if world.band(d) != "common"), key=lambda d: (keys[d], d))
    if not common or not others:
        return common or others
    mixed: list[int] = []
    steps = max(len(others), len(common))
    due = 0.0
    c = o = 0
    for _ in range(steps * 2):
        due += common_share
        if due >= 1:
            due -= 1
            mixed.append(common[c % len(common)])
            c += 1
        else:
            mixed.append(others[o % len(others)])
            o += 1
        if o >= len(others) and (c >= len(common) or common_share == 0):
            break
    return mixed


# --- workers ----------------------------------------------------------------------------------------------------------

_SHARED: dict[str, Plan] = {}
"""The plan, set before the fork, so that workers share its memory."""


def _attempts(jobs: Sequence[Job]) -> list[tuple[Made, ...]]:
    """The questions of some jobs; an empty tuple for a job without a ring. Runs in a forked process."""
    plan = _SHARED["plan"]
    config = plan.config
    maker = RingMaker(plan.world, config.options, config.temperature)
    made: list[tuple[Made, ...]] = []
    for job in jobs:
        rng = rng_of(config.seed, job.form, job.split, job.draw)
        form, pool = FORMS[job.form], plan.pools[job.form, job.split]
        ring = maker.ring(form, job.anchor, pool, plan.members[job.split], rng)
        if ring is None:
            made.append(())
            continue
        name = f"{job.form}-{job.split}-{job.draw}"
        twins = rng.random() < config.open_book_share
        made.append(
            compose(plan.world, ring, ring_name=name, split=job.split, language=config.language, twins=twins, rng=rng)
        )
    return made


def generate(plan: Plan) -> list[Made]:
    """All questions, sorted by form, split and draw; twins stand after their question.

    Raises:
        DataError: the graph gives no question at all.
    """
    _SHARED["plan"] = plan
    workers = plan.config.workers or os.cpu_count() or 1
    try:
        if workers == 1:
            return _generate(plan, None)
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            return _generate(plan, pool)
    finally:
        _SHARED.clear()


def _generate(plan: Plan, pool: Any) -> list[Made]:
    kept: dict[tuple[str, str], list[tuple[Made, ...]]] = {}
    seen: set[str] = set()
    denied = _denied(plan)
    todo = _Targets(plan, denied)
    for key, rings in denied.items():
        kept[key] = []
        for ring in rings:
            if todo.missing(key) > 0:
                todo.count(key, _keep(ring, seen, kept[key]))
    while wave := todo.wave():
        chunks = [wave[i : i + _CHUNK] for i in range(0, len(wave), _CHUNK)]
        results: Iterator[list[tuple[Made, ...]]] = pool.imap(_attempts, chunks) if pool else map(_attempts, chunks)
        for chunk, answers in zip(chunks, results, strict=True):
            for job, ring in zip(chunk, answers, strict=True):
                key = (job.form, job.split)
                if ring and todo.missing(key) > 0:
                    todo.count(key, _keep(ring, seen, kept.setdefault(key, [])))
    made = [one for key in sorted(kept) for ring in kept[key] for one in ring]
    if not made:
        raise DataError(
            f"the graph gives no question of the forms {sorted(n for n, w in plan.config.weights.items() if w)}",
            remedy="build a graph of more sources (fleming graph build), or ask for other forms",
        )
    return made


def _keep(ring: tuple[Made, ...], seen: set[str], kept: list[tuple[Made, ...]]) -> int:
    """Take a ring unless a question of it was made before; how many closed-book questions it added."""
    ids = {made.question.id for made in ring}
    if len(ids) < len(ring) or ids & seen:
        return 0
    seen |= ids
    kept.append(ring)
    return sum(not made.explanation.twin_of for made in ring)


def _denied(plan: Plan) -> dict[tuple[str, str], list[tuple[Made, ...]]]:
    config, world = plan.config, plan.world
    found: dict[tuple[str, str], list[tuple[Made, ...]]] = {}
    for split in SPLITS if config.weights.get("non_indication", 0) else ():
        rng = rng_of(config.seed, "non_indication", split)
        rings = non_indications(world, plan.members[split], config.options, rng)
        found["non_indication", split] = [
            made for draw, ring in enumerate(rings)
            if (made := compose(world, ring, ring_name=f"non_indication-{split}-{draw}", split=split,
                                language=config.language, twins=rng.random() < config.open_book_share, rng=rng))
        ]  # fmt: skip
    return found


class _Targets:
    """How many questions each form and split still owes, and which jobs come next."""

    def __init__(self, plan: Plan, denied: dict[tuple[str, str], list[tuple[Made, ...]]]) -> None:
        self._plan = plan
        config = plan.config
        self._size = config.options
        self._drawn: Counter[tuple[str, str]] = Counter()
        self._made: Counter[tuple[str, str]] = Counter()
        self._before: Counter[tuple[str, str]] = Counter()
        self._asked: dict[tuple[str, str], int] = {}
        self._orders: dict[tuple[str, str], list[int]] = {}
        sizes = {split: len(inside) for split, inside in plan.members.items()}
        able = {k: p for k, p in plan.pools.items() if len(p) >= config.options} | {
            k: r for k, r in denied.items() if r
        }
        weights = {name: float(weight) for name, weight in config.weights.items() if any(k[0] == name for k in able)}
        total = sum(weights.values()) or 1.0
        self._target = {
            (name, split): round(config.questions * weights[name] / total * sizes[split] / max(1, sum(sizes.values())))
            for name, split in sorted(able)
            if weights.get(name)
        }
        self._refill(config.questions)

    def _refill(self, wanted: int) -> None:
        """Questions that rounding or a poor form leaves open go to the forms that give many, in proportion."""
        self._wanted = wanted

    def missing(self, key: tuple[str, str]) -> int:
        return self._target.get(key, 0) - self._made[key]

    def count(self, key: tuple[str, str], added: int) -> None:
        self._made[key] += added

    def wave(self) -> list[Job]:
        """The next jobs, a third more than are needed at the rate so far; empty when all is done or nothing helps."""
        jobs = self._wave()
        if not jobs:
            short = self._wanted - sum(self._made.values())
            rich = [k for k in self._target if not self._dry(k)]
            if short > 0 and rich:
                total = sum(self._target[k] for k in rich)
                for key in rich:
                    self._target[key] = self._made[key] + max(1, math.ceil(short * self._target[key] / max(1, total)))
                jobs = self._wave()
        return jobs

    def _dry(self, key: tuple[str, str]) -> bool:
        pool = self._plan.pools.get(key, ())
        asked, gained = self._asked.get(key, 0), self._made[key] - self._before[key]
        if key[0] == "non_indication" or self._drawn[key] >= _DRAWS_PER_ANCHOR * len(pool):
            return True
        return asked >= 200 and gained < _BARREN * self._size * asked

    def _wave(self) -> list[Job]:
        jobs: list[Job] = []
        for key in sorted(self._target):
            missing = self.missing(key)
            if missing <= 0 or self._dry(key):
                continue
            drawn, made = self._drawn[key], self._made[key]
            rate = max(0.05, made / self._size / drawn) if drawn else 0.6
            count = min(2000, math.ceil(missing / self._size / rate * 1.2))
            self._before[key], self._asked[key] = made, count
            jobs += [self._job(key, drawn + i) for i in range(count)]
            self._drawn[key] += count
        return jobs

    def _job(self, key: tuple[str, str], draw: int) -> Job:
        if key not in self._orders:
            config = self._plan.config
            rng = rng_of(config.seed, "order", *key)
            self._orders[key] = order(
                self._plan.world, self._plan.pools[key], config.temperature, config.common_share, rng
            )
        anchors = self._orders[key]
        return Job(form=key[0], split=key[1], draw=draw, anchor=anchors[draw % len(anchors)])
