"""Writes what is made from the table of metrics: its page, the Grafana dashboard, the alert rules (`make metrics`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from cluster.monitoring.alerts import cases_yaml, rules_yaml
from cluster.monitoring.catalogue import METRICS, Metric
from cluster.monitoring.panels import dashboard_json

CHECKOUT = Path(__file__).resolve().parents[2]
_HALVES = {
    "loop": "The loop",
    "warm_up": "Supervised warm-up",
    "rollout": "Rollouts",
    "rewards": "Rewards",
    "learner": "Learner",
    "seconds": "Seconds per phase of a step",
    "wait": "Who waits",
    "eval": "Evaluation",
    "data": "Questions",
    "storage": "Storage",
    "memory": "Memory",
}
_HEAD = """# Metrics

Made from `cluster/monitoring/catalogue.py` by `make metrics`; a test fails when it is out of date. How to look at them:
[monitoring.md](monitoring.md).

Every series has the label `run`, and those that Ray adds (`SessionName`, `NodeAddress`, `WorkerId` ...). *When*:
**step** metrics also stand in `metrics.jsonl`, one row per step, and in TensorBoard; **evaluation** ones in the rows of
the steps that evaluate; **live** ones only on the metrics endpoint and in `live.json`, every 5 seconds. A *total* is
exported as a gauge, so that it is there before it counts anything; `rate` and `increase` work on it.

The reward service (`fleming serve rewards`) has metrics of its own at its `/metrics`: see [rewards.md](rewards.md).
"""


def metrics_page() -> str:
    """docs/metrics.md."""
    parts = [_HEAD]
    for half, title in _HALVES.items():
        rows = [metric for metric in METRICS.values() if metric.name.partition("/")[0] == half]
        table = ["| name | on the metrics endpoint | unit | when | what | from |", "|---|---|---|---|---|---|"]
        parts.append("\n".join([f"## {title}\n", *table, *map(_row, rows)]) + "\n")
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    label = f"{{{metric.label}}}" if metric.label else ""
    needs = f" (needs {metric.needs})" if metric.needs else ""
    kind = "" if metric.kind == "gauge" else ", total"
    return (
        f"| `{metric.name}` | `{metric.exported}{label}` | {metric.unit}{kind} | {metric.when} "
        f"| {metric.help}{needs} | `{metric.source}` |"
    )


GENERATED: dict[str, Callable[[], str]] = {
    "docs/metrics.md": metrics_page,
    "cluster/monitoring/fleming_grafana_dashboard.json": dashboard_json,
    "cluster/monitoring/fleming_alerts.yml": rules_yaml,
    "cluster/monitoring/fleming_alerts_test.yml": cases_yaml,
}
"""File -> its content."""


def main() -> int:
    for name, content in GENERATED.items():
        (CHECKOUT / name).write_text(content(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
