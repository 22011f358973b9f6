"""Where the numbers of a run go while it is live: Ray's metrics endpoint and TensorBoard.

The durable place is the run store. What there is stands in `cluster/monitoring/catalogue.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cluster.monitoring.catalogue import METRICS, Metric, metric_of


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
    """Series on Ray's metrics endpoint: ``ray_fleming_rollout_accuracy{run="quickstart"}``.

    Ray 2.60 drops a gauge that was not set for about 18 s, and a step of a large model takes minutes: `refresh` sets
    every known value again, and the pulse of the run calls it every few seconds.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._series: dict[str, Any] = {}
        self._values: dict[str, float] = {}

    @property
    def values(self) -> Mapping[str, float]:
        """The newest value of everything written, by key."""
        return self._values

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Set what ``metrics`` holds; a labelled series that it holds no longer, beside others of its metric, is 0."""
        names = {metric_of(key)[0] for key in metrics if metric_of(key)[1]}
        gone = {key: 0.0 for key in self._values if metric_of(key)[0] in names and key not in metrics}
        self._set({**gone, **metrics})

    def refresh(self) -> None:
        """Set every series again to the value it has."""
        self._set(dict(self._values))

    def close(self) -> None:
        """Series go with the process."""

    def _set(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            name, label = metric_of(key)
            metric = METRICS.get(name)
            if metric is None:
                continue  # a test keeps the table whole; a name that it lacks is no reason to end a run
            tags = {"run": self._run, **({metric.label: label} if metric.label else {})}
            self._series_of(metric).set(value, tags=tags)
            self._values[key] = value

    def _series_of(self, metric: Metric) -> Any:
        """Totals are gauges too: a Ray counter shows nothing before it grows, and no alert can stand on nothing."""
        if metric.name not in self._series:
            from ray.util.metrics import Gauge

            self._series[metric.name] = Gauge(
                metric.ray_name,
                description=f"{metric.help} [{metric.unit}]",
                tag_keys=("run", *([metric.label] if metric.label else [])),
            )
        return self._series[metric.name]
