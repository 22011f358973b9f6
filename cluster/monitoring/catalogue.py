"""The one table of every number that a run reports.

A metric is written ``half/quantity``; one with a label is written ``half/quantity/VALUE``. The same name serves
``metrics.jsonl``, TensorBoard and, as ``ray_fleming_half_quantity``, Ray's metrics endpoint. `docs/metrics.md`, the
dashboard and the alerts are made from this table, and a test keeps it equal to what the code reports. Names are stable:
dashboards of other people stand on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from cluster.memory import ROLES

Unit = Literal[
    "share", "nats", "tokens", "tokens/s", "seconds", "completions", "groups", "questions", "requests", "bytes", "MiB",
    "actors", "steps", "count", "state", "unix time", "number",
]  # fmt: skip
Kind = Literal["gauge", "total"]
When = Literal["step", "evaluation", "live"]

STAGES = ("starting", "prepare", "warm_up", "rl", "finished")
PHASES = ("rollout", "learn", "sync", "evaluate", "idle")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    ``kind``: a total only grows while what it counts lives; `rate` and `increase` are made for it. ``when``: "step"
    metrics are also in `metrics.jsonl`, "evaluation" ones in the steps that evaluate, "live" ones only on the metrics
    endpoint, every few seconds. ``label`` tells several series apart. ``needs``: it is there only under this condition.

    Example: ``Metric(name="learner/entropy", unit="nats", help="...", source="learner/loss.py", when="step")``.
    """

    name: str
    unit: Unit
    help: str
    source: str = ""
    kind: Kind = "gauge"
    when: When = "step"
    label: str = ""
    needs: str = ""

    @property
    def ray_name(self) -> str:
        """What `ray.util.metrics` is given."""
        return "fleming_" + self.name.replace("/", "_") + ("_total" if self.kind == "total" else "")

    @property
    def exported(self) -> str:
        """The name on the metrics endpoint and in Prometheus."""
        return f"ray_{self.ray_name}"


def metric_of(key: str) -> tuple[str, str]:
    """A key as (metric name, value of its label). Example: ``metric_of("loop/stage/rl") == ("loop/stage", "rl")``."""
    half, _, rest = key.partition("/")
    quantity, _, value = rest.partition("/")
    return f"{half}/{quantity}", value


def _from(source: str, *metrics: Metric) -> Iterable[Metric]:
    return (replace(metric, source=source) for metric in metrics)


def _m(name: str, unit: Unit, text: str, *, needs: str = "", label: str = "") -> Metric:
    return Metric(name=name, unit=unit, help=text, needs=needs, label=label)


def _live(name: str, unit: Unit, text: str, *, kind: Kind = "gauge", label: str = "", needs: str = "") -> Metric:
    return Metric(name=name, unit=unit, help=text, kind=kind, when="live", label=label, needs=needs)


_ROLLOUT = _from(
    "cluster/step_metrics.py",
    _m("rollout/accuracy", "share", "completions that are right, sampled, over all groups of the step"),
    _m("rollout/format_rate", "share", "completions in the strict format"),
    _m("rollout/reward_mean", "number", "mean reward of a completion"),
    _m("rollout/reward_correct_mean", "number", "mean of the correctness part, weighted"),
    _m("rollout/reward_format_mean", "number", "mean of the format part, weighted"),
    _m("rollout/group_reward_std_mean", "number", "mean over groups of the standard deviation of rewards in the group"),
    _m("rollout/reasons", "completions", "verdicts of the step by reason", label="reason"),
    _m("rollout/fates", "completions", "what became of the step's completions", label="fate"),
    _m("rollout/groups", "groups", "groups sampled"),
    _m("rollout/groups_with_signal", "groups", "groups admitted: their rewards differ"),
    _m("rollout/zero_variance_share", "share", "groups without signal"),
    _m("rollout/refill_rounds", "count", "rounds of drawing needed beyond the first"),
    _m("rollout/failed_groups", "groups", "groups dropped because their verification failed"),
    _m("rollout/completion_tokens_mean", "tokens", "tokens in a completion"),
    _m("rollout/completion_tokens_max", "tokens", "tokens in the longest completion"),
    _m("rollout/truncated_share", "share", "completions cut by the token limit"),
    _m("rollout/tokens_per_second", "tokens/s", "completion tokens sampled per second of rollout"),
    _m("rollout/staleness_max", "number", "largest lag of a trained sample, in policy versions"),
    _m("rollout/staleness_mean", "number", "mean lag of the trained samples, in policy versions"),
    _m("rollout/sampled_logprob_mean", "nats", "mean log-probability of a sampled token"),
)

