"""Small stand-ins for the two halves, to test order and bookkeeping without engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data.records import Completion, Group, Option, Question, Score, ScoredGroup, VersionSpan
from data.wire import (
    CheckpointSaved,
    LearnerStarted,
    RestorePoint,
    SamplingSpec,
    StepDone,
    TrainStep,
    WeightsReady,
    WeightUpdate,
)


def question(number: int, split: str = "train") -> Question:
    options = (Option(label="A", text="right"), Option(label="B", text="wrong"))
    return Question(
        source="test", language="en", stem=f"Question {number}?", options=options, answer_label="A", split=split
    )


def completion(of: Question, draw: int, index: int, version: int, *, cut: bool = False) -> Completion:
    return Completion(
        question_id=of.id,
        draw=draw,
        sample_index=index,
        seed=index,
        prompt_token_ids=(1, 2, 3),
        token_ids=(4, 5),
        logprobs=(-0.5, -0.25),
        version_spans=(VersionSpan(start=0, end=2, version=version),),
        finish_reason="length" if cut else "stop",
        text="",
    )


class FakeSampler:
    """Completions without text; counts what it was asked for."""

    def __init__(self) -> None:
        self.version = 0
        self.groups: list[tuple[str, int]] = []

    async def sample_group(self, question: Question, *, draw: int, k: int, sampling: SamplingSpec) -> Group:
        self.groups.append((question.id, draw))
        completions = tuple(completion(question, draw, index, self.version) for index in range(k))
        return Group(question=question, draw=draw, completions=completions)

    async def publish(self, update: WeightUpdate) -> float:
        self.version = update.version
        return 0.0


class FakeScorer:
    """Scores by a rule (question, sample index) -> correct; everything is in format unless told otherwise."""

    def __init__(self, rule: Callable[[Question, int], bool], *, formatted: bool = True) -> None:
        self.rule = rule
        self.formatted = formatted

    async def score(self, group: Group) -> ScoredGroup:
        scores = []
        for item in group.completions:
            correct = float(self.rule(group.question, item.sample_index))
            layout = float(self.formatted)
            scores.append(Score(correct=correct, format=layout, reward=correct + 0.1 * layout, reason="fake"))
        return ScoredGroup(group=group, scores=tuple(scores), verifier_version="fake/1")


class FakeLearner:
    """Answers commands at once; ``dies_at`` raises `LearnerRestarted` once, in that step."""

    def __init__(self, dies_at: Sequence[int] = ()) -> None:
        self.steps: list[int] = []
        self.step = 0
        self.restore = RestorePoint(step=0, checkpoint=None)
        self.saved: list[int] = []
        self._deaths = list(dies_at)
        self.stands_at: list[int] = []

    async def started(self) -> LearnerStarted:
        self.step = self.restore.step
        return LearnerStarted(generation=1, step=self.restore.step)

    async def load(self, restore: RestorePoint) -> None:
        self.step = restore.step

    async def train(self, command: TrainStep) -> tuple[StepDone, WeightsReady | None, CheckpointSaved | None]:
        from cluster.learner_client import LearnerRestarted

        if command.step in self._deaths:
            self._deaths.remove(command.step)
            self.step = self.stands_at.pop(0) if self.stands_at else self.restore.step
            raise LearnerRestarted(self.restore.step)
        assert command.step == self.step + 1, "a step must follow the state that the learner is in"
        self.steps.append(command.step)
        self.step = command.step
        done = StepDone(step=command.step, metrics={"loss": 0.0}, seconds={})
        saved = await self.checkpoint(command.step) if command.checkpoint else None
        return done, await self.publish(command.step), saved

    async def publish(self, version: int) -> WeightsReady:
        return WeightsReady(update=WeightUpdate(version=version, buckets=()))

    async def checkpoint(self, step: int) -> CheckpointSaved:
        self.saved.append(step)
        return CheckpointSaved(step=step, path=f"train/step-{step}")

    async def export(self, target: str) -> None:
        self.exported = target

    async def set_restore(self, restore: RestorePoint) -> None:
        self.restore = restore
