"""From a ring to finished questions with their explanations, and their open-book twins."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from data.records import Option, Provenance, Question
from data.synthesis.explain import Explanation, evidence, path_of, reason
from data.synthesis.forms import Triple
from data.synthesis.rings import Item, Ring
from data.synthesis.wording import name_in, option_text, speakable, word
from data.synthesis.words import chinese
from data.synthesis.world import World

GENERATOR_VERSION = "graph-rings/1"
SOURCE = "graph-synthesis"
_SENTENCES = {
    "has_phenotype": ("{s} can show {o}.", "{s} does not show {o}."),
    "associated_with_gene": ("{s} is associated with the gene {o}.", "{s} is not associated with the gene {o}."),
    "has_inheritance": ("{s} is inherited in this way: {o}.", "{s} is not inherited in this way: {o}."),
    "treats": ("{s} is indicated in {o}.", "{s} has no indication in {o}."),
    "palliates": ("{s} eases {o}.", "{s} does not ease {o}."),
    "in_class": ("{s} belongs to the class: {o}.", "{s} does not belong to the class: {o}."),
    "measured_by": ("{s} is confirmed by {o}.", "{s} is not confirmed by {o}."),
    "contraindicated_in": ("{s} is contraindicated in {o}.", "{s} is not contraindicated in {o}."),
}
_SENTENCES_ZH = {
    "has_phenotype": ("{s}可有{o}。", "{s}无{o}。"),
    "associated_with_gene": ("{s}与基因{o}相关。", "{s}与基因{o}无关。"),
    "has_inheritance": ("{s}的遗传方式为{o}。", "{s}的遗传方式不是{o}。"),
    "treats": ("{s}可治疗{o}。", "{s}不适用于{o}。"),
    "palliates": ("{s}可缓解{o}。", "{s}不能缓解{o}。"),
    "in_class": ("{s}属于{o}。", "{s}不属于{o}。"),
    "measured_by": ("{s}可用{o}确诊。", "{s}不能用{o}确诊。"),
    "contraindicated_in": ("{s}禁用于{o}。", "{s}不禁用于{o}。"),
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A question, why it is so, and the visible texts that a rewriter must keep."""

    question: Question
    explanation: Explanation
    shown: tuple[str, ...]


def compose(
    world: World, ring: Ring, *, ring_name: str, split: str, language: str, twins: bool, rng: random.Random
) -> tuple[Made, ...]:
    """The questions of a ring; none when one cannot be worded. ``twins``: each with an open-book twin after it."""
    made: list[Made] = []
    for item in ring.items:
        nodes = [*item.options, *item.visible, item.disease, *(n for n in (item.gene, item.other) if n is not None)]
        if not speakable(world, nodes, language):
            return ()
        worded = word(world, ring.form, item, language, rng)
        if worded is None:
            return ()
        question = _question(world, ring, item, worded.stem, split, language)
        whole = _explanation(world, ring, item, question, ring_name)
        made.append(Made(question=question, explanation=whole, shown=worded.shown))
        if twins:
            made.append(_twin(made[-1], _context(world, ring, item, language, rng)))
    return tuple(made)


def _twin(closed: Made, context: str) -> Made:
    question = replace(closed.question, context=context, tags=(*closed.question.tags, "open-book"))
    explanation = replace(closed.explanation, question_id=question.id, twin_of=closed.question.id)
    return Made(question=question, explanation=explanation, shown=closed.shown)


def _labels(count: int) -> list[str]:
    return [chr(ord("A") + index) for index in range(count)]


def _question(world: World, ring: Ring, item: Item, stem: str, split: str, language: str) -> Question:
    form, ids = ring.form, world.graph.ids
    labels = _labels(len(item.options))
    middle = [item.gene] if item.gene is not None else []
    path = [*item.visible, *middle, item.disease, *item.way]
    hidden = [*([] if form.start == "named" else [item.disease]), *item.way]
    versions = sorted({f"{s.name} {s.version}" for s in world.graph.tables.sources})
    return Question(
        source=SOURCE,
        language=language,
        stem=stem,
        options=tuple(
            Option(label=label, text=option_text(world, node, language))
            for label, node in zip(labels, item.options, strict=True)
        ),
        answer_label=labels[item.options.index(item.answer)],
        split=split,
        tags=(form.name, f"hops-{form.hops}", world.band(item.disease), ring.zone),
        provenance=Provenance(
            dataset=SOURCE, dataset_version="; ".join(versions), row=ids[item.disease], graph="fleming-graph",
            path=tuple(ids[n] for n in path), masked=tuple(ids[n] for n in dict.fromkeys(hidden)),
            generator_version=GENERATOR_VERSION,
        ),
    )  # fmt: skip


def _explanation(world: World, ring: Ring, item: Item, question: Question, ring_name: str) -> Explanation:
    form, ids = ring.form, world.graph.ids
    labels = dict(zip(item.options, _labels(len(item.options)), strict=True))
    named = [n for n in (item.gene, item.other) if n is not None]
    visible = [*item.visible, *named, *([item.disease] if form.start == "named" else [])]
    return Explanation(
        question_id=question.id, twin_of="", ring=ring_name, form=form.name, hops=form.hops,
        band=world.band(item.disease), zone=ring.zone, similarity=round(item.similarity, 6), disease=ids[item.disease],
        answer=ids[item.answer], visible=tuple(ids[n] for n in visible), hidden=question.provenance.masked,
        path=evidence(world, path_of(form, item)),
        reasons=tuple(reason(world, labels[n], n, item.rulings[n]) for n in item.options if n != item.answer),
    )  # fmt: skip


def _context(world: World, ring: Ring, item: Item, language: str, rng: random.Random) -> str:
    """The facts on which the answer and the other options rest, in random order: each option is spoken of."""
    edges: dict[Triple, None] = {}
    for member in ring.items:
        edges.update(dict.fromkeys(path_of(ring.form, member)))
    for rulings in item.rulings.values():
        edges.update(dict.fromkeys(edge for ruling in rulings for edge in ruling.edges))
    said = [text for edge in edges if (text := _sentence(world, edge, language))]
    said = list(dict.fromkeys(said))
    rng.shuffle(said)
    return ("" if language == "zh" else " ").join(said)


def _sentence(world: World, edge: Triple, language: str) -> str:
    subject, relation, object_ = edge
    denied = object_ in world.denials.get(relation, {}).get(subject, set())
    words = (_SENTENCES_ZH if language == "zh" else _SENTENCES).get(relation)
    if words is None:
        return ""
    names = [name_in(world, node, language) for node in (subject, object_)]
    if language == "zh":
        names = [
            n or chinese(world.all_names(x)) or world.readable(x)
            for n, x in zip(names, (subject, object_), strict=True)
        ]
    return words[denied].format(s=names[0], o=names[1])
