"""The alerts of a run, as Prometheus rules, each with a case in which it fires and one in which it does not.

`promtool test rules` plays the cases. Thresholds are for runs of hours; copy the file and change it where yours differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.monitoring.catalogue import METRICS, metric_of

RULES = "fleming_alerts.yml"
_GIB = 1 << 30


def _q(key: str) -> str:
    """The newest value of a metric per run. Example: ``_q("loop/phase/learn")``."""
    return f"max by (run) ({_series(key)})"


def _series(key: str, run: str = "") -> str:
    name, label = metric_of(key)
    metric = METRICS[name]
    tags = [*([f'run="{run}"'] if run else []), *([f'{metric.label}="{label}"'] if label else [])]
    return metric.exported + (f"{{{','.join(tags)}}}" if tags else "")


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One rule. ``fires`` and ``rests`` give a series of values, one a minute in Prometheus's notation, per metric."""

    name: str
    severity: str
    expr: str
    lasting: str
    summary: str
    remedy: str
    fires: Mapping[str, str]
    rests: Mapping[str, str]

    def rule(self) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasting,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "remedy": self.remedy},
        }


ALERTS = (
    Alert(
        name="FlemingControllerGone",
        severity="critical",
        expr=f"(max by (run) (last_over_time({_series('loop/stage/finished')}[1h])) == 0) "
        f"unless {_q('loop/heartbeat')}",
        lasting="2m",
        summary="run {{ $labels.run }} reports nothing any more and had not finished",
        remedy="read the end of the job's log; the same command with --resume goes on from the last commit",
        fires={"loop/stage/finished": "0x5 _x60", "loop/heartbeat": "1x5 _x60"},
        rests={"loop/stage/finished": "0x5 1 _x60", "loop/heartbeat": "1x5 1 _x60"},
    ),
    Alert(
        name="FlemingRolloutHalfStalled",
        severity="critical",
        expr=f"({_q('loop/phase/rollout')} == 1) and on (run) "
        f"(sum by (run) (rate({_series('rollout/generated_tokens')}[10m])) == 0)",
        lasting="5m",
        summary="run {{ $labels.run }} waits for rollouts and no engine has generated a token for 10 minutes",
        remedy="look at the rollout actors and their logs; rollouts.request_timeout_s bounds one completion",
        fires={"loop/phase/rollout": "1x60", "rollout/generated_tokens/rollout-0": "500x60"},
        rests={"loop/phase/rollout": "1x60", "rollout/generated_tokens/rollout-0": "0+500x60"},
    ),
    Alert(
        name="FlemingEnginesSilent",
        severity="critical",
        # Its own rule: a rate of no series is no series, and never equal to 0.
        expr=f"({_q('loop/phase/rollout')} == 1) unless on (run) "
        f"(sum by (run) (count_over_time({_series('rollout/generated_tokens')}[10m])))",
        lasting="5m",
        summary="run {{ $labels.run }} waits for rollouts and no engine has reported anything for 10 minutes",
        remedy="the rollout actors are gone or hang: look at their logs and at `ray status`; resume the run",
        fires={"loop/phase/rollout": "1x60", "rollout/generated_tokens/rollout-0": "0+500x5 _x60"},
        rests={"loop/phase/rollout": "1x60", "rollout/generated_tokens/rollout-0": "500x60"},
    ),
    Alert(
        name="FlemingLearnerHalfStalled",
        severity="critical",
        expr=f"({_q('loop/phase/learn')} == 1) and on (run) "
        f"({_q('loop/seconds_since_step')} > clamp_min(5 * {_q('seconds/step')}, 600))",
        lasting="5m",
        summary="run {{ $labels.run }} waits for the learner, five times as long as a whole step took before",
        remedy="look at the learner's ranks and their logs; learner.collective_timeout_s ends a rank that hangs",
        fires={"loop/phase/learn": "1x60", "loop/seconds_since_step": "0+60x60", "seconds/step": "60x60"},
        rests={"loop/phase/learn": "1x60", "loop/seconds_since_step": "0+60x60", "seconds/step": "1200x60"},
    ),
    Alert(
        name="FlemingStaleness",
        severity="warning",
        expr=f"{_q('rollout/staleness_max')} > {_q('loop/max_staleness')}",
        lasting="0m",
        summary="run {{ $labels.run }} trained on samples older than loop.max_staleness allows",
        remedy="this is a defect of the loop: stop the run and report it",
        fires={"rollout/staleness_max": "2x60", "loop/max_staleness": "1x60"},
        rests={"rollout/staleness_max": "1x60", "loop/max_staleness": "1x60"},
    ),
    Alert(
        name="FlemingLogprobGap",
        severity="warning",
        expr=f"{_q('learner/logprob_gap_mean')} > 0.1",
        lasting="5m",
        summary="engine and learner of run {{ $labels.run }} disagree on a token by more than 0.1 nats on average",
        remedy="bfloat16 alone gives about 0.05; more means stale weights, another dtype or temperature: try float32",
        fires={"learner/logprob_gap_mean": "0.05x10 0.4x60"},
        rests={"learner/logprob_gap_mean": "0.05x60"},
    ),
    Alert(
        name="FlemingRewardCollapse",
        severity="warning",
        expr=f"({_q('rollout/reward_mean')} "
        f"< 0.5 * max by (run) (max_over_time({_series('rollout/reward_mean')}[6h]))) "
        f"and on (run) (max by (run) (max_over_time({_series('rollout/reward_mean')}[6h])) > 0.1)",
        lasting="10m",
        summary="the mean reward of run {{ $labels.run }} fell to less than half of its best",
        remedy="look at format rate, entropy and gradient norm before the fall; start again with a lower learning rate",
        fires={"rollout/reward_mean": "0.8x30 0.2x30"},
        rests={"rollout/reward_mean": "0.2+0.01x60"},
    ),
    Alert(
        name="FlemingFormatLost",
        severity="warning",
        expr=f"({_q('rollout/format_rate')} < 0.5) and on (run) "
        f"(max by (run) (max_over_time({_series('rollout/format_rate')}[6h])) > 0.8)",
        lasting="10m",
        summary="run {{ $labels.run }} lost the format: less than half of its completions keep it",
        remedy="completions that are cut want rollouts.max_completion_tokens, others a lower learning rate",
        fires={"rollout/format_rate": "0.95x30 0.3x30"},
        rests={"rollout/format_rate": "0.3x60"},
    ),
    Alert(
        name="FlemingEntropyCollapse",
        severity="warning",
        expr=f"(({_q('learner/entropy')} < 0.05 * max by (run) (max_over_time({_series('learner/entropy')}[24h])))) "
        f"unless on (run) ({_q('rollout/accuracy')} > 0.9)",
        lasting="10m",
        summary="the entropy of run {{ $labels.run }} fell to a twentieth and its answers are not right",
        remedy="the policy has settled on few answers: lower the learning rate, raise clip_high or the temperature",
        fires={"learner/entropy": "1x30 0.01x30", "rollout/accuracy": "0.4x60"},
        rests={"learner/entropy": "1x30 0.01x30", "rollout/accuracy": "0.97x60"},
    ),
    Alert(
        name="FlemingNoSignal",
        severity="warning",
        expr=f"{_q('rollout/zero_variance_share')} > 0.95",
        lasting="30m",
        summary="hardly a group of run {{ $labels.run }} carries a signal",
        remedy="questions are too hard or too easy: change the mix, or raise loop.samples_per_question",
        fires={"rollout/zero_variance_share": "1x60"},
        rests={"rollout/zero_variance_share": "0.6x60"},
    ),
    Alert(
        name="FlemingRestarts",
        severity="warning",
        expr=f"{_q('loop/attempt')} - min by (run) (min_over_time({_series('loop/attempt')}[1h])) > 2",
        lasting="0m",
        summary="run {{ $labels.run }} was started anew more than twice within an hour",
        remedy="read events.jsonl for the reasons (attempt_failed, learner_restarted)",
        fires={"loop/attempt": "1x10 2x10 3x10 4x30"},
        rests={"loop/attempt": "4x30 5x30"},
    ),
    Alert(
        name="FlemingRewardActorsReplaced",
        severity="warning",
        expr=f"sum by (run) (increase({_series('rewards/replaced')}[15m])) > 5",
        lasting="0m",
        summary="the reward pool of run {{ $labels.run }} replaced more than five actors in 15 minutes",
        remedy="a verifier hangs or crashes: look at the reward actors' logs and at rewards.timeout_s",
        fires={"rewards/replaced": "0+1x60"},
        rests={"rewards/replaced": "0x30 1x30"},
    ),
    Alert(
        name="FlemingVerificationFails",
        severity="warning",
        expr=f"sum by (run) (increase({_series('rewards/failed')}[15m])) > 0",
        lasting="0m",
        summary="groups of run {{ $labels.run }} could not be verified and were dropped",
        remedy="look at the reward actors' logs; loop.max_failed_groups bounds how many a step may lose",
        fires={"rewards/failed": "0x40 3x40"},
        rests={"rewards/failed": "3x60"},
    ),
    Alert(
        name="FlemingDiskLow",
        severity="critical",
        expr=f"({_q('storage/free_bytes')} < {10 * _GIB}) or on (run) "
        f"(min by (run) (predict_linear({_series('storage/free_bytes')}[1h], 4 * 3600)) < 0)",
        lasting="5m",
        summary="the storage of run {{ $labels.run }} is nearly full, or will be within four hours",
        remedy="free space or move the run: a full disk ends the run at its next commit, which it then resumes from",
        fires={"storage/free_bytes": f"{100 * _GIB}-{_GIB}x60"},
        rests={"storage/free_bytes": f"{100 * _GIB}x60"},
    ),
)  # fmt: skip

