"""A run from its recipe to its result: prepare -> warm-up -> RL, each stage skipped when its record says it is done.

The engines start while the warm-up trains: they need only the architecture, and get the weights when RL begins. When
any part fails, the others are ended and the error is raised; what was committed stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import random
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from actors.nccl_client import FixedPoolClient
from actors.pool import RolloutPool
from actors.rollout_actor import RayRollouts, create_rollout_actors
from cluster.config import Recipe
from cluster.controller import Controller, Parts
from cluster.drawing import QuestionDrawer
from cluster.evaluating import fixed_sets
from cluster.learner_client import LearnerClient, in_background, kill
from cluster.lease import Lease
from cluster.metrics import MetricSink, RayMetricsSink, TensorBoardSink
from cluster.monitoring.install import install_when_ready, root_of
from cluster.monitoring.pulse import LoopState, Pulse
from cluster.plan import check_devices, check_gpus, gpu_bytes
from cluster.preparing import Prepared, prepare, questions_of, warm_up_sequences
from cluster.progress import Reporter
from cluster.run_store import RunStore
from cluster.session import Session, ray_session
from cluster.starting import Attempt, check_model, check_start
from cluster.summary import print_summary
from data.code import code_hash
from data.errors import EngineError, FlemingError
from data.prompts import encode_prompt
from data.sources.hpo import QuestionSplits
from data.storage import Storage
from data.wire import RestorePoint, WeightUpdate
from learner.jobs import GrpoJob, NcclTransfer, SupervisedJob
from learner.mailbox import MailboxActor
from learner.trainer import LearnerRun
from reward_service.pool import RayBackend, RewardPool


def run_recipe(recipe: Recipe, *, resume: bool, verbose: bool = False) -> None:
    """Run a recipe to its end, in this process.

    Raises:
        FlemingError: whatever a user can mend. A directory in which nothing has happened yet is not left behind.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, in good order.
    """
    store = RunStore(Storage.open(recipe.run.storage).child(recipe.run.name))
    check_start(recipe, store, resume=resume)
    check_model(recipe)
    splits = questions_of(recipe, store)
    with Reporter() as reporter, ray_session(recipe, reporter.line, verbose=verbose) as session:
        check_devices(recipe, session.gpus)
        if session.gpus:
            check_gpus(recipe, ray.get(ray.remote(num_cpus=0, num_gpus=1)(gpu_bytes).remote()))
        reporter.line(f"run      {store.storage.uri}")
        if session.dashboard:
            reporter.line(f"Ray      {session.dashboard}")
        reporter.line(f"watch    fleming watch {store.storage.uri}")
        attempt = Attempt.open(recipe, store)
        if attempt.other_code:
            reporter.line(f"code     {code_hash()}; the run began with {attempt.other_code}")
        try:
            asyncio.run(_Run(recipe, store, attempt.lease, session, reporter, splits).run())
        except BaseException as error:
            attempt.fail(error)
            raise
        attempt.close()


@dataclass
class _Run:
    """The stages of one attempt."""

    recipe: Recipe
    store: RunStore
    lease: Lease
    session: Session
    reporter: Reporter
    splits: QuestionSplits
    state: LoopState = field(default_factory=LoopState)
    _nccl: NcclTransfer | None = None

    def __post_init__(self) -> None:
        recipe = self.recipe
        self._ray_metrics = RayMetricsSink(recipe.run.name)
        self._pulse = Pulse(
            self.store,
            self.state,
            self._ray_metrics,
            bounds={"loop/steps_planned": recipe.loop.steps, "loop/max_staleness": recipe.loop.max_staleness},
            about={"run": recipe.run.name, "dashboard": self.session.dashboard, "host": platform.node()},
        )

    async def run(self) -> None:
        """The stages, ended early by a lost lease or by SIGTERM (a job that is stopped)."""
        beside = [asyncio.create_task(self._pulse.keep()), asyncio.create_task(self._install_dashboards())]
        try:
            await self._run()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._pulse.beat(last=True)

    async def _install_dashboards(self) -> None:
        """Into the configuration that a Ray of the run's own writes; on a cluster its operator does it once."""
        if self.session.local and self.session.dashboard:
            with contextlib.suppress(FlemingError, OSError):
                await asyncio.to_thread(install_when_ready, root_of(ray.nodes()[0]["RayletSocketName"]), 15.0)

    async def _run(self) -> None:
        heartbeat = asyncio.create_task(self.lease.keep())
        stages = asyncio.create_task(self._stages())
        interrupted = asyncio.Event()
        stop = asyncio.create_task(interrupted.wait())
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # only in the main thread
            # Here, not earlier: Ray puts a handler of its own in place when it starts.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, interrupted.set)
        done, pending = await asyncio.wait({heartbeat, stages, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if stop in done:
            raise KeyboardInterrupt
        for task in done:
            task.result()

    async def _stages(self) -> None:
        self.state.enter("prepare")
        prepared = await asyncio.to_thread(prepare, self.recipe, self.store, self.splits, self.reporter)
        async with self._engines(prepared) as (pool, scorer):
            self._pulse.engines, self._pulse.rewards = pool, scorer
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._start(pool, scorer))
                warm_up = tasks.create_task(self._warm_up(prepared))
            controller = await self._reinforce(prepared, pool, scorer, warm_up.result())
        self.state.enter("finished")
        self.store.write_event("finished")
        self.store.write_views()
        print_summary(self.recipe, self.store, self.reporter, controller.evaluations, chance=prepared.chance)

    async def _start(self, pool: RolloutPool, scorer: RewardPool) -> None:
        """Engines time their own start; this also bounds the wait for a place on a busy cluster.

        An actor comes up only with the driver's code; which did so is an event.
        """
        patience = 2 * self.recipe.rollouts.start_timeout_s
        try:
            _, stats = await asyncio.wait_for(asyncio.gather(scorer.start(), pool.start()), patience)
        except TimeoutError as error:
            raise EngineError(
                f"the rollout actors were not up within {patience:g} s",
                remedy="is the cluster full (`ray status`)? Lower rollouts.actors or raise rollouts.start_timeout_s",
            ) from error
        rewards = [f"reward-{index}" for index in range(len(scorer.actors))]
        self.store.write_event("code_loaded", code=code_hash(), parts=["driver", *(s.actor for s in stats), *rewards])

    @contextlib.asynccontextmanager
    async def _engines(self, prepared: Prepared) -> AsyncIterator[tuple[RolloutPool, RewardPool]]:
        """Rollout and reward actors, starting; ended on the way out, whatever happened."""
        recipe = self.recipe
        actors = create_rollout_actors(
            recipe.rollouts,
            prepared.model_dir,
            seed=recipe.run.seed,
            max_model_len=recipe.max_model_tokens,
            prefix=self._name("rollout"),
        )
        self._nccl = _nccl_transfer(recipe, actors)
        pool = RolloutPool(
            actors, lambda question: encode_prompt(question, prepared.tokenizer), recipe.run.seed, recipe.rollouts
        )
        scorer = RewardPool(recipe.rewards, RayBackend(recipe.rewards, self._name("reward")))
        try:
            yield pool, scorer
        finally:
            self._pulse.engines = None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pool.close(), recipe.loop.cancel_timeout_s)
            for actor in actors:
                kill(actor.handle)
            scorer.close()

    async def _warm_up(self, prepared: Prepared) -> str:
        """The supervised warm-up; returns the model directory that RL starts from."""
        recipe, store = self.recipe, self.store
        if recipe.warm_up.steps == 0:
            return prepared.model_dir
        target = store.storage.child("models/warm_up").uri
        if store.stage_figures("warm_up") is not None:
            return target
        self.reporter.line(
            f"warm-up  {recipe.warm_up.steps} supervised steps on {len(prepared.splits.warm_up)} other questions"
        )
        self.state.enter("warm_up")
        progress = _ProgressActor.options(name=self._name(f"warm-up-progress-{store.attempt}")).remote()
        job = SupervisedJob(
            run_name=f"train/warm-up-{store.attempt:02d}",
            storage=store.storage.uri,
            model_dir=prepared.model_dir,
            learner=recipe.learner,
            supervised=recipe.warm_up,
            seed=recipe.run.seed,
            sequences=ray.put(warm_up_sequences(prepared)),
            export_to="models/warm_up",
            progress=progress,
        )
        run = LearnerRun.options(name=self._name(f"warm-up-{store.attempt}")).remote()
        try:
            result = await self._watch(run.run_supervised.remote(job), progress)
        finally:
            kill(run)
            kill(progress)
        store.finish_stage("warm_up", {"steps": recipe.warm_up.steps, **result.history[-1]})
        store.write_event("stage_finished", stage="warm_up", **result.history[-1])
        return target

    async def _watch(self, reference: Any, progress: Any) -> Any:
        """Await a supervised run while showing its steps."""
        running = in_background(reference)
        total, shown = self.recipe.warm_up.steps, 0
        while True:
            done, _ = await asyncio.wait({running}, timeout=1.0)
            step, metrics = await progress.latest.remote()
            if step > shown:
                self.reporter.step("warm-up", step, total, metrics)
                self.state.warm_up = {"step": float(step), **metrics}
                shown = step
            if done:
                return running.result()

    async def _reinforce(self, prepared: Prepared, pool: RolloutPool, scorer: RewardPool, model_dir: str) -> Controller:
        recipe, store = self.recipe, self.store
        commit = store.last_commit()
        restore = (
            RestorePoint(step=commit.step, checkpoint=commit.learner_checkpoint)
            if commit
            else RestorePoint(step=0, checkpoint=None)
        )
        mailbox = MailboxActor.options(name=self._name(f"mailbox-{store.attempt}")).remote(restore)
        run = LearnerRun.options(name=self._name(f"learner-{store.attempt}")).remote()
        job = GrpoJob(
            run_name=f"train/attempt-{store.attempt:02d}",
            storage=store.storage.uri,
            model_dir=model_dir,
            learner=recipe.learner,
            grpo=recipe.grpo,
            temperature=recipe.rollouts.temperature,
            total_steps=recipe.loop.steps,
            seed=recipe.run.seed,
            mailbox=mailbox,
            nccl=self._nccl,
        )
        learner = LearnerClient(mailbox, run.run_grpo.remote(job), start_timeout_s=recipe.learner.start_timeout_s)
        parts = Parts(
            recipe=recipe,
            store=store,
            lease=self.lease,
            drawer=QuestionDrawer(prepared.splits.train, seed=recipe.run.seed),
            sampler=pool,
            scorer=scorer,
            learner=learner,
            publish=pool.publish if self._nccl is None else _already_there,
            evaluation_sets=fixed_sets(prepared.splits, recipe.loop.evaluation, seed=recipe.run.seed),
            sinks=self._sinks(),
            reporter=self.reporter,
            new_attempt=self._new_attempt,
            state=self.state,
        )
        controller = Controller(parts)
        self.state.enter("rl")
        try:
            await learner.while_alive(controller.run())
            await learner.stop(recipe.loop.cancel_timeout_s)
        finally:
            for sink in parts.sinks:
                sink.close()
            kill(run)
            kill(mailbox)
        return controller

    def _sinks(self) -> list[MetricSink]:
        sinks: list[MetricSink] = [self._ray_metrics]
        if self.recipe.run.tensorboard and self.store.storage.is_local:
            folder = Path(self.store.storage.path(f"tensorboard/attempt-{self.store.attempt:02d}"))
            sinks.append(TensorBoardSink(folder))
        return sinks

    def _name(self, part: str) -> str:
        """The name of an actor, as Ray's dashboard shows it: ``quickstart/rollout-0``."""
        return f"{self.recipe.run.name}/{part}"

    def _new_attempt(self) -> int:
        about = {"host": platform.node(), "reason": "the learner was restarted"}
        return self.store.begin_attempt({**about, "recipe": self.recipe.model_dump(mode="json")})


def _nccl_transfer(recipe: Recipe, actors: Sequence[RayRollouts]) -> NcclTransfer | None:
    if recipe.rollouts.weight_transfer != "nccl":
        return None
    client = FixedPoolClient([actor.handle for actor in actors], recipe.rollouts.tensor_parallel)
    return NcclTransfer(
        client=client,
        world_size=client.world_size,
        master_port=random.SystemRandom().randint(20000, 32000),  # below the range that systems hand out by themselves
        timeout_s=recipe.rollouts.update_timeout_s,
    )


async def _already_there(update: WeightUpdate) -> float:
    """Over NCCL the learner has put the weights into the engines before it says that they are ready."""
    return 0.0


class _Progress:
    """The last step that a supervised run has reported."""

    def __init__(self) -> None:
        self._latest: tuple[int, dict[str, float]] = (0, {})

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        self._latest = (step, metrics)

    def latest(self) -> tuple[int, dict[str, float]]:
        return self._latest


_ProgressActor: Any = ray.remote(num_cpus=0)(_Progress)
