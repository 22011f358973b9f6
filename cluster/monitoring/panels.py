"""The Grafana dashboard of a run: rows of panels over the metrics of the catalogue, as Grafana's JSON.

It uses the variables of Ray's own dashboards (``datasource``, ``SessionName``) and one more, ``run``. Ray's dashboard
shows its default Grafana dashboard whole, in its Metrics tab: `embedded` puts the rows of Fleming at the top of that.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

from cluster.monitoring.catalogue import METRICS, metric_of

UID = "fleming"
FIRST_ID = 9000
"""Ids of Fleming's panels begin here; Ray's own end far below."""
HEIGHT, WIDTH, COLUMNS = 8, 8, 3
_GRAFANA_UNITS = {
    "share": "percentunit",
    "seconds": "s",
    "bytes": "bytes",
    "MiB": "decmbytes",
    "tokens/s": "cps",
    "unix time": "dateTimeFromNow",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """``shows``: metrics by name. One with a label is drawn as one line per value; ``rate`` draws totals per second.

    ``extra``: queries of Ray's own metrics, as (PromQL, legend).
    """

    title: str
    shows: tuple[str, ...] = ()
    rate: bool = False
    stacked: bool = False
    unit: str = ""
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def targets(self) -> list[tuple[str, str]]:
        """(PromQL, legend) of every line."""
        return [*(_target(name, rate=self.rate) for name in self.shows), *self.extra]


def _target(name: str, *, rate: bool) -> tuple[str, str]:
    metric = METRICS[name]
    series = f'{metric.exported}{{run=~"$run",SessionName=~"$SessionName"}}'
    by = f"run, {metric.label}" if metric.label else "run"
    legend = (
        f"{{{{run}}}} {{{{{metric.label}}}}}" if metric.label else f"{{{{run}}}} {metric_of(name)[0].split('/')[1]}"
    )
    # One process at a time writes a run; after a resume the series of the one before may still be there for a while.
    return (f"sum by ({by}) (rate({series}[$__rate_interval]))" if rate else f"max by ({by}) ({series})"), legend


def _panel(title: str, *shows: str, **more: Any) -> Panel:
    return Panel(title=title, shows=shows, **more)


_OF_SESSION = '{SessionName=~"$SessionName"}'
ROWS: dict[str, tuple[Panel, ...]] = {
    "Fleming: learning": (
        _panel(
            "Accuracy",
            "rollout/accuracy",
            "eval/train_greedy",
            "eval/train_sampled",
            "eval/held_out_greedy",
            "eval/held_out_sampled",
        ),
        _panel(
            "Accuracy, ends of the 95 % intervals",
            *(
                f"eval/{s}_{h}_{e}"
                for s in ("train", "held_out")
                for h in ("greedy", "sampled")
                for e in ("low", "high")
            ),
        ),
        _panel(
            "Reward",
            "rollout/reward_mean",
            "rollout/reward_correct_mean",
            "rollout/reward_format_mean",
            "rollout/group_reward_std_mean",
        ),
        _panel("Format", "rollout/format_rate", "rollout/truncated_share", "eval/train_format", "eval/held_out_format"),
        _panel("Verdicts by reason", "rollout/reasons", stacked=True),
        _panel("Completions by fate", "rollout/fates", stacked=True),
        _panel(
            "Groups",
            "rollout/groups",
            "rollout/groups_with_signal",
            "rollout/failed_groups",
            "rollout/refill_rounds",
            "eval/train_unverified",
            "eval/held_out_unverified",
        ),
        _panel("Groups without signal", "rollout/zero_variance_share"),
        _panel("Supervised warm-up", "warm_up/loss", "warm_up/step"),
    ),
    "Fleming: health of the policy": (
        _panel(
            "Log-probability gap, sampled against recomputed", "learner/logprob_gap_mean", "learner/logprob_gap_max"
        ),
        _panel("Importance weight and ratio", "learner/importance_weight_mean", "learner/ratio_mean"),
        _panel("Clipped and masked tokens", "learner/clip_fraction", "learner/masked_fraction"),
        _panel("Divergence", "learner/approx_kl", "learner/kl_reference"),
        _panel("Entropy", "learner/entropy", "rollout/sampled_logprob_mean"),
        _panel("Staleness", "rollout/staleness_max", "rollout/staleness_mean", "loop/max_staleness"),
        _panel("Loss", "learner/loss"),
        _panel("Gradient norm", "learner/grad_norm"),
        _panel("Learning rate", "learner/learning_rate"),
    ),
    "Fleming: speed": (
        _panel("Tokens per second of each half, at work", "rollout/tokens_per_second", "learner/tokens_per_second"),
        _panel("Tokens per second of every engine", "rollout/generated_tokens", rate=True, unit="cps"),
        _panel("Busy share of every engine", "rollout/busy_seconds", rate=True, unit="percentunit"),
        _panel(
            "Seconds of a step by phase",
            "seconds/rollout",
            "seconds/learn",
            "seconds/sync",
            "seconds/evaluate",
            stacked=True,
        ),
        _panel("Seconds of a step", "seconds/step", "loop/seconds_since_step"),
        _panel(
            "Seconds in the learner",
            "seconds/learner_fetch",
            "seconds/learner_proximal",
            "seconds/learner_reference",
            "seconds/learner_forward_backward",
            "seconds/learner_optimizer",
            "seconds/learner_publish",
            stacked=True,
        ),
        _panel("Who waits", "wait/rollout_share", "wait/learner_share"),
        _panel("Length of completions", "rollout/completion_tokens_mean", "rollout/completion_tokens_max"),
        _panel("Batch", "learner/tokens", "learner/micro_batches", "learner/optimizer_steps"),
    ),
    "Fleming: queues and actors": (
        _panel("Requests in every engine", "rollout/running_requests"),
        _panel("Outstanding tokens of every engine", "rollout/outstanding_tokens"),
        _panel("Policy version in every engine, and the learner's", "rollout/policy_version", "loop/step"),
        _panel("Groups at the reward pool", "rewards/busy", "rewards/waiting"),
        _panel("Reward actors", "rewards/actors", "rewards/grown", "rewards/shrunk"),
        _panel(
            "Groups judged per second",
            "rewards/scored",
            "rewards/retried",
            "rewards/failed",
            "rewards/replaced",
            rate=True,
            unit="cps",
        ),
        _panel("Ray actors by state", extra=((f"sum by (State) (ray_actors{_OF_SESSION})", "{{State}}"),)),
        _panel("Ray tasks by state", extra=((f"sum by (State) (ray_tasks{_OF_SESSION})", "{{State}}"),)),
        _panel(
            "Object store",
            unit="bytes",
            extra=((f"sum by (Location) (ray_object_store_memory{_OF_SESSION})", "{{Location}}"),),
        ),
    ),
    "Fleming: the run": (
        _panel("Stage", "loop/stage", stacked=True),
        _panel("What the loop waits for", "loop/phase", stacked=True),
        _panel("Steps", "loop/step", "loop/steps_planned"),
        _panel("Attempts and restarts", "loop/attempt", "loop/learner_restarts"),
        _panel("Last sign of life", "loop/heartbeat", "loop/info"),
        _panel("Draws of the training questions", "data/epochs"),
        _panel("Free space of the storage", "storage/free_bytes"),
        _panel(
            "Memory on the driver's machine", *(name for name in METRICS if name.endswith("_rss_mib")), stacked=True
        ),
        _panel("Peak memory of one process", *(name for name in METRICS if name.endswith("_peak_mib"))),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard that stands on its own."""
    return {
        "uid": UID,
        "title": "Fleming",
        "description": "Runs of Fleming: learning, health of the policy, speed, queues, actors.",
        "tags": ["fleming", "ray"],
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "refresh": "10s",
        "schemaVersion": 36,
        "style": "dark",
        "templating": {"list": [_datasource_variable(), _query_variable("SessionName", ""), _run_variable()]},
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "",
        "annotations": {"list": []},
        "panels": _rows(0, open_rows=len(ROWS))[0],
        "version": 1,
    }


