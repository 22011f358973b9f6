"""The learning curve of a run as a picture: accuracy and format over steps, with what chance would give."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

COLORS = {"sampled": "#1b6ca8", "format": "#9aa5b1", "train": "#c8553d", "held_out": "#588157"}


def learning_curve(rows: Sequence[Mapping[str, Any]], *, title: str, chance: float) -> bytes:
    """A PNG with the metrics rows of a run (`cluster.metrics.METRICS`), one row per step.

    Left: accuracy of the training rollouts, greedy accuracy on the fixed subsets, format rate and the level of chance.
    Right: the gap between sampled and trained log-probabilities, which should stay near zero, and entropy.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2), layout="constrained")
    _series(left, rows, "rollout/format_rate", "format rate, rollouts", COLORS["format"], linewidth=1.2)
    _series(left, rows, "rollout/accuracy", "accuracy, rollouts", COLORS["sampled"], linewidth=2)
    _series(left, rows, "eval/train_greedy", "greedy, training questions", COLORS["train"], marker="o", markersize=5)
    _series(
        left, rows, "eval/held_out_greedy", "greedy, held-out questions", COLORS["held_out"], marker="s", markersize=5
    )
    left.axhline(chance, color="black", linewidth=0.8, linestyle=":", label=f"chance {chance:.0%}")
    left.set(ylim=(0, 1.02), xlabel="optimiser step", ylabel="share", title=title)
    left.legend(fontsize=8, loc="center right")
    _series(right, rows, "learner/entropy", "entropy, nats per token", COLORS["sampled"], linewidth=1.6)
    right.set(xlabel="optimiser step", ylabel="entropy, nats per token", title="Health of the run")
    gap = right.twinx()
    _series(gap, rows, "learner/logprob_gap_mean", "sampled vs trained log-probability", COLORS["train"], linewidth=1.2)
    gap.set(yscale="log", ylabel="mean |sampled - trained| log-probability")
    right.legend(handles=[*right.get_lines(), *gap.get_lines()], fontsize=8)
    for axis in (left, right):
        axis.spines[["top"]].set_visible(False)
        axis.grid(alpha=0.25)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    plt.close(figure)
    return picture.getvalue()


def _series(axis: Any, rows: Sequence[Mapping[str, Any]], name: str, label: str, color: str, **style: Any) -> None:
    points = [(row["step"], row[name]) for row in rows if name in row]
    if points:
        axis.plot(*zip(*points, strict=True), label=label, color=color, **style)
