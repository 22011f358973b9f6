"""The loop over fakes: what is drawn, admitted, refilled, committed, rolled back, and when it stops."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cluster.collecting import collect
from cluster.config import LoopConfig, Recipe, load_recipe
from cluster.controller import Controller, Parts
from cluster.drawing import QuestionDrawer
from cluster.evaluating import EvaluationSet
from cluster.lease import Lease
from cluster.progress import Reporter
from cluster.run_store import RunStore, fates
from data.errors import EngineError, NoSignalError, RunStateError
from data.records import Group, Question, ScoredGroup
from data.storage import Storage
from data.wire import SamplingSpec
from reward_service.pool import VerificationFailed
from tests.cluster.fakes import FakeLearner, FakeSampler, FakeScorer, question

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
QUESTIONS = [question(number) for number in range(10)]


def sampling() -> SamplingSpec:
    return SamplingSpec(temperature=1.0, max_tokens=8)


def mixed(_: Question, index: int) -> bool:
    return index % 2 == 0


# --- drawing --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 7), max_size=12), st.integers(0, 3))
def test_an_epoch_holds_every_question_once_and_a_resume_changes_nothing(sizes: list[int], cut: int) -> None:
    whole = QuestionDrawer(QUESTIONS, seed=3)
    expected = [item for size in sizes for item in whole.draw(size)]
    first = QuestionDrawer(list(reversed(QUESTIONS)), seed=3)
    drawn = [item for size in sizes[:cut] for item in first.draw(size)]
    second = QuestionDrawer(QUESTIONS, seed=3)
    second.load_state_dict(first.state_dict())
    drawn += [item for size in sizes[cut:] for item in second.draw(size)]
    assert drawn == expected
    for epoch in range(len(drawn) // len(QUESTIONS)):
        ids = [q.id for q, draw in drawn if draw == epoch]
        assert sorted(ids) == sorted(q.id for q in QUESTIONS)


def test_a_drawer_refuses_the_state_of_other_questions() -> None:
    state = QuestionDrawer(QUESTIONS, seed=3).state_dict()
    with pytest.raises(RunStateError, match="have changed"):
        QuestionDrawer(QUESTIONS[:-1], seed=3).load_state_dict(state)


# --- collecting -----------------------------------------------------------------------------------------------------


def run_collect(scorer: Any, **settings: int) -> Any:
    loop = LoopConfig(questions_per_step=4, samples_per_question=4).model_copy(update=settings)
    return asyncio.run(
        collect(QuestionDrawer(QUESTIONS, seed=0), FakeSampler(), scorer, loop=loop, sampling=sampling())
    )


def test_groups_without_signal_are_replaced_within_the_bound() -> None:
    easy = {q.id for q in QUESTIONS[:5]}
    collected = run_collect(FakeScorer(lambda q, i: q.id in easy or i == 0), max_refill_rounds=9)
    assert len(collected.admitted) == 4
    assert all(group.has_signal for group in collected.admitted)
    assert all(group.group.question.id in easy for group in collected.without_signal)
    assert collected.why_no_signal().startswith("all right") or not collected.without_signal


@pytest.mark.parametrize(
    ("scorer", "why"),
    [
        (FakeScorer(lambda q, i: True), "all right 100%"),
        (FakeScorer(lambda q, i: False), "all wrong 100%"),
        (FakeScorer(lambda q, i: False, formatted=False), "no format 100%"),
    ],
)
def test_a_step_without_any_signal_ends_after_the_bound_and_says_why(scorer: FakeScorer, why: str) -> None:
    collected = run_collect(scorer, max_refill_rounds=2)
    assert (len(collected.admitted), len(collected.without_signal), collected.rounds) == (0, 12, 3)
    assert collected.why_no_signal() == why


class UnreliableScorer(FakeScorer):
    """Cannot verify some questions."""

    def __init__(self, broken: set[str]) -> None:
        super().__init__(mixed)
        self.broken = broken

    async def score(self, group: Group) -> ScoredGroup:
        if group.question.id in self.broken:
            raise VerificationFailed(group.question.id, "the verifier died")
        return await super().score(group)


def test_a_failed_verification_is_no_zero_but_a_dropped_group() -> None:
    collected = run_collect(
        UnreliableScorer({QUESTIONS[0].id, QUESTIONS[1].id}), max_refill_rounds=5, max_failed_groups=9
    )
    assert len(collected.admitted) == 4
    assert {group.question.id for group in collected.failed} <= {QUESTIONS[0].id, QUESTIONS[1].id}


def test_too_many_failed_verifications_stop_the_run() -> None:
    with pytest.raises(EngineError, match="max_failed_groups is 1"):
        run_collect(UnreliableScorer({q.id for q in QUESTIONS}), max_failed_groups=1)


# --- the controller -------------------------------------------------------------------------------------------------


class World:
    """A controller over fakes, with a real run store."""

    def __init__(
        self, folder: Path, learner: FakeLearner, scorer: FakeScorer, monkeypatch: pytest.MonkeyPatch, **loop: int
    ) -> None:
        monkeypatch.setattr(ray, "put", lambda value: value)
        settings = {"steps": 6, "questions_per_step": 3, "samples_per_question": 4, "checkpoint_every": 2, **loop}
        overrides = [f"loop.{key}={value}" for key, value in settings.items()]
        self.recipe: Recipe = load_recipe(QUICKSTART, overrides)
        self.store = RunStore(Storage.open(str(folder)))
        self.store.begin_attempt({})
        self.lease = Lease(self.store.storage)
        self.lease.acquire()
        self.sampler, self.learner, self.out = FakeSampler(), learner, io.StringIO()
        self.controller = Controller(
            Parts(
                recipe=self.recipe,
                store=self.store,
                lease=self.lease,
                drawer=QuestionDrawer(QUESTIONS, seed=0),
                sampler=self.sampler,
                scorer=scorer,
                learner=learner,  # type: ignore[arg-type]
                publish=self.sampler.publish,
                evaluation_sets=[EvaluationSet(name="train", questions=tuple(QUESTIONS[:2]))],
                sinks=[],
                reporter=Reporter(Console(file=self.out)),
                new_attempt=lambda: self.store.begin_attempt({}),
            )
        )

    def run(self) -> None:
        try:
            asyncio.run(self.controller.run())
        finally:
            self.lease.release()


def test_a_run_takes_every_step_commits_when_due_and_keeps_every_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, FakeLearner(), FakeScorer(mixed), monkeypatch)
    world.run()
    assert world.learner.steps == [1, 2, 3, 4, 5, 6]
    assert world.learner.saved == [2, 4, 6]
    assert world.sampler.version == 6
    assert [row["rollout/staleness_max"] for row in world.store.committed_metrics()] == [0] * 6
    assert fates(world.store.trajectories()) == {"trained": 6 * 3 * 4}
    assert set(world.controller.evaluations) == {"before", "after"}


def test_a_restart_of_the_learner_goes_back_to_the_commit_and_repeats_what_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, FakeLearner(dies_at=[4]), FakeScorer(mixed), monkeypatch)
    world.run()
    assert world.learner.steps == [1, 2, 3, 3, 4, 5, 6]
    assert [(row["step"], row["attempt"]) for row in world.store.committed_metrics()] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 2),
    ]
    straight = World(tmp_path / "straight", FakeLearner(), FakeScorer(mixed), monkeypatch)
    straight.run()
    surviving = world.store.trajectories().select(["step", "question_id", "draw"]).to_pylist()
    assert surviving == straight.store.trajectories().select(["step", "question_id", "draw"]).to_pylist()


def test_a_learner_that_came_up_before_it_knew_the_last_commit_is_brought_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = FakeLearner(dies_at=[5])
    learner.stands_at = [2]  # the commit of step 4 is on disk, the restarted learner was told of step 2
    world = World(tmp_path, learner, FakeScorer(mixed), monkeypatch)
    world.run()
    assert learner.steps == [1, 2, 3, 4, 5, 6]


def test_a_second_process_resumes_at_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = World(tmp_path, FakeLearner(), FakeScorer(mixed), monkeypatch, steps=4)
    first.run()
    learner = FakeLearner()
    learner.restore = first.learner.restore
    second = World(tmp_path, learner, FakeScorer(mixed), monkeypatch, steps=6)
    second.run()
    assert learner.steps == [5, 6]
    assert [row["step"] for row in second.store.committed_metrics()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("formatted", [True, False])
def test_no_signal_stops_the_run_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formatted: bool) -> None:
    world = World(tmp_path, FakeLearner(), FakeScorer(lambda q, i: False, formatted=formatted), monkeypatch)
    with pytest.raises(NoSignalError, match="all wrong 100%" if formatted else "no format 100%"):
        world.run()
    assert world.learner.steps == []


def test_when_all_is_solved_the_run_ends_well_and_keeps_what_it_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = FakeLearner()
    world = World(tmp_path, learner, FakeScorer(lambda q, i: len(learner.steps) >= 3 or mixed(q, i)), monkeypatch)
    world.run()
    assert learner.steps == [1, 2, 3]
    last = world.store.last_commit()
    assert last is not None and last.step == 3
    assert "all right 100%" in world.out.getvalue()
