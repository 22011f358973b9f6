"""The end of a run: what was learned, where it is, what to look at."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.config import Recipe
from cluster.curve import cost_curve, learning_curve
from cluster.progress import Reporter
from cluster.run_store import RunStore

ROWS = (
    ("training questions, sampled", "eval/train_sampled"),
    ("training questions, greedy", "eval/train_greedy"),
    ("held-out questions, sampled", "eval/held_out_sampled"),
    ("held-out questions, greedy", "eval/held_out_greedy"),
    ("format rate, sampled", "eval/train_format"),
)


def print_summary(
    recipe: Recipe,
    store: RunStore,
    reporter: Reporter,
    evaluations: Mapping[str, Mapping[str, float]],
    *,
    chance: float,
) -> None:
    """Draw the learning curve into the run directory and print before and after side by side."""
    rows = store.committed_metrics()
    before, after = evaluations.get("before", {}), evaluations.get("after", {})
    # The evaluation after a run that stops early stands in no row.
    points = [{"step": 0, **before}, *rows, {"step": len(rows), **after}]
    curve = learning_curve(points, title=f"Learning curve of {recipe.run.name}", chance=chance)
    store.storage.write("learning_curve.png", curve)
    store.storage.write("costs.png", cost_curve(rows, title=f"Seconds per step of {recipe.run.name}"))
    reporter.line("")
    reporter.line(f"{'accuracy, 95 % interval':32}{'before RL':>20}{'after RL':>20}   (chance {chance:.0%})")
    for label, name in ROWS:
        if name in after:
            reporter.line(f"{label:32}{_figure(before, name):>20}{_figure(after, name):>20}")
    seconds = sum(row["seconds/step"] for row in rows)
    uri = store.storage.uri
    reporter.line("")
    reporter.line(f"{len(rows)} optimiser steps in {seconds / 60:.1f} minutes. The run is in {uri}; look at")
    reporter.line("  learning_curve.png      accuracy, format, entropy and the log-probability gap over steps")
    reporter.line("  costs.png               seconds per phase, memory per process")
    reporter.line("  metrics.jsonl           every number of every step")
    reporter.line("  trajectories/*.parquet  every completion with its reward, advantage and fate")
    reporter.line(f"  tensorboard --logdir {uri}/tensorboard")


def _figure(figures: Mapping[str, float], name: str) -> str:
    """Example: "43.8% [32, 56]"."""
    if name not in figures:
        return "-"
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    interval = f" [{100 * low:.0f}, {100 * high:.0f}]" if low is not None and high is not None else ""
    return f"{figures[name]:.1%}{interval}"
