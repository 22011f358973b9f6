"""One-hop questions from the Human Phenotype Ontology: which finding belongs to which rare disease.

Truth under an open world. The annotations name findings that were reported; what is absent from them may only be
unreported. A distractor is therefore a finding that the annotations speak against (a "NOT" row or a frequency of 0) or,
where there are too few, one that is neither annotated nor implied: not an ancestor of an annotated term (true by the
true-path rule), not a descendant (may be the case in detail) and not a child of the same parents (a near synonym). The
annotations of all entries with the same base name count, so a finding of a subtype is never a distractor.

Splits share no base name, so nothing about a disease leaks from one into another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from data.config import HpoConfig
from data.errors import DataError
from data.records import Option, Provenance, Question
from data.sources.hpo_files import Disease, Hpo, load_hpo

GENERATOR_VERSION = "hpo-one-hop/1"
STEMS = (
    "Which finding belongs to {disease}?",
    "Which finding is part of {disease}?",
    "Which finding is seen in {disease}?",
)
OPEN_BOOK = "open-book"
SPLITS = ("train", "held_out", "warm_up")
REASONING = "recall"
CONTEXT = "{disease} is known for: {findings}."
_MIN_FREQUENCY = 0.05
"""A finding of fewer patients than this is a fact, and so no distractor, but not asked for."""
_GENERAL = ("abnormal", "functional", "constitutional", "neoplasm", "morphological")
_TRIES = 200


@dataclass(frozen=True, kw_only=True)
class QuestionSplits:
    """Questions by their use: RL, evaluation on diseases that RL never sees, and the supervised warm-up.

    ``left_out`` says why rows of the source gave no question, and how many ("12 repeated").
    """

    train: tuple[Question, ...]
    held_out: tuple[Question, ...] = ()
    warm_up: tuple[Question, ...] = ()
    left_out: str = ""

    @classmethod
    def of(cls, questions: Iterable[Question], *, left_out: str = "") -> Self:
        """By the split that every question names, in their order."""
        by_split: dict[str, list[Question]] = {split: [] for split in SPLITS}
        for question in questions:
            by_split[question.split].append(question)
        train, held_out, warm_up = (tuple(part) for part in by_split.values())
        return cls(train=train, held_out=held_out, warm_up=warm_up, left_out=left_out)


def hpo_splits(config: HpoConfig) -> QuestionSplits:
    """Make the questions that ``config`` asks for; the same config gives the same questions.

    Raises:
        DataError: the files are missing or damaged, or hold too few diseases with names short enough.
    """
    return splits_of(load_hpo(config.directory), config)


def splits_of(hpo: Hpo, config: HpoConfig) -> QuestionSplits:
    """As `hpo_splits`, from an ontology already in memory."""
    maker = _Maker(hpo, config)
    families = maker.families()
    rng = random.Random(f"{config.seed} families")
    rng.shuffle(families)
    pool = iter(families)
    train = _one_each(maker, pool, "train", config.train_questions)
    held_out = _one_each(maker, pool, "held_out", config.held_out_questions)
    warm_up = _cycled(maker, list(pool), config.warm_up_questions)
    wanted = (config.train_questions, config.held_out_questions, config.warm_up_questions)
    if (len(train), len(held_out), len(warm_up)) != wanted:
        raise DataError(
            f"hpo gave {len(train)} train, {len(held_out)} held-out and {len(warm_up)} warm-up questions of {wanted} "
            f"from {len(families)} diseases",
            remedy="ask for fewer questions, or raise data.questions.hpo.max_name_chars",
        )
    return QuestionSplits(train=tuple(train), held_out=tuple(held_out), warm_up=tuple(warm_up))


def reasoning_of(question: Question) -> str:
    """Reasoning for a warm-up demonstration of a one-hop question.

    Closed book, such a fact is recalled or it is not; there is no chain to write down. The same word for every question
    also keeps the gradient on the letter: a tiny policy garbles names it has not seen, and each garbled token adds
    noise. Open book, the options are held against the text one by one: a small model can copy an option and see
    whether it has read it, but it cannot find the letter that stands before a text.
    """
    if OPEN_BOOK not in question.tags:
        return REASONING
    verdicts = ("yes" if option.label == question.answer_label else "no" for option in question.options)
    return " ".join(f"{o.label}: {o.text}, {v}." for o, v in zip(question.options, verdicts, strict=True))


def _one_each(maker: _Maker, families: Iterator[Disease], split: str, count: int) -> list[Question]:
    questions: list[Question] = []
    while len(questions) < count:
        disease = next(families, None)
        if disease is None:
            break
        question = maker.question(disease, split, draw=0, place=len(questions))
        if question:
            questions.append(question)
    return questions


def _cycled(maker: _Maker, families: list[Disease], count: int) -> list[Question]:
    """Go round the diseases, each time with another draw of finding, distractors, wording and order."""
    questions: dict[str, Question] = {}
    draw = 0
    while len(questions) < count and draw < 10 + count:
        before = len(questions)
        for disease in families:
            question = maker.question(disease, "warm_up", draw, len(questions)) if len(questions) < count else None
            if question:
                questions.setdefault(question.id, question)
        if len(questions) == before:
            break
        draw += 1
    return list(questions.values())


class _Maker:
    """Draws questions; each draw has its own generator, so questions do not depend on how many were made before."""

    def __init__(self, hpo: Hpo, config: HpoConfig) -> None:
        self._hpo = hpo
        self._config = config
        self._askable: dict[str, tuple[str, ...]] = {
            disease.id: tuple(sorted(t for t, f in disease.findings.items() if self._is_askable(t) and _is_common(f)))
            for disease in hpo.diseases.values()
        }
        # With repetition: a distractor is then as common among diseases as a true finding, and gives nothing away.
        self._pool = [term for disease in sorted(self._askable) for term in self._askable[disease]]

    def families(self) -> list[Disease]:
        """One disease per base name, the one with the shortest name, in a stable order."""
        best: dict[str, Disease] = {}
        for disease in sorted(self._hpo.diseases.values(), key=lambda d: (len(d.name), d.name, d.id)):
            if self._is_short(disease.name) and self._askable[disease.id]:
                best.setdefault(disease.family, disease)
        return [best[family] for family in sorted(best)]

    def question(self, disease: Disease, split: str, draw: int, place: int) -> Question | None:
        """A question about ``disease``, or None when too few distractors can be found.

        The truth stands at ``place`` modulo the options: going round the places makes every letter right equally often,
        so a policy that always says the same letter stays at chance and has nothing to gain.
        """
        rng = random.Random(f"{self._config.seed} {split} {disease.id} {draw}")
        truth = rng.choice(self._askable[disease.id])
        distractors = self._distractors(disease, rng)
        if len(distractors) < self._config.options - 1:
            return None
        terms = list(distractors)
        terms.insert(place % self._config.options, truth)
        labels = [chr(ord("A") + index) for index in range(len(terms))]
        return Question(
            source="hpo",
            language="en",
            stem=rng.choice(STEMS).format(disease=disease.name),
            options=tuple(Option(label=a, text=self._hpo.terms[t].name) for a, t in zip(labels, terms, strict=True)),
            answer_label=labels[terms.index(truth)],
            context=self._context(disease, truth, rng),
            split=split,
            tags=("one-hop", OPEN_BOOK) if self._config.facts_in_context else ("one-hop",),
            provenance=Provenance(
                dataset="hpo",
                dataset_version=self._hpo.version,
                row=disease.id,
                graph="hpo",
                path=(disease.id, truth),
                masked=(truth,),
                generator_version=GENERATOR_VERSION,
            ),
        )

    def _context(self, disease: Disease, truth: str, rng: random.Random) -> str:
        """Some findings of the disease in any order, the true one among them; empty when the book is closed."""
        if not self._config.facts_in_context:
            return ""
        others = [term for term in self._askable[disease.id] if term != truth]
        told = [truth, *rng.sample(others, min(len(others), self._config.facts_in_context - 1))]
        rng.shuffle(told)
        names = ", ".join(self._hpo.terms[term].name for term in told)
        return CONTEXT.format(disease=disease.name, findings=names)

    def _distractors(self, disease: Disease, rng: random.Random) -> list[str]:
        facts = self._hpo.facts_of_family[disease.family]
        denied = sorted(term for term in disease.negated if self._is_askable(term))
        rng.shuffle(denied)
        chosen: list[str] = []
        draws: tuple[tuple[int, Callable[[int], str]], ...] = (
            (len(denied), lambda i: denied[i]),
            (_TRIES, lambda _: rng.choice(self._pool)),
        )
        for count, draw in draws:
            for index in range(count):
                if len(chosen) == self._config.options - 1:
                    return chosen
                term = draw(index)
                apart = all(not self._hpo.related(term, other) for other in chosen)
                if apart and self._hpo.is_false_for(term, facts, sure=term in disease.negated):
                    chosen.append(term)
        return chosen

    def _is_short(self, name: str) -> bool:
        return len(name) <= self._config.max_name_chars and name.isascii() and not any(c in name for c in ",;()/")

    def _is_askable(self, term: str) -> bool:
        """A current, specific finding with a short name; modifiers, inheritance and onset are not findings."""
        name = self._hpo.terms[term].name
        return self._hpo.is_finding(term) and self._is_short(name) and not name.lower().startswith(_GENERAL)


def _is_common(frequency: float | None) -> bool:
    return frequency is None or frequency >= _MIN_FREQUENCY