_HEAD = "# Made from cluster/monitoring/alerts.py by `make metrics`.\n"


def rules_yaml() -> str:
    """The rule file that Prometheus loads."""
    return _dump({"groups": [{"name": "fleming", "rules": [alert.rule() for alert in ALERTS]}]})


def cases_yaml() -> str:
    """The cases for ``promtool test rules``: after an hour each alert fires in its own case and rests in the other."""
    tests = [case for alert in ALERTS for case in (_case(alert, fires=True), _case(alert, fires=False))]
    return _dump({"rule_files": [RULES], "evaluation_interval": "1m", "tests": tests})


def _case(alert: Alert, *, fires: bool) -> dict[str, Any]:
    values = alert.fires if fires else alert.rests
    said = {name: text.replace("{{ $labels.run }}", "case") for name, text in alert.rule()["annotations"].items()}
    expected = {"exp_labels": {"severity": alert.severity, "run": "case"}, "exp_annotations": said}
    return {
        "name": f"{alert.name} {'fires' if fires else 'rests'}",
        "interval": "1m",
        "input_series": [{"series": _series(key, "case"), "values": text} for key, text in values.items()],
        "alert_rule_test": [{"eval_time": "50m", "alertname": alert.name, "exp_alerts": [expected] if fires else []}],
    }


def _dump(document: Any) -> str:
    return _HEAD + yaml.safe_dump(document, sort_keys=False, width=110, allow_unicode=True)
