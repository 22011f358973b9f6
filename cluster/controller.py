"""The RL loop. It conducts two halves and knows neither engine.

    questions ─► roll out ─► score ─► admit ─► pack ─► optimiser step ─► publish weights ─┐
        ▲        (vLLM actors) (reward pool)   (plan)   (ZeRO-3 ranks)   (object store)   │
        └─────────────────────────────── policy version + 1 ◄─────────────────────────────┘

Who waits for whom (synchronous, ``max_staleness: 0``)
    controller      waits for every group of a round (`collecting.collect`), then for the learner, then for all actors
    rollout actors  wait while the learner steps; the learner's ranks wait in the mailbox while groups are rolled out
    a restart       of the learner by Ray Train surfaces as `LearnerRestarted` out of any wait; the controller goes back
                    to the last commit, where the new ranks stand, and on from there
    a failure       of either half raises out of `run`; the pipeline then ends the other half within a stated time

A policy version is the number of optimiser steps taken. Step n samples with version n - 1 and makes version n.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from cluster.collecting import Collected, collect
from cluster.config import Recipe
from cluster.drawing import QuestionDrawer
from cluster.evaluating import EvaluationSet, evaluate_sets
from cluster.learner_client import LearnerClient, LearnerRestarted
from cluster.lease import Lease
from cluster.memory import memory_metrics
from cluster.metrics import MetricSink
from cluster.monitoring.pulse import LoopState
from cluster.progress import Reporter
from cluster.run_store import RunStore
from cluster.step_metrics import fate_metrics, rollout_metrics, rollout_rows
from data.code import code_hash
from data.errors import NoSignalError
from data.tables import RolloutRow, rollout_table
from data.wire import CheckpointSaved, RestorePoint, Sampler, SamplingSpec, Scorer, StepDone, TrainStep, WeightUpdate
from learner.batching import plan_shards, sequences_of

FINAL_MODEL = "models/final"
_REMEDIES = {
    "all wrong": "use easier questions, raise loop.samples_per_question, or warm the policy up for longer",
    "no format": "warm the policy up for longer (warm_up.steps), or lower the learning rate if the format was lost",
    "cut short": "raise rollouts.max_completion_tokens, or set grpo.overlong to train",
    "all right": "use harder questions",
    "": "look at why verification fails: rewards.timeout_s, the reward actors' logs",
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the controller conducts. ``publish`` loads an update into every rollout actor."""

    recipe: Recipe
    store: RunStore
    lease: Lease
    drawer: QuestionDrawer
    sampler: Sampler
    scorer: Scorer
    learner: LearnerClient
    publish: Callable[[WeightUpdate], Any]
    evaluation_sets: Sequence[EvaluationSet]
    sinks: Sequence[MetricSink]
    reporter: Reporter
    new_attempt: Callable[[], int]
    state: LoopState = field(default_factory=LoopState)


@dataclass
class StepClock:
    """Seconds per phase of one step; while a phase lasts, ``state`` says so."""

    state: LoopState
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    async def time(self, phase: str, work: Any) -> Any:
        begun = time.monotonic()
        self.state.phase = phase
        try:
            return await work
        finally:
            self.state.phase = "idle"
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - begun

    def metrics(self) -> dict[str, float]:
        """Seconds per phase and the shares of the step in which each half waits (sync and evaluation hold up both)."""
        total = time.monotonic() - self.started
        busy_rollouts = self.seconds.get("rollout", 0.0) + self.seconds.get("evaluate", 0.0)
        return {f"seconds/{phase}": value for phase, value in self.seconds.items()} | {
            "seconds/step": total,
            "wait/rollout_share": 1.0 - busy_rollouts / total,
            "wait/learner_share": 1.0 - self.seconds.get("learn", 0.0) / total,
        }


