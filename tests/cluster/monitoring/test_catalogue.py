"""The table of metrics is what the code reports, no more and no less, and what is made from it is up to date."""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from cluster.config import load_recipe
from cluster.controller import Controller, Parts
from cluster.drawing import QuestionDrawer
from cluster.evaluating import EvaluationSet
from cluster.lease import Lease
from cluster.metrics import RayMetricsSink
from cluster.monitoring.catalogue import METRICS, PHASES, STAGES, metric_of, unknown
from cluster.monitoring.generate import CHECKOUT, GENERATED
from cluster.monitoring.pulse import LoopState, Pulse
from cluster.progress import Reporter
from cluster.run_store import RunStore
from data.storage import Storage
from data.wire import EngineStats, StepDone, TrainStep
from learner.grpo_loop import step_figures
from learner.loss import LossStats
from learner.policy import StepResult
from reward_service.config import RewardConfig
from reward_service.pool import RewardPool
from tests.cluster.fakes import FakeLearner, FakeSampler, FakeScorer, question

PHASES_OF_THE_LEARNER = re.findall(
    r'watch\.phase\("(\w+)"\)', (CHECKOUT / "learner" / "grpo_loop.py").read_text(encoding="utf-8")
)


class ReportingLearner(FakeLearner):
    """Reports what a rank reports: the same names, made by the same function."""

    async def train(self, command: TrainStep) -> Any:
        done, ready, saved = await super().train(command)
        metrics = step_figures(
            LossStats(tokens=4.0), StepResult(grad_norm=1.0, learning_rate=0.1), 1, 1, reference=True
        )
        return (
            StepDone(step=done.step, metrics=metrics, seconds=dict.fromkeys(PHASES_OF_THE_LEARNER, 0.1)),
            ready,
            saved,
        )