_LEARNER = _from(
    "learner/loss.py",
    _m("learner/loss", "number", "GRPO loss"),
    _m("learner/entropy", "nats", "mean entropy of the next-token distribution over completion tokens"),
    _m("learner/clip_fraction", "share", "tokens whose ratio was clipped"),
    _m("learner/ratio_mean", "number", "mean ratio current / proximal"),
    _m("learner/importance_weight_mean", "number", "mean truncated weight proximal / sampled"),
    _m("learner/logprob_gap_mean", "nats", "mean absolute difference of sampled and recomputed log-probabilities"),
    _m("learner/logprob_gap_max", "nats", "largest such difference"),
    _m("learner/approx_kl", "nats", "estimate of the divergence of the current from the proximal policy"),
    _m("learner/masked_fraction", "share", "tokens whose importance weight is 0: outside the band of a mask"),
    _m(
        "learner/kl_reference",
        "nats",
        "estimate of the divergence of the current policy from the reference",
        needs="grpo.kl.coefficient above 0",
    ),
    _m("learner/tokens", "tokens", "completion tokens trained, in each epoch anew"),
)

_OPTIMISER = _from(
    "learner/grpo_loop.py",
    _m("learner/grad_norm", "number", "global gradient norm before clipping"),
    _m("learner/learning_rate", "number", "learning rate of the step"),
    _m("learner/micro_batches", "count", "micro-batches per rank"),
    _m("learner/optimizer_steps", "steps", "optimiser steps taken on the batch"),
    _m("seconds/learner_fetch", "seconds", "of the learner's step: fetching the shard"),
    _m(
        "seconds/learner_proximal",
        "seconds",
        "of it: recomputing log-probabilities before several optimiser steps",
        needs="grpo.optimizer_steps_per_batch or grpo.epochs_per_batch above 1",
    ),
    _m(
        "seconds/learner_reference",
        "seconds",
        "of it: log-probabilities under the reference of the KL term",
        needs="grpo.kl.coefficient above 0",
    ),
    _m("seconds/learner_forward_backward", "seconds", "of it: forward and backward passes"),
    _m("seconds/learner_optimizer", "seconds", "of it: the optimiser"),
    _m("seconds/learner_publish", "seconds", "of it: gathering the weights and putting them on the object store"),
)

_STEP = _from(
    "cluster/controller.py",
    _m("learner/tokens_per_second", "tokens/s", "completion tokens trained per second of learning"),
    _m("seconds/rollout", "seconds", "rolling out and scoring"),
    _m("seconds/learn", "seconds", "the optimiser step, as the controller waits for it"),
    _m("seconds/sync", "seconds", "loading the published weights into every engine"),
    _m("seconds/evaluate", "seconds", "evaluation"),
    _m("seconds/step", "seconds", "the whole step"),
    _m("wait/rollout_share", "share", "part of the step in which the rollout half waits"),
    _m("wait/learner_share", "share", "part of the step in which the learning half waits"),
    _m("data/epochs", "number", "times the training questions have been drawn"),
)

_ON_DRIVER = "a process of that role on the driver's machine"
_MEMORY = _from(
    "cluster/memory.py",
    *(
        _m(f"memory/{role}_{end}", "MiB", f"{text} ({role})", needs="" if role == "driver" else _ON_DRIVER)
        for role in ROLES
        for end, text in (
            ("rss_mib", "resident memory of all processes of a role on the driver's machine"),
            ("peak_mib", "highest resident memory that one process of a role has had"),
        )
    ),
)