class Controller:
    """Runs steps until the recipe's number is reached or nothing is left to learn."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._recipe = parts.recipe
        self._loop = parts.recipe.loop
        self._step = 0
        self._barren_steps = 0
        self._solved = False
        self._idle_rows: list[RolloutRow] = []  # completions of barren draws, kept until the next step's segment
        self.evaluations: dict[str, dict[str, float]] = {}  # "before" and "after"

    async def run(self) -> None:
        """Run to the end, through restarts of the learner.

        Raises:
            NoSignalError: ``loop.stop_after_barren_steps`` draws had no signal, and not because all is solved.
            EngineError: a half failed for good.
        """
        await self._parts.learner.started()
        ranks = [f"learner rank {rank}" for rank in range(self._recipe.learner.ranks)]
        self._parts.store.write_event("code_loaded", code=code_hash(), parts=ranks)
        while True:
            try:
                await self._restore()
                await self._steps()
                await self._finish()
                return
            except LearnerRestarted as restart:
                self._parts.reporter.line(f"the learner was restarted; going back to step {restart.step}")
                self._parts.state.learner_restarts += 1
                self._parts.new_attempt()
                self._parts.store.write_event("learner_restarted", step=restart.step)

    async def _steps(self) -> None:
        while self._step < self._loop.steps and not self._solved:
            clock = StepClock(self._parts.state)
            collected = await clock.time("rollout", self._collect())
            if not collected.admitted:
                self._note_barren(collected)
                continue
            done, update, saved = await clock.time("learn", self._learn(collected))
            await clock.time("sync", self._parts.publish(update))
            del update  # its references would keep these weights in the object store while the next ones are published
            evaluation = await clock.time("evaluate", self._evaluate_when_due())
            self._record(collected, done, {**evaluation, **clock.metrics()})
            await self._commit(saved)

    async def _finish(self) -> None:
        """Evaluate, commit what no commit covers yet, and write the trained policy as a model directory."""
        if self._solved or "after" not in self.evaluations:
            self.evaluations["after"] = await self._evaluate(samples=self._loop.evaluation.samples)
        if self._solved:
            commit = self._parts.store.last_commit()
            if commit is None or commit.step < self._step:
                await self._commit(await self._parts.learner.checkpoint(self._step))
        self._write_idle()
        await self._parts.learner.export(FINAL_MODEL)

    def _write_idle(self) -> None:
        if self._idle_rows:
            self._parts.store.write_idle(self._step, rollout_table(self._idle_rows))
            self._idle_rows = []

    async def _collect(self) -> Collected:
        parts, rollouts = self._parts, self._recipe.rollouts
        sampling = SamplingSpec(temperature=rollouts.temperature, max_tokens=rollouts.max_completion_tokens)
        return await collect(
            parts.drawer,
            parts.sampler,
            parts.scorer,
            loop=self._loop,
            sampling=sampling,
            overlong=self._recipe.grpo.overlong,
        )

    async def _learn(self, collected: Collected) -> tuple[StepDone, WeightUpdate, CheckpointSaved | None]:
        """Centre the advantages, pack a batch for every rank and take one step; the policy becomes version step + 1."""
        recipe, step = self._recipe, self._step + 1
        shards = plan_shards(
            sequences_of(collected.admitted, recipe.grpo.overlong, recipe.grpo.advantage),
            ranks=recipe.learner.ranks,
            max_tokens_per_micro_batch=recipe.learner.max_tokens_per_micro_batch,
            optimizer_steps=recipe.grpo.optimizer_steps_per_batch,
            aggregation=recipe.grpo.aggregation,
            completion_budget=recipe.rollouts.max_completion_tokens,
        )
        due = step % self._loop.checkpoint_every == 0 or step == self._loop.steps
        command = TrainStep(step=step, shards=tuple(ray.put(shard) for shard in shards), publish=True, checkpoint=due)
        done, ready, saved = await self._parts.learner.train(command)
        assert ready is not None  # the command asked for it
        self._step, self._barren_steps = step, 0
        return done, ready.update, saved

    async def _evaluate_when_due(self) -> dict[str, float]:
        every = self._loop.evaluation.every
        if self._step == self._loop.steps:
            self.evaluations["after"] = await self._evaluate(samples=self._loop.evaluation.samples)
            return self.evaluations["after"]
        return await self._evaluate(samples=0) if every and self._step % every == 0 else {}

    async def _evaluate(self, *, samples: int) -> dict[str, float]:
        """Greedy accuracy on every fixed subset, and sampled accuracy when ``samples`` is above 0."""
        parts = self._parts
        return await evaluate_sets(
            parts.evaluation_sets, parts.sampler, parts.scorer, self._recipe.rollouts, samples=samples
        )

    def _record(self, collected: Collected, done: StepDone, more: Mapping[str, float]) -> None:
        store = self._parts.store
        metrics = {
            **rollout_metrics(collected, version=self._step - 1, rewards=self._recipe.rewards),
            **{f"learner/{name}": value for name, value in done.metrics.items()},
            **{f"seconds/learner_{phase}": value for phase, value in done.seconds.items()},
            "data/epochs": self._parts.drawer.epochs,
            **memory_metrics(),
            **more,
        }
        metrics["learner/tokens_per_second"] = done.metrics.get("tokens", 0.0) / max(more["seconds/learn"], 1e-9)
        rows = self._rows(collected, self._step)
        metrics |= fate_metrics(rows)
        store.write_step(self._step, metrics, rollout_table([*self._idle_rows, *rows]))
        self._idle_rows = []
        self._parts.state.stepped(self._step)
        self._show(metrics)
        self._parts.reporter.step("rl", self._step, self._loop.steps, metrics)

    def _show(self, metrics: Mapping[str, float]) -> None:
        for sink in self._parts.sinks:
            sink.write(self._step, metrics)

    def _rows(self, collected: Collected, step: int) -> list[RolloutRow]:
        grpo, attempt = self._recipe.grpo, self._parts.store.attempt
        return rollout_rows(collected, step=step, attempt=attempt, overlong=grpo.overlong, advantage=grpo.advantage)

    def _note_barren(self, collected: Collected) -> None:
        """No group of this draw can teach anything: say why, and stop after a bound instead of spinning."""
        store = self._parts.store
        why = collected.why_no_signal() or "no group could be verified"
        self._barren_steps += 1
        self._idle_rows += self._rows(collected, self._step + 1)
        self._show(rollout_metrics(collected, version=self._step, rewards=self._recipe.rewards))
        store.write_event("no_signal", after_step=self._step, why=why, groups=len(collected.groups))
        self._parts.reporter.line(f"no group carried a signal after step {self._step}: {why}")
        if self._barren_steps < self._loop.stop_after_barren_steps:
            return
        if not collected.is_solved:
            self._write_idle()
            raise NoSignalError(
                f"no group carried a learning signal in {self._barren_steps} draws in a row after step {self._step}: "
                f"{why}",
                remedy=_REMEDIES[collected.main_kind()],
            )
        self._solved = True

    async def _commit(self, saved: CheckpointSaved | None) -> None:
        if saved is None:
            return
        parts = self._parts
        parts.lease.check()
        parts.store.commit(step=self._step, learner_checkpoint=saved.path, controller_state=self.state_dict())
        await parts.learner.set_restore(RestorePoint(step=self._step, checkpoint=saved.path))
        parts.store.write_event("commit", step=self._step)

    async def _restore(self) -> None:
        """Stand where the last commit stands: state, rollout weights, and uncommitted segments marked rolled back."""
        parts = self._parts
        rolled_back = parts.store.roll_back_uncommitted()
        if rolled_back:
            parts.store.write_event("rolled_back", segments=rolled_back)
            parts.reporter.line(f"{len(rolled_back)} uncommitted steps are marked rolled back and run again")
        commit = parts.store.last_commit()
        self._idle_rows, self._solved = [], False
        if commit is None:
            self._step, self._barren_steps = 0, 0
            parts.drawer.reset()
        else:
            self.load_state_dict(parts.store.controller_state(commit))
        if parts.learner.step != self._step:  # it came up before it could be told of the last commit
            assert commit is not None
            await parts.learner.load(RestorePoint(step=commit.step, checkpoint=commit.learner_checkpoint))
        parts.state.stepped(self._step)
        await parts.publish((await parts.learner.publish(self._step)).update)
        if "before" not in self.evaluations:
            evaluation = self._evaluate(samples=self._loop.evaluation.samples)
            self.evaluations["before"] = await StepClock(parts.state).time("evaluate", evaluation)
            parts.store.write_event("evaluation", step=self._step, **self.evaluations["before"])
            self._show(self.evaluations["before"])

    def state_dict(self) -> dict[str, Any]:
        """Everything the loop needs to go on after a step, apart from the learner's own checkpoint."""
        return {
            "step": self._step,
            "barren_steps": self._barren_steps,
            "drawer": self._parts.drawer.state_dict(),
            "evaluations": self.evaluations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._barren_steps = state["barren_steps"]
        self._parts.drawer.load_state_dict(state["drawer"])
        self.evaluations = dict(state["evaluations"])