class Written:
    """A sink that keeps the keys, and the phase in which it was called."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def write(self, step: int, metrics: Any) -> None:
        self.keys |= set(metrics)

    def close(self) -> None: ...


def names(keys: set[str]) -> set[str]:
    return {metric_of(key)[0] for key in keys}


@pytest.fixture
def stepped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Written, RunStore, LoopState]:
    """Two steps of the real controller over fakes, evaluations included."""
    monkeypatch.setattr(ray, "put", lambda value: value)
    settings = ["loop.steps=2", "loop.questions_per_step=4", "loop.samples_per_question=4", "loop.evaluation.every=1"]
    recipe = load_recipe(CHECKOUT / "recipes" / "quickstart.yaml", [*settings, "run.name=test"])
    store = RunStore(Storage.open(str(tmp_path / "test")))
    store.begin_attempt({})
    lease = Lease(store.storage)
    lease.acquire()
    questions = [question(number) for number in range(10)]
    sampler, sink, state = FakeSampler(), Written(), LoopState()
    parts = Parts(
        recipe=recipe,
        store=store,
        lease=lease,
        drawer=QuestionDrawer(questions, seed=0),
        sampler=sampler,
        scorer=FakeScorer(lambda _, index: index % 2 == 0),
        learner=ReportingLearner(),  # type: ignore[arg-type]
        publish=sampler.publish,
        evaluation_sets=[EvaluationSet(name=name, questions=tuple(questions[:4])) for name in ("train", "held_out")],
        sinks=[sink],
        reporter=Reporter(Console(file=io.StringIO())),
        new_attempt=lambda: store.begin_attempt({}),
        state=state,
    )
    asyncio.run(Controller(parts).run())
    return sink, store, state


def test_a_step_reports_the_table_and_nothing_else(stepped: tuple[Written, RunStore, LoopState]) -> None:
    sink, store, state = stepped
    assert unknown(sink.keys) == []
    lasting = {name: metric for name, metric in METRICS.items() if metric.when != "live"}
    assert {name for name, metric in lasting.items() if not metric.needs} <= names(sink.keys) <= set(lasting)
    assert "seconds/learner_proximal" in sink.keys
    rows = store.committed_metrics()
    assert unknown({key for row in rows for key in row} - {"step", "attempt"}) == []
    always = {name for name, metric in METRICS.items() if metric.when == "step" and not metric.needs}
    assert all(always <= names(set(row)) for row in rows)
    assert (state.step, state.phase, state.learner_restarts) == (2, "idle", 0)


class FakeRayMetrics(RayMetricsSink):
    """The sink with its series in a dict in place of Ray."""

    def __init__(self) -> None:
        super().__init__("test")
        self.sets: list[tuple[str, float, dict[str, str]]] = []

    def _series_of(self, metric: Any) -> Any:
        sets = self.sets

        class Series:
            def set(self, value: float, tags: dict[str, str]) -> None:
                sets.append((metric.exported, value, tags))

        return Series()


class OneEngine:
    async def stats(self) -> tuple[EngineStats, ...]:
        engine = EngineStats(
            actor="test/rollout-0",
            version=3,
            running_requests=2,
            outstanding_tokens=40,
            generated_tokens=500,
            busy_seconds=2.5,
        )
        return (engine,)


class NoActors:
    def start(self) -> Any:
        return object()


def pulse_of(tmp_path: Path, sink: FakeRayMetrics, state: LoopState) -> tuple[Pulse, RunStore]:
    store = RunStore(Storage.open(str(tmp_path / "run")))
    store.begin_attempt({})
    pulse = Pulse(store, state, sink, bounds={"loop/steps_planned": 5, "loop/max_staleness": 0}, about={"run": "test"})
    pulse.engines = OneEngine()
    pulse.rewards = RewardPool(RewardConfig(), NoActors())  # type: ignore[arg-type]
    return pulse, store


def test_the_pulse_reports_every_live_metric_and_nothing_else(tmp_path: Path) -> None:
    sink = FakeRayMetrics()
    pulse, store = pulse_of(tmp_path, sink, LoopState(stage="rl", step=3, warm_up={"step": 4.0, "loss": 0.5}))
    asyncio.run(pulse.beat())
    assert unknown(sink.values) == []
    assert names(set(sink.values)) == {name for name, metric in METRICS.items() if metric.when == "live"}
    assert ("ray_fleming_rollout_generated_tokens_total", 500.0, {"run": "test", "actor": "rollout-0"}) in sink.sets
    assert {tags["stage"] for name, _, tags in sink.sets if name == "ray_fleming_loop_stage"} == set(STAGES)
    assert {tags["phase"] for name, _, tags in sink.sets if name == "ray_fleming_loop_phase"} == set(PHASES)
    assert store.storage.exists("live.json")


def test_a_pulse_never_ends_a_run(tmp_path: Path) -> None:
    class Gone:
        async def stats(self) -> tuple[EngineStats, ...]:
            raise OSError("the actor is gone")

    sink = FakeRayMetrics()
    pulse, store = pulse_of(tmp_path, sink, LoopState())
    pulse.engines = Gone()
    asyncio.run(pulse.beat())
    assert "loop/heartbeat" in sink.values and "rollout/running_requests/rollout-0" not in sink.values
    store.storage.write("live.json", b"")
    (tmp_path / "run" / "live.json").unlink()
    (tmp_path / "run" / "live.json").mkdir()  # cannot be written now
    asyncio.run(pulse.beat(last=True))


def test_values_are_set_again_and_what_is_no_longer_counted_is_zero() -> None:
    sink = FakeRayMetrics()
    sink.write(1, {"rollout/reasons/wrong": 3.0, "rollout/reasons/hedged": 1.0, "learner/entropy": 0.5})
    sink.write(2, {"rollout/reasons/wrong": 4.0, "no/such": 1.0})
    assert sink.values == {"rollout/reasons/wrong": 4.0, "rollout/reasons/hedged": 0.0, "learner/entropy": 0.5}
    sink.sets.clear()
    sink.refresh()
    assert len(sink.sets) == 3


def test_a_key_that_is_in_no_row_is_seen() -> None:
    assert unknown(["rollout/accuracy", "rollout/accuracy/x", "loop/stage", "loop/stage/rl", "nothing"]) == [
        "loop/stage",
        "nothing",
        "rollout/accuracy/x",
    ]


def test_every_metric_has_its_words_and_a_source_that_is_there() -> None:
    for metric in METRICS.values():
        assert metric.help and (CHECKOUT / metric.source).is_file(), metric
    assert len({metric.exported for metric in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize("name", GENERATED)
def test_what_is_made_from_the_table_is_up_to_date(name: str) -> None:
    assert (CHECKOUT / name).read_text(encoding="utf-8") == GENERATED[name](), f"{name}: run `make metrics`"
