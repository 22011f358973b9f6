"""The supervised train loop that runs on every rank inside Ray Train."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from data.errors import DataError
from data.storage import Storage
from data.wire import SupervisedSequence
from learner.batching import pack
from learner.checkpoints import export_model
from learner.collectives import reduce_stats
from learner.jobs import SupervisedJob, SupervisedResult
from learner.loss import LossStats
from learner.policy import LossFunction, ZeroPolicy
from learner.process import prepare_process
from learner.tensors import TokenBatch


def supervised_loop(job: SupervisedJob) -> SupervisedResult:
    """Train ``job.supervised.steps`` steps, export the model. Runs inside a Ray Train worker, one call per rank."""
    import ray.train

    prepare_process(job.learner, ranks_on_node=ray.train.get_context().get_local_world_size())
    sequences: list[SupervisedSequence] = ray.get(job.sequences)
    return run_supervised(job, sequences)


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which sequences step ``step`` (from 0) trains on: epoch after epoch, each shuffled by its own seed.

    A batch may straddle two epochs. Depends on nothing but its arguments, so any step can be found again.
    """
    picked: list[int] = []
    position = step * batch_size
    while len(picked) < batch_size:
        epoch, offset = divmod(position, count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        part = order[offset : offset + batch_size - len(picked)]
        picked += [int(i) for i in part]
        position += len(part)
    return picked


def mean_nll(tokens: int) -> LossFunction[LossStats]:
    """Negative log-likelihood of the completion tokens over ``tokens``, the number in the whole batch on all ranks."""

    def loss_of(batch: TokenBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> tuple[torch.Tensor, LossStats]:
        loss = -logprobs.masked_fill(~batch.mask, 0.0).sum() / tokens
        own = LossStats(loss=loss.item(), tokens=batch.mask.sum().item(), entropy=(entropy * batch.mask).sum().item())
        return loss, own

    return loss_of


def run_supervised(job: SupervisedJob, sequences: Sequence[SupervisedSequence]) -> SupervisedResult:
    """The loop itself; the process group must be up."""
    if not sequences or any(not row.prompt_token_ids or not row.token_ids for row in sequences):
        raise DataError(
            "a demonstration without prompt or completion tokens", remedy="give each at least one token of both"
        )
    torch.manual_seed(job.seed + dist.get_rank())
    settings = job.supervised
    policy = ZeroPolicy(job.model_dir, job.learner, settings.optimizer, total_optimizer_steps=settings.steps)
    progress: Any = job.progress
    history: list[dict[str, float]] = []
    for step in range(settings.steps):
        batch = [sequences[i] for i in batch_indices(len(sequences), settings.batch_size, step, job.seed)]
        history.append(supervised_step(policy, batch, job.learner.max_tokens_per_micro_batch))
        if dist.get_rank() == 0 and progress is not None:
            progress.progress.remote(step + 1, history[-1])
    target = Storage.open(job.storage).child(job.export_to)
    export_model(policy, target)
    return SupervisedResult(model_dir=target.uri, history=tuple(history))


def supervised_step(
    policy: ZeroPolicy, batch: Sequence[SupervisedSequence], max_tokens_per_micro_batch: int
) -> dict[str, float]:
    """One optimiser step on ``batch`` (the same list on every rank); returns its metrics, the same on every rank."""
    start = time.perf_counter()
    plan = pack(
        batch,
        ranks=dist.get_world_size(),
        max_tokens_per_micro_batch=max_tokens_per_micro_batch,
    )
    own = plan[dist.get_rank()]
    objective = mean_nll(sum(len(row.token_ids) for row in batch))
    stats = LossStats()
    for index, rows in enumerate(own):
        stats += policy.forward_backward([batch[i] for i in rows], objective, last=index == len(own) - 1)
    result = policy.step()
    total = reduce_stats(stats, policy.device)
    return {
        "loss": total.loss,
        "entropy": total.entropy / max(total.tokens, 1.0),
        "tokens": total.tokens,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "seconds": time.perf_counter() - start,
    }
