"""The GRPO train loop that runs on every rank inside Ray Train.

Who waits for whom
    every rank   waits for command number `index` from the mailbox, then for its own shard from the object store
    ranks        wait for each other in the collectives of forward, backward, step, gather and checkpoint
    controller   waits for the events that rank 0 posts; for a step in this order: StepDone, WeightsReady,
                 CheckpointSaved
    a restart    all ranks are replaced; rank 0 says hello, everybody loads the restore point, the controller is told
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import ray
import torch
import torch.distributed as dist

from data.errors import EngineError
from data.storage import Storage
from data.wire import (
    CheckpointSaved,
    ExportModel,
    LearnerCommand,
    LearnerEvent,
    LearnerStarted,
    LoadCheckpoint,
    ModelExported,
    PublishWeights,
    RestorePoint,
    SaveCheckpoint,
    StepDone,
    StopLearner,
    TrainSequence,
    TrainShard,
    TrainStep,
    WeightsReady,
    WeightUpdate,
)
from learner import checkpoints
from learner.collectives import from_rank_zero, reduce_stats
from learner.config import GrpoConfig
from learner.jobs import GrpoJob
from learner.loss import LossStats, grpo_loss
from learner.policy import LogProbs, LossFunction, StepResult, ZeroPolicy
from learner.process import prepare_process
from learner.reference import reference_of
from learner.tensors import TokenBatch, scored_values
from learner.weight_sending import WeightPublisher


def grpo_loop(job: GrpoJob) -> None:
    """Serve commands until `StopLearner`. Runs inside a Ray Train worker, one call per rank."""
    import ray.train

    prepare_process(job.learner, ranks_on_node=ray.train.get_context().get_local_world_size())
    torch.manual_seed(job.seed + dist.get_rank())
    GrpoServer(job).serve()


class Stopwatch:
    """Seconds per phase of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def grpo_objective(
    rows: tuple[TrainSequence, ...],
    grpo: GrpoConfig,
    proximal: torch.Tensor | None,
    reference: torch.Tensor | None = None,
) -> LossFunction[LossStats]:
    """The loss of one micro-batch, for `ZeroPolicy.forward_backward`."""

    def loss_of(batch: TokenBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> tuple[torch.Tensor, LossStats]:
        device = logprobs.device
        # An empty micro-batch is one dummy row of coefficient zero.
        advantages = torch.tensor([row.advantage for row in rows] or [0.0], device=device)
        coefficients = torch.tensor([row.coefficient for row in rows] or [0.0], device=device)
        loss, stats = grpo_loss(
            logprobs,
            scored_values(rows, batch),
            proximal,
            advantages,
            coefficients,
            batch.mask,
            grpo,
            reference_logprobs=reference,
            entropy=entropy,
        )
        return loss, stats + LossStats(entropy=(entropy.detach() * batch.mask).sum().item())

    return loss_of


def train_on(
    policy: ZeroPolicy, shard: TrainShard, grpo: GrpoConfig, watch: Stopwatch, reference: LogProbs | None = None
) -> tuple[LossStats, StepResult, int]:
    """The optimiser steps of one batch; a collective. Returns this rank's statistics, the last result, the count.

    With several optimiser steps, by cutting the batch or by going over it again, the proximal log-probabilities of the
    whole batch are computed before the first one; with one they are the current ones, detached, and cost nothing.
    ``reference`` gives those of the KL term, once per batch.
    """
    sizes = shard.step_sizes or (len(shard.micro_batches),)
    proximal: list[torch.Tensor | None] = [None] * len(shard.micro_batches)
    referred: list[torch.Tensor | None] = [None] * len(shard.micro_batches)
    if len(sizes) * grpo.epochs_per_batch > 1:
        with watch.phase("proximal"):
            proximal = [policy.logprobs(rows) for rows in shard.micro_batches]
    if reference is not None:
        with watch.phase("reference"):
            referred = [reference(rows) for rows in shard.micro_batches]
    stats = LossStats()
    result = StepResult(grad_norm=0.0, learning_rate=0.0)
    for _ in range(grpo.epochs_per_batch):
        start = 0
        for size in sizes:
            with watch.phase("forward_backward"):
                for index in range(start, start + size):
                    rows = shard.micro_batches[index]
                    objective = grpo_objective(rows, grpo, proximal[index], referred[index])
                    stats += policy.forward_backward(rows, objective, last=index == start + size - 1)
            with watch.phase("optimizer"):
                result = policy.step()
            start += size
    return stats, result, len(sizes) * grpo.epochs_per_batch


def step_figures(
    stats: LossStats, result: StepResult, optimizer_steps: int, micro_batches: int, *, reference: bool = False
) -> dict[str, float]:
    """What `StepDone` reports; every name stands in `cluster/monitoring/catalogue.py` as ``learner/NAME``."""
    metrics = stats.as_metrics() | (stats.reference_metrics() if reference else {})
    metrics["loss"] /= optimizer_steps
    return metrics | {
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "optimizer_steps": float(optimizer_steps),
        "micro_batches": float(micro_batches),
    }


class GrpoServer:
    """One rank of the GRPO learner: its policy, its way to the rollout actors, and the commands it obeys."""

    def __init__(self, job: GrpoJob) -> None:
        self.job = job
        self.mailbox = cast(Any, job.mailbox)
        self.rank = dist.get_rank()
        steps = job.total_steps * job.grpo.updates_per_batch
        self.policy = ZeroPolicy(
            job.model_dir,
            job.learner,
            job.grpo.optimizer,
            total_optimizer_steps=steps,
            temperature=job.temperature,
        )
        self._reference = reference_of(self.policy, job.grpo.kl)
        self.step = 0
        hello = ray.get(self.mailbox.hello.remote()) if self.rank == 0 else None
        self.generation, restore = from_rank_zero(hello, self.policy.device)
        self._restore(restore)
        bucket_bytes = int(job.learner.sync_bucket_mib * 2**20)
        base = job.model_dir if job.learner.sends_adapter else ""
        self._publisher = WeightPublisher(bucket_bytes, sender=self.rank == 0, adapter_base=base)
        self._nccl = self._meet_engines() if job.nccl is not None else None

    def serve(self) -> None:
        """Take command after command; returns on `StopLearner`."""
        self._post(LearnerStarted(generation=self.generation, step=self.step))
        index = 0
        while True:
            command: LearnerCommand = ray.get(self.mailbox.next_command.remote(self.generation, index))
            index += 1
            if isinstance(command, StopLearner):
                return
            if isinstance(command, PublishWeights):
                self._announce(self._publish(command.version))
            elif isinstance(command, LoadCheckpoint):
                self._restore(command.restore)
                self._post(LearnerStarted(generation=self.generation, step=self.step))
            elif isinstance(command, SaveCheckpoint):
                self._checkpoint(command.step)
            elif isinstance(command, ExportModel):
                checkpoints.export_model(self.policy, Storage.open(self.job.storage).child(command.target))
                self._post(ModelExported(target=command.target))
            else:
                self._train(command)

    def _train(self, command: TrainStep) -> None:
        watch = Stopwatch()
        with watch.phase("fetch"):
            shard: TrainShard = ray.get(command.shards[self.rank])
        own, result, optimizer_steps = train_on(self.policy, shard, self.job.grpo, watch, self._reference)
        stats = reduce_stats(own, self.policy.device)
        self.step = command.step
        update = None
        if command.publish:
            with watch.phase("publish"):
                update = self._publish(command.step)
        referred = self._reference is not None
        metrics = step_figures(stats, result, optimizer_steps, len(shard.micro_batches), reference=referred)
        self._post(StepDone(step=command.step, metrics=metrics, seconds=watch.seconds))
        self._announce(update)
        if command.checkpoint:
            self._checkpoint(command.step)

    def _publish(self, version: int) -> WeightUpdate | None:
        """Hand out the weights; over NCCL they are in the engines when this returns, and the update has no buckets."""
        if self._nccl is None:
            return self._publisher.publish(self.policy.module, version)
        self._nccl.send(version)
        return WeightUpdate(version=version, buckets=()) if self.rank == 0 else None

    def _announce(self, update: WeightUpdate | None) -> None:
        if update is not None:
            self._post(WeightsReady(update=update))

    def _checkpoint(self, step: int) -> None:
        name = checkpoints.checkpoint_name(step, self.generation)
        checkpoints.save(self.policy, step=step, name=name)
        if self.rank == 0:
            key = f"{self.job.run_name}/{name}"
            committed = ray.get(self.mailbox.restore_point.remote()).checkpoint
            checkpoints.prune(self.job.storage, self.job.run_name, keep={key} | ({committed} if committed else set()))
            self._post(CheckpointSaved(step=step, path=key))

    def _restore(self, restore: RestorePoint) -> None:
        if restore.checkpoint is not None:
            needs_base = self._reference is not None or self.job.learner.lora is not None
            checkpoints.load(self.policy, self.job.storage, restore, needs_base=needs_base)
        self.step = restore.step

    def _post(self, event: LearnerEvent) -> None:
        if self.rank == 0:
            ray.get(self.mailbox.post.remote(self.generation, event))

    def _meet_engines(self) -> Any:
        from learner.nccl_sending import NcclWeightSender

        if self.job.nccl is None or self.policy.device.type != "cuda":
            raise EngineError(
                "rollouts.weight_transfer is nccl, but the learner runs on the CPU",
                remedy="set rollouts.weight_transfer=object_store",
            )
        address = from_rank_zero(ray.util.get_node_ip_address(), self.policy.device)
        return NcclWeightSender(self.policy.module, self.job.nccl, rank=self.rank, master_address=address)
