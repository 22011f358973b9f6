"""Rings on a made-up graph: every form, one right option each, the same bytes however they are made."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from data.errors import DataError
from data.graph.queries import KnowledgeGraph
from data.synthesis.compose import Made
from data.synthesis.config import FORM_NAMES, SynthesisConfig
from data.synthesis.forms import FORMS, false_for
from data.synthesis.generate import generate, prepare
from data.synthesis.report import report_of
from data.synthesis.store import find, load, write
from data.synthesis.world import World
from tests.data.synthesis.fixture import made_up_graph


@pytest.fixture(scope="module")
def graph() -> KnowledgeGraph:
    return made_up_graph()


def _made(graph: KnowledgeGraph, **settings: object) -> list[Made]:
    values = {"questions": 200, "workers": 1, "held_out_share": 0.0, **settings}
    return generate(prepare(graph, SynthesisConfig.model_validate(values)))


@pytest.fixture(scope="module")
def made(graph: KnowledgeGraph) -> list[Made]:
    return _made(graph)


@pytest.mark.parametrize("form", [name for name in FORM_NAMES if name != "non_indication"])
def test_every_form_gives_questions_with_its_hops(graph: KnowledgeGraph, form: str) -> None:
    found = _made(graph, questions=12, forms={form: 1}, open_book_share=0.0)
    assert len(found) >= 12
    assert {one.explanation.form for one in found} == {form}
    for one in found:
        assert one.explanation.hops == FORMS[form].hops
        assert len(one.explanation.reasons) == len(one.question.options) - 1
        assert one.explanation.path, "nothing supports the answer"


def test_each_option_of_a_ring_is_right_exactly_once(made: list[Made]) -> None:
    rings: dict[str, list[Made]] = defaultdict(list)
    for one in made:
        if not one.explanation.twin_of and one.explanation.form != "non_indication":
            rings[one.explanation.ring].append(one)
    assert len(rings) > 20
    for ring in rings.values():
        sets = {frozenset(option.text for option in one.question.options) for one in ring}
        assert len(sets) == 1
        assert Counter(one.question.answer_text for one in ring) == Counter(next(iter(sets)))


def test_answers_are_true_and_distractors_false_in_the_made_up_world(graph: KnowledgeGraph, made: list[Made]) -> None:
    world = World.of(graph)
    number = {identifier: n for n, identifier in enumerate(graph.ids)}
    checked = 0
    for one in made:
        if one.explanation.form in ("finding", "drug", "gene"):
            form, disease = FORMS[one.explanation.form], number[one.explanation.disease]
            assert false_for(world, form, disease, None, number[one.explanation.answer]) is None
            for reason in one.explanation.reasons:
                assert false_for(world, form, disease, None, number[reason.node]) is not None
                checked += 1
    assert checked > 30


def test_a_denied_finding_is_preferred_as_distractor(graph: KnowledgeGraph) -> None:
    found = _made(graph, questions=80, forms={"finding": 1}, open_book_share=0.0)
    reasons = Counter(b for one in found for r in one.explanation.reasons for b in r.because)
    assert reasons["denied"] >= 10
    denied = [e for one in found for r in one.explanation.reasons for e in r.evidence if "denied" in r.because]
    assert denied and all(e.negated and e.file == "made_up.tsv" and e.row > 0 for e in denied)


def test_workers_and_runs_change_no_byte(graph: KnowledgeGraph, made: list[Made], tmp_path: Path) -> None:
    config = SynthesisConfig(questions=200, workers=2, held_out_share=0.0)
    plan = prepare(graph, config)
    again = generate(plan)
    for name, one in (("a", made), ("b", again)):
        write(one, report_of(plan, one), str(tmp_path / name))
    for file in ("questions.parquet", "explanations.parquet", "report.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    other = _made(graph, seed=1)
    assert {one.question.id for one in other} != {one.question.id for one in made}


def test_stored_questions_come_back_and_can_be_traced(graph: KnowledgeGraph, made: list[Made], tmp_path: Path) -> None:
    write(made, {}, str(tmp_path))
    assert {t.question.id: t.explanation for t in load(str(tmp_path))} == {m.question.id: m.explanation for m in made}
    wanted = made[3]
    assert find(str(tmp_path), wanted.question.id).explanation == wanted.explanation
    with pytest.raises(DataError, match="begin with 'zz'"):
        find(str(tmp_path), "zz")
    with pytest.raises(DataError, match="holds no synthesised questions"):
        load(str(tmp_path / "nowhere"))


def test_twins_hold_the_facts_and_differ_in_nothing_else(graph: KnowledgeGraph) -> None:
    found = _made(graph, open_book_share=1.0, forms={"gene": 1, "allelic_finding": 1})
    closed = {one.question.id: one for one in found if not one.explanation.twin_of}
    twins = [one for one in found if one.explanation.twin_of]
    assert len(twins) == len(closed) > 0
    for twin in twins:
        source = closed[twin.explanation.twin_of].question
        assert (twin.question.stem, twin.question.options) == (source.stem, source.options)
        assert twin.question.answer_text in twin.question.context
        assert all(option.text in twin.question.context for option in source.options)  # the context favours none


def test_splits_share_no_disease_family(graph: KnowledgeGraph) -> None:
    found = _made(graph, held_out_share=0.4, forms={"diagnosis": 1, "finding": 1})
    by_split: dict[str, set[str]] = defaultdict(set)
    for one in found:
        by_split[one.question.split].add(one.explanation.disease)
        if one.explanation.form == "diagnosis":
            by_split[one.question.split] |= {r.node for r in one.explanation.reasons}
    assert by_split["train"] and by_split["held_out"]
    assert not by_split["train"] & by_split["held_out"]


def test_chinese_questions_need_chinese_names(graph: KnowledgeGraph) -> None:
    found = _made(graph, language="zh", questions=40, forms={"diagnosis": 1, "drug": 1})
    assert found
    for one in found:
        assert one.question.language == "zh"
        texts = [one.question.stem, *(option.text for option in one.question.options)]
        assert not any(letter.isascii() and letter.isalpha() for letter in "".join(texts))


def test_low_temperature_favours_rare_diseases(graph: KnowledgeGraph) -> None:
    settings = {"questions": 24, "forms": {"finding": 1}, "common_share": 0.0, "open_book_share": 0.0}
    rare = [
        sum(one.explanation.band == "rare" for one in _made(graph, temperature=t, seed=s, **settings))
        for t in (0.1, 100.0) for s in range(4)
    ]  # fmt: skip
    assert sum(rare[:4]) > sum(rare[4:])


def test_a_graph_without_the_relations_gives_a_plain_error(graph: KnowledgeGraph) -> None:
    with pytest.raises(DataError, match="no question of the forms"):
        _made(graph, language="zh", questions=4, forms={"non_indication": 1}, options=10)