_EVALUATION = _from(
    "cluster/evaluating.py",
    *(
        replace(metric, when="evaluation")
        for subset, said in (("train", "the training questions"), ("held_out", "held-out questions"))
        for metric in (
            _m(f"eval/{subset}_greedy", "share", f"accuracy of greedy answers on a fixed subset of {said}"),
            _m(f"eval/{subset}_sampled", "share", f"accuracy of sampled answers on a fixed subset of {said}"),
            _m(f"eval/{subset}_format", "share", f"format rate of the sampled (else greedy) answers to {said}"),
            _m(f"eval/{subset}_unverified", "questions", f"questions that got no verdict, of {said}"),
            *(
                _m(f"eval/{subset}_{how}_{end}", "share", f"{end} end of the 95 % interval of eval/{subset}_{how}")
                for how in ("greedy", "sampled")
                for end in ("low", "high")
            ),
        )
    ),
)

_LIVE = _from(
    "cluster/monitoring/pulse.py",
    _live(
        "loop/info",
        "state",
        "1; the label says where the run is written",
        label="uri",
        needs="a run.storage without credentials in it",
    ),
    _live("loop/stage", "state", "1 for the stage that the run is in, 0 for the others", label="stage"),
    _live("loop/phase", "state", "1 for what the RL loop waits for, 0 for the others", label="phase"),
    _live("loop/step", "steps", "optimiser steps taken: the policy version of the learner"),
    _live("loop/steps_planned", "steps", "steps of the recipe"),
    _live("loop/max_staleness", "number", "policy versions that a sample may lag behind (the recipe's bound)"),
    _live("loop/seconds_since_step", "seconds", "since the last step ended, or since RL began"),
    _live("loop/heartbeat", "unix time", "when the controller last said that it lives"),
    _live("loop/attempt", "count", "times the run was started, or its learner restarted"),
    _live("loop/learner_restarts", "count", "restarts of the learner in this process", kind="total"),
    _live("warm_up/step", "steps", "supervised steps taken", needs="a warm-up in this process"),
    _live("warm_up/loss", "nats", "mean loss of a token in the supervised warm-up", needs="a warm-up in this process"),
    _live("rollout/running_requests", "requests", "completions in an engine", label="actor"),
    _live("rollout/outstanding_tokens", "tokens", "most that an engine's requests may still produce", label="actor"),
    _live("rollout/policy_version", "number", "policy version loaded in an engine", label="actor"),
    _live("rollout/generated_tokens", "tokens", "tokens an engine has generated", kind="total", label="actor"),
    _live("rollout/busy_seconds", "seconds", "time in which an engine had requests", kind="total", label="actor"),
    _live("rewards/actors", "actors", "reward actors in the pool"),
    _live("rewards/busy", "groups", "groups being judged"),
    _live("rewards/waiting", "groups", "groups that wait for a free reward actor"),
    _live("rewards/scored", "groups", "groups judged", kind="total"),
    _live("rewards/retried", "groups", "groups asked again after a failure", kind="total"),
    _live("rewards/failed", "groups", "groups whose verification failed for good", kind="total"),
    _live("rewards/replaced", "actors", "reward actors that were replaced", kind="total"),
    _live("rewards/grown", "actors", "reward actors added under load", kind="total"),
    _live("rewards/shrunk", "actors", "reward actors given back", kind="total"),
    _live("storage/free_bytes", "bytes", "free space where the run is written", needs="run.storage is a path"),
)  # fmt: skip

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (*_ROLLOUT, *_LEARNER, *_OPTIMISER, *_STEP, *_MEMORY, *_EVALUATION, *_LIVE)
}


def unknown(keys: Iterable[str]) -> list[str]:
    """Keys that are in no row of the table, or that lack the label of their row or have one too many."""
    found = []
    for key in keys:
        name, value = metric_of(key)
        metric = METRICS.get(name)
        if metric is None or bool(metric.label) != bool(value):
            found.append(key)
    return sorted(found)
