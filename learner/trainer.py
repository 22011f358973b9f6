"""The Ray Train run around a learner job: worker group, restarts, storage. The loops themselves are plain functions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ray

from data.code import check_code
from data.errors import EngineError, FlemingError
from data.places import place
from learner.deepspeed_config import check_reference_settings, resolve_device
from learner.jobs import GrpoJob, NcclTransfer, SupervisedJob, SupervisedResult

__all__ = ["GrpoJob", "LearnerRun", "NcclTransfer", "SupervisedJob", "SupervisedResult"]


def fit(job: GrpoJob | SupervisedJob, loop: Callable[[Any], Any], *, max_failures: int) -> Any:
    """Run ``loop(job)`` on every rank of a Ray Train worker group; returns what rank 0 returned.

    Raises:
        SetupError: there is no model to load.
        EngineError: the worker group failed more often than it may.
    """
    # Read by Ray Train in this process: without it each rank would start in a scratch folder of its own.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from data.storage import Storage, local_copy
    from learner.process import check_model_dir, worker_environment

    learner = job.learner
    check_model_dir(local_copy(job.model_dir))  # here, because Ray Train would try a hopeless start again and again
    on_gpu = learner.device == "cuda"
    storage = Storage.open(job.storage)
    trainer = TorchTrainer(
        partial(_rank, loop, job),
        torch_config=TorchConfig(
            backend="nccl" if on_gpu else "gloo", timeout_s=max(1, int(learner.collective_timeout_s))
        ),
        scaling_config=ScalingConfig(
            num_workers=learner.ranks,
            use_gpu=on_gpu,
            resources_per_worker=place(learner.cpus_per_rank, float(on_gpu), learner.node_group),
            placement_strategy="PACK",  # few nodes, so that collectives stay inside them
        ),
        run_config=RunConfig(
            name=job.run_name,
            storage_path=storage.root,
            storage_filesystem=storage.fs,
            failure_config=FailureConfig(max_failures=max_failures),
            # Which checkpoints may go is decided by what the controller has committed: see `learner.checkpoints.prune`.
            checkpoint_config=CheckpointConfig(num_to_keep=None),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": worker_environment(learner)},
        ),
    )
    try:
        return trainer.fit().return_value
    except Exception as error:
        raise EngineError(
            f"the learner of run {job.run_name} failed: {_root_cause(error)}",
            remedy="read the learner's log above; the run goes on from its last commit with --resume",
        ) from error


def _rank(loop: Callable[[Any], Any], job: GrpoJob | SupervisedJob) -> Any:
    """What every rank runs."""
    import ray.train

    check_code(job.code, f"learner rank {ray.train.get_context().get_world_rank()}")
    return loop(job)


def _root_cause(error: BaseException) -> str:
    """One line that says what went wrong on which rank, out of what Ray Train wraps around it.

    When one rank fails, the others fail on the broken connection: an error that is ours comes first.
    """
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    ranked = sorted(failures.items(), key=lambda item: (not isinstance(item[1], FlemingError), item[0]))
    if not ranked:
        return _first_line(error)
    rank, inner = ranked[0]
    return f"rank {rank}: {inner}" if isinstance(inner, FlemingError) else f"rank {rank}: {_first_line(inner)}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class _LearnerRun:
    """Holds the blocking ``fit()`` away from the controller. Kill this actor to cancel: the ranks go with it."""

    def run_grpo(self, job: GrpoJob) -> None:
        """Serve the controller until `StopLearner`; on any other end the mailbox learns why before this raises."""
        from learner.grpo_loop import grpo_loop

        reason = "the learner has stopped"
        try:
            check_code(job.code, "the learner")
            learner = resolve_device(job.learner, ray.cluster_resources().get("GPU", 0.0))
            check_reference_settings(learner, job.grpo.kl)
            fit(replace(job, learner=learner), grpo_loop, max_failures=learner.max_restarts)
        except BaseException as error:
            reason = str(error) or type(error).__name__
            raise
        finally:
            mailbox: Any = job.mailbox
            ray.get(mailbox.fail.remote(reason))

    def run_supervised(self, job: SupervisedJob) -> SupervisedResult:
        """Train, export, and return the metrics of every step. A failed run is started again from its first step."""
        from learner.supervised_loop import supervised_loop

        check_code(job.code, "the learner")
        learner = resolve_device(job.learner, ray.cluster_resources().get("GPU", 0.0))
        result = fit(replace(job, learner=learner), supervised_loop, max_failures=learner.max_restarts)
        if not isinstance(result, SupervisedResult):
            raise EngineError(
                f"the supervised run {job.run_name} returned {result!r}", remedy="report this as a defect"
            )
        return result


LearnerRun: Any = ray.remote(num_cpus=0)(_LearnerRun)
"""The Ray actor class."""
