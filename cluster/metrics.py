"""Where the numbers of a step go while a run is live: Ray's metrics endpoint and TensorBoard.

The durable place is the run store. Names are ``half/quantity``; ``METRICS`` is the one table of what exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cluster.memory import ROLES

METRICS: dict[str, str] = {
    "rollout/accuracy": "share of completions that are right, sampled, over all groups of the step",
    "rollout/format_rate": "share of completions in the strict format",
    "rollout/reward_mean": "mean reward of a completion",
    "rollout/reward_correct_mean": "mean of the correctness part, weighted",
    "rollout/reward_format_mean": "mean of the format part, weighted",
    "rollout/group_reward_std_mean": "mean over groups of the standard deviation of rewards in the group",
    "rollout/groups": "groups sampled",
    "rollout/groups_with_signal": "groups whose rewards differ",
    "rollout/zero_variance_share": "share of groups without signal",
    "rollout/refill_rounds": "rounds of drawing needed",
    "rollout/failed_groups": "groups dropped because verification failed",
    "rollout/completion_tokens_mean": "tokens in a completion",
    "rollout/completion_tokens_max": "tokens in the longest completion",
    "rollout/truncated_share": "share of completions cut by the token limit",
    "rollout/tokens_per_second": "completion tokens sampled per second of rollout",
    "rollout/staleness_max": "largest lag of a trained sample, in policy versions",
    "learner/loss": "GRPO loss",
    "learner/grad_norm": "global gradient norm before clipping",
    "learner/learning_rate": "learning rate of the step",
    "learner/entropy": "mean entropy of the next-token distribution over completion tokens, nats",
    "learner/clip_fraction": "share of tokens whose ratio was clipped",
    "learner/ratio_mean": "mean importance ratio current / proximal",
    "learner/importance_weight_mean": "mean truncated weight proximal / sampled",
    "learner/logprob_gap_mean": "mean absolute difference of sampled and recomputed log-probabilities",
    "learner/logprob_gap_max": "largest such difference",
    "learner/approx_kl": "mean estimate of the divergence of the current from the proximal policy",
    "learner/tokens": "completion tokens trained",
    "learner/micro_batches": "micro-batches per rank",
    "learner/optimizer_steps": "optimiser steps taken on the batch",
    "learner/tokens_per_second": "completion tokens trained per second of learning",
    "seconds/rollout": "seconds of rolling out and scoring",
    "seconds/learn": "seconds of the optimiser step, as the controller waits for it",
    "seconds/learner_fetch": "of it: fetching the shard",
    "seconds/learner_proximal": "of it: recomputing log-probabilities before several optimiser steps",
    "seconds/learner_forward_backward": "of it: forward and backward passes",
    "seconds/learner_optimizer": "of it: the optimiser",
    "seconds/learner_publish": "of it: gathering the weights and putting them on the object store",
    "seconds/sync": "seconds of loading the published weights into every engine",
    "seconds/evaluate": "seconds of evaluation",
    "seconds/step": "seconds of the whole step",
    "wait/rollout_share": "share of the step in which the rollout half waits",
    "wait/learner_share": "share of the step in which the learning half waits",
    "data/epochs": "times the training questions have been drawn",
    "eval/train_greedy": "accuracy of greedy answers on a fixed subset of the training questions",
    "eval/train_sampled": "accuracy of sampled answers on that subset",
    "eval/held_out_greedy": "accuracy of greedy answers on a fixed subset of held-out questions",
    "eval/held_out_sampled": "accuracy of sampled answers on that subset",
    "eval/train_format": "format rate of the sampled (else greedy) answers on the training subset",
    "eval/held_out_format": "format rate of the sampled (else greedy) answers on the held-out subset",
    "eval/train_unverified": "questions of that evaluation that got no verdict, training subset",
    "eval/held_out_unverified": "questions of that evaluation that got no verdict, held-out subset",
}

METRICS |= {
    f"memory/{role}_{what}": f"{text}, MiB ({role}: see cluster/memory.py)"
    for role in ROLES
    for what, text in (
        ("rss_mib", "resident memory of all processes of this role on the driver's machine"),
        ("peak_mib", "highest resident memory that one process of this role has had"),
    )
}
METRICS |= {
    f"eval/{name}_{how}_{end}": f"{end} end of its 95 % interval"
    for name in ("train", "held_out")
    for how in ("greedy", "sampled")
    for end in ("low", "high")
}


class MetricSink(Protocol):
    """Takes the metrics of a step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardSink:
    """TensorBoard event files in a local directory."""

    def __init__(self, directory: Path) -> None:
        from tensorboardX import SummaryWriter  # slow to import, and not needed to parse a recipe

        self._writer = SummaryWriter(logdir=str(directory), flush_secs=10)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class RayMetricsSink:
    """Gauges on Ray's metrics endpoint: ``ray_fleming_rollout_accuracy{run="quickstart"}``."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge

        self._tags = {"run": run}
        self._gauges = {
            name: Gauge(gauge_name(name), description=text, tag_keys=("run",)) for name, text in METRICS.items()
        }
        self._step = Gauge("fleming_step", description="optimiser steps taken", tag_keys=("run",))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._step.set(step, tags=self._tags)
        for name, value in metrics.items():
            if name in self._gauges:
                self._gauges[name].set(value, tags=self._tags)

    def close(self) -> None:
        """Gauges go with the process."""


def gauge_name(metric: str) -> str:
    return "fleming_" + metric.replace("/", "_")
