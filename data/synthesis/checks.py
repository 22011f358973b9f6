"""Two checks of what was made: do options alone give the answer away, and does difficulty lower a simple solver?"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from data.intervals import wilson_interval
from data.records import Question
from data.synthesis.forms import step
from data.synthesis.store import Traced
from data.synthesis.world import World

Scorer = Callable[[str], float]
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share with its 95 % Wilson interval, and what chance gives."""

    right: float
    total: int
    chance: float

    @property
    def share(self) -> float:
        return self.right / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.right, self.total)

    @property
    def at_chance(self) -> bool:
        low, high = self.interval
        return low <= self.chance <= high


def half_of(ring: str) -> int:
    """0: a ring to learn from, 1: one to be tested on. Rings are never torn: one of their answers tells the others."""
    return hashlib.blake2b(ring.encode(), digest_size=1).digest()[0] & 1


def option_classifiers(traced: Sequence[Traced]) -> dict[str, Rate]:
    """Classifiers that see the options and nothing else, learnt on one half and tested on the other.

    A tie counts as its share of a hit, so a classifier that knows nothing scores exactly what chance gives.
    """
    learn = [t.question for t in traced if not half_of(t.explanation.ring) and not t.explanation.twin_of]
    test = [t.question for t in traced if half_of(t.explanation.ring) and not t.explanation.twin_of]
    seen = Counter(option.text for q in learn for option in q.options)
    words = Counter(w for q in learn for option in q.options for w in _words(option.text))
    scorers: dict[str, Scorer] = {
        "bag of words": _bayes(learn, _words),
        "character n-grams": _bayes(learn, _grams),
        "whole option": _bayes(learn, lambda text: [text]),
        "longest option": lambda text: float(len(text)),
        "shortest option": lambda text: -float(len(text)),
        "most frequent option": lambda text: float(seen[text]),
        "most rare option": lambda text: -float(seen[text]),
        "rarest word": lambda text: -min((float(words[w]) for w in _words(text)), default=0.0),
    }
    return {name: _rate(test, scorer) for name, scorer in scorers.items()}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(text: str) -> list[str]:
    padded = f"^{text.lower()}$"
    return [padded[i : i + n] for n in (3, 4) for i in range(len(padded) - n + 1)]


def _bayes(learn: Sequence[Question], features: Callable[[str], Iterable[str]]) -> Scorer:
    """The sum of log-odds of the features of right options against wrong ones (naive Bayes)."""
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for question in learn:
        for option in question.options:
            (right if option.label == question.answer_label else wrong).update(set(features(option.text)))
    a, b = sum(right.values()) + 1.0, sum(wrong.values()) + 1.0

    def score(text: str) -> float:
        return sum(math.log((right[f] + 0.5) / a) - math.log((wrong[f] + 0.5) / b) for f in sorted(set(features(text))))

    return score


def _rate(test: Sequence[Question], scorer: Scorer) -> Rate:
    right = 0.0
    for question in test:
        scores = {option.label: round(scorer(option.text), 9) for option in question.options}
        best = [label for label, score in scores.items() if score == max(scores.values())]
        right += (question.answer_label in best) / len(best)
    chance = sum(1 / len(q.options) for q in test) / max(1, len(test))
    return Rate(right=right, total=len(test), chance=chance)


# --- a simple solver --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the solver did with one question: the share of a hit (ties), and what made it easy or hard."""

    hit: float
    hops: int
    similarity: float
    form: str
    chance: float


def solve(world: World, traced: Iterable[Traced], *, remembered: float = 0.35) -> Iterator[Outcome]:
    """Nearest disease by findings, from a partial memory.

    The solver remembers a share of the findings of each disease (the same ones every time). It picks the option whose
    disease fits the visible findings best: the option itself, or a disease one fact away from it. It makes no further
    step. Questions without a vignette are left out.
    """
    number = {identifier: n for n, identifier in enumerate(world.graph.ids)}
    for one in traced:
        visible = [
            number[v]
            for v in one.explanation.visible
            if world.graph.types[number[v]] in ("phenotype", "imaging_finding")
        ]
        if not visible or one.explanation.twin_of:
            continue
        nodes = {r.label: number[r.node] for r in one.explanation.reasons}
        nodes[one.question.answer_label] = number[one.explanation.answer]
        scores = {label: _fit(world, node, visible, remembered) for label, node in nodes.items()}
        best = [label for label, score in scores.items() if score == max(scores.values())]
        yield Outcome(
            hit=(one.question.answer_label in best) / len(best), hops=one.explanation.hops,
            similarity=one.explanation.similarity, form=one.explanation.form, chance=1 / len(nodes),
        )  # fmt: skip


def _fit(world: World, node: int, visible: Sequence[int], remembered: float) -> float:
    if world.graph.types[node] == "disease":
        diseases = [node]
    else:
        words = ("gene_associated_with", "treats", "phenotype_of", "inheritance_of", "class_includes")
        diseases = [d for w in words for d in step(world, node, w) if world.graph.types[d] == "disease"][:200]
    return max((_match(world, disease, visible, remembered) for disease in diseases), default=0.0)


def _match(world: World, disease: int, visible: Sequence[int], remembered: float) -> float:
    known = {t for t in world.findings(disease) if _remembers(disease, t, remembered)}
    closure = known.union(*(world.above(t) for t in known))
    return round(sum(_told(world, t, closure) for t in visible), 6)


def _told(world: World, term: int, closure: set[int]) -> float:
    """What the most telling common ancestor of a finding and a disease tells (Resnik), 0 when there is none."""
    common = ({term} | world.above(term)) & closure
    return max((world.information(t) for t in common), default=0.0)


def _remembers(disease: int, term: int, share: float) -> bool:
    digest = hashlib.blake2b(f"{disease}|{term}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * 2**32
