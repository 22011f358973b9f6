"""A run in two pictures: what was learned over the steps, and what it cost (seconds by phase, memory by process)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

COLORS = {"sampled": "#1b6ca8", "format": "#9aa5b1", "train": "#c8553d", "held_out": "#588157", "reward": "#c9a227"}
PHASES = {"rollout": "roll out, score", "learn": "learn", "sync": "publish weights", "evaluate": "evaluate"}
MEMORY = {"learner": "learner", "engine": "vLLM", "rollout": "rollout actor", "driver": "driver"}


def learning_curve(rows: Sequence[Mapping[str, Any]], *, title: str, chance: float) -> bytes:
    """A PNG with the metrics rows of a run (`cluster.monitoring.catalogue.METRICS`), one row per step; a row of step 0
    may hold the evaluation before RL.

    Left: accuracy of the training rollouts, accuracy on the fixed subsets with its 95 % interval, format rate and the
    level of chance.
    Right: the gap between sampled and trained log-probabilities, which should stay near zero, and entropy.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(3, 2), layout="constrained")
    _series(left, rows, "rollout/format_rate", "format rate, rollouts", COLORS["format"], linewidth=1.2)
    _series(left, rows, "rollout/reward_mean", "reward, rollouts", COLORS["reward"], linewidth=1.2)
    _series(left, rows, "rollout/accuracy", "accuracy, rollouts", COLORS["sampled"], linewidth=2)
    _evaluated(left, rows, "eval/train_greedy", "greedy, training questions", COLORS["train"], marker="o")
    _evaluated(left, rows, "eval/held_out_greedy", "greedy, held-out questions", COLORS["held_out"], marker="s")
    sampled = {"marker": "D", "linestyle": "--"}
    _evaluated(left, rows, "eval/held_out_sampled", "sampled, held-out questions", COLORS["held_out"], **sampled)
    left.axhline(chance, color="black", linewidth=0.8, linestyle=":", label=f"chance {chance:.0%}")
    highest = max([1.0, *(row["rollout/reward_mean"] for row in rows if "rollout/reward_mean" in row)])
    left.set(ylim=(0, 1.12 * highest), xlabel="optimiser step", ylabel="share", title=title)
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)
    _series(right, rows, "learner/entropy", "entropy, nats per token", COLORS["sampled"], linewidth=1.6)
    right.set(xlabel="optimiser step", ylabel="entropy, nats per token", title="Health of the run")
    gap = right.twinx()
    _series(gap, rows, "learner/logprob_gap_mean", "sampled vs trained log-probability", COLORS["train"], linewidth=1.2)
    gap.set(yscale="log", ylabel="mean |sampled - trained| log-probability")
    right.legend(handles=[*right.get_lines(), *gap.get_lines()], fontsize=8)
    return _png(figure, (left, right))


def cost_curve(rows: Sequence[Mapping[str, Any]], *, title: str) -> bytes:
    """A PNG of the same rows. Left: seconds of every step by phase, stacked. Right: the largest resident memory that a
    process of each role has had so far (`cluster.memory`), GiB.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(3, 2), layout="constrained")
    steps = [row["step"] for row in rows]
    shades = (COLORS["sampled"], COLORS["train"], COLORS["held_out"], COLORS["format"])
    below = [0.0] * len(rows)
    for (phase, label), shade in zip(PHASES.items(), shades, strict=True):
        seconds = [row.get(f"seconds/{phase}", 0.0) for row in rows]
        left.bar(steps, seconds, width=1.0, bottom=below, label=label, color=shade)
        below = [one + more for one, more in zip(below, seconds, strict=True)]
    left.set(xlabel="optimiser step", ylabel="seconds", title=title)
    left.legend(fontsize=8)
    for (role, label), shade in zip(MEMORY.items(), shades, strict=True):
        name = f"memory/{role}_peak_mib"
        gib = [{"step": row["step"], name: row[name] / 1024} for row in rows if name in row]
        _series(right, gib, name, label, shade, linewidth=1.6)
    right.set(xlabel="optimiser step", ylabel="GiB", ylim=(0, None), title="Peak resident memory of one process")
    if right.get_lines():
        right.legend(fontsize=8)
    return _png(figure, (left, right))


def _png(figure: Any, axes: Sequence[Any]) -> bytes:
    import matplotlib.pyplot as plt

    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
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


def _evaluated(axis: Any, rows: Sequence[Mapping[str, Any]], name: str, label: str, color: str, **style: Any) -> None:
    """A series of shares with the ends of their intervals, where a row has them."""
    _series(axis, rows, name, label, color, markersize=5, **style)
    ends = [(row["step"], row[f"{name}_low"], row[f"{name}_high"]) for row in rows if f"{name}_low" in row]
    if ends:
        axis.vlines(*zip(*ends, strict=True), color=color, linewidth=1, alpha=0.6)
