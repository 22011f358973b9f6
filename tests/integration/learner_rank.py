"""ZeRO-3 ranks outside Ray, for `test_learner_ranks.py`: train on given shards and save what came out.

The ranks are forked from a server that has imported torch and DeepSpeed once: on two cores, four fresh interpreters
would spend a minute on imports alone.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from data.wire import TrainShard
from learner.config import GrpoConfig, LearnerConfig


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """What `run_ranks` sends to every rank. ``gradients``: return full gradients instead of calling `train_on`.
    ``resume``: after the batch save, train on it again, and do the same with a new policy from what was saved."""

    folder: str
    model_dir: str
    shards: tuple[TrainShard, ...]
    learner: LearnerConfig
    grpo: GrpoConfig
    gradients: bool
    resume: bool = False


def full_gradients(policy: Any) -> dict[str, Any]:
    """Gradients of every parameter, whole, as ZeRO-3 averaged them over the ranks."""
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(p).detach().cpu().clone() for name, p in policy.module.named_parameters()}


def train(job: RankJob, rank: int) -> None:
    """One rank's part: build the policy, take the batch, leave the result with rank 0."""
    import torch
    import torch.distributed as dist

    from learner.grpo_loop import Stopwatch, grpo_objective, train_on
    from learner.lora import named_weights
    from learner.policy import ZeroPolicy
    from learner.process import prepare_process
    from learner.reference import reference_of
    from learner.weight_sending import gather_buckets
    from tests.tiny_model import published

    world = len(job.shards)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    prepare_process(job.learner, ranks_on_node=world)
    store = f"file://{job.folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    shard = job.shards[rank]
    torch.manual_seed(rank)  # as in the train loop: whatever is drawn must not differ by rank
    policy = ZeroPolicy(job.model_dir, job.learner, job.grpo.optimizer, total_optimizer_steps=4)
    reference = reference_of(policy, job.grpo.kl)
    gradients, more = {}, {}
    if job.gradients:
        for index, rows in enumerate(shard.micro_batches):
            last = index == len(shard.micro_batches) - 1
            policy.forward_backward(rows, grpo_objective(rows, job.grpo, None), last=last)
        gradients = full_gradients(policy)
        policy.step()
        stats = None
    else:
        stats, _, _ = train_on(policy, shard, job.grpo, Stopwatch(), reference)
        more["logprobs"] = policy.logprobs(shard.micro_batches[0])
        more["reference"] = reference(shard.micro_batches[0]) if reference else None
    buckets = list(gather_buckets(named_weights(policy.module), 40_000, keep=rank == 0))
    if job.learner.sends_adapter:
        more["adapter"] = published(policy.module, 1, base=job.model_dir)
    if job.resume:
        more |= resumed(job, policy, reference, rank)
    if rank == 0:
        result = {"gradients": gradients, "stats": stats, "buckets": buckets, "steps": policy.optimizer_step, **more}
        Path(job.folder, "result.pkl").write_bytes(pickle.dumps(result))
    dist.barrier()


def resumed(job: RankJob, policy: Any, reference: Any, rank: int) -> dict[str, Any]:
    """Statistics and weights after one more batch, of ``policy`` and of another one that starts from its checkpoint."""
    import torch.distributed as dist

    from learner import checkpoints
    from learner.grpo_loop import Stopwatch, train_on
    from learner.lora import named_weights
    from learner.policy import ZeroPolicy
    from learner.reference import reference_of
    from learner.weight_sending import gather_buckets

    shard, folder = job.shards[rank], f"{job.folder}/checkpoint"
    os.makedirs(folder, exist_ok=True)
    checkpoints.write_local(policy, folder, step=1)
    dist.barrier()
    other = ZeroPolicy(job.model_dir, job.learner, job.grpo.optimizer, total_optimizer_steps=4)
    reference_again = reference_of(other, job.grpo.kl)
    checkpoints.read_local(other, folder, step=1, needs_base=True)
    found = {}
    for name, each, its in (("went on", policy, reference), ("resumed", other, reference_again)):
        stats, _, _ = train_on(each, shard, job.grpo, Stopwatch(), its)
        found[name] = (stats, list(gather_buckets(named_weights(each.module), 40_000, keep=rank == 0)))
    return found


def guarded(job: RankJob, rank: int) -> None:
    """`train`, leaving the traceback of a failure in the job's folder."""
    try:
        train(job, rank)
    except BaseException:
        Path(job.folder, f"error-{rank}.txt").write_text(traceback.format_exc())
        raise


def run_ranks(job: RankJob, timeout_s: float = 100.0) -> dict[str, Any]:
    """Run one process per shard; a rank that fails or hangs is an error, and none is left behind."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "transformers.models.qwen2.modeling_qwen2", "deepspeed", "learner.grpo_loop"]
    )
    ranks = [context.Process(target=guarded, args=(job, rank), daemon=True) for rank in range(len(job.shards))]
    for rank in ranks:
        rank.start()
    try:
        for rank in ranks:
            rank.join(timeout_s)
    finally:
        codes = [rank.exitcode for rank in ranks]
        for rank in ranks:
            rank.kill()
            rank.join()
    errors = "\n".join(path.read_text() for path in sorted(Path(job.folder).glob("error-*.txt")))
    assert codes == [0] * len(ranks), f"exit codes {codes}\n{errors}"
    result: dict[str, Any] = pickle.loads(Path(job.folder, "result.pkl").read_bytes())
    return result