def dashboard_json() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


def embedded(default: dict[str, Any]) -> dict[str, Any]:
    """Ray's default dashboard with Fleming's rows on top, all but the first folded. Twice is as good as once."""
    whole = copy.deepcopy(default)
    own, height = _rows(0, open_rows=1)
    theirs = [panel for panel in whole["panels"] if panel["id"] < FIRST_ID]
    before = min((panel["gridPos"]["y"] for panel in theirs), default=0)
    for panel in theirs:
        for part in (panel, *panel.get("panels", [])):
            part["gridPos"]["y"] += height - before
    whole["panels"] = [*own, *theirs]
    variables = whole["templating"]["list"]
    if not any(variable["name"] == "run" for variable in variables):
        variables.append(_run_variable())
    return whole


def _rows(y: int, *, open_rows: int) -> tuple[list[dict[str, Any]], int]:
    """Every row with its panels from height ``y`` on, and where it ends. A folded row holds its panels inside."""
    panels: list[dict[str, Any]] = []
    number = FIRST_ID
    for index, (title, members) in enumerate(ROWS.items()):
        row: dict[str, Any] = {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": index >= open_rows,
            "panels": [],
        }
        row["gridPos"] = {"x": 0, "y": y, "w": WIDTH * COLUMNS, "h": 1}
        panels.append(row)
        number, y = number + 1, y + 1
        for place, panel in enumerate(members):
            drawn = _drawn(panel, number, x=WIDTH * (place % COLUMNS), y=y + HEIGHT * (place // COLUMNS))
            (row["panels"] if row["collapsed"] else panels).append(drawn)
            number += 1
        if not row["collapsed"]:
            y += HEIGHT * -(-len(members) // COLUMNS)
    return panels, y


def _drawn(panel: Panel, number: int, *, x: int, y: int) -> dict[str, Any]:
    unit = panel.unit or _GRAFANA_UNITS.get(METRICS[panel.shows[0]].unit, "short") if panel.shows else panel.unit
    stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": "; ".join(f"{name}: {METRICS[name].help}" for name in panel.shows),
        "datasource": "${datasource}",
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": unit or "short",
                "custom": {"fillOpacity": 40 if panel.stacked else 5, "stacking": stacking, "spanNulls": True},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expr, "legendFormat": legend, "interval": ""}
            for place, (expr, legend) in enumerate(panel.targets)
        ],
    }


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2, "refresh": 1, "multi": False}


def _run_variable() -> dict[str, Any]:
    return _query_variable("run", '{SessionName=~"$SessionName"}')


def _query_variable(name: str, of: str) -> dict[str, Any]:
    query = f"label_values({METRICS['loop/step'].exported}{of}, {name})"
    return {
        "name": name,
        "type": "query",
        "datasource": "${datasource}",
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "refresh": 2,
        "sort": 2,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }
